//! Tables, clock, counters, limits and events in memory.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
};

use lb_common::{
    datapath::{Bucket, Errors, Found, Insert, Opens, Packet, Refused, Tables, Ways, World, find, find_at},
    layout::{
        Address, AddressFlags, Affinity, AffinityKey, Backend, CHUNK_CELLS, Chunk, Counter, Desk, Device, DeviceFlags,
        DropReason, Event, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, Hop, Ip4, Ip6, Node, Peer,
        Service, ServiceStats, Stage, Tags, TokenBucket, V4, V6, VlanKey, Way, WayFlags,
        limits::{BACKENDS_MAX, MAGLEV_CHUNKS_MAX, SERVICES_MAX, SLOTS_MAX},
    },
};

use lb_userspace::tables::SourceRange;

use super::socket::HostSocket;
use crate::packet::hops::{DEVICE_MTU, NextHop, next_hops};

/// The tables of one family. Arrays have all their elements from the start, as the kernel's have: what nobody wrote
/// is zero.
pub struct Cabinet<A: Address> {
    /// What each address is.
    pub addresses: BTreeMap<A, AddressFlags>,
    /// Service and kind by frontend.
    pub frontends: BTreeMap<FrontendKey<A>, Frontend>,
    /// Services that are not zero.
    pub services: BTreeMap<u32, Service>,
    /// Slots that are not zero.
    pub slots: BTreeMap<u32, u32>,
    /// Chunks of Maglev tables that are not zero.
    pub chunks: BTreeMap<u32, Chunk>,
    /// Backends that are not zero.
    pub backends: BTreeMap<u32, Backend<A>>,
    /// Source ranges.
    pub sources: BTreeSet<SourceRange<A>>,
    /// Facts about the node.
    pub node: Node<A>,
    /// Other nodes by address.
    pub peers: RefCell<BTreeMap<A, Peer>>,
    /// Next hops by destination.
    pub next_hops: BTreeMap<A, NextHop>,
    /// The devices by which packets to some addresses leave.
    pub routes: BTreeMap<A, u32>,
    /// Tuples for which the host has sockets.
    pub sockets: BTreeSet<FlowKey<A>>,
    /// Connections by service number.
    pub service_counts: RefCell<BTreeMap<u32, ServiceStats>>,
    /// Connections by backend number.
    pub backend_counts: RefCell<BTreeMap<u32, u64>>,
    /// Clients that have a backend of their own.
    pub affinities: RefCell<BTreeMap<AffinityKey<A>, Affinity>>,
    /// Flow entries.
    pub flows: RefCell<BTreeMap<FlowKey<A>, Flow<A>>>,
    /// Ways of forwarded flows.
    pub ways: RefCell<BTreeMap<FlowKey<A>, Way<A>>>,
    /// Datagrams in fragments.
    pub fragments: RefCell<BTreeMap<FragmentKey<A>, FragmentPorts>>,
    desk: RefCell<Desk<A>>,
}

impl<A: Address> Default for Cabinet<A> {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            chunks: BTreeMap::new(),
            backends: BTreeMap::new(),
            sources: BTreeSet::new(),
            node: Node::default(),
            peers: RefCell::default(),
            next_hops: BTreeMap::new(),
            routes: BTreeMap::new(),
            sockets: BTreeSet::new(),
            service_counts: RefCell::default(),
            backend_counts: RefCell::default(),
            affinities: RefCell::default(),
            flows: RefCell::default(),
            ways: RefCell::default(),
            fragments: RefCell::default(),
            desk: RefCell::default(),
        }
    }
}

impl<A: Address> Cabinet<A> {
    /// Moves the times of all flow entries into the past.
    pub fn age(&mut self, by_ns: u64) {
        for flow in self.flows.get_mut().values_mut() {
            flow.seen_ns = flow.seen_ns.saturating_sub(by_ns);
        }
        for way in self.ways.get_mut().values_mut() {
            way.found_ns = way.found_ns.saturating_sub(by_ns);
        }
        for peer in self.peers.get_mut().values_mut() {
            peer.told_ns = peer.told_ns.saturating_sub(by_ns);
        }
        for affinity in self.affinities.get_mut().values_mut() {
            affinity.seen_ns = affinity.seen_ns.saturating_sub(by_ns);
        }
    }
}

