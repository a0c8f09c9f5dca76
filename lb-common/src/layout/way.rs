//! Ways: what XDP does with the packets of one direction of a flow, from arrival to departure in one step.
//!
//! A packet that a node forwards is translated twice at most: where it arrives and where it leaves ([`Flow`](super::Flow) has both
//! steps). A way is what both come to, and the next hop. It is derived: whoever loses one finds it again. The program that
//! uses it looks once a second whether it still holds, and at once when the routing has changed.

use super::{Address, Port, Rewrite};

/// What becomes of a packet, as bits. None: the stack takes it as it is, and tc finishes it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WayFlags(pub u16);

impl WayFlags {
    /// Its tuple is written anew.
    pub const TRANSLATES: Self = Self(1 << 0);
    /// It is sent to the next hop; without this, it goes up to the stack.
    pub const FORWARDS: Self = Self(1 << 1);
    /// The next hop is reached by the device that it came by, whose driver sends frames back (`XDP_TX`).
    pub const TURNS: Self = Self(1 << 2);
    /// It goes to a backend, which must serve if this is UDP.
    pub const TO_BACKEND: Self = Self(1 << 3);

    /// The device by which it leaves takes frames that lie in several buffers.
    pub const SCATTERS: Self = Self(1 << 4);

    /// Whether all bits of `other` are set.
    #[must_use]
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union of both.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

pod! {
    /// The way of one direction of a flow, by the tuple with which it arrives.
    #[derive(Default)]
    pub struct Way<A> {
        /// [`FlowKey::check`](super::FlowKey::check) of the entry's own key. Comes first and is read last.
        pub check: u32,
        /// What table `ROUTES` said when the next hop was found.
        pub routes: u32,
        /// Source address to write.
        pub src: A,
        /// Destination address to write.
        pub dst: A,
        /// Source port to write.
        pub sport: Port,
        /// Destination port to write.
        pub dport: Port,
        /// What the rewrite of the addresses adds to a one's complement sum over them.
        pub address_delta: u16,
        /// What the rewrite of the ports adds to a one's complement sum over them.
        pub port_delta: u16,
        /// Backend number of the flow.
        pub backend: u32,
        /// Service number of the flow.
        pub service: u32,
        /// The device by which it leaves.
        pub ifindex: u32,
        /// The largest IP packet that may leave there, in octets.
        pub mtu: u16,
        /// What becomes of a packet.
        pub flags: WayFlags,
        /// Link addresses of the frame that is sent: destination, then source.
        pub link: [u32; 3],
        /// The link address of the device that it came by: frames to others are none of ours.
        pub own: [u32; 2],
        /// When a packet last went by the stack, in units of `2^limits::REST_UNIT_NS_LOG2` nanoseconds of monotonic time.
        pub rested: u32,
        /// Monotonic time at which it was found, in nanoseconds.
        pub found_ns: u64,
    }
    sizes: 72, 96;
}

impl<A: Address> Way<A> {
    /// What it says is to be written.
    #[must_use]
    #[inline(always)]
    pub const fn rewrite(&self) -> Rewrite<A> {
        Rewrite {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            address_delta: self.address_delta,
            port_delta: self.port_delta,
        }
    }
}
