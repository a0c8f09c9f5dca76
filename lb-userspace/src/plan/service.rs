//! The plan of one Service: its frontends, its two scopes and what happens when they are empty.
//!
//! Here: from a Service and its merged endpoints to [`DesiredPort`]s (behaviour reference §2, §3.2, §3.3), and what of
//! a Service is not served and why. Not here: which endpoints are usable (`plan::categorise`).
//! Called by the reconciler for every dirty key, and by `status` for the problems.

use std::collections::HashSet;

use super::categorise::{Categories, Policies, categorise};
use super::{Backend, BackendState, DesiredPort, Frontend, FrontendKind, NodeView, PortId, Scope, WhenEmpty};
use crate::model::{
    Family, ObjectRef, PortEndpoint, Problem, Protocol, Service, ServiceKey, ServicePort, Severity, Store,
};

/// What the tables should say for the Service `key`; nothing if it is unknown or not to be served (§1.2).
///
/// Every [`PortId`] occurs once, sorted by port in the order of the Service, then by family. It costs as much as the
/// Service has endpoints, whatever the size of the cluster.
pub fn plan_service(store: &Store, node: &NodeView, key: &ServiceKey) -> Vec<(PortId, DesiredPort)> {
    let Some(service) = served(store, key) else {
        return Vec::new();
    };
    let mut planned = Vec::new();
    for port in ports_to_serve(service).served {
        for family in Family::BOTH {
            let Some(cluster_ip) = service.cluster_ip(family) else {
                continue;
            };
            let id = PortId {
                service: key.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
                family,
            };
            let frontend = Frontend {
                address: cluster_ip,
                port: port.port,
                kind: FrontendKind::ClusterIp,
            };
            planned.push((id, plan_port(store, node, service, port, frontend)));
        }
    }
    planned
}

/// What of the Service `key` is not served as written, and why. Empty if it is unknown or not to be served.
pub fn plan_problems(store: &Store, key: &ServiceKey) -> Vec<Problem> {
    let Some(service) = served(store, key) else {
        return Vec::new();
    };
    let mut problems = ports_to_serve(service).skipped;
    problems.extend(not_served_yet(service));
    for slice in store.slices(key) {
        let Some(family) = slice.address_type.family() else {
            continue;
        };
        let object = ObjectRef::EndpointSlice(slice.key.clone());
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            if Family::of(endpoint.address) != family {
                let reason = format!(
                    "{} is not of the slice's addressType; it gets no connections",
                    endpoint.address
                );
                problems.push(warning(
                    object.clone(),
                    format!("endpoints[{index}].addresses[0]"),
                    reason,
                ));
            }
        }
        for (index, port) in slice.ports.iter().enumerate() {
            let reason = match (&port.name, port.port) {
                (None, _) => "a port without a name matches no Service port; it is skipped",
                (_, None | Some(0)) => "a port without a number (all ports) is not implemented; it is skipped",
                _ => continue,
            };
            problems.push(warning(object.clone(), format!("ports[{index}]"), reason.to_owned()));
        }
    }
    problems
}

/// What a Service asks for that this version does not do. Said rather than left for its clients to find out.
fn not_served_yet(service: &Service) -> Vec<Problem> {
    let node_ports = service.ports.iter().any(|port| port.node_port.is_some());
    let wishes = [
        (
            node_ports,
            "spec.ports[].nodePort",
            "NodePorts are not served yet; the ClusterIPs are",
        ),
        (
            !service.external_ips.is_empty(),
            "spec.externalIPs",
            "external addresses are not served yet; the ClusterIPs are",
        ),
        (
            !service.load_balancer_vips.is_empty(),
            "status.loadBalancer.ingress",
            "load-balancer addresses are not served yet; the ClusterIPs are",
        ),
        (
            service.affinity_timeout_s.is_some(),
            "spec.sessionAffinity",
            "session affinity is not kept yet; every connection chooses anew",
        ),
    ];
    let object = ObjectRef::Service(service.key.clone());
    let asked = wishes.into_iter().filter(|(asked, ..)| *asked);
    asked
        .map(|(_, field, reason)| warning(object.clone(), field.to_owned(), reason.to_owned()))
        .collect()
}

