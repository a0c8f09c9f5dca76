//! Which endpoints of a Service port may be used from this node (behaviour reference §3.1).
//!
//! Here: readiness, the two traffic policies (KEP-2086), topology hints (KEP-2433 zones, KEP-3015 nodes) and the
//! terminating fall-back (KEP-1669). Hints alone decide; `spec.trafficDistribution` and annotations are never read.
//! Not here: which list a given client gets and what happens when it is empty (`plan::service`).
//! Called by `plan::service`; its table of behaviours is `plan/tests/categorise.rs`.

use crate::model::{Endpoint, NodeView, PortEndpoint};

/// What of a Service decides which lists it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`, where it counts.
    pub external_local: bool,
    /// Has the port an external address in this family?
    pub externally_accessible: bool,
    /// Nodes answer clients outside directly: what comes in a tunnel gets an endpoint of this node.
    pub dsr: bool,
}

impl Policies {
    /// Even with `externalTrafficPolicy: Local` pods and the node itself reach every endpoint over an external address.
    fn uses_cluster(self) -> bool {
        !self.internal_local || self.externally_accessible
    }

    fn uses_local(self) -> bool {
        self.internal_local || self.dsr || (self.external_local && self.externally_accessible)
    }
}

/// The outcome. A list is `None` if no client of this Service port could ever use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Categories<'a> {
    /// Endpoints of the whole cluster, filtered by topology hints.
    pub cluster: Option<Vec<PortEndpoint<'a>>>,
    /// Endpoints of this node.
    pub local: Option<Vec<PortEndpoint<'a>>>,
    /// Is there a usable endpoint anywhere? Tells "nobody is there" from "nobody is here" (§3.3).
    pub has_any: bool,
}

/// Sorts the endpoints of a Service port into the lists of this node. The lists keep the order of `endpoints`.
pub fn categorise<'a>(endpoints: &[PortEndpoint<'a>], policies: Policies, node: &NodeView) -> Categories<'a> {
    let cluster = policies.uses_cluster().then(|| cluster_endpoints(endpoints, node));
    let local = policies.uses_local().then(|| local_endpoints(endpoints, node));
    let usable_in_cluster = cluster.as_ref().is_some_and(|list| !list.is_empty());
    let usable_anywhere = local.is_some() && endpoints.iter().any(|entry| usable(entry.endpoint));
    Categories {
        cluster,
        local,
        has_any: usable_in_cluster || usable_anywhere,
    }
}

fn usable(endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.can_fall_back()
}

fn select<'a>(endpoints: &[PortEndpoint<'a>], wanted: impl Fn(&Endpoint) -> bool) -> Vec<PortEndpoint<'a>> {
    endpoints
        .iter()
        .filter(|entry| wanted(entry.endpoint))
        .copied()
        .collect()
}

/// Ready endpoints that the hints allow. The fall-back only comes when nothing is ready anywhere, and ignores hints.
fn cluster_endpoints<'a>(endpoints: &[PortEndpoint<'a>], node: &NodeView) -> Vec<PortEndpoint<'a>> {
    let topology = Topology::of(endpoints, node);
    let allowed = select(endpoints, |endpoint| endpoint.ready && topology.allows(endpoint));
    if allowed.is_empty() {
        select(endpoints, Endpoint::can_fall_back)
    } else {
        allowed
    }
}

/// Ready endpoints on this node, else serving ones that terminate on it. Hints never count here.
fn local_endpoints<'a>(endpoints: &[PortEndpoint<'a>], node: &NodeView) -> Vec<PortEndpoint<'a>> {
    let ready = select(endpoints, |endpoint| endpoint.ready && endpoint.is_on(&node.name));
    if !ready.is_empty() {
        return ready;
    }
    select(endpoints, |endpoint| {
        endpoint.can_fall_back() && endpoint.is_on(&node.name)
    })
}

/// How far a new connection may travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology<'a> {
    Anywhere,
    SameNode(&'a str),
    SameZone(&'a str),
}

impl<'a> Topology<'a> {
    /// Hints count only if every ready endpoint has one and one of them names this place: a single endpoint without
    /// hints (a roll-out, an older controller) switches them off on every node.
    fn of(endpoints: &[PortEndpoint<'_>], node: &'a NodeView) -> Self {
        let ready = || {
            endpoints
                .iter()
                .map(|entry| entry.endpoint)
                .filter(|endpoint| endpoint.ready)
        };
        let usable = |hints: fn(&Endpoint) -> &[Box<str>], place: &str| {
            ready().all(|endpoint| !hints(endpoint).is_empty()) && ready().any(|endpoint| names(hints(endpoint), place))
        };
        if usable(node_hints, &node.name) {
            return Self::SameNode(&node.name);
        }
        match node.zone() {
            Some(zone) if usable(zone_hints, zone) => Self::SameZone(zone),
            _ => Self::Anywhere,
        }
    }

    fn allows(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameNode(node) => names(&endpoint.node_hints, node),
            Self::SameZone(zone) => names(&endpoint.zone_hints, zone),
        }
    }
}

fn node_hints(endpoint: &Endpoint) -> &[Box<str>] {
    &endpoint.node_hints
}

fn zone_hints(endpoint: &Endpoint) -> &[Box<str>] {
    &endpoint.zone_hints
}

fn names(hints: &[Box<str>], place: &str) -> bool {
    hints.iter().any(|hint| **hint == *place)
}
