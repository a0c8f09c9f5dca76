//! Names of maps and programs: one spelling for the Rust static, the ELF symbol, the pin file, `bpftool` and the
//! documents. The kernel keeps 15 bytes.

macro_rules! names {
    ($($(#[$attr:meta])* $name:ident;)*) => {
        $($(#[$attr])* pub const $name: &str = {
            assert!(stringify!($name).len() <= 15, "the kernel cuts names at 15 bytes");
            stringify!($name)
        };)*
        /// All map names.
        pub const MAPS: &[&str] = &[$($name),*];
    };
}

names! {
    /// IPv4 addresses: address to [`AddressFlags`](super::AddressFlags).
    LB4_ADDRESSES;
    /// IPv6 addresses.
    LB6_ADDRESSES;
    /// IPv4 frontends: [`FrontendKey`](super::FrontendKey) to [`Frontend`](super::Frontend).
    LB4_FRONTENDS;
    /// IPv6 frontends.
    LB6_FRONTENDS;
    /// IPv4 services: service number to [`ServiceEntry`](super::ServiceEntry).
    LB4_SERVICES;
    /// IPv6 services.
    LB6_SERVICES;
    /// IPv4 slots: place to backend number.
    LB4_SLOTS;
    /// IPv6 slots.
    LB6_SLOTS;
    /// IPv4 Maglev tables: number to [`Chunk`](super::Chunk).
    LB4_MAGLEV;
    /// IPv6 Maglev tables.
    LB6_MAGLEV;
    /// IPv4 backends: backend number to [`BackendEntry`](super::BackendEntry).
    LB4_BACKENDS;
    /// IPv6 backends.
    LB6_BACKENDS;
    /// IPv4 labels: service number to [`Label`](super::Label).
    LB4_LABELS;
    /// IPv6 labels.
    LB6_LABELS;
    /// IPv4 source ranges: set and address prefix to nothing that matters.
    LB4_SOURCES;
    /// IPv6 source ranges.
    LB6_SOURCES;
    /// Facts about the node, IPv4: one [`Node`](super::Node).
    LB4_NODE;
    /// Facts about the node, IPv6.
    LB6_NODE;
    /// Other nodes of the cluster by their IPv4 addresses: address to [`Peer`](super::Peer).
    LB4_PEERS;
    /// Other nodes by their IPv6 addresses.
    LB6_PEERS;
    /// IPv4 session affinity: [`AffinityKey`](super::AffinityKey) to [`Affinity`](super::Affinity).
    CT4_AFFINITY;
    /// IPv6 session affinity.
    CT6_AFFINITY;
    /// Devices: index to [`Device`](super::Device).
    DEVICES;
    /// VLAN devices: [`VlanKey`](super::VlanKey) to index.
    VLANS;
    /// IPv4 flows: [`FlowKey`](super::FlowKey) to [`Flow`](super::Flow).
    CT4_FLOWS;
    /// IPv6 flows.
    CT6_FLOWS;
    /// IPv4 ways of forwarded flows: [`FlowKey`](super::FlowKey) to [`Way`](super::Way).
    CT4_WAYS;
    /// IPv6 ways of forwarded flows.
    CT6_WAYS;
    /// IPv4 datagrams in fragments: [`FragmentKey`](super::FragmentKey) to [`FragmentPorts`](super::FragmentPorts).
    CT4_FRAGMENTS;
    /// IPv6 datagrams in fragments.
    CT6_FRAGMENTS;
    /// Where IPv4 flows are laid out while they are opened, per CPU: one [`Desk`](super::Desk).
    CT4_DESK;
    /// Where IPv6 flows are laid out.
    CT6_DESK;
    /// What a TCP socket stands for: one [`SocketPeer`](super::SocketPeer), in the socket's storage.
    SK_PEER;
    /// What the peers of an unconnected UDP socket stand for: [`SocketPeers`](super::SocketPeers), in the socket's storage.
    SK_PEERS;
    /// What the socket programs must know of the node: one [`SocketTier`](super::SocketTier).
    SOCKET_TIER;
    /// Cgroups whose sockets are left to the tc tier: number of the cgroup to nothing that matters.
    LEFT_CGROUPS;
    /// What each CPU remembers of the time: one [`Clock`](super::Clock).
    CLOCK;
    /// Neighbours that XDP sends to: [`Hop`](super::Hop) to the monotonic time in nanoseconds at which one packet was left to the stack.
    HOPS;
    /// How often the routing has changed: one word, which a next hop that is remembered was found under.
    ROUTES;
    /// One word, [`NEW_FLOWS_ARE_OURS`](super::NEW_FLOWS_ARE_OURS) or something else while new flows are left to netfilter.
    DEFERS;
    /// Drops by [`DropReason`](super::DropReason), per CPU.
    DROPS;
    /// Counts by [`Counter`](super::Counter), per CPU.
    COUNTERS;
    /// Token buckets for ICMP answers and events, per CPU.
    BUCKETS;
    /// Ring buffer of [`Event`](super::Event)s.
    EVENTS;
}

/// tc program where packets arrive from an Ethernet device.
pub const TC_INGRESS: &str = "lb_tc_ingress";
/// tc program where packets leave through an Ethernet device.
pub const TC_EGRESS: &str = "lb_tc_egress";
/// tc program where packets arrive from a device without link header (tun, WireGuard, IPIP).
pub const TC_L3_INGRESS: &str = "lb_tc_l3_in";
/// tc program where packets leave through a device without link header.
pub const TC_L3_EGRESS: &str = "lb_tc_l3_out";
/// XDP program for outward devices.
pub const XDP: &str = "lb_xdp";

/// Programs of devices.
pub const PROGRAMS: &[&str] = &[TC_INGRESS, TC_EGRESS, TC_L3_INGRESS, TC_L3_EGRESS, XDP];

/// Programs of sockets, named for their hook of a cgroup, in the order in which they are attached: what tells a process of service addresses
/// is there before anything is translated.
pub const SOCKET_PROGRAMS: &[&str] = &[
    "lb_getpeer4",
    "lb_getpeer6",
    "lb_recvmsg4",
    "lb_recvmsg6",
    "lb_sendmsg4",
    "lb_sendmsg6",
    "lb_connect4",
    "lb_connect6",
    "lb_bind4",
    "lb_bind6",
];
