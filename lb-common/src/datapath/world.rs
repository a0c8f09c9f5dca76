//! What the decisions need besides the packet: tables, a clock, counters. The kernel programs implement it on maps
//! and helpers, the host on `BTreeMap`s and a clock that is turned by hand.

use core::ops::{Deref, DerefMut};

use crate::layout::{
    Backend, Counter, Desk, DropReason, Event, Family, Flow, FlowKey, FragmentKey, FragmentPorts, FrontendKey, Service,
    TokenBucket,
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
    /// Service number of a frontend.
    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<u32>;
    /// A service record.
    fn service(&self, number: u32) -> Option<Service>;
    /// Backend number in a slot.
    fn slot(&self, place: u32) -> Option<u32>;
    /// A backend record.
    fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<F::Addr>>>;
    /// A flow entry, whose time and flags may be changed in place. Must be let go of before entries are written.
    fn flow(&self, key: &FlowKey<F::Addr>) -> Option<impl DerefMut<Target = Flow<F::Addr>>>;
    /// Writes a flow entry.
    ///
    /// # Errors
    /// If it exists and must not, or if there is no place.
    fn insert_flow(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>, how: Insert) -> Result<(), Refused>;
    /// Ports of a datagram whose first fragment was seen.
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<FragmentPorts>;
    /// Remembers the ports of a datagram.
    fn insert_fragment(&self, key: &FragmentKey<F::Addr>, ports: &FragmentPorts);
    /// This CPU's desk. Must be let go of before anything else is asked to use it.
    fn desk(&self) -> Option<impl DerefMut<Target = Desk<F::Addr>>>;
    /// The node's address for masquerading, if it has one.
    fn node_address(&self) -> Option<impl Deref<Target = F::Addr>>;
}

/// Which rate is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bucket {
    /// ICMP answers.
    Reject = 0,
    /// Drop events.
    Event = 1,
}

impl Bucket {
    /// Number of buckets.
    pub const COUNT: usize = 2;
}

/// Clock, counters, limits and events.
pub trait World {
    /// Monotonic time in nanoseconds; coarse is good enough.
    fn now_ns(&self) -> u64;
    /// Number of the device on which the packet was seen.
    fn ifindex(&self) -> u32;
    /// Counts something.
    fn count(&self, what: Counter);
    /// Counts a drop.
    fn count_drop(&self, reason: DropReason);
    /// This CPU's token bucket.
    fn bucket(&self, which: Bucket) -> Option<impl DerefMut<Target = TokenBucket>>;
    /// Reports a drop; false if there was no room.
    fn emit(&self, event: &Event) -> bool;
}
