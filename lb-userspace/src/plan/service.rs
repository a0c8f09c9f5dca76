//! The plan of one Service: its frontends, its two scopes and what happens when they are empty.
//!
//! Here: from a Service and its merged endpoints to [`DesiredPort`]s (behaviour reference §2, §3.2, §3.3), and what of
//! a Service is not served and why. Not here: which endpoints are usable (`plan::categorise`).
//! Called by the reconciler for every dirty key, and by `status` for the problems.

use std::collections::HashSet;
use std::net::IpAddr;

use super::categorise::{Categories, Policies, categorise};
use super::dsr::{dsr_problems, tunnel};
use super::{Backend, BackendState, DesiredPort, Frontend, FrontendKind, NodeView, PortId, Scope, Tunnel, WhenEmpty};
use crate::model::{
    Algorithm, Cidr, Family, ObjectRef, PortEndpoint, Problem, Service, ServiceKey, ServicePort, Severity, Store,
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
            if service.cluster_ip(family).is_none() {
                continue;
            }
            let id = PortId {
                service: key.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
                family,
            };
            planned.push((id, plan_port(store, node, service, port, family)));
        }
    }
    planned
}

/// What of the Service `key` is not served as written, and why. Empty if it is unknown or not to be served.
pub fn plan_problems(store: &Store, key: &ServiceKey) -> Vec<Problem> {
    let Some(service) = served(store, key) else {
        return Vec::new();
    };
    let Ports { served, skipped } = ports_to_serve(service);
    let mut problems = skipped;
    problems.extend(dsr_problems(store, service, &served));
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
        let reason = if port.port == 0 {
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

fn plan_port(store: &Store, node: &NodeView, service: &Service, port: &ServicePort, family: Family) -> DesiredPort {
    let policies = Policies {
        internal_local: service.internal_is_local(),
        external_local: service.external_is_local(),
        externally_accessible: service.externally_accessible(port, family),
        dsr: service.asks_for_dsr(port, family, node),
    };
    let endpoints = store.endpoints(&service.key, &port.name, port.protocol, family);
    let categories = categorise(&endpoints, policies, node);
    // Both lists are in the order of the endpoints.
    let mut lists = [&categories.cluster, &categories.local].map(|list| list.iter().flatten().peekable());
    let mut is_listed = |entry: &PortEndpoint<'_>| {
        let place = (entry.address, entry.port);
        let has = lists
            .each_mut()
            .map(|list| list.next_if(|one| (one.address, one.port) == place).is_some());
        has.contains(&true)
    };
    let others = endpoints.iter().filter(|entry| !is_listed(entry));
    let backend = |entry: &PortEndpoint<'_>| Backend {
        tunnel: if policies.dsr {
            tunnel(store, node, entry.endpoint, family)
        } else {
            Tunnel::None
        },
        ..backend(entry, service, node)
    };
    let others = others.map(backend).collect();
    let maglev = maglev(service.algorithm, policies);
    DesiredPort {
        frontends: frontends(service, port, family),
        cluster: categories.cluster.as_ref().map(|list| Scope {
            backends: list.iter().map(backend).collect(),
            when_empty: WhenEmpty::Reject,
            maglev: maglev.cluster,
        }),
        local: categories.local.as_ref().map(|list| Scope {
            backends: list.iter().map(backend).collect(),
            when_empty: when_none_is_local(&categories),
            maglev: maglev.local,
        }),
        internal_local: policies.internal_local,
        external_local: policies.external_local && policies.externally_accessible,
        dsr: policies.dsr,
        internal_maglev: service.algorithm == Some(Algorithm::Maglev),
        no_sockets: service.no_sockets,
        others,
        affinity_timeout_s: service.affinity_timeout_s,
        sources: sources(service, node, family),
        resets: service.resets_removed.unwrap_or(node.resets_removed),
    }
}

/// Which lists have a Maglev table: those of clients that are led by one. Unless the Service says otherwise, that is who comes
/// from outside: through several nodes, whose choices should be the same.
struct HasTable {
    cluster: bool,
    local: bool,
}

fn maglev(algorithm: Option<Algorithm>, policies: Policies) -> HasTable {
    let external = policies.externally_accessible && algorithm != Some(Algorithm::Hash);
    let internal = algorithm == Some(Algorithm::Maglev);
    HasTable {
        cluster: external || internal && !policies.internal_local,
        local: external && (policies.external_local || policies.dsr) || internal && policies.internal_local,
    }
}

/// Every address that a port is served on (§2).
fn frontends(service: &Service, port: &ServicePort, family: Family) -> Vec<Frontend> {
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    let at = |kind| {
        move |address: IpAddr| Frontend {
            address,
            port: port.port,
            kind,
        }
    };
    let addresses =
        |list: &'_ [IpAddr], kind| -> Vec<Frontend> { list.iter().filter(of_family).copied().map(at(kind)).collect() };
    let mut frontends: Vec<Frontend> = service
        .cluster_ip(family)
        .map(at(FrontendKind::ClusterIp))
        .into_iter()
        .collect();
    frontends.extend(addresses(&service.load_balancer_vips, FrontendKind::LoadBalancer));
    frontends.extend(addresses(&service.external_ips, FrontendKind::ExternalIp));
    frontends.extend(port.node_port.map(|number| Frontend {
        address: family.unspecified(),
        port: number,
        kind: FrontendKind::NodePort,
    }));
    // An address that is written twice is what it was first: the stricter kind comes first.
    let mut seen = HashSet::new();
    frontends.retain(|frontend| seen.insert((frontend.address, frontend.port)));
    frontends.sort_unstable();
    frontends
}

/// Who may dial the load-balancer addresses (§4.4): active in a family where the Service has such an address and a range. If
/// a range has this node's own address, the Service's addresses count as sources, too: the node's own connections carry them
/// where they are bound to one of its devices.
fn sources(service: &Service, node: &NodeView, family: Family) -> Option<Vec<Cidr>> {
    let vips: Vec<IpAddr> = service
        .load_balancer_vips
        .iter()
        .copied()
        .filter(|vip| Family::of(*vip) == family)
        .collect();
    let mut ranges: Vec<Cidr> = service
        .source_ranges
        .iter()
        .copied()
        .filter(|range| range.family() == family)
        .collect();
    if vips.is_empty() || ranges.is_empty() {
        return None;
    }
    if ranges.iter().any(|range| range.contains(node.ip(family))) {
        ranges.extend(vips.into_iter().map(Cidr::of_one));
    }
    ranges.sort_unstable();
    ranges.dedup();
    Some(ranges)
}

/// What it means that there is no endpoint on this node (§3.3).
fn when_none_is_local(categories: &Categories<'_>) -> WhenEmpty {
    if categories.has_any {
        WhenEmpty::Drop
    } else {
        WhenEmpty::Reject
    }
}

fn backend(entry: &PortEndpoint<'_>, service: &Service, node: &NodeView) -> Backend {
    let endpoint = entry.endpoint;
    Backend {
        address: entry.address,
        port: entry.port,
        local: endpoint.is_on(&node.name),
        state: match (endpoint.ready, endpoint.serving) {
            (true, _) => BackendState::Ready,
            (false, true) => BackendState::Terminating,
            (false, false) => BackendState::NotServing,
        },
        weight: service.weights.as_ref().map_or(1, |weights| weights.of(endpoint)),
        tunnel: Tunnel::None,
    }
}

pub(super) fn warning(object: ObjectRef, field: String, reason: String) -> Problem {
    Problem {
        severity: Severity::Warning,
        object,
        field: field.into(),
        reason: reason.into(),
    }
}
