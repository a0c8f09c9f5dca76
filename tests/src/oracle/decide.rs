//! The rules, in the order in which they are asked: frontend, source ranges, which list, what if it is empty,
//! masquerade, affinity (§2.1, §3.2 to §3.4, §4.1, §4.4).
//!
//! Here: one flow at a time. Not here: what the single questions mean (`node`, `frontend`, `categorise`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_userspace::model::{Family, Service};

use super::affinity::Affinity;
use super::categorise::{categorise, external_is_local, internal_is_local};
use super::frontend::{self, Frontend, Kind};
use super::node::contains;
use super::outcome::{DropWhy, NewFlow, Origin, Outcome};
use super::world::{Candidate, PortId, World};

/// What has to become of a flow, and who remembers the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What has to become of it.
    pub outcome: Outcome,
    /// The Service port that the client stays with, and how long after its last new flow.
    pub sticks: Option<(PortId, Duration)>,
}

impl Decision {
    fn plain(outcome: Outcome) -> Self {
        Self { outcome, sticks: None }
    }
}

/// Which endpoints a flow may go to.
struct Choice<'a> {
    from: Vec<Candidate<'a>>,
    masquerade: bool,
    /// Does the list hold those of this node only?
    is_local: bool,
}

/// Is a load balancer's address of this Service open to the source (§4.4)?
fn is_allowed(world: &World, service: &Service, source: IpAddr) -> bool {
    let family = Family::of(source);
    let ranges: Vec<_> = service
        .source_ranges
        .iter()
        .filter(|range| range.family() == family)
        .collect();
    if ranges.is_empty() {
        return true;
    }
    let node_ip = world.node.node_ip(family);
    let node_is_allowed = ranges.iter().any(|range| contains(range, node_ip));
    ranges.iter().any(|range| contains(range, source))
        || (node_is_allowed && service.load_balancer_vips.contains(&source))
}

impl World {
    /// What has to become of a new flow, for clients that nobody remembers.
    #[must_use]
    pub fn decide(&self, flow: &NewFlow) -> Outcome {
        self.look(flow).outcome
    }

    /// The same with memory: what has to become of a new flow that comes at this time.
    #[must_use]
    pub fn decide_at(&self, flow: &NewFlow, memory: &Affinity, now: Duration) -> Decision {
        let mut decision = self.look(flow);
        if let (Some((port, timeout)), Outcome::Translate(to)) = (&decision.sticks, &mut decision.outcome)
            && let Some(endpoint) = memory.sticks_to(port, flow.source.ip(), to.keys(), *timeout, now)
        {
            to.retain(|one, _| *one == endpoint);
        }
        decision
    }

    fn look(&self, flow: &NewFlow) -> Decision {
        let Some(frontend) = frontend::find(self, flow) else {
            return Decision::plain(self.without_frontend(flow));
        };
        let Frontend { service, port, kind } = frontend;
        let family = flow.family();
        if kind == Kind::Vip && !is_allowed(self, service, flow.source.ip()) {
            return Decision::plain(Outcome::Drop(DropWhy::SourceRange));
        }
        let endpoints = self.endpoints(service, port, family);
        let lists = categorise(service, port, family, &endpoints, &self.node.view);
        if !lists.has_any {
            return Decision::plain(Outcome::Reject);
        }
        let is_pod = self.node.is_local_pod(flow);
        let choice = if kind == Kind::ClusterIp {
            let is_local = internal_is_local(service);
            Choice {
                from: if is_local { lists.local } else { lists.cluster },
                masquerade: self.node.masquerade_all || (self.node.detects(family) && !is_pod),
                is_local,
            }
        } else if !external_is_local(service) {
            Choice {
                from: lists.cluster,
                masquerade: true,
                is_local: false,
            }
        } else if flow.origin == Origin::Host {
            // Before the next: a bridge's address may be the host's and in the range of pods. The text has both rules and
            // no order (§3.2).
            Choice {
                from: lists.cluster,
                masquerade: true,
                is_local: false,
            }
        } else if is_pod {
            Choice {
                from: lists.cluster,
                masquerade: false,
                is_local: false,
            }
        } else {
            Choice {
                from: lists.local,
                masquerade: false,
                is_local: true,
            }
        };
        if choice.from.is_empty() {
            assert!(
                choice.is_local,
                "a usable endpoint is in the list of the whole cluster: {flow}"
            );
            return Decision::plain(Outcome::Drop(DropWhy::NoLocalEndpoint));
        }
        // A pod that meets itself would answer itself past the node.
        let masquerade = |at: SocketAddr| choice.masquerade || at.ip() == flow.source.ip();
        let to = choice.from.iter().map(|one| (one.at, masquerade(one.at))).collect();
        let sticks = service.affinity_timeout_s.map(|seconds| {
            let port = PortId {
                service: service.key.clone(),
                name: port.name.clone(),
                protocol: port.protocol,
            };
            (port, Duration::from_secs(u64::from(seconds)))
        });
        Decision {
            outcome: Outcome::Translate(to),
            sticks,
        }
    }

    /// A flow that dials no port of any Service (§2.1).
    fn without_frontend(&self, flow: &NewFlow) -> Outcome {
        let address = flow.dialled.ip();
        let has_it = |service: &Service| service.cluster_ips.contains(&address);
        if self.proxied(flow.family()).any(has_it) {
            Outcome::Reject
        } else if self.node.service_cidrs.iter().any(|range| contains(range, address)) {
            Outcome::Drop(DropWhy::Unallocated)
        } else {
            Outcome::NotHandled
        }
    }
}
