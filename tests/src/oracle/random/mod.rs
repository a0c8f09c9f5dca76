//! Worlds and flows that nobody has thought of, from a seed.
//!
//! Here: what is chosen, and what may not be chosen because the text leaves it undefined: two Services that claim one
//! address and port, two live endpoints with one address that differ. Not here: what must follow (`decide`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_userspace::model::{Family, NodeView, Protocol, ServicePort};

use super::cast::{Cast, NODE_PORTS, PORTS};
use super::node::{Detector, Node, NodePortAddress};
use super::notation::HERE;
use super::outcome::NewFlow;
use super::world::World;
use crate::packet::tape::{Tape, recorded};

mod flows;
mod services;

/// Flows of one case.
const FLOWS: usize = 8;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// So much later, somebody dials.
    Dial {
        /// How much later.
        after: Duration,
        /// Who dials what.
        flow: NewFlow,
    },
    /// From now on the world is so.
    Becomes(Box<World>),
}

/// A world and what happens in it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its number: the same seed makes the same case.
    pub seed: u64,
    /// The world in the beginning.
    pub world: World,
    /// What happens.
    pub steps: Vec<Step>,
}

impl Case {
    /// The case of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let octets = recorded(seed, 2500);
        let mut tape = Tape::new(&octets);
        let casts = Cast::both();
        let world = world(&mut tape, casts);
        let (mut steps, mut now) = (Vec::new(), world.clone());
        let mut dialled: Vec<NewFlow> = Vec::new();
        for number in 0..FLOWS {
            if number > 0 && tape.once_in(5) {
                if tape.once_in(6) {
                    // Endpoints that were gone come back: some client may be remembered.
                    now.slices.clone_from(&world.slices);
                } else if tape.once_in(5) {
                    change_node(&mut tape, casts, &mut now.node);
                } else {
                    services::change(&mut tape, casts, &mut now);
                }
                steps.push(Step::Becomes(Box::new(now.clone())));
            }
            // Multiples of 7 seconds: no sum of them is a time limit.
            let after = Duration::from_secs(tape.pick(&[0, 0, 0, 7, 14, 28]));
            let port = 40_000 + number as u16;
            let flow = flows::flow(&mut tape, casts, &now, &dialled, port);
            dialled.push(flow.clone());
            steps.push(Step::Dial { after, flow });
        }
        Self { seed, world, steps }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.world)?;
        for step in &self.steps {
            match step {
                Step::Dial { after, flow } if after.is_zero() => writeln!(f, "{flow}")?,
                Step::Dial { after, flow } => writeln!(f, "{flow}   ({} s later)", after.as_secs())?,
                Step::Becomes(world) => write!(f, "from now on:\n{world}")?,
            }
        }
        Ok(())
    }
}

fn world(tape: &mut Tape<'_>, casts: &[Cast; 2]) -> World {
    let mut world = World {
        node: node(tape, casts),
        services: Vec::new(),
        slices: Vec::new(),
    };
    services::add(tape, casts, &mut world);
    world
}

fn node(tape: &mut Tape<'_>, casts: &[Cast; 2]) -> Node {
    let mut node = Node {
        view: NodeView {
            zone: tape.pick(&[Some("a"), Some("a"), Some("b"), None]).map(Into::into),
            ..NodeView::named(HERE)
        },
        node_ips: Vec::new(),
        local_addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        detector: Detector::None,
        masquerade_all: tape.once_in(6),
        node_port_addresses: Vec::new(),
        service_cidrs: Vec::new(),
    };
    for cast in casts {
        node.local_addresses.extend(cast.node);
        if tape.once_in(3) {
            node.local_addresses.push(cast.vips[1]);
        }
        if !tape.once_in(8) {
            node.node_ips.push(cast.node[0]);
        }
        if !tape.once_in(8) {
            node.pod_cidrs.push(cast.pods[1]);
        }
        if !tape.once_in(3) {
            node.service_cidrs.push(cast.services);
        }
    }
    node.detector = detector(tape, casts);
    let count = tape.pick(&[0, 0, 0, 1, 1, 2, 3]);
    node.node_port_addresses = (0..count)
        .map(|_| match tape.below(6) {
            0 => NodePortAddress::Primary,
            1 => NodePortAddress::Localhost,
            2 if tape.once_in(3) => NodePortAddress::All,
            _ => {
                let cast = &casts[tape.below(2)];
                NodePortAddress::Cidr(tape.pick(&cast.node_port_ranges))
            }
        })
        .collect();
    node
}

