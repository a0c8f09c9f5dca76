//! What the decisions need besides the packet: tables, a clock, counters. The kernel programs implement it on maps
//! and helpers, the host on `BTreeMap`s and a clock that is turned by hand.

use core::ops::{Deref, DerefMut};

use super::select::place;
use crate::layout::{
    AddressFlags, Affinity, AffinityKey, Backend, Counter, Desk, DeviceFlags, DropReason, Event, Family, Flow, FlowKey,
    FragmentKey, FragmentPorts, Frontend, FrontendKey, Hop, Node, Peer, Scope, Service, Tags, TokenBucket, Way,
};

/// Whether an existing entry may be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    /// Only if there is none.
    New,
    /// Always.
    Any,
}

/// Why an entry was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is one already, and [`Insert::New`] was asked for.
    Exists,
    /// No place.
    Full,
}

/// The tables of one address family.
pub trait Tables<F: Family> {
    /// What an address is, if it is anything to Sluice.
    fn address(&self, address: &F::Addr) -> Option<AddressFlags>;
    /// What a frontend leads to.
    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend>;
    /// A service record.
    fn service(&self, number: u32) -> Option<impl Deref<Target = Service>>;
    /// Whether a set of source ranges has this address.
    fn allows(&self, set: u32, address: &F::Addr) -> bool;
    /// Backend number in a slot.
    fn slot(&self, place: u32) -> Option<u32>;
    /// The ordinal in a cell of the Maglev table that begins with this chunk.
    fn ordinal(&self, first_chunk: u32, cell: u32) -> Option<u16>;
    /// See [`place`]; a function of its own in the kernel.
    fn place(&self, list: Scope, by_table: bool, hash: u32) -> Option<u32>
    where
        Self: Sized,
    {
        place(self, list, by_table, hash)
    }
    /// The first of `len` slots from `base` on that has this backend number.
    fn place_of(&self, base: u32, len: u32, backend: u32) -> Option<u32>;
    /// A backend record.
    fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<F::Addr>>>;
    /// A flow entry, whose time and flags may be changed in place. Must be let go of before entries are written.
    fn flow(&self, key: &FlowKey<F::Addr>) -> Option<impl DerefMut<Target = Flow<F::Addr>>>;
    /// Writes a flow entry.
    ///
    /// # Errors
    /// If it exists and must not, or if there is no place.
    fn insert_flow(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>, how: Insert) -> Result<(), Refused>;
    /// The way of the packets of a flow, for XDP, whose time may be changed in place. Must be let go of before entries are written.
    fn way(&self, key: &FlowKey<F::Addr>) -> Option<impl DerefMut<Target = Way<F::Addr>>>;
    /// Remembers a way; if there is no room, not.
    fn insert_way(&self, key: &FlowKey<F::Addr>, way: &Way<F::Addr>);
    /// Ports of a datagram whose first fragment was seen.
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<FragmentPorts>;
    /// Remembers the ports of a datagram.
    fn insert_fragment(&self, key: &FragmentKey<F::Addr>, ports: &FragmentPorts);
    /// This CPU's desk. Must be let go of before anything else is asked to use it.
    fn desk(&self) -> Option<impl DerefMut<Target = Desk<F::Addr>>>;
    /// What a client of a service with affinity got last. Must be let go of before entries are written.
    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Option<impl Deref<Target = Affinity>>;
    /// Remembers what a client got.
    fn insert_affinity(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity);
    /// Facts about the node.
    fn node(&self) -> Option<impl Deref<Target = Node<F::Addr>>>;
    /// Another node, by one of its addresses; what is known of the way to it may be changed in place.
    fn peer(&self, address: &F::Addr) -> Option<impl DerefMut<Target = Peer>>;
    /// A device's own address for masquerading, if it has one.
    fn device_address(&self, ifindex: u32) -> Option<impl Deref<Target = F::Addr>>;
    /// Counts a connection of a service port to a backend.
    fn count_opened(&self, service: u32, backend: u32);
    /// Counts a packet of a service port that was refused or dropped.
    fn count_refused(&self, service: u32);
}

/// Which rate is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bucket {
    /// ICMP answers.
    Reject = 0,
    /// Drop events.
    Event = 1,
    /// Searches through all source ports.
    Search = 2,
}

impl Bucket {
    /// Number of buckets.
    pub const COUNT: usize = 3;
}

/// Clock, counters, limits and events.
pub trait World {
    /// Monotonic time in nanoseconds; coarse is good enough.
    fn now_ns(&self) -> u64;
    /// Number of the device on which the packet was seen.
    fn ifindex(&self) -> u32;
    /// Whether a device is known to be this.
    fn device_is(&self, ifindex: u32, what: DeviceFlags) -> bool;
    /// The VLAN device to which frames with these tags belong that come by the device on which the packet was seen.
    fn vlan(&self, tags: Tags) -> Option<u32>;
    /// A number that is another after every change of the routing.
    fn routes(&self) -> u32;
    /// Whether new flows are left to netfilter; what is under way goes on.
    fn defers(&self) -> bool;
    /// When a packet to a neighbour was last left to the stack, in monotonic nanoseconds.
    fn rested_ns(&self, hop: &Hop) -> Option<u64>;
    /// Remembers it; if there is no room, not.
    fn put_rested(&self, hop: &Hop, now_ns: u64);
    /// Counts something.
    fn count(&self, what: Counter);
    /// Counts a drop.
    fn count_drop(&self, reason: DropReason);
    /// This CPU's token bucket.
    fn bucket(&self, which: Bucket) -> Option<impl DerefMut<Target = TokenBucket>>;
    /// Reports a drop; false if there was no room.
    fn emit(&self, event: &Event) -> bool;
}
