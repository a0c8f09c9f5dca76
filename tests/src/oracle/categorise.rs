//! Which endpoints of a Service port are used, for each of the two policies (§3.1).
//!
//! Here: the two lists. Not here: which of them a packet uses (`decide`).

use std::net::IpAddr;

use lb_userspace::model::{Family, NodeView, Service, ServicePort, ServiceType, TrafficPolicy};

use super::world::Candidate;

/// The lists of a Service port. A list that this Service does not use is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories<'a> {
    /// For the policy `Cluster`.
    pub cluster: Vec<Candidate<'a>>,
    /// For the policy `Local`.
    pub local: Vec<Candidate<'a>>,
    /// Is there a usable endpoint anywhere?
    pub has_any: bool,
    /// Does the Service use these lists: Cluster, Local?
    pub uses: (bool, bool),
}

/// Is `internalTrafficPolicy: Local` in force?
#[must_use]
pub fn internal_is_local(service: &Service) -> bool {
    service.internal_policy == TrafficPolicy::Local
}

/// Is `externalTrafficPolicy: Local` in force? Only for Services that are meant for clients outside (§1.3).
#[must_use]
pub fn external_is_local(service: &Service) -> bool {
    let accessible = match service.service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    accessible && service.external_policy == TrafficPolicy::Local
}

/// Has the port an address for clients outside, in this family?
#[must_use]
pub fn externally_accessible(service: &Service, port: &ServicePort, family: Family) -> bool {
    let any_of_family = |addresses: &[IpAddr]| addresses.iter().any(|address| Family::of(*address) == family);
    port.node_port.is_some_and(|number| number != 0)
        || any_of_family(&service.load_balancer_vips)
        || any_of_family(&service.external_ips)
}

enum Topology<'n> {
    None,
    SameNode(&'n str),
    SameZone(&'n str),
}

fn names(hints: &[Box<str>], name: &str) -> bool {
    hints.iter().any(|hint| **hint == *name)
}

impl<'n> Topology<'n> {
    fn of(ready: &[Candidate<'_>], node: &'n NodeView) -> Self {
        let all_and_one = |hints: fn(&Candidate<'_>) -> Vec<Box<str>>, name: &str| {
            ready.iter().all(|one| !hints(one).is_empty()) && ready.iter().any(|one| names(&hints(one), name))
        };
        if all_and_one(|one| one.endpoint.node_hints.to_vec(), &node.name) {
            return Self::SameNode(&node.name);
        }
        match node.zone.as_deref() {
            Some(zone) if !zone.is_empty() && all_and_one(|one| one.endpoint.zone_hints.to_vec(), zone) => {
                Self::SameZone(zone)
            }
            _ => Self::None,
        }
    }

    fn allows(&self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::None => true,
            Self::SameNode(name) => names(&candidate.endpoint.node_hints, name),
            Self::SameZone(name) => names(&candidate.endpoint.zone_hints, name),
        }
    }
}

/// Sorts the endpoints of a Service port into its lists, as the node sees them.
#[must_use]
pub fn categorise<'a>(
    service: &Service,
    port: &ServicePort,
    family: Family,
    endpoints: &[Candidate<'a>],
    node: &NodeView,
) -> Categories<'a> {
    let accessible = externally_accessible(service, port, family);
    let uses_cluster = !internal_is_local(service) || accessible;
    let uses_local = internal_is_local(service) || (external_is_local(service) && accessible);
    let mut made = Categories {
        uses: (uses_cluster, uses_local),
        ..Categories::default()
    };

    let is_ready = |one: &Candidate<'_>| one.endpoint.ready;
    let falls_back = |one: &Candidate<'_>| one.endpoint.serving && one.endpoint.terminating;
    let is_here = |one: &Candidate<'_>| one.endpoint.node_name.as_deref() == Some(&*node.name);
    let those = |filter: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Candidate<'a>> {
        endpoints.iter().filter(|one| filter(one)).copied().collect()
    };

    if uses_cluster {
        let ready = those(&is_ready);
        let topology = Topology::of(&ready, node);
        made.cluster = ready.into_iter().filter(|one| topology.allows(one)).collect();
        if made.cluster.is_empty() {
            made.cluster = those(&falls_back);
        }
        made.has_any = !made.cluster.is_empty();
    }
    if uses_local {
        made.has_any |= endpoints.iter().any(|one| is_ready(one) || falls_back(one));
        made.local = those(&|one| is_here(one) && is_ready(one));
        if made.local.is_empty() {
            made.local = those(&|one| is_here(one) && falls_back(one));
        }
    }
    made
}