/// All tables, and the world around them.
pub struct HostWorld {
    /// IPv4.
    pub v4: Cabinet<Ip4>,
    /// IPv6.
    pub v6: Cabinet<Ip6>,
    /// The socket that the socket tier is asked about.
    pub socket: HostSocket,
    /// Devices by index.
    pub devices: BTreeMap<u32, Device>,
    /// VLAN devices by card and tags.
    pub vlans: BTreeMap<VlanKey, u32>,
    /// When a packet to each neighbour was left to the stack.
    pub rested_ns: RefCell<BTreeMap<Hop, u64>>,
    /// How often the routing has changed.
    pub routes: u32,
    /// Whether new flows are left to netfilter.
    pub defers: bool,
    /// The clock, turned by hand.
    pub now_ns: Cell<u64>,
    /// Device of every packet.
    pub ifindex: u32,
    /// The VLAN device on top of it, while a way is looked for there.
    pub vlan: Cell<Option<u32>>,
    /// Counts by [`Counter`].
    pub counters: RefCell<[u64; Counter::COUNT]>,
    /// Counts by [`DropReason`].
    pub drops: RefCell<[u64; DropReason::COUNT]>,
    /// Buckets by [`Bucket`].
    pub buckets: [RefCell<TokenBucket>; Bucket::COUNT],
    /// Events in order.
    pub events: RefCell<Vec<Event>>,
    /// Room for events.
    pub events_max: usize,
    /// Room for flow entries; the kernel's table makes room by evicting the oldest.
    pub flows_max: usize,
}

impl Default for HostWorld {
    fn default() -> Self {
        Self {
            v4: Cabinet {
                next_hops: next_hops::<V4>(),
                ..Cabinet::default()
            },
            v6: Cabinet {
                next_hops: next_hops::<V6>(),
                ..Cabinet::default()
            },
            socket: HostSocket::default(),
            devices: BTreeMap::new(),
            vlans: BTreeMap::new(),
            rested_ns: RefCell::default(),
            routes: 0,
            defers: false,
            // An hour after the machine came up.
            now_ns: Cell::new(3_600_000_000_000),
            ifindex: 1,
            vlan: Cell::default(),
            counters: RefCell::default(),
            drops: RefCell::default(),
            buckets: Default::default(),
            events: RefCell::default(),
            events_max: usize::MAX,
            flows_max: usize::MAX,
        }
    }
}

impl HostWorld {
    /// Moves all recorded times into the past.
    pub fn age(&mut self, by_ns: u64) {
        self.v4.age(by_ns);
        self.v6.age(by_ns);
        for rested_ns in self.rested_ns.get_mut().values_mut() {
            *rested_ns = rested_ns.saturating_sub(by_ns);
        }
        for bucket in &mut self.buckets {
            let bucket = bucket.get_mut();
            bucket.refilled_ns = bucket.refilled_ns.saturating_sub(by_ns);
        }
    }
}

/// An element of a sparse array of `len` elements.
fn element<T: Copy + Default>(array: &BTreeMap<u32, T>, len: u32, index: u32) -> Option<T> {
    (index < len).then(|| array.get(&index).copied().unwrap_or_default())
}