/// Something about the node becomes different.
fn change_node(tape: &mut Tape<'_>, casts: &[Cast; 2], node: &mut Node) {
    let cast = &casts[tape.below(2)];
    let toggle = |list: &mut Vec<IpAddr>, address: IpAddr| {
        let before = list.len();
        list.retain(|other| *other != address);
        if list.len() == before {
            list.push(address);
        }
    };
    match tape.below(9) {
        // One that may be a load balancer's, an ExternalIP, or an endpoint's; the first stays, for masquerading.
        0 | 1 => toggle(&mut node.local_addresses, cast.vips[1]),
        2 | 3 => toggle(&mut node.local_addresses, cast.node[1]),
        4 | 5 => toggle(&mut node.node_ips, cast.node[0]),
        6 => node.view.zone = tape.pick(&[Some("a"), Some("b"), None]).map(Into::into),
        7 => node.pod_cidrs.truncate(1),
        _ => {
            node.service_cidrs = tape
                .pick(&[vec![], casts.iter().map(|cast| cast.services).collect()].each_ref())
                .clone();
        }
    }
}

fn detector(tape: &mut Tape<'_>, casts: &[Cast; 2]) -> Detector {
    match tape.below(8) {
        0 => Detector::None,
        1 => Detector::NodeCidr,
        2 => Detector::Devices(["pod0", "pod1", "pod2"].map(str::to_owned).into()),
        3 => Detector::Devices(["pod0".to_owned()].into()),
        // One family only, or another range behind the first, which does not count.
        4 => Detector::ClusterCidr(vec![casts[tape.below(2)].pods[0]]),
        5 => Detector::ClusterCidr(vec![casts[0].pods[1], casts[0].pods[0], casts[1].pods[0]]),
        _ => Detector::ClusterCidr(casts.each_ref().map(|cast| cast.pods[0]).to_vec()),
    }
}

/// Who has which address, port and protocol: nobody else may have it, too.
#[derive(Clone, Debug, Default)]
struct Claims {
    frontends: BTreeSet<(SocketAddr, Protocol)>,
    node_ports: BTreeSet<(u16, Protocol)>,
}

impl Claims {
    fn of(world: &World) -> Self {
        let mut claims = Self::default();
        for service in &world.services {
            for port in &service.ports {
                let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_vips];
                let all = addresses.into_iter().flatten();
                claims
                    .frontends
                    .extend(all.map(|address| (SocketAddr::new(*address, port.port), port.protocol)));
                claims
                    .node_ports
                    .extend(port.node_port.map(|number| (number, port.protocol)));
            }
        }
        claims
    }

    /// Is the address free for all of these ports?
    fn leave(&self, address: IpAddr, ports: &[ServicePort]) -> bool {
        let taken = |port: &ServicePort| {
            self.frontends
                .contains(&(SocketAddr::new(address, port.port), port.protocol))
        };
        !ports.iter().any(taken)
    }

    fn leave_node_port(&self, number: u16, protocol: Protocol) -> bool {
        !self.node_ports.contains(&(number, protocol))
    }
}

/// Numbers for anything that dials or is dialled.
fn any_port(tape: &mut Tape<'_>) -> u16 {
    if tape.once_in(2) {
        tape.pick(&PORTS)
    } else {
        tape.pick(&NODE_PORTS)
    }
}

fn any_protocol(tape: &mut Tape<'_>) -> Protocol {
    tape.pick(&[
        Protocol::Tcp,
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Udp,
        Protocol::Sctp,
    ])
}

fn cast_of(casts: &[Cast; 2], family: Family) -> &Cast {
    if family == Family::V4 { &casts[0] } else { &casts[1] }
}