fn served<'a>(store: &'a Store, key: &ServiceKey) -> Option<&'a Service> {
    store
        .service(key)
        .map(|service| &**service)
        .filter(|service| service.exclusion().is_none())
}

/// The ports of a Service, divided by whether they can be served.
struct Ports<'a> {
    served: Vec<&'a ServicePort>,
    skipped: Vec<Problem>,
}

/// An API server lets no duplicates through. Should some come all the same, the first one is served, so that neither
/// a [`PortId`] nor a frontend occurs twice in one plan.
fn ports_to_serve(service: &Service) -> Ports<'_> {
    let mut ports = Ports {
        served: Vec::with_capacity(service.ports.len()),
        skipped: Vec::new(),
    };
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in service.ports.iter().enumerate() {
        let name_is_new = names.insert((&port.name, port.protocol));
        let number_is_new = numbers.insert((port.port, port.protocol));
        let reason = if port.protocol == Protocol::Sctp {
            "SCTP is not served yet; it comes with a later release".to_owned()
        } else if port.port == 0 {
            "port 0 cannot be dialled; it is skipped".to_owned()
        } else if !name_is_new {
            format!(
                "the name \"{}\" was used before for {}; the first such port is served",
                port.name, port.protocol
            )
        } else if !number_is_new {
            format!(
                "{}/{} was used before; the first such port is served",
                port.port, port.protocol
            )
        } else {
            ports.served.push(port);
            continue;
        };
        let object = ObjectRef::Service(service.key.clone());
        ports
            .skipped
            .push(warning(object, format!("spec.ports[{index}]"), reason));
    }
    ports
}

fn plan_port(
    store: &Store,
    node: &NodeView,
    service: &Service,
    port: &ServicePort,
    cluster_ip: Frontend,
) -> DesiredPort {
    let family = Family::of(cluster_ip.address);
    let policies = Policies {
        internal_local: service.internal_is_local(),
        external_local: service.external_is_local(),
        externally_accessible: service.externally_accessible(port, family),
    };
    let endpoints = store.endpoints(&service.key, &port.name, port.protocol, family);
    let categories = categorise(&endpoints, policies, node);
    let external = if policies.externally_accessible {
        scope(&categories, policies.external_local, node)
    } else {
        Scope {
            backends: Vec::new(),
            when_empty: WhenEmpty::Reject,
        }
    };
    DesiredPort {
        frontends: vec![cluster_ip],
        internal: scope(&categories, policies.internal_local, node),
        external,
        affinity_timeout_s: service.affinity_timeout_s,
    }
}

/// The list that a policy gives (§3.2) and what an empty one means (§3.3).
fn scope(categories: &Categories<'_>, local: bool, node: &NodeView) -> Scope {
    let list = if local { &categories.local } else { &categories.cluster };
    let when_empty = if local && categories.has_any {
        WhenEmpty::Drop
    } else {
        WhenEmpty::Reject
    };
    Scope {
        backends: list.iter().flatten().map(|entry| backend(entry, node)).collect(),
        when_empty,
    }
}

fn backend(entry: &PortEndpoint<'_>, node: &NodeView) -> Backend {
    Backend {
        address: entry.address,
        port: entry.port,
        local: entry.endpoint.is_on(&node.name),
        state: if entry.endpoint.ready {
            BackendState::Ready
        } else {
            BackendState::Terminating
        },
    }
}

fn warning(object: ObjectRef, field: String, reason: String) -> Problem {
    Problem {
        severity: Severity::Warning,
        object,
        field: field.into(),
        reason: reason.into(),
    }
}
