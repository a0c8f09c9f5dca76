//! Where a flow is laid out while it is opened: per CPU, since a program's stack of 512 octets is too small for the
//! keys and entries of an IPv6 flow. Of no meaning between packets.

use super::{Address, Flow, FlowFlags, FlowKey, Port, TcpSeen, Way};

/// Whether a packet whose backend is to be chosen came out of a tunnel from another node.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tunnelled(pub u8);

impl Tunnelled {
    /// It didn't.
    pub const NOT: Self = Self(0);
    /// It did, and is to get the backend that the other node has chosen: from the same list, in the same way.
    pub const AS_CHOSEN: Self = Self(1);
    /// It did, but that backend is not on this node, as this node knows. One of this node is to have it, or else any, masqueraded.
    pub const HERE: Self = Self(2);
}

pod! {
    /// What all entries of a new flow have in common.
    #[derive(Default)]
    pub struct Opening {
        /// Now, in monotonic nanoseconds.
        pub now_ns: u64,
        /// Backend number.
        pub backend: u32,
        /// Service number.
        pub service: u32,
        /// Flags of the entry in the client's direction.
        pub flags: FlowFlags,
        /// TCP flags of the packet that opens it.
        pub tcp: TcpSeen,
        /// Whether the packet came out of a tunnel from another node.
        pub tunnelled: Tunnelled,
        /// The source port that a flow has towards its backend already, in case it is split.
        pub put: Port,
        /// Always zero.
        pub pad2: u16,
        /// Hash of the tuple before translation: other source ports are tried in an order that depends on it.
        pub hash: u32,
        /// Always zero.
        pub pad3: u32,
    }
    size: 32;
}

pod! {
    /// A tuple to write into a packet, and what that does to sums.
    #[derive(Default)]
    pub struct Rewrite<A> {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// Source port.
        pub sport: Port,
        /// Destination port.
        pub dport: Port,
        /// What it adds to a one's complement sum over the addresses.
        pub address_delta: u16,
        /// What it adds to a one's complement sum over the ports.
        pub port_delta: u16,
    }
    sizes: 16, 40;
}

impl<A: Address> Rewrite<A> {
    /// Becomes another, in whole words: see [`Address::copy_to`].
    #[inline(always)]
    pub fn take(&mut self, other: &Self) {
        other.src.copy_to(&mut self.src);
        other.dst.copy_to(&mut self.dst);
        self.sport.octets = other.sport.octets;
        self.dport.octets = other.dport.octets;
        self.address_delta = other.address_delta;
        self.port_delta = other.port_delta;
    }
}

pod! {
    /// The desk of one CPU and family.
    #[derive(Default)]
    pub struct Desk<A> {
        /// The tuple that packets have before translation.
        pub old: FlowKey<A>,
        /// The tuple that they get.
        pub new: FlowKey<A>,
        /// What the packet under way gets at this hook.
        pub rewrite: Rewrite<A>,
        /// Key of the entry that is being written.
        pub key: FlowKey<A>,
        /// The entry that is being written.
        pub flow: Flow<A>,
        /// Key of another entry that is asked for.
        pub aside: FlowKey<A>,
        /// The tuple with which a packet arrives whose way is being looked for.
        pub arrives: FlowKey<A>,
        /// The way that is being looked for.
        pub way: Way<A>,
        /// What all entries have in common.
        pub opening: Opening,
        /// The address of this node with which the flow is masqueraded.
        pub source: A,
        /// Always zero.
        pub fill: A::Fill,
    }
    sizes: 256, 456;
}
