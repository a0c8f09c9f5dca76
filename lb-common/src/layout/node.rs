//! What the kernel programs must know about the node and its devices; written by the agent.

use super::{Address, Ip4, Ip6, Tags};

pod! {
    /// A range of addresses: those that differ from `base` in the bits of `free` only. All zero: no address but the
    /// unspecified one, which no packet has.
    #[derive(Default)]
    pub struct Range<A> {
        /// Lowest address.
        pub base: A,
        /// The bits that may be anything.
        pub free: A,
    }
    sizes: 8, 32;
}

impl<A: Address> Range<A> {
    /// Whether an address is in the range.
    #[must_use]
    #[inline(always)]
    pub fn contains(&self, address: &A) -> bool {
        let mut differs = 0;
        let mut index = 0;
        while index < A::WORDS {
            differs |= (address.word(index) ^ self.base.word(index)) & !self.free.word(index);
            index += 1;
        }
        differs == 0
    }
}

/// How connections are told apart by their origin, as bits (kube-proxy-behaviour §4.1, §4.2).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeFlags(pub u32);

bits!(NodeFlags);

impl NodeFlags {
    /// Pods of this cluster are known by their addresses: `Node::pods`.
    pub const PODS_BY_ADDRESS: Self = Self(1 << 0);
    /// Pods of this node are known by the devices that their packets come from.
    pub const PODS_BY_DEVICE: Self = Self(1 << 1);
    /// Every connection to a ClusterIP is masqueraded.
    pub const MASQUERADE_ALL: Self = Self(1 << 2);
    /// Tunnels to other nodes are IP in UDP (GUE variant 1) instead of IP in IP. Both are taken from them.
    pub const GUE: Self = Self(1 << 3);
}

/// What the word of `DEFERS` says when new flows are not left to netfilter. Not zero: until an agent has decided, they are.
pub const NEW_FLOWS_ARE_OURS: u32 = 1;

/// How many ServiceCIDRs of a family are known to the kernel programs.
pub const SERVICE_RANGES: usize = 4;

pod! {
    /// Facts about the node, of one family. All zero until the agent has written it.
    #[derive(Default)]
    pub struct Node<A> {
        /// Addresses of pods.
        pub pods: Range<A>,
        /// ServiceCIDRs: what is sent to an address in them that no Service has is dropped.
        pub services: [Range<A>; SERVICE_RANGES],
        /// The address for masquerading where the outgoing device has none; unspecified if there is none.
        pub address: A,
        /// The address by which other nodes know this one, from which its tunnels come; unspecified if there is none.
        pub own: A,
        /// How connections are told apart.
        pub flags: NodeFlags,
        /// Always zero.
        pub rest: A::Rest,
        /// Always zero.
        pub fill: A::Fill,
    }
    sizes: 56, 200;
}

pod! {
    /// Another node of the cluster, by each of its addresses: tunnels are taken from it.
    #[derive(Default)]
    pub struct Peer {
        /// The largest IP packet, in octets, that reaches it, as routers on the way have told; 0 if none has.
        pub mtu: u32,
        /// Always zero.
        pub pad: u32,
        /// When that was told, in monotonic nanoseconds. It holds for `limits::PATH_MTU_NS`.
        pub told_ns: u64,
    }
    size: 16;
}

/// What a device is, as bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceFlags(pub u32);

bits!(DeviceFlags);

impl DeviceFlags {
    /// What comes from it comes from pods of this node.
    pub const PODS: Self = Self(1 << 0);
    /// The first at which this node sees what comes from it, so that nothing has been translated yet: a network card, the host's
    /// end of a pod's veth pair, a tunnel, a VLAN device on a card; not a bridge or bonding device, nor one on which XDP comes first.
    pub const FIRST: Self = Self(1 << 1);
    /// XDP may send frames out of it: its driver transmits what another device's program redirects (`ndo_xdp_xmit`).
    pub const FORWARDS: Self = Self(1 << 2);
    /// XDP may send a frame back by it (`XDP_TX`) rather than by a redirect to itself.
    pub const TURNS: Self = Self(1 << 3);
    /// XDP may send frames out of it that lie in several buffers: jumbo frames.
    pub const SCATTERS: Self = Self(1 << 5);
    /// What leaves by it may have left by another device of this host just before: it is a port of a bridge or bonding device, or the card
    /// of a VLAN device.
    pub const LOWER: Self = Self(1 << 6);
    /// XDP runs on it in generic mode: what it redirects is sent by the stack, out of any device.
    pub const GENERIC: Self = Self(1 << 4);
}

pod! {
    /// Facts about a device, by its index.
    #[derive(Default)]
    pub struct Device {
        /// The IPv4 address for connections that are masqueraded and leave through it; 0.0.0.0 for the node's.
        pub ipv4: Ip4,
        /// What it is.
        pub flags: DeviceFlags,
        /// The IPv6 address for connections that are masqueraded and leave through it; `::` for the node's.
        pub ipv6: Ip6,
        /// Its link address in the first six octets, or zeros: XDP forwards only what is addressed to it.
        pub link: [u32; 2],
        /// Of a VLAN device: the card below it, by which XDP sends its frames. Zero: they are sent by the device itself.
        pub lower: u32,
        /// The tags that its frames have on that card.
        pub tags: Tags,
    }
    size: 40;
}

impl Device {
    /// An Ethernet address as it stands in a record.
    #[must_use]
    pub const fn link_of(address: [u8; 6]) -> [u32; 2] {
        let [a, b, c, d, e, f] = address;
        [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: [u8; 4], free: [u8; 4]) -> Range<Ip4> {
        Range {
            base: Ip4 { octets: base },
            free: Ip4 { octets: free },
        }
    }

    #[test]
    fn a_range_contains_what_differs_in_free_bits_only() {
        let ip = |octets| Ip4 { octets };
        let slash_20 = range([10, 1, 16, 0], [0, 0, 15, 255]);
        assert!(slash_20.contains(&ip([10, 1, 16, 0])) && slash_20.contains(&ip([10, 1, 31, 255])));
        assert!(!slash_20.contains(&ip([10, 1, 32, 0])) && !slash_20.contains(&ip([11, 1, 16, 0])));
        assert!(range([0; 4], [255; 4]).contains(&ip([203, 0, 113, 9])), "everything");
        assert!(!Range::default().contains(&ip([203, 0, 113, 9])), "nothing");
    }
}
