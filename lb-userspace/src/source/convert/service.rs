//! A Service of the API becomes a [`Service`] of the model (behaviour reference §1.2, §1.3, §2.4).
//!
//! Not here: what becomes of a Service that is not to be proxied; the model keeps it and says so. `targetPort`,
//! `selector`, `loadBalancerIP`, `appProtocol` and `ingress[].ports` are not read. Called by both sources.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core_v1;

use super::findings::{Findings, clip};
use super::node::range;
use super::opt_out;
use crate::model::address::parse_ip_leniently;
use crate::model::{
    Algorithm, Cidr, Family, Forwarding, ObjectRef, Problem, Service, ServiceKey, ServicePort, ServiceType,
    TrafficPolicy, Weights,
};

/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`, three hours.
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;

/// Reads the Service `key`; whatever could not be read is left out and among the problems.
pub fn service(key: ServiceKey, object: &core_v1::Service) -> (Service, Vec<Problem>) {
    let mut findings = Findings::about(ObjectRef::Service(key.clone()));
    let empty = core_v1::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let service = Service {
        key,
        service_type: service_type(spec, &mut findings),
        cluster_ips: cluster_ips(spec, &mut findings),
        ports: ports(spec, &mut findings),
        external_ips: external_ips(spec, &mut findings),
        load_balancer_vips: load_balancer_vips(object, &mut findings),
        source_ranges: source_ranges(spec, &mut findings),
        internal_policy: policy(
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            &mut findings,
        ),
        external_policy: policy(
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
            &mut findings,
        ),
        affinity_timeout_s: affinity_timeout(spec, &mut findings),
        health_check_node_port: findings.optional_port("spec.healthCheckNodePort", spec.health_check_node_port),
        resets_removed: resets_removed(object, &mut findings),
        no_sockets: no_sockets(object, &mut findings),
        algorithm: algorithm(object, &mut findings),
        weights: weights(object, &mut findings),
        forwarding: forwarding(object, &mut findings),
        opt_out: opt_out(object.metadata.labels.as_ref()),
    };
    if service.exclusion().is_none() && service.wants_health_port() && service.health_check_node_port.is_none() {
        findings.warning(
            "spec.healthCheckNodePort",
            "it is not set; load balancers cannot ask which nodes have endpoints",
        );
    }
    (service, findings.problems)
}

// Our own annotations, see `docs/services.md`. The API server knows none of them: a Service with a bad one is served.
const RESET_ANNOTATION: &str = "sluice.io/reset-removed";
const SOCKET_ANNOTATION: &str = "sluice.io/socket";
const ALGORITHM_ANNOTATION: &str = "sluice.io/algorithm";
const WEIGHTS_ANNOTATION: &str = "sluice.io/weights";
const FORWARDING_ANNOTATION: &str = "sluice.io/forwarding";

fn annotation<'a>(object: &'a core_v1::Service, name: &str) -> Option<&'a str> {
    let annotations = object.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

fn annotation_field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn resets_removed(object: &core_v1::Service, findings: &mut Findings) -> Option<bool> {
    match annotation(object, RESET_ANNOTATION)? {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let reason = format_args!("\"{}\" is neither true nor false", clip(other));
            findings.error(annotation_field(RESET_ANNOTATION), reason);
            None
        }
    }
}

fn no_sockets(object: &core_v1::Service, findings: &mut Findings) -> bool {
    match annotation(object, SOCKET_ANNOTATION) {
        Some("off" | "false") => true,
        Some("on" | "true") | None => false,
        Some(other) => {
            let reason = format_args!("\"{}\" is neither on nor off", clip(other));
            findings.warning(annotation_field(SOCKET_ANNOTATION), reason);
            false
        }
    }
}

fn algorithm(object: &core_v1::Service, findings: &mut Findings) -> Option<Algorithm> {
    let words = [("hash", Algorithm::Hash), ("maglev", Algorithm::Maglev)];
    one_of(object, ALGORITHM_ANNOTATION, words, findings)
}

fn forwarding(object: &core_v1::Service, findings: &mut Findings) -> Option<Forwarding> {
    let words = [("snat", Forwarding::Snat), ("dsr", Forwarding::Dsr)];
    one_of(object, FORWARDING_ANNOTATION, words, findings)
}

/// What an annotation's word stands for. Another word is a finding, and counts as none.
fn one_of<T: Copy>(object: &core_v1::Service, name: &str, words: [(&str, T); 2], findings: &mut Findings) -> Option<T> {
    let said = annotation(object, name)?;
    let known = words.iter().find(|(word, _)| *word == said);
    if known.is_none() {
        let [(one, _), (other, _)] = words;
        let reason = format_args!("\"{}\" is not known; write {one} or {other}", clip(said));
        findings.warning(annotation_field(name), reason);
    }
    known.map(|(_, meaning)| *meaning)
}

/// `web-0=3,10.0.1.7=2`. What of it can't be read is left out, and the rest holds.
fn weights(object: &core_v1::Service, findings: &mut Findings) -> Option<Box<Weights>> {
    let text = annotation(object, WEIGHTS_ANNOTATION)?;
    let mut weights = Weights::default();
    let mut warn = |reason: std::fmt::Arguments<'_>| findings.warning(annotation_field(WEIGHTS_ANNOTATION), reason);
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let shown = clip(entry);
        let Some((who, number)) = entry.split_once('=').map(|(who, number)| (who.trim(), number.trim())) else {
            warn(format_args!(
                "\"{shown}\" is no weight; write the pod's name or the endpoint's address, =, and the weight"
            ));
            continue;
        };
        let weight = number.parse().ok().filter(|weight| (1..=Weights::MAX).contains(weight));
        let Some(weight) = weight else {
            let most = Weights::MAX;
            warn(format_args!(
                "\"{shown}\" has no weight; write a number from 1 to {most}"
            ));
            continue;
        };
        let before = if let Some(address) = parse_ip_leniently(who) {
            weights.by_address.insert(address, weight)
        } else if is_name(who) {
            weights.by_pod.insert(who.into(), weight)
        } else {
            warn(format_args!("\"{shown}\" names neither an address nor a pod"));
            continue;
        };
        if before.is_some() {
            warn(format_args!("\"{}\" occurs twice; the last one counts", clip(who)));
        }
    }
    (weights != Weights::default()).then(|| Box::new(weights))
}

/// Whether a pod can be called so (a DNS subdomain, RFC 1123 as the API server asks for it).
fn is_name(text: &str) -> bool {
    let is_of_a_name = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-.".contains(char);
    !text.is_empty() && text.len() <= 253 && text.chars().all(is_of_a_name)
}

fn service_type(spec: &core_v1::ServiceSpec, findings: &mut Findings) -> ServiceType {
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" | "" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => {
            let reason = "is not a type; write ClusterIP, NodePort, LoadBalancer or ExternalName";
            findings.error("spec.type", format_args!("\"{}\" {reason}", clip(other)));
            ServiceType::ClusterIp
        }
    }
}

/// `clusterIPs`, or `clusterIP` where only that is written. At most one of each family.
fn cluster_ips(spec: &core_v1::ServiceSpec, findings: &mut Findings) -> Box<[IpAddr]> {
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, list.first())
        && single != first
    {
        let reason = format_args!("it differs from clusterIPs[0], which is \"{}\"", clip(first));
        findings.error("spec.clusterIP", reason);
    }
    let written = match list {
        [] => single
            .map(|text| ("spec.clusterIP".to_owned(), text))
            .into_iter()
            .collect(),
        _ => indexed("spec.clusterIPs", list).collect::<Vec<_>>(),
    };
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(written.len());
    for (field, text) in written.iter().filter(|(_, text)| *text != "None") {
        let Some(address) = findings.address(field, text) else {
            continue;
        };
        if address.is_unspecified() || address.is_multicast() {
            findings.error(field, format_args!("{address} cannot be dialled"));
        } else if addresses.iter().any(|other| Family::of(*other) == Family::of(address)) {
            findings.error(
                field,
                format_args!("{address} is the second one of its family; one is served"),
            );
        } else {
            addresses.push(address);
        }
    }
    addresses.into()
}

fn ports(spec: &core_v1::ServiceSpec, findings: &mut Findings) -> Box<[ServicePort]> {
    let written = spec.ports.as_deref().unwrap_or_default();
    let mut ports = Vec::with_capacity(written.len());
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in written.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        if written.len() > 1 && name.is_empty() {
            findings.error(
                format_args!("{field}.name"),
                "a Service with several ports must name each of them",
            );
        } else if !names.insert(name) {
            findings.error(
                format_args!("{field}.name"),
                format_args!("\"{}\" was used before", clip(name)),
            );
        }
        let protocol = findings.protocol(format_args!("{field}.protocol"), port.protocol.as_deref());
        let number = findings.port(format_args!("{field}.port"), port.port);
        let node_port = findings.optional_port(format_args!("{field}.nodePort"), port.node_port);
        let (Some(protocol), Some(number)) = (protocol, number) else {
            continue;
        };
        if !numbers.insert((protocol, number)) {
            findings.error(
                format_args!("{field}.port"),
                format_args!("{number}/{protocol} was used before"),
            );
        }
        ports.push(ServicePort {
            name: name.into(),
            protocol,
            port: number,
            node_port,
        });
    }
    ports.into()
}

fn external_ips(spec: &core_v1::ServiceSpec, findings: &mut Findings) -> Box<[IpAddr]> {
    let written = spec.external_ips.as_deref().unwrap_or_default();
    indexed("spec.externalIPs", written)
        .filter_map(|(field, text)| findings.routable_address(&field, text))
        .collect()
}

/// Only addresses on which the proxy itself has to answer: `ipMode: Proxy` leaves the packet to the balancer (KEP-1860),
/// a hostname is for resolvers.
fn load_balancer_vips(object: &core_v1::Service, findings: &mut Findings) -> Box<[IpAddr]> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let mut vips = Vec::new();
    for (index, entry) in ingress.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        match entry.ip_mode.as_deref().unwrap_or("VIP") {
            "VIP" => {
                let text = entry.ip.as_deref().filter(|text| !text.is_empty());
                vips.extend(text.and_then(|text| findings.address(format_args!("{field}.ip"), text)));
            }
            "Proxy" => {}
            other => {
                let reason = format!("\"{}\" is not a mode; write VIP or Proxy", clip(other));
                findings.error(format_args!("{field}.ipMode"), reason);
            }
        }
    }
    vips.into()
}

fn source_ranges(spec: &core_v1::ServiceSpec, findings: &mut Findings) -> Box<[Cidr]> {
    let written = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    indexed("spec.loadBalancerSourceRanges", written)
        .filter_map(|(field, text)| range(findings, &field, text))
        .collect()
}

fn policy(field: &str, text: Option<&str>, findings: &mut Findings) -> TrafficPolicy {
    match text.unwrap_or("Cluster") {
        "Cluster" | "" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        other => {
            findings.error(
                field,
                format_args!("\"{}\" is not a policy; write Cluster or Local", clip(other)),
            );
            TrafficPolicy::Cluster
        }
    }
}

fn affinity_timeout(spec: &core_v1::ServiceSpec, findings: &mut Findings) -> Option<u32> {
    match spec.session_affinity.as_deref().unwrap_or("None") {
        "None" | "" => None,
        "ClientIP" => {
            let config = spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref());
            let Some(seconds) = config.and_then(|config| config.timeout_seconds) else {
                return Some(DEFAULT_AFFINITY_TIMEOUT_S);
            };
            let in_range = u32::try_from(seconds)
                .ok()
                .filter(|seconds| (1..=86_400).contains(seconds));
            if in_range.is_none() {
                let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                findings.error(
                    field,
                    format_args!("{seconds} is out of range; write 1 to 86400 seconds"),
                );
            }
            in_range.or(Some(DEFAULT_AFFINITY_TIMEOUT_S))
        }
        other => {
            findings.error(
                "spec.sessionAffinity",
                format_args!("\"{}\" is not known; write None or ClientIP", clip(other)),
            );
            None
        }
    }
}

fn indexed<'a>(field: &str, list: &'a [String]) -> impl Iterator<Item = (String, &'a str)> {
    list.iter()
        .enumerate()
        .map(move |(index, text)| (format!("{field}[{index}]"), text.as_str()))
}
