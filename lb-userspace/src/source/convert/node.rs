//! The own Node of the API becomes [`NodeFacts`] of the model (behaviour reference §6.1, §6.8).
//!
//! Addresses are ordered as kube-proxy's `GetNodeHostIPs` has them: InternalIPs, then ExternalIPs; names are not resolved.
//! Not here: which address is used for what (`plan`), the addresses that the host really has (`source::devices`). Called
//! by both sources.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core_v1;

use super::findings::{Findings, clip};
use crate::model::{Cidr, NodeFacts, ObjectRef, Problem};

/// Label with the zone of a Node.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Taint by which the cluster autoscaler announces that it is about to remove a Node. The effect does not count.
pub const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Reads the Node called `name`; whatever could not be read is left out and among the problems.
pub fn node(name: &str, object: &core_v1::Node) -> (NodeFacts, Vec<Problem>) {
    let mut findings = Findings::about(ObjectRef::Node(name.into()));
    let labels = object.metadata.labels.as_ref();
    let zone = labels
        .and_then(|labels| labels.get(ZONE_LABEL))
        .filter(|zone| !zone.is_empty());
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let facts = NodeFacts {
        zone: zone.map(|zone| zone.as_str().into()),
        addresses: addresses(object, &mut findings),
        pod_cidrs: pod_cidrs(object, &mut findings),
        deleting: object.metadata.deletion_timestamp.is_some(),
        leaving: taints
            .unwrap_or_default()
            .iter()
            .any(|taint| taint.key == LEAVING_TAINT),
    };
    (facts, findings.problems)
}

fn addresses(object: &core_v1::Node, findings: &mut Findings) -> Box<[IpAddr]> {
    let status = object.status.as_ref();
    let written = status
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        for (index, entry) in written.iter().enumerate().filter(|(_, entry)| entry.type_ == kind) {
            let field = format_args!("status.addresses[{index}].address");
            match findings.address(field, &entry.address) {
                Some(address) if !addresses.contains(&address) => addresses.push(address),
                _ => {}
            }
        }
    }
    addresses.into()
}

fn pod_cidrs(object: &core_v1::Node, findings: &mut Findings) -> Box<[Cidr]> {
    let spec = object.spec.as_ref();
    let list = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let single = spec
        .and_then(|spec| spec.pod_cidr.as_deref())
        .filter(|text| !text.is_empty());
    match list {
        [] => single
            .and_then(|text| range(findings, "spec.podCIDR", text))
            .into_iter()
            .collect(),
        _ => list
            .iter()
            .enumerate()
            .filter_map(|(index, text)| range(findings, &format!("spec.podCIDRs[{index}]"), text))
            .collect(),
    }
}

/// An address range, or a finding that says what one looks like.
pub(super) fn range(findings: &mut Findings, field: &str, text: &str) -> Option<Cidr> {
    let range = Cidr::parse_leniently(text);
    if range.is_none() {
        let reason = format_args!("\"{}\" is not an address range such as 192.0.2.0/24", clip(text));
        findings.error(field, reason);
    }
    range
}
