//! Every table, with its kind and size; keys and values are in `lb_common::layout`, names in
//! `lb_common::layout::names`. `docs/maps.md` says who writes and who reads each.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use lb_common::{
    datapath::Bucket,
    layout::{
        Affinity, AffinityKey, BackendEntry, Chunk, Clock, Counter, Desk, Device, DropReason, Event, Flow, FlowKey,
        FragmentKey, FragmentPorts, FrontendKey, Hop, Ip4, Ip6, Label, Node, Peer, ServiceEntry, SocketPeer,
        SocketPeers, SocketTier, SourceKeys, TokenBucket, VlanKey, Way,
        limits::{
            ADDRESSES_MAX, AFFINITY_MAX, BACKENDS_MAX, DEVICES_MAX, EVENTS_BYTES, FLOWS_DEFAULT, FRAGMENTS_MAX,
            FRONTENDS_MAX, HOPS_MAX, LEFT_CGROUPS_MAX, MAGLEV_CHUNKS_MAX, PEERS_MAX, SERVICES_MAX, SLOTS_MAX,
            SOURCES_MAX, WAYS_DEFAULT,
        },
    },
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

pub type Addresses<A> = HashMap<A, u32, { ADDRESSES_MAX as usize }, NO_PREALLOC>;
pub type Frontends<A> = HashMap<FrontendKey<A>, u32, { FRONTENDS_MAX as usize }, NO_PREALLOC>;
// Counts are not per CPU: as arrays these would take their whole size on every CPU, and an element of a hash table that comes into use clears
// its value on all of them, which costs more than all else that opens a flow.
pub type Services = Array<ServiceEntry, { SERVICES_MAX as usize }, MMAPABLE>;
pub type Slots = Array<u32, { SLOTS_MAX as usize }, MMAPABLE>;
// Not mapped by the agent: it writes many at once, reads none, and would have them all in its own memory.
pub type Maglev = Array<Chunk, { MAGLEV_CHUNKS_MAX as usize }>;
pub type Backends<A> = Array<BackendEntry<A>, { BACKENDS_MAX as usize }, MMAPABLE>;
pub type Sources<A> = LpmTrie<<A as SourceKeys>::SourceKey, u32, { SOURCES_MAX as usize }>;
pub type Nodes<A> = Array<Node<A>, 1>;
pub type Peers<A> = HashMap<A, Peer, { PEERS_MAX as usize }, NO_PREALLOC>;
pub type Affinities<A> = LruHashMap<AffinityKey<A>, Affinity, { AFFINITY_MAX as usize }>;
pub type Labels = HashMap<u32, Label, { SERVICES_MAX as usize }, NO_PREALLOC>;
pub type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>, { FLOWS_DEFAULT as usize }>;
pub type Ways<A> = LruHashMap<FlowKey<A>, Way<A>, { WAYS_DEFAULT as usize }>;
pub type Fragments<A> = LruHashMap<FragmentKey<A>, FragmentPorts, { FRAGMENTS_MAX as usize }>;

#[btf_map]
pub static LB4_ADDRESSES: Addresses<Ip4> = Addresses::new();
#[btf_map]
pub static LB6_ADDRESSES: Addresses<Ip6> = Addresses::new();
#[btf_map]
pub static LB4_FRONTENDS: Frontends<Ip4> = Frontends::new();
#[btf_map]
pub static LB6_FRONTENDS: Frontends<Ip6> = Frontends::new();
#[btf_map]
pub static LB4_SERVICES: Services = Services::new();
#[btf_map]
pub static LB6_SERVICES: Services = Services::new();
#[btf_map]
pub static LB4_SLOTS: Slots = Slots::new();
#[btf_map]
pub static LB6_SLOTS: Slots = Slots::new();
#[btf_map]
pub static LB4_MAGLEV: Maglev = Maglev::new();
#[btf_map]
pub static LB6_MAGLEV: Maglev = Maglev::new();
#[btf_map]
pub static LB4_BACKENDS: Backends<Ip4> = Backends::new();
#[btf_map]
pub static LB6_BACKENDS: Backends<Ip6> = Backends::new();
/// Written and read by userspace only; here so that the object defines every table.
#[btf_map]
pub static LB4_LABELS: Labels = Labels::new();
/// As [`LB4_LABELS`].
#[btf_map]
pub static LB6_LABELS: Labels = Labels::new();
#[btf_map]
pub static LB4_SOURCES: Sources<Ip4> = Sources::<Ip4>::new();
#[btf_map]
pub static LB6_SOURCES: Sources<Ip6> = Sources::<Ip6>::new();
#[btf_map]
pub static LB4_NODE: Nodes<Ip4> = Nodes::new();
#[btf_map]
pub static LB6_NODE: Nodes<Ip6> = Nodes::new();
#[btf_map]
pub static LB4_PEERS: Peers<Ip4> = Peers::new();
#[btf_map]
pub static LB6_PEERS: Peers<Ip6> = Peers::new();
#[btf_map]
pub static CT4_AFFINITY: Affinities<Ip4> = Affinities::new();
#[btf_map]
pub static CT6_AFFINITY: Affinities<Ip6> = Affinities::new();
#[btf_map]
pub static DEVICES: HashMap<u32, Device, { DEVICES_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static VLANS: HashMap<VlanKey, u32, { DEVICES_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static CT4_FLOWS: Flows<Ip4> = Flows::new();
#[btf_map]
pub static CT6_FLOWS: Flows<Ip6> = Flows::new();
#[btf_map]
pub static CT4_WAYS: Ways<Ip4> = Ways::new();
#[btf_map]
pub static CT6_WAYS: Ways<Ip6> = Ways::new();
#[btf_map]
pub static CT4_FRAGMENTS: Fragments<Ip4> = Fragments::new();
#[btf_map]
pub static CT6_FRAGMENTS: Fragments<Ip6> = Fragments::new();
#[btf_map]
pub static CT4_DESK: PerCpuArray<Desk<Ip4>, 1> = PerCpuArray::new();
#[btf_map]
pub static CT6_DESK: PerCpuArray<Desk<Ip6>, 1> = PerCpuArray::new();
#[btf_map]
pub static SK_PEER: SkStorage<SocketPeer> = SkStorage::new();
#[btf_map]
pub static SK_PEERS: SkStorage<SocketPeers> = SkStorage::new();
/// Written by userspace.
#[btf_map]
pub static SOCKET_TIER: Array<SocketTier, 1> = Array::new();
/// As [`SOCKET_TIER`].
#[btf_map]
pub static LEFT_CGROUPS: HashMap<u64, u32, { LEFT_CGROUPS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();
#[btf_map]
pub static HOPS: LruHashMap<Hop, u64, { HOPS_MAX as usize }> = LruHashMap::new();
/// Written by userspace: another number after every change of the routing, neighbours and devices included.
#[btf_map]
pub static ROUTES: Array<u32, 1, MMAPABLE> = Array::new();
/// Written by userspace.
#[btf_map]
pub static DEFERS: Array<u32, 1> = Array::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT }> = PerCpuArray::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();
#[btf_map]
pub static BUCKETS: PerCpuArray<TokenBucket, { Bucket::COUNT }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();