macro_rules! tables {
    ($family:ty, $addr:ty, $cabinet:ident, $device_field:ident) => {
        impl Tables<$family> for HostWorld {
            fn address(&self, address: &$addr) -> Option<AddressFlags> {
                self.$cabinet.addresses.get(address).copied()
            }

            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<Frontend> {
                self.$cabinet.frontends.get(key).copied()
            }

            fn service(&self, number: u32) -> Option<impl Deref<Target = Service>> {
                element(&self.$cabinet.services, SERVICES_MAX, number).map(Box::new)
            }

            fn allows(&self, set: u32, address: &$addr) -> bool {
                let within = |range: &&SourceRange<$addr>| {
                    let mask = |octets: &[u8]| -> Vec<bool> {
                        let bits = octets
                            .iter()
                            .flat_map(|octet| (0..8).map(move |bit| octet >> (7 - bit) & 1 == 1));
                        bits.take(range.prefix_len.into()).collect()
                    };
                    range.set == set && mask(&range.base.octets) == mask(&address.octets)
                };
                self.$cabinet.sources.iter().any(|range| within(&range))
            }

            fn place_of(&self, base: u32, len: u32, backend: u32) -> Option<u32> {
                (base..base + len).find(|place| Tables::<$family>::slot(self, *place) == Some(backend))
            }

            fn ordinal(&self, first_chunk: u32, cell: u32) -> Option<u16> {
                let place = first_chunk.wrapping_add(cell / CHUNK_CELLS);
                let chunk = element(&self.$cabinet.chunks, MAGLEV_CHUNKS_MAX, place)?;
                chunk.ordinals.get((cell % CHUNK_CELLS) as usize).copied()
            }

            fn slot(&self, place: u32) -> Option<u32> {
                element(&self.$cabinet.slots, SLOTS_MAX, place)
            }

            fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<$addr>>> {
                element(&self.$cabinet.backends, BACKENDS_MAX, number).map(Box::new)
            }

            fn flow(&self, key: &FlowKey<$addr>) -> Option<impl DerefMut<Target = Flow<$addr>>> {
                RefMut::filter_map(self.$cabinet.flows.borrow_mut(), |flows| flows.get_mut(key)).ok()
            }

            fn insert_flow(&self, key: &FlowKey<$addr>, flow: &Flow<$addr>, how: Insert) -> Result<(), Refused> {
                let mut flows = self.$cabinet.flows.borrow_mut();
                if flows.contains_key(key) && how == Insert::New {
                    return Err(Refused::Exists);
                }
                if !flows.contains_key(key) && flows.len() >= self.flows_max {
                    return Err(Refused::Full);
                }
                flows.insert(*key, *flow);
                Ok(())
            }

            fn peer(&self, address: &$addr) -> Option<impl DerefMut<Target = Peer>> {
                RefMut::filter_map(self.$cabinet.peers.borrow_mut(), |peers| peers.get_mut(address)).ok()
            }

            fn way(&self, key: &FlowKey<$addr>) -> Option<impl DerefMut<Target = Way<$addr>>> {
                RefMut::filter_map(self.$cabinet.ways.borrow_mut(), |ways| ways.get_mut(key)).ok()
            }

            fn insert_way(&self, key: &FlowKey<$addr>, way: &Way<$addr>) {
                self.$cabinet.ways.borrow_mut().insert(*key, *way);
            }

            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<FragmentPorts> {
                self.$cabinet.fragments.borrow().get(key).copied()
            }

            fn insert_fragment(&self, key: &FragmentKey<$addr>, ports: &FragmentPorts) {
                self.$cabinet.fragments.borrow_mut().insert(*key, *ports);
            }

            fn desk(&self) -> Option<impl DerefMut<Target = Desk<$addr>>> {
                Some(self.$cabinet.desk.borrow_mut())
            }

            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<impl Deref<Target = Affinity>> {
                self.$cabinet.affinities.borrow().get(key).copied().map(Box::new)
            }

            fn insert_affinity(&self, key: &AffinityKey<$addr>, affinity: &Affinity) {
                self.$cabinet.affinities.borrow_mut().insert(*key, *affinity);
            }

            fn node(&self) -> Option<impl Deref<Target = Node<$addr>>> {
                Some(Box::new(self.$cabinet.node))
            }

            fn device_address(&self, ifindex: u32) -> Option<impl Deref<Target = $addr>> {
                let address = self.devices.get(&ifindex)?.$device_field;
                address.is_some().then(|| Box::new(address))
            }

            fn count_opened(&self, service: u32, backend: u32) {
                self.$cabinet
                    .service_counts
                    .borrow_mut()
                    .entry(service)
                    .or_default()
                    .opened += 1;
                *self
                    .$cabinet
                    .backend_counts
                    .borrow_mut()
                    .entry(backend)
                    .or_default() += 1;
            }

            fn count_refused(&self, service: u32) {
                self.$cabinet
                    .service_counts
                    .borrow_mut()
                    .entry(service)
                    .or_default()
                    .refused += 1;
            }
        }

        impl Opens<$family> for HostWorld {
            fn path(&self) -> bool {
                let mut desk = self.$cabinet.desk.borrow_mut();
                let Some(hop) = self.$cabinet.next_hops.get(&desk.rewrite.dst) else {
                    return false;
                };
                (desk.way.ifindex, desk.way.mtu) = (hop.ifindex, hop.mtu);
                true
            }

            fn outgoing(&self, address: &$addr) -> Option<u32> {
                self.$cabinet.routes.get(address).copied()
            }

            fn has_socket(&self, key: &FlowKey<$addr>, _connected: bool) -> bool {
                self.$cabinet.sockets.contains(&key.at(Stage::ARRIVES))
            }
        }

        impl<P: Packet> Errors<$family, P> for HostWorld {
            fn mtu(&self) -> u32 {
                DEVICE_MTU
            }
        }

        impl Ways<$family> for HostWorld {
            fn find(&self, tags: Tags) -> Found {
                find_at(self, tags, |ifindex| {
                    self.vlan.set(Some(ifindex));
                    let found = find::<$family, _>(self);
                    self.vlan.set(None);
                    found
                })
            }

            fn next_hop(&self) -> Option<u32> {
                let mut desk = self.$cabinet.desk.borrow_mut();
                let way = &mut desk.way;
                let hop = self.$cabinet.next_hops.get(&way.rewrite.dst)?;
                let arrives = self
                    .devices
                    .get(&World::ifindex(self))
                    .copied()
                    .unwrap_or_default();
                let leaves = self.devices.get(&hop.ifindex).copied().unwrap_or_default();
                let is_generic = arrives.flags.has(DeviceFlags::GENERIC);
                let sends = is_generic || leaves.flags.has(DeviceFlags::FORWARDS);
                if !sends || arrives.link == [0; 2] {
                    return None;
                }
                let card = if leaves.lower == 0 {
                    hop.ifindex
                } else {
                    leaves.lower
                };
                (way.ifindex, way.tags) = (card, leaves.tags);
                (way.own, way.mtu, way.link) = (arrives.link, hop.mtu, hop.link());
                if is_generic || leaves.flags.has(DeviceFlags::SCATTERS) {
                    way.flags = way.flags.with(WayFlags::SCATTERS);
                }
                if card == self.ifindex && arrives.flags.has(DeviceFlags::TURNS) {
                    way.flags = way.flags.with(WayFlags::TURNS);
                }
                Some(hop.ifindex)
            }
        }
    };
}

