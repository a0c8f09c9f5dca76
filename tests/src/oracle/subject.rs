//! Sluice as the oracle meets it: planner and reconciler over tables in memory, and the decision core over a copy of them.
//!
//! This is the only file here that knows how Sluice is built. Whoever changes the tables changes [`Sluice::copy`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::datapath::{Hook, Verdict};
use lb_common::layout::{Counter, DropReason, FlowFlags, Ip4, Ip6, Service, V4, V6};
use lb_userspace::agent::{NodeOptions, device_records, host_addresses, node_record};
use lb_userspace::model::{Change, EndpointSlice, Family, NodeFacts, Protocol, Service as ModelService, SyncedKind};
use lb_userspace::plan;
use lb_userspace::reconcile::Reconciler;
use lb_userspace::source::devices::{Device, Devices, Framing, node_addresses};
use lb_userspace::tables::{Capacity, List, MemoryTables, TableFamily, Write};

use super::cast::Cast;
use super::contest::Seen;
use super::node::{Detector, Node, contains};
use super::outcome::{DropWhy, NewFlow, Origin};
use super::world::World;
use crate::packet::decode::read;
use crate::packet::encode::{Link, Variant, encode};
use crate::packet::host::{Cabinet, HostFamily, HostWorld};
use crate::packet::names::Version;
use crate::packet::side::Shot;
use crate::packet::sketch::{INIT, sctp, tcp, udp};

/// One node's agent, tables and programs.
pub struct Sluice {
    reconciler: Reconciler<MemoryTables<Ip4>, MemoryTables<Ip6>>,
    host: HostWorld,
    /// How many of the recorded writes the host world has.
    copied: (usize, usize),
    world: World,
}

impl Sluice {
    /// An agent that is told of this world.
    ///
    /// # Panics
    /// If the world does not fit.
    #[must_use]
    pub fn on(world: &World) -> Self {
        // Making Maglev tables takes longer than all else together: one world in eight has room for them, the others do without.
        let endpoints: usize = world.slices.iter().map(|slice| slice.endpoints.len()).sum();
        let capacity = Capacity {
            services: 64,
            slots: 1024,
            chunks: if endpoints.is_multiple_of(8) { 2048 } else { 0 },
            backends: 256,
        };
        let (v4, v6) = (MemoryTables::new(capacity), MemoryTables::new(capacity));
        let reconciler = Reconciler::adopt(world.node.view.clone(), v4, v6, false).expect("empty tables");
        let mut sluice = Self {
            reconciler,
            host: HostWorld::default(),
            copied: (0, 0),
            world: world.clone(),
        };
        let mut changes: Vec<Change> = node_changes(&world.node).into();
        changes.extend(
            world
                .slices
                .iter()
                .cloned()
                .map(|slice| Change::SliceApply(Arc::new(slice))),
        );
        changes.extend(
            world
                .services
                .iter()
                .cloned()
                .map(|service| Change::ServiceApply(Arc::new(service))),
        );
        changes.extend([SyncedKind::EndpointSlices, SyncedKind::Services].map(Change::Synced));
        sluice.tell(changes);
        sluice.follow_node();
        sluice.copy();
        sluice
    }

    /// The world is different from now on: the agent is told what has changed.
    pub fn becomes(&mut self, world: &World) {
        let mut changes = Vec::new();
        let node_is_other = self.world.node != world.node;
        if node_is_other {
            changes.extend(node_changes(&world.node));
        }
        let (was, is) = (services(&self.world), services(world));
        changes.extend(
            was.keys()
                .filter(|key| !is.contains_key(*key))
                .map(|key| Change::ServiceDelete((*key).clone())),
        );
        let news = is.iter().filter(|(key, service)| was.get(*key) != Some(*service));
        changes.extend(news.map(|(_, service)| Change::ServiceApply(Arc::new((*service).clone()))));
        let (was, is) = (slices(&self.world), slices(world));
        changes.extend(
            was.keys()
                .filter(|key| !is.contains_key(*key))
                .map(|key| Change::SliceDelete((*key).clone())),
        );
        let news = is.iter().filter(|(key, slice)| was.get(*key) != Some(*slice));
        changes.extend(news.map(|(_, slice)| Change::SliceApply(Arc::new((*slice).clone()))));
        self.world = world.clone();
        self.tell(changes);
        if node_is_other {
            self.follow_node();
            self.copy();
        }
    }

