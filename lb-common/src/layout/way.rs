//! Ways: what XDP does with the packets of one direction of a flow, from arrival to departure in one step.
//!
//! A packet that a node forwards is translated twice at most: where it arrives and where it leaves ([`Flow`](super::Flow) has both
//! steps). A way is what both come to, and the next hop. It is derived: whoever loses one finds it again. The program that
//! uses it looks every two seconds whether it still holds, and at once when the routing has changed.

use super::{Address, Rewrite, Tags};

/// What becomes of a packet, as bits. None: the stack takes it as it is, and tc finishes it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WayFlags(pub u16);

bits!(WayFlags);

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
    /// It goes unchanged in a tunnel, whose addresses and ports the rewrite has: without a port, IP in IP.
    pub const TUNNELS: Self = Self(1 << 5);
}

pod! {
    /// A neighbour that XDP sends to.
    #[derive(PartialOrd, Ord, Default)]
    pub struct Hop {
        /// Its link address in the first six octets.
        pub link: [u32; 2],
        /// The device by which it is reached.
        pub ifindex: u32,
        /// The VLAN in which it is.
        pub tags: Tags,
    }
    size: 16;
}

pod! {
    /// The way of one direction of a flow, by the tuple with which it arrives.
    #[derive(Default)]
    pub struct Way<A> {
        /// [`FlowKey::check`](super::FlowKey::check) of the entry's own key. Comes first and is read last.
        pub check: u32,
        /// What table `ROUTES` said when the next hop was found.
        pub routes: u32,
        /// What is to be written.
        pub rewrite: Rewrite<A>,
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
        /// The tags with which it comes: it is no way for packets of another VLAN.
        pub came: Tags,
        /// The tags with which it leaves.
        pub tags: Tags,
        /// Always zero.
        pub pad: u32,
        /// Monotonic time at which it was found, in nanoseconds.
        pub found_ns: u64,
    }
    sizes: 80, 104;
}

impl<A: Address> Way<A> {
    /// The neighbour that it leads to.
    #[must_use]
    #[inline(always)]
    pub const fn hop(&self) -> Hop {
        const FIRST_HALF: u32 = u32::from_ne_bytes([0xff, 0xff, 0, 0]);
        Hop {
            link: [self.link[0], self.link[1] & FIRST_HALF],
            ifindex: self.ifindex,
            tags: self.tags,
        }
    }

    /// Leads nowhere from now on, and nothing is done with its packets, whose tags stay.
    #[inline(always)]
    pub const fn forget(&mut self) {
        self.ifindex = 0;
        self.mtu = 0;
        self.flags = WayFlags(0);
        self.link[0] = 0;
        self.link[1] = 0;
        self.link[2] = 0;
        self.own[0] = 0;
        self.own[1] = 0;
        self.tags = Tags::NONE;
    }

    /// Whether another says the same of packets, found under the same routing.
    #[must_use]
    #[inline(always)]
    pub fn leads_like(&self, other: &Self) -> bool {
        self.check == other.check
            && self.routes == other.routes
            && self.rewrite == other.rewrite
            && self.backend == other.backend
            && self.service == other.service
            && self.ifindex == other.ifindex
            && self.mtu == other.mtu
            && self.flags == other.flags
            && self.link == other.link
            && self.own == other.own
            && self.came == other.came
            && self.tags == other.tags
    }

    /// Becomes what another says of packets, and of when it was found. Word by word: of aggregates the compiler would make calls of a
    /// function that copies octets.
    #[inline(always)]
    pub fn take(&mut self, other: &Self) {
        self.routes = other.routes;
        self.rewrite.take(&other.rewrite);
        self.backend = other.backend;
        self.service = other.service;
        self.ifindex = other.ifindex;
        self.mtu = other.mtu;
        self.flags = other.flags;
        self.link[0] = other.link[0];
        self.link[1] = other.link[1];
        self.link[2] = other.link[2];
        self.own[0] = other.own[0];
        self.own[1] = other.own[1];
        self.came = other.came;
        self.tags = other.tags;
        self.found_ns = other.found_ns;
    }
}