tables!(V4, Ip4, v4, ipv4);
tables!(V6, Ip6, v6, ipv6);

impl World for HostWorld {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn ifindex(&self) -> u32 {
        self.vlan.get().unwrap_or(self.ifindex)
    }

    fn vlan(&self, tags: Tags) -> Option<u32> {
        let ifindex = self.ifindex;
        self.vlans.get(&VlanKey { ifindex, tags }).copied()
    }

    fn device_is(&self, ifindex: u32, what: DeviceFlags) -> bool {
        self.devices.get(&ifindex).is_some_and(|device| device.flags.has(what))
    }

    fn routes(&self) -> u32 {
        self.routes
    }

    fn defers(&self) -> bool {
        self.defers
    }

    fn rested_ns(&self, hop: &Hop) -> Option<u64> {
        self.rested_ns.borrow().get(hop).copied()
    }

    fn put_rested(&self, hop: &Hop, now_ns: u64) {
        self.rested_ns.borrow_mut().insert(*hop, now_ns);
    }

    fn count(&self, what: Counter) {
        self.counters.borrow_mut()[what as usize] += 1;
    }

    fn count_drop(&self, reason: DropReason) {
        self.drops.borrow_mut()[reason as usize] += 1;
    }

    fn bucket(&self, which: Bucket) -> Option<impl DerefMut<Target = TokenBucket>> {
        Some(self.buckets[which as usize].borrow_mut())
    }

    fn emit(&self, event: &Event) -> bool {
        let mut events = self.events.borrow_mut();
        if events.len() >= self.events_max {
            return false;
        }
        events.push(*event);
        true
    }
}
