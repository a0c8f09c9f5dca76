//! An EndpointSlice of the API becomes an [`EndpointSlice`] of the model (behaviour reference §1.5).
//!
//! Conditions that are not set get the meaning that the API gives them. `zone` and `hostname` are not read, of
//! `targetRef` only a pod's name.
//! Called by both sources.

use std::time::SystemTime;

use k8s_openapi::api::discovery::v1 as discovery;

use super::findings::{Findings, clip};
use super::{SERVICE_NAME_LABEL, TRIGGER_ANNOTATION, opt_out};
use crate::model::{AddressType, Endpoint, EndpointSlice, Family, ObjectRef, Problem, ServiceKey, SliceKey, SlicePort};

/// Reads the slice `key`; whatever could not be read is left out and among the problems.
pub fn endpoint_slice(key: SliceKey, object: &discovery::EndpointSlice) -> (EndpointSlice, Vec<Problem>) {
    let mut findings = Findings::about(ObjectRef::EndpointSlice(key.clone()));
    let labels = object.metadata.labels.as_ref();
    let owner = labels
        .and_then(|labels| labels.get(SERVICE_NAME_LABEL))
        .filter(|name| !name.is_empty());
    if owner.is_none() {
        let reason = format!("the label {SERVICE_NAME_LABEL} is missing; without it the slice belongs to no Service");
        findings.error("metadata.labels", reason);
    }
    let address_type = address_type(object, &mut findings);
    let slice = EndpointSlice {
        service: owner.map(|name| ServiceKey::new(key.namespace(), name)),
        key,
        address_type,
        ports: ports(object, &mut findings),
        endpoints: match address_type.family() {
            Some(family) => endpoints(object, family, &mut findings),
            None => Box::default(),
        },
        opt_out: opt_out(labels),
        triggered: triggered(object),
    };
    (slice, findings.problems)
}

/// A time that cannot be read costs one measurement and is no problem of the slice.
fn triggered(object: &discovery::EndpointSlice) -> Option<SystemTime> {
    let text = object.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn address_type(object: &discovery::EndpointSlice, findings: &mut Findings) -> AddressType {
    match object.address_type.as_str() {
        "IPv4" => AddressType::Ipv4,
        "IPv6" => AddressType::Ipv6,
        "FQDN" => {
            findings.info("addressType", "FQDN: names are not proxied; the slice is ignored");
            AddressType::Fqdn
        }
        other => {
            findings.error(
                "addressType",
                format_args!("\"{}\" is not known; write IPv4 or IPv6", clip(other)),
            );
            AddressType::Fqdn
        }
    }
}

fn ports(object: &discovery::EndpointSlice, findings: &mut Findings) -> Box<[SlicePort]> {
    let mut ports = Vec::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        let protocol = findings.protocol(format_args!("ports[{index}].protocol"), port.protocol.as_deref());
        let number = port
            .port
            .map(|number| findings.port(format_args!("ports[{index}].port"), number));
        // A number that is no port is left out as a whole; no number at all is the API's "all ports".
        let (Some(protocol), None | Some(Some(_))) = (protocol, number) else {
            continue;
        };
        ports.push(SlicePort {
            name: port.name.as_deref().map(Into::into),
            protocol,
            port: number.flatten(),
        });
    }
    ports.into()
}

fn endpoints(object: &discovery::EndpointSlice, family: Family, findings: &mut Findings) -> Box<[Endpoint]> {
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (index, endpoint) in object.endpoints.iter().enumerate() {
        let Some(text) = endpoint.addresses.first() else {
            findings.error(
                format_args!("endpoints[{index}].addresses"),
                "it is empty; an endpoint has an address",
            );
            continue;
        };
        let field = format!("endpoints[{index}].addresses[0]");
        let Some(address) = findings.routable_address(&field, text) else {
            continue;
        };
        if Family::of(address) != family {
            let reason = format_args!("{address} does not fit the slice's addressType {}", object.address_type);
            findings.error(field, reason);
            continue;
        }
        let conditions = endpoint.conditions.as_ref();
        let hints = endpoint.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
        endpoints.push(Endpoint {
            address,
            ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
            serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
            terminating: conditions
                .and_then(|conditions| conditions.terminating)
                .unwrap_or(false),
            node_name: endpoint.node_name.as_deref().map(Into::into),
            pod: endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"))
                .and_then(|target| target.name.as_deref())
                .map(Into::into),
            zone_hints: zones.iter().map(|zone| zone.name.as_str().into()).collect(),
            node_hints: nodes.iter().map(|node| node.name.as_str().into()).collect(),
        });
    }
    endpoints.into()
}
