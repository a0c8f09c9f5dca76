//! Flow entries: one per direction and hook, each says all that is to be done to a packet that matches its key.
//!
//! A flow through a Service has two entries (with masquerading two more, unless XDP does it alone): see `docs/packet-walks.md`. A direct connection to
//! an endpoint has one, which says that its tuple is taken; or two, where a flow through a Service has its tuple already.
//!
//! ```text
//! key (as the packet arrives)             entry says: write this                where
//! client:p   -> frontend:80        =>     client:p   -> backend:8080            ingress   ("forward")
//! backend:8080 -> client:p         =>     frontend:80 -> client:p               egress    ("reply")
//! ```

use super::{Address, Port, Proto, Rewrite};

/// Where an entry applies. The same tuple may be seen at both: a masqueraded flow's on its way to the backend, and a direct
/// connection's that arrives.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Stage(pub u8);

impl Stage {
    /// Where a packet arrives by a device: in XDP or at tc ingress.
    pub const ARRIVES: Self = Self(0);
    /// Where a packet leaves by a device: at tc egress.
    pub const LEAVES: Self = Self(1);

    /// The other one.
    #[must_use]
    #[inline(always)]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

pod! {
    /// A 5-tuple as seen on the wire, at the hook where the entry applies.
    #[derive(Hash, PartialOrd, Ord, Default)]
    pub struct FlowKey<A> {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// Source port.
        pub sport: Port,
        /// Destination port.
        pub dport: Port,
        /// TCP, UDP or SCTP.
        pub proto: Proto,
        /// Where it is seen.
        pub stage: Stage,
        /// Always zero. Not an array: that would be cleared octet by octet for every packet.
        pub pad: u16,
    }
    sizes: 16, 40;
}

impl<A: Address> FlowKey<A> {
    /// The key for a 5-tuple that arrives.
    #[must_use]
    #[inline(always)]
    pub const fn new(src: A, sport: Port, dst: A, dport: Port, proto: Proto) -> Self {
        Self {
            src,
            dst,
            sport,
            dport,
            proto,
            stage: Stage::ARRIVES,
            pad: 0,
        }
    }

    /// Becomes another, in whole words: see [`Address::copy_to`].
    #[inline(always)]
    pub fn take(&mut self, other: &Self) {
        other.src.copy_to(&mut self.src);
        other.dst.copy_to(&mut self.dst);
        self.sport.octets = other.sport.octets;
        self.dport.octets = other.dport.octets;
        self.proto.0 = other.proto.0;
        self.stage.0 = other.stage.0;
        self.pad = other.pad;
    }

    /// The same tuple where it is seen at this stage.
    #[must_use]
    #[inline(always)]
    pub const fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// The 5-tuple of the opposite direction. Answers to what arrives leave, and the other way round.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.dst, self.dport, self.src, self.sport, self.proto).at(self.stage.other())
    }

    /// The key of the entry for the opposite direction of what this key's entry makes of its packets.
    #[must_use]
    #[inline(always)]
    pub const fn of_counterpart(&self, flow: &Flow<A>) -> Self {
        Self::new(flow.dst, flow.dport, flow.src, flow.sport, self.proto)
            .at(flow.flags.stage_of_counterpart(self.stage))
    }

    /// A word that depends on all of the key. [`Flow::check`] carries it, so that a reader notices when the kernel
    /// has recycled the entry under its eyes.
    #[must_use]
    #[inline(always)]
    pub fn check(&self) -> u32 {
        const MULTIPLIER: u64 = 0xff51_afd7_ed55_8ccd;
        let ports = u64::from(self.sport.raw()) | u64::from(self.dport.raw()) << 16;
        let rest = (ports | u64::from(self.proto.0) << 32 | u64::from(self.stage.0) << 40).wrapping_mul(MULTIPLIER);
        let sum = A::mixed(&self.src, &self.dst).wrapping_add(rest);
        (sum >> 32) as u32
    }
}

/// What an entry is, as bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlowFlags(pub u16);

bits!(FlowFlags);