    fn tell(&mut self, changes: Vec<Change>) {
        self.reconciler.apply(changes);
        assert!(
            self.reconciler.is_settled(),
            "tables in memory refuse nothing: {:?}",
            self.reconciler.problems().collect::<Vec<_>>()
        );
        self.copy();
        route_pods::<V4>(&mut self.host, &self.world);
        route_pods::<V6>(&mut self.host, &self.world);
    }

    /// What the agent does when devices, the Node object or ServiceCIDRs change.
    fn follow_node(&mut self) {
        let (devices, options) = (devices(&self.world.node), options(&self.world.node));
        let store = self.reconciler.store();
        let (node, ranges) = (store.node().clone(), store.service_cidrs().to_vec());
        let (v4, v6) = node_addresses(&devices);
        self.host.v4.node = node_record::<V4>(v4.map(Into::into), &options, &node, &ranges);
        self.host.v6.node = node_record::<V6>(v6.map(Into::into), &options, &node, &ranges);
        self.host.devices = device_records(&devices, &options.detector, |_| None);
        let host4 = host_addresses::<V4>(&devices, &options.node_ports, &node);
        let host6 = host_addresses::<V6>(&devices, &options.node_ports, &node);
        let result = self.reconciler.set_host_addresses(&host4, &host6);
        result.expect("tables in memory refuse nothing");
    }

    /// Brings what the agent has written before the decision core.
    fn copy(&mut self) {
        let (v4, v6) = (self.reconciler.v4().tables(), self.reconciler.v6().tables());
        v4.writes[self.copied.0..]
            .iter()
            .for_each(|write| put::<V4>(&mut self.host, write));
        v6.writes[self.copied.1..]
            .iter()
            .for_each(|write| put::<V6>(&mut self.host, write));
        self.copied = (v4.writes.len(), v6.writes.len());
    }

    /// Time passes.
    pub fn later(&mut self, by: Duration) {
        self.host.now_ns.set(self.host.now_ns.get() + by.as_nanos() as u64);
    }

    /// The first packet of a flow meets the programs: where it arrives or is sent, and where it leaves for its endpoint.
    pub fn meets(&mut self, flow: &NewFlow) -> Seen {
        self.host.ifindex = ifindex(&flow.origin);
        match flow.family() {
            Family::V4 => self.meets_in::<V4>(flow),
            Family::V6 => self.meets_in::<V6>(flow),
        }
    }

