//! Tables, clock, counters, limits and events in memory.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::BTreeMap,
    ops::{Deref, DerefMut},
};

use lb_common::{
    datapath::{Bucket, Errors, Insert, Opens, Packet, Refused, Tables, World},
    layout::{
        Address, Backend, Counter, Desk, DropReason, Event, Flow, FlowKey, FragmentKey, FragmentPorts, FrontendKey,
        Ip4, Ip6, Node, Service, TokenBucket, V4, V6,
        limits::{BACKENDS_MAX, SERVICES_MAX, SLOTS_MAX},
    },
};

/// The tables of one family. Arrays have all their elements from the start, as the kernel's have: what nobody wrote
/// is zero.
pub struct Cabinet<A: Address> {
    /// Service number by frontend.
    pub frontends: BTreeMap<FrontendKey<A>, u32>,
    /// Services that are not zero.
    pub services: BTreeMap<u32, Service>,
    /// Slots that are not zero.
    pub slots: BTreeMap<u32, u32>,
    /// Backends that are not zero.
    pub backends: BTreeMap<u32, Backend<A>>,
    /// Flow entries.
    pub flows: RefCell<BTreeMap<FlowKey<A>, Flow<A>>>,
    /// Datagrams in fragments.
    pub fragments: RefCell<BTreeMap<FragmentKey<A>, FragmentPorts>>,
    desk: RefCell<Desk<A>>,
}

impl<A: Address> Default for Cabinet<A> {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            flows: RefCell::default(),
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
    }
}

/// All tables, and the world around them.
pub struct HostWorld {
    /// IPv4.
    pub v4: Cabinet<Ip4>,
    /// IPv6.
    pub v6: Cabinet<Ip6>,
    /// The node's record.
    pub node: Node,
    /// The clock, turned by hand.
    pub now_ns: Cell<u64>,
    /// Device of every packet.
    pub ifindex: u32,
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
            v4: Cabinet::default(),
            v6: Cabinet::default(),
            node: Node::default(),
            // An hour after the machine came up.
            now_ns: Cell::new(3_600_000_000_000),
            ifindex: 1,
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
    ($family:ty, $addr:ty, $cabinet:ident, $node:ident) => {
        impl Tables<$family> for HostWorld {
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<u32> {
                self.$cabinet.frontends.get(key).copied()
            }

            fn service(&self, number: u32) -> Option<Service> {
                element(&self.$cabinet.services, SERVICES_MAX, number)
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

            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<FragmentPorts> {
                self.$cabinet.fragments.borrow().get(key).copied()
            }

            fn insert_fragment(&self, key: &FragmentKey<$addr>, ports: &FragmentPorts) {
                self.$cabinet.fragments.borrow_mut().insert(*key, *ports);
            }

            fn desk(&self) -> Option<impl DerefMut<Target = Desk<$addr>>> {
                Some(self.$cabinet.desk.borrow_mut())
            }

            fn node_address(&self) -> Option<impl Deref<Target = $addr>> {
                let address = self.node.$node;
                address.is_some().then(|| Box::new(address))
            }
        }

        impl Opens<$family> for HostWorld {}
        impl<P: Packet> Errors<$family, P> for HostWorld {}
    };
}

tables!(V4, Ip4, v4, ipv4);
tables!(V6, Ip6, v6, ipv6);

impl World for HostWorld {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
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