impl FlowFlags {
    /// Between two that have no frontend between them: nothing is changed but, where the tuple is taken, a port.
    pub const DIRECT: Self = Self(1 << 0);
    /// From the backend to the client; without it, from the client to the backend.
    pub const REPLY: Self = Self(1 << 1);
    /// The client is a process in the host's own network namespace: after translation the packet needs a new route.
    pub const HOST_CLIENT: Self = Self(1 << 2);
    /// The backend is on this node: an XDP program may translate and pass up.
    pub const LOCAL_BACKEND: Self = Self(1 << 3);
    /// The second pair of a masqueraded flow: it changes the client's side, not the backend's.
    pub const MASQUERADE: Self = Self(1 << 4);
    /// A packet of this direction has been seen; without it, the entry was made for packets to come.
    pub const SEEN: Self = Self(1 << 5);
    /// The endpoint is gone for good, and the client is to be told by a reset (TCP). Set by the agent.
    pub const RESET: Self = Self(1 << 6);
    /// Packets go on unchanged in a tunnel to another node, `dst`, which answers the client itself. `src` and `sport` are the
    /// endpoint's, for those who ask whether it is still there. There is no entry for the opposite direction.
    pub const TUNNELS: Self = Self(1 << 7);
    /// Packets came out of a tunnel from another node.
    pub const TUNNELLED: Self = Self(1 << 8);

    /// This entry says both steps of a masqueraded flow, and so does the one for the opposite direction. Both are for packets that arrive,
    /// in XDP: see `datapath::whole`.
    pub const WHOLE: Self = Self(1 << 9);
    /// Netfilter's: it began while new flows were left to it, or netfilter had it before. [`Self::DIRECT`] says what is done: nothing.
    pub const DEFERRED: Self = Self(1 << 10);
    /// What all entries of netfilter's flows are: as those of direct connections, they don't lead towards a backend.
    pub const OF_NETFILTER: Self = Self::DIRECT.with(Self::MASQUERADE).with(Self::DEFERRED);
    /// A [`Self::DIRECT`] connection that netfilter has masqueraded: it leaves as what this host forwards.
    pub const FORWARDED: Self = Self(1 << 11);

    /// Where packets of the opposite direction are seen, if those of this one are seen at `stage`.
    #[must_use]
    #[inline(always)]
    pub const fn stage_of_counterpart(self, stage: Stage) -> Stage {
        if self.has(Self::WHOLE) { stage } else { stage.other() }
    }

    /// The flags of the entry for the opposite direction, of which no packet has been seen.
    #[must_use]
    #[inline(always)]
    pub const fn of_counterpart(self) -> Self {
        Self(self.without(Self::SEEN).0 ^ Self::REPLY.0)
    }
}

/// TCP flags that were seen from the sender of this direction (bits as in the TCP header, RFC 9293 §3.1).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TcpSeen(pub u8);

bits!(TcpSeen);

impl TcpSeen {
    /// No more data from this sender.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Aborts a connection.
    pub const RST: Self = Self(0x04);
    /// Acknowledges the peer.
    pub const ACK: Self = Self(0x10);
}

pod! {
    /// What to do with a packet of one direction, and when one was last seen.
    #[derive(Default)]
    pub struct Flow<A> {
        /// [`FlowKey::check`] of the entry's own key. Comes first and is read last.
        pub check: u32,
        /// Backend number that was chosen.
        pub backend: u32,
        /// Source address to write.
        pub src: A,
        /// Destination address to write.
        pub dst: A,
        /// Source port to write.
        pub sport: Port,
        /// Destination port to write.
        pub dport: Port,
        /// What the rewrite of the addresses adds to a one's complement sum over them (IPv4 header and pseudo header).
        pub address_delta: u16,
        /// What the rewrite of the ports adds to a one's complement sum over them.
        pub port_delta: u16,
        /// Service number of the frontend.
        pub service: u32,
        /// What the entry is.
        pub flags: FlowFlags,
        /// TCP flags seen in this direction.
        pub tcp: TcpSeen,
        /// Always zero.
        pub pad: u8,
        /// Monotonic time of the last packet, in nanoseconds, exact to `limits::REFRESH_NS`.
        pub seen_ns: u64,
    }
    sizes: 40, 64;
}

impl<A: Address> Flow<A> {
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