    fn meets_in<F: HostFamily>(&self, flow: &NewFlow) -> Seen {
        let hook = match flow.origin {
            Origin::Device(_) => Hook::Ingress,
            Origin::Host => Hook::EgressLocal,
        };
        // Those of Services.
        let flows = || {
            let flows = F::cabinet(&self.host).flows.borrow();
            flows.values().filter(|flow| !flow.flags.has(FlowFlags::DIRECT)).count()
        };
        let masqueraded = || self.host.counters.borrow()[Counter::FlowsMasqueraded as usize];
        let before = (flows(), masqueraded());
        let frame = match self.passes(hook, &frame(flow)) {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        let node = &self.world.node;
        let (_, to) = ends(&frame);
        let is_forwarded = hook == Hook::Ingress && !node.is_host(to.ip());
        let left = if is_forwarded {
            match self.passes(Hook::EgressForwarded, &frame) {
                Ok(frame) => frame,
                Err(end) => return end,
            }
        } else {
            frame
        };
        let (from, to_in_the_end) = ends(&left);
        assert_eq!(to_in_the_end, to, "{flow}: where a packet leaves its source is changed");
        if flows() == before.0 {
            assert_eq!(
                (from, to),
                (flow.source, flow.dialled),
                "{flow}: changed without a flow"
            );
            return Seen::Untouched;
        }
        let masquerade = masqueraded() > before.1;
        if hook == Hook::EgressLocal || is_forwarded {
            let source = from.ip();
            let right = if masquerade {
                node.is_host(source) && !source.is_loopback()
            } else {
                source == flow.source.ip()
            };
            assert!(
                right,
                "{flow}: masqueraded {masquerade}, left for {to} with source {source}"
            );
        }
        // A process that dials the host itself is told apart by nobody.
        let tells = !(flow.origin == Origin::Host && flow.source.ip() == to.ip());
        Seen::Translated {
            to,
            masquerade: tells.then_some(masquerade),
        }
    }

    /// What is left of a frame behind a hook, or what else became of it.
    fn passes(&self, hook: Hook, frame: &[u8]) -> Result<Vec<u8>, Seen> {
        let got = self.host.shoot_plain(Shot {
            hook,
            link: Link::Ethernet,
            frame,
        });
        match got.verdict {
            Verdict::Refuse => Err(Seen::Refused),
            Verdict::Drop(reason) => Err(Seen::Dropped(why(reason), reason.name())),
            Verdict::Echo => Err(Seen::Dropped(None, "an echo")),
            Verdict::Reset => Err(Seen::Dropped(None, "a reset")),
            Verdict::Tunnel => Err(Seen::Dropped(None, "a tunnel")),
            Verdict::TooBig(_) => Err(Seen::Dropped(None, "told to be too big")),
            Verdict::Pass | Verdict::Route | Verdict::Deliver | Verdict::Forward(_) | Verdict::Turn => {
                Ok(got.outcome.frame)
            }
        }
    }
}

fn node_changes(node: &Node) -> [Change; 2] {
    let facts = NodeFacts {
        zone: node.view.zone.clone(),
        addresses: node.node_ips.clone().into(),
        pod_cidrs: node.pod_cidrs.clone().into(),
        ..NodeFacts::default()
    };
    [
        Change::Node(Some(facts)),
        Change::ServiceCidrs(node.service_cidrs.clone().into()),
    ]
}

/// What the agent is told on its command line.
fn options(node: &Node) -> NodeOptions {
    let node_ports: Vec<String> = node.node_port_addresses.iter().map(ToString::to_string).collect();
    NodeOptions {
        detector: match &node.detector {
            Detector::None => plan::Detector::default(),
            Detector::ClusterCidr(ranges) => plan::Detector::ClusterCidr(ranges.clone()),
            Detector::NodeCidr => plan::Detector::NodeCidr,
            Detector::Devices(devices) if devices.len() > 1 => plan::Detector::BridgeInterface(BRIDGE.to_owned()),
            Detector::Devices(devices) => {
                plan::Detector::InterfaceNamePrefix(devices.first().expect("a device").clone())
            }
        },
        masquerade_all: node.masquerade_all,
        node_ports: node_ports.join(",").parse().expect("the notation is the flag's"),
        ..NodeOptions::default()
    }
}

const BRIDGE: &str = "cni0";
const BRIDGE_INDEX: u32 = 3;

/// Devices have numbers: those of pods from 10, ports of a bridge that has the host's address among pods; other addresses
/// are on the outward device, numbered 2, by which goes what a process sends.
fn devices(node: &Node) -> Devices {
    let device = |ifindex, name: String| Device {
        ifindex,
        name,
        framing: Some(Framing::Ethernet),
        mtu: 1500,
        controller: (ifindex >= 10).then_some(BRIDGE_INDEX),
        is_first: ifindex != BRIDGE_INDEX,
        has_default_route: ifindex == 2,
        ..Device::default()
    };
    let mut devices: Devices = (10..13)
        .map(|ifindex| (ifindex, device(ifindex, format!("pod{}", ifindex - 10))))
        .collect();
    devices.insert(2, device(2, "eth0".to_owned()));
    devices.insert(BRIDGE_INDEX, device(BRIDGE_INDEX, BRIDGE.to_owned()));
    for address in &node.local_addresses {
        let ifindex = if is_pod(*address) { BRIDGE_INDEX } else { 2 };
        devices
            .entry(ifindex)
            .and_modify(|device| device.addresses.push(*address));
    }
    devices
}

fn is_pod(address: IpAddr) -> bool {
    Cast::both().iter().any(|cast| contains(&cast.pods[1], address))
}

/// Pods of this node are behind the bridge; everybody else is wherever the routing table says.
fn route_pods<F: HostFamily + TableFamily>(host: &mut HostWorld, world: &World) {
    let endpoints = world.slices.iter().flat_map(|slice| &slice.endpoints);
    let pods = endpoints
        .map(|endpoint| endpoint.address)
        .filter(|address| is_pod(*address));
    let routes = &mut F::cabinet_mut(host).routes;
    routes.extend(pods.filter_map(|address| Some((F::from_ip(address)?, BRIDGE_INDEX))));
}

fn services(world: &World) -> BTreeMap<&lb_userspace::model::ServiceKey, &ModelService> {
    world.services.iter().map(|service| (&service.key, service)).collect()
}

fn slices(world: &World) -> BTreeMap<&lb_userspace::model::SliceKey, &EndpointSlice> {
    world.slices.iter().map(|slice| (&slice.key, slice)).collect()
}

fn ifindex(origin: &Origin) -> u32 {
    let Origin::Device(name) = origin else { return 2 };
    let pod = name.strip_prefix("pod").and_then(|number| number.parse::<u32>().ok());
    pod.map_or(2, |number| 10 + number)
}

fn put<F: HostFamily>(host: &mut HostWorld, write: &Write<F::Addr>) {
    let cabinet: &mut Cabinet<F::Addr> = F::cabinet_mut(host);
    match *write {
        Write::PutFrontend(key, number) => drop(cabinet.frontends.insert(key, number)),
        Write::RemoveFrontend(key) => drop(cabinet.frontends.remove(&key)),
        Write::PutAddress(address, flags) => drop(cabinet.addresses.insert(address, flags)),
        Write::RemoveAddress(address) => drop(cabinet.addresses.remove(&address)),
        Write::PutSource(range) => drop(cabinet.sources.insert(range)),
        Write::RemoveSource(range) => drop(cabinet.sources.remove(&range)),
        Write::Scope(number, List::Cluster, scope) => service(cabinet, number).cluster = scope,
        Write::Scope(number, List::Local, scope) => service(cabinet, number).local = scope,
        Write::Rules(number, rules) => service(cabinet, number).rules = rules,
        Write::Sets(number, sets) => service(cabinet, number).sets = sets,
        Write::Slot(place, backend) => drop(cabinet.slots.insert(place, backend)),
        Write::Chunk(place, chunk) => drop(cabinet.chunks.insert(place, chunk)),
        Write::Backend(number, backend) => drop(cabinet.backends.insert(number, backend)),
        Write::Grace => {}
    }
}

fn service<A: lb_common::layout::Address>(cabinet: &mut Cabinet<A>, number: u32) -> &mut Service {
    cabinet.services.entry(number).or_default()
}

fn why(reason: DropReason) -> Option<DropWhy> {
    match reason {
        DropReason::NoLocalEndpoint => Some(DropWhy::NoLocalEndpoint),
        DropReason::SourceDenied => Some(DropWhy::SourceRange),
        DropReason::UnknownAddress => Some(DropWhy::Unallocated),
        _ => None,
    }
}

fn frame(flow: &NewFlow) -> Vec<u8> {
    let tuple = format!("{} > {}", flow.source, flow.dialled);
    let sketch = match flow.protocol {
        Protocol::Tcp => tcp(&tuple).syn(),
        Protocol::Udp => udp(&tuple),
        Protocol::Sctp => sctp(&tuple, INIT),
    };
    let variant = Variant {
        version: if flow.family() == Family::V4 {
            Version::V4
        } else {
            Version::V6
        },
        proto: lb_common::layout::Proto::TCP,
        link: Link::Ethernet,
    };
    encode(&sketch, variant)
}

/// Source and destination of a frame whose protocol begins with ports.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let seen = read(frame, Link::Ethernet).expect("a frame that was whole is whole");
    let port = |at: usize| u16::from_be_bytes([seen.layer4[at], seen.layer4[at + 1]]);
    (SocketAddr::new(seen.src, port(0)), SocketAddr::new(seen.dst, port(2)))
}
