//! Sizes, rates and times, each with its unit in the name.

/// Version of all layouts in this folder. Pins carry it: an agent never touches tables of another version.
pub const LAYOUT_VERSION: u32 = 7;

/// Places for service ports, per family.
pub const SERVICES_MAX: u32 = 65_536;
/// Places for frontends, per family: every service port may have several addresses.
pub const FRONTENDS_MAX: u32 = 262_144;
/// Places for addresses, per family: those of frontends, of endpoints and of the host.
pub const ADDRESSES_MAX: u32 = 524_288;
/// Places for prefixes of `loadBalancerSourceRanges`, per family.
pub const SOURCES_MAX: u32 = 131_072;
/// Places for backends, per family: every endpoint of every service port. Number 0 is never used.
pub const BACKENDS_MAX: u32 = 524_288;
/// Places for slots, per family.
pub const SLOTS_MAX: u32 = 1_048_576;
/// Places for chunks of Maglev tables, per family: 8 192 of the smallest, or tables for 83 000 endpoints in all.
pub const MAGLEV_CHUNKS_MAX: u32 = 131_072;
/// Cells of a Maglev table for each endpoint, as its authors found to be enough (NSDI 2016, §5.3).
pub const MAGLEV_CELLS_PER_ENDPOINT: u32 = 100;
/// Cells of a Maglev table at least. Small sets are divided more evenly by it, and with up to 10 endpoints the size stays.
pub const MAGLEV_CELLS_MIN: u32 = 1_024;
/// Endpoints of a list that has a Maglev table: an ordinal is 16 bits.
pub const MAGLEV_ENDPOINTS_MAX: u32 = 65_535;
/// Flow entries per family when nothing else is asked for; a flow takes two.
pub const FLOWS_DEFAULT: u32 = 524_288;
/// Ways of forwarded flows per family when nothing else is asked for: half of the flow entries, since a flow that leaves this node has
/// two to four of these and two ways.
pub const WAYS_DEFAULT: u32 = FLOWS_DEFAULT / 2;
/// Smallest number of flow entries that can be asked for: the kernel's LRU lists keep 128 free entries per CPU.
pub const FLOWS_MIN: u32 = 16_384;
/// Datagrams in fragments that can be under way at once, per family.
pub const FRAGMENTS_MAX: u32 = 8_192;
/// Clients of services with session affinity that are remembered, per family; the one that came least recently goes first.
pub const AFFINITY_MAX: u32 = 131_072;
/// Places for addresses of other nodes, per family: Kubernetes says 5 000 nodes a cluster.
pub const PEERS_MAX: u32 = 16_384;
/// How long a path MTU that a router has told holds, in nanoseconds: as long as Linux' `route.mtu_expires`.
pub const PATH_MTU_NS: u64 = 600_000_000_000;
/// Places for devices.
pub const DEVICES_MAX: u32 = 16_384;
/// Size of the event ring buffer.
pub const EVENTS_BYTES: u32 = 262_144;

/// ICMP answers to packets without endpoint, per second and CPU.
pub const REJECTS_PER_SECOND_MAX: u64 = 1_000;
/// Drop events, per second and CPU.
pub const EVENTS_PER_SECOND_MAX: u64 = 100;

/// How old a flow's time stamp may grow before a packet writes it anew: keeps established packets from writing to
/// shared memory.
pub const REFRESH_NS: u64 = 1_000_000_000;

/// How long a flow without connections (UDP, SCTP) that was left to netfilter may be silent before its next packet is a new flow's:
/// netfilter's default `nf_conntrack_udp_timeout`. What conntrack keeps for longer, the agent renews.
pub const DEFERRED_NS: u64 = 30_000_000_000;

/// How often a flow's packets look after the opposite entry, as a power of two in nanoseconds: 17 s. An entry that is
/// evicted while only the other direction carries packets is back by then.
pub const HEAL_NS_LOG2: u32 = 34;

/// How long XDP uses a way before it looks again, in nanoseconds. What the flow's entries say (gone for good, in use) has its effect on
/// XDP within this time, and so has a change of the routing while no agent counts it. Not longer: a flow's entries are in use only when XDP
/// looks, and the ones that are not go first when the table is full.
pub const WAY_NS: u64 = 2_000_000_000;
/// How often XDP leaves one packet to a neighbour to the stack, in nanoseconds: so the kernel sees that the neighbour is in use, and asks
/// whether it is still there (`gc_stale_time` is 60 s).
pub const REST_NS: u64 = 17_000_000_000;
/// Neighbours of which it is remembered when that was; the one that was asked for least recently goes first.
pub const HOPS_MAX: u32 = 4_096;

/// Source ports that may be given to a connection whose own is taken: from here to 65 535.
pub const SOURCE_PORT_MIN: u16 = 1_024;
/// How many source ports there are.
pub const SOURCE_PORTS: u32 = u16::MAX as u32 - SOURCE_PORT_MIN as u32 + 1;
/// How many are tried for every connection. With 99 of 100 taken, 8 of 100 connections find none among so many.
pub const SOURCE_PORT_TRIES: u32 = 256;
/// How often per second and CPU all of them are tried for a connection that found none: one such search takes milliseconds.
pub const SOURCE_PORT_SEARCHES_PER_SECOND_MAX: u64 = 32;

/// Cgroups whose sockets are left to the tc tier.
pub const LEFT_CGROUPS_MAX: u32 = 1_024;
/// How long a peer of an unconnected UDP socket keeps its place without a datagram, in nanoseconds: as long as an answered flow of UDP.
pub const SOCKET_PEER_IDLE_NS: u64 = 120_000_000_000;

/// How many slots are searched for the backend that a client had before, when the range has changed since.
pub const AFFINITY_SLOTS_MAX: u32 = 65_536;

const _: () = {
    assert!(SLOTS_MAX >= BACKENDS_MAX, "every backend needs a slot");
    // The rest is for endpoints: Kubernetes says 150 000 pods a cluster.
    assert!(
        ADDRESSES_MAX >= FRONTENDS_MAX + 150_000,
        "frontends are never short of addresses"
    );
    assert!(
        MAGLEV_ENDPOINTS_MAX * MAGLEV_CELLS_PER_ENDPOINT <= super::Cells::COUNT_MAX,
        "a table of the largest list has a number of cells"
    );
    assert!(FRONTENDS_MAX >= SERVICES_MAX, "every service port needs a frontend");
    assert!(EVENTS_BYTES.is_power_of_two(), "the kernel asks for a power of two");
};
