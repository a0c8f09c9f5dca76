//! Sluice as the oracle meets it: planner and reconciler over tables in memory, and the decision core over a copy of them.
//!
//! This is the only file here that knows how Sluice is built. Whoever changes the tables changes [`Sluice::copy`];
//! whoever teaches Sluice something new says so in [`covers`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::datapath::{Hook, Verdict};
use lb_common::layout::{DropReason, Ip4, Ip6, Service, V4, V6};
use lb_userspace::model::{Change, EndpointSlice, Family, NodeFacts, Protocol, Service as ModelService, SyncedKind};
use lb_userspace::reconcile::Reconciler;
use lb_userspace::tables::{Capacity, List, MemoryTables, Write};

use super::contest::Seen;
use super::decide::Decision;
use super::frontend::{self, Kind};
use super::outcome::{DropWhy, NewFlow, Origin, Outcome};
use super::world::World;
use crate::packet::decode::read;
use crate::packet::encode::{Link, Variant, encode};
use crate::packet::host::{Cabinet, HostFamily, HostWorld};
use crate::packet::names::Version;
use crate::packet::side::Shot;
use crate::packet::sketch::{other, tcp, udp};

/// IANA's number of SCTP.
const SCTP: u8 = 132;

/// Does Sluice do all that this decision is made of? Flows that it does not know yet are left out of the comparison.
#[must_use]
pub fn covers(world: &World, flow: &NewFlow, decision: &Decision) -> bool {
    let Some(frontend) = frontend::find(world, flow) else {
        return decision.outcome == Outcome::NotHandled;
    };
    frontend.kind == Kind::ClusterIp && flow.protocol != Protocol::Sctp && decision.sticks.is_none()
}

/// Can Sluice's answer be asked whether it masquerades a flow to this endpoint?
fn tells_masquerade(world: &World, flow: &NewFlow, to: SocketAddr) -> bool {
    // A host process's source is the route's; what is for the host itself is masqueraded nowhere, not even by netfilter.
    let is_forwarded = matches!(flow.origin, Origin::Device(_)) && !world.node.is_host(to.ip());
    // Today only who meets itself is masqueraded.
    is_forwarded && flow.source.ip() == to.ip()
}

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
        let capacity = Capacity {
            services: 64,
            slots: 1024,
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
        sluice.host.v4.node.address = as_v4(world.node.local_addresses[0]);
        let v6 = world.node.local_addresses.iter().find_map(|address| as_v6(*address));
        sluice.host.v6.node.address = v6.expect("the node has an IPv6 address");
        let facts = NodeFacts {
            zone: world.node.view.zone.clone(),
            ..NodeFacts::default()
        };
        let mut changes: Vec<Change> = vec![Change::Node(Some(facts))];
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
        sluice
    }

    /// The world is different from now on: the agent is told what has changed.
    pub fn becomes(&mut self, world: &World) {
        let mut changes = Vec::new();
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
        self.tell(changes);
        self.world = world.clone();
    }

    fn tell(&mut self, changes: Vec<Change>) {
        self.reconciler.apply(changes);
        assert!(
            self.reconciler.is_settled(),
            "tables in memory refuse nothing: {:?}",
            self.reconciler.problems()
        );
        self.copy();
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
        let frame = frame(flow);
        let hook = match flow.origin {
            Origin::Device(_) => Hook::Ingress,
            Origin::Host => Hook::EgressLocal,
        };
        let flows = || F::cabinet(&self.host).flows.borrow().len();
        let before = flows();
        let got = self.host.shoot_plain(Shot {
            hook,
            link: Link::Ethernet,
            frame: &frame,
        });
        match got.verdict {
            Verdict::Refuse => return Seen::Refused,
            Verdict::Drop(reason) => return Seen::Dropped(why(reason), reason.name()),
            Verdict::Pass | Verdict::Route | Verdict::Deliver | Verdict::Reset => {}
        }
        let frame = got.outcome.frame;
        let (_, to) = ends(&frame);
        if to == flow.dialled && flows() == before {
            return Seen::Untouched;
        }
        let masquerade = tells_masquerade(&self.world, flow, to).then(|| {
            let left = self.host.shoot_plain(Shot {
                hook: Hook::EgressForwarded,
                link: Link::Ethernet,
                frame: &frame,
            });
            ends(&left.outcome.frame).0.ip() != flow.source.ip()
        });
        Seen::Translated { to, masquerade }
    }
}

fn services(world: &World) -> BTreeMap<&lb_userspace::model::ServiceKey, &ModelService> {
    world.services.iter().map(|service| (&service.key, service)).collect()
}

fn slices(world: &World) -> BTreeMap<&lb_userspace::model::SliceKey, &EndpointSlice> {
    world.slices.iter().map(|slice| (&slice.key, slice)).collect()
}

fn as_v4(address: std::net::IpAddr) -> Ip4 {
    <V4 as lb_userspace::tables::TableFamily>::from_ip(address).expect("the node's first address is IPv4")
}

fn as_v6(address: std::net::IpAddr) -> Option<Ip6> {
    <V6 as lb_userspace::tables::TableFamily>::from_ip(address)
}

/// Devices have numbers: those of pods from 10, anything else is 2, and what a process sends leaves by that, too.
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
        _ => None,
    }
}

fn frame(flow: &NewFlow) -> Vec<u8> {
    let tuple = format!("{} > {}", flow.source, flow.dialled);
    let sketch = match flow.protocol {
        Protocol::Tcp => tcp(&tuple).syn(),
        Protocol::Udp => udp(&tuple),
        Protocol::Sctp => other(&tuple, SCTP),
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
