//! The object as the kernel knows it: names and sizes of maps and programs are those of `lb_common::layout`, and
//! `bpftool` shows a table with the names of its fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, id},
};

use aya::{
    EbpfLoader,
    maps::{MapInfo, MapType},
};
use lb_common::{
    datapath::Bucket,
    layout::{
        Affinity, AffinityKey, BackendEntry, Chunk, Clock, Counter, Desk, Device, DropReason, Event, Flow, FlowKey,
        FragmentKey, FragmentPorts, Frontend, FrontendKey, Hop, Ip4, Ip6, Label, Node, Peer, Port, Proto, ServiceEntry,
        SocketPeer, SocketPeers, SocketTier, SourceKeys, TokenBucket, V4, V6, VlanKey, Way, limits, names,
    },
};
use lb_userspace::{
    kernel::{Datapath, LoadOptions, Pins, object},
    tables::{FlowTable, Flows as _, KernelTables, Tables as _},
};
use serde_json::Value;

const FLOWS: u32 = limits::FLOWS_MIN;
/// Places for ways.
const WAYS: u32 = limits::FLOWS_MIN;

/// The object, loaded with its maps pinned in a folder of its own, which goes with it.
struct Pinned {
    pins: Pins,
    datapath: Datapath,
}

impl Pinned {
    fn load(test: &str) -> Self {
        let root = PathBuf::from(format!("/sys/fs/bpf/slt-{test}-{}", id()));
        let pins = Pins::new(root);
        // The lock on the folder is of no use here: nobody else knows the name.
        drop(
            pins.claim()
                .expect("a folder on the BPF file system: this test needs root"),
        );
        let options = LoadOptions {
            maps: Some(pins.maps()),
            flows_max: FLOWS,
            ways_max: WAYS,
            later: &[],
        };
        match Datapath::load(&options) {
            Ok(datapath) => Self { pins, datapath },
            Err(why) => {
                remove(&pins);
                panic!("the object can't be loaded: {why:#}");
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pins.maps().join(name)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        remove(&self.pins);
    }
}

fn remove(pins: &Pins) {
    if let Err(why) = fs::remove_dir_all(pins.root()) {
        eprintln!("{} stays behind: {why}", pins.root().display());
    }
}

/// Kind, octets of key and value, and places of every map.
type Shape = (MapType, usize, usize, u32);

fn shapes() -> BTreeMap<&'static str, Shape> {
    fn keyed<K, V>(kind: MapType, places: u32) -> Shape {
        (kind, size_of::<K>(), size_of::<V>(), places)
    }
    fn array<V>(places: u32) -> Shape {
        keyed::<u32, V>(MapType::Array, places)
    }
    fn per_cpu<V>(places: usize) -> Shape {
        keyed::<u32, V>(MapType::PerCpuArray, places as u32)
    }
    /// A prefix tree's key begins with the length of the prefix.
    fn sources<A: SourceKeys>() -> Shape {
        keyed::<(u32, A::SourceKey), u32>(MapType::LpmTrie, limits::SOURCES_MAX)
    }
    let [hash, lru] = [MapType::Hash, MapType::LruHash];
    BTreeMap::from([
        (names::LB4_ADDRESSES, keyed::<Ip4, u32>(hash, limits::ADDRESSES_MAX)),
        (names::LB6_ADDRESSES, keyed::<Ip6, u32>(hash, limits::ADDRESSES_MAX)),
        (names::LB4_SOURCES, sources::<Ip4>()),
        (names::LB6_SOURCES, sources::<Ip6>()),
        (names::LB4_NODE, array::<Node<Ip4>>(1)),
        (names::LB6_NODE, array::<Node<Ip6>>(1)),
        (names::LB4_PEERS, keyed::<Ip4, Peer>(hash, limits::PEERS_MAX)),
        (names::LB6_PEERS, keyed::<Ip6, Peer>(hash, limits::PEERS_MAX)),
        (names::DEVICES, keyed::<u32, Device>(hash, limits::DEVICES_MAX)),
        (names::VLANS, keyed::<VlanKey, u32>(hash, limits::DEVICES_MAX)),
        (
            names::CT4_AFFINITY,
            keyed::<AffinityKey<Ip4>, Affinity>(lru, limits::AFFINITY_MAX),
        ),
        (
            names::CT6_AFFINITY,
            keyed::<AffinityKey<Ip6>, Affinity>(lru, limits::AFFINITY_MAX),
        ),
        (
            names::LB4_FRONTENDS,
            keyed::<FrontendKey<Ip4>, u32>(hash, limits::FRONTENDS_MAX),
        ),
        (
            names::LB6_FRONTENDS,
            keyed::<FrontendKey<Ip6>, u32>(hash, limits::FRONTENDS_MAX),
        ),
        (names::LB4_SERVICES, array::<ServiceEntry>(limits::SERVICES_MAX)),
        (names::LB6_SERVICES, array::<ServiceEntry>(limits::SERVICES_MAX)),
        (names::LB4_SLOTS, array::<u32>(limits::SLOTS_MAX)),
        (names::LB6_SLOTS, array::<u32>(limits::SLOTS_MAX)),
        (names::LB4_MAGLEV, array::<Chunk>(limits::MAGLEV_CHUNKS_MAX)),
        (names::LB6_MAGLEV, array::<Chunk>(limits::MAGLEV_CHUNKS_MAX)),
        (names::LB4_BACKENDS, array::<BackendEntry<Ip4>>(limits::BACKENDS_MAX)),
        (names::LB6_BACKENDS, array::<BackendEntry<Ip6>>(limits::BACKENDS_MAX)),
        (names::LB4_LABELS, keyed::<u32, Label>(hash, limits::SERVICES_MAX)),
        (names::LB6_LABELS, keyed::<u32, Label>(hash, limits::SERVICES_MAX)),
        (names::CT4_FLOWS, keyed::<FlowKey<Ip4>, Flow<Ip4>>(lru, FLOWS)),
        (names::CT6_FLOWS, keyed::<FlowKey<Ip6>, Flow<Ip6>>(lru, FLOWS)),
        (
            names::CT4_FRAGMENTS,
            keyed::<FragmentKey<Ip4>, FragmentPorts>(lru, limits::FRAGMENTS_MAX),
        ),
        (
            names::CT6_FRAGMENTS,
            keyed::<FragmentKey<Ip6>, FragmentPorts>(lru, limits::FRAGMENTS_MAX),
        ),
        (names::CT4_WAYS, keyed::<FlowKey<Ip4>, Way<Ip4>>(lru, WAYS)),
        (names::CT6_WAYS, keyed::<FlowKey<Ip6>, Way<Ip6>>(lru, WAYS)),
        (names::CT4_DESK, per_cpu::<Desk<Ip4>>(1)),
        (names::CT6_DESK, per_cpu::<Desk<Ip6>>(1)),
        (names::SK_PEER, keyed::<u32, SocketPeer>(MapType::SkStorage, 0)),
        (names::SK_PEERS, keyed::<u32, SocketPeers>(MapType::SkStorage, 0)),
        (names::SOCKET_TIER, array::<SocketTier>(1)),
        (names::LEFT_CGROUPS, keyed::<u64, u32>(hash, limits::LEFT_CGROUPS_MAX)),
        (names::CLOCK, per_cpu::<Clock>(1)),
        (names::HOPS, keyed::<Hop, u64>(lru, limits::HOPS_MAX)),
        (names::ROUTES, array::<u32>(1)),
        (names::DEFERS, array::<u32>(1)),
        (names::DROPS, per_cpu::<u64>(DropReason::COUNT)),
        (names::COUNTERS, per_cpu::<u64>(Counter::COUNT)),
        (names::BUCKETS, per_cpu::<TokenBucket>(Bucket::COUNT)),
        (names::EVENTS, (MapType::RingBuf, 0, 0, limits::EVENTS_BYTES)),
    ])
}

#[test]
fn the_object_has_the_maps_and_programs_of_the_layout_and_no_others() {
    let mut loader = EbpfLoader::new();
    for name in [names::CT4_FLOWS, names::CT6_FLOWS] {
        loader.map_max_entries(name, FLOWS);
    }
    for name in [names::CT4_WAYS, names::CT6_WAYS] {
        loader.map_max_entries(name, WAYS);
    }
    let ebpf = loader
        .load(object().expect("an object is built in"))
        .expect("maps can be made: this test needs root");
    // Sections of global variables are maps to the kernel, with names that begin with a dot.
    let maps: BTreeSet<&str> = ebpf
        .maps()
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(maps, names::MAPS.iter().copied().collect());
    let programs: BTreeSet<&str> = ebpf.programs().map(|(name, _)| name).collect();
    let named = names::PROGRAMS.iter().chain(names::SOCKET_PROGRAMS);
    assert_eq!(programs, named.copied().collect());
    assert_eq!(
        maps,
        shapes().into_keys().collect(),
        "this test knows the shape of every map"
    );
}

#[test]
fn maps_have_the_names_and_sizes_of_the_layout_in_the_kernel() {
    let pinned = Pinned::load("shapes");
    for (name, wanted) in shapes() {
        let info = MapInfo::from_pin(pinned.path(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(
            name.len() <= 15,
            "{name} has {} octets, the kernel keeps 15",
            name.len()
        );
        assert_eq!(info.name_as_str(), Some(name));
        let kind = info.map_type().expect("a kind of map");
        let found = (
            kind,
            info.key_size() as usize,
            info.value_size() as usize,
            info.max_entries(),
        );
        assert_eq!(found, wanted, "{name}");
    }
    // A ring buffer has no values of one size: its records are events.
    assert_eq!(size_of::<Event>(), 56);
}

#[test]
fn programs_have_the_names_of_the_layout_in_the_kernel() {
    let mut pinned = Pinned::load("programs");
    for &name in names::PROGRAMS.iter().chain(names::SOCKET_PROGRAMS) {
        assert!(
            name.len() <= 15,
            "{name} has {} octets, the kernel keeps 15",
            name.len()
        );
        let info = if name == names::XDP {
            pinned.datapath.xdp(name).expect("an XDP program").info()
        } else if names::SOCKET_PROGRAMS.contains(&name) {
            pinned.datapath.socket_program(name).expect("a socket program").info()
        } else {
            pinned.datapath.classifier(name).expect("a tc program").info()
        };
        let info = info.expect("the kernel tells of its programs");
        assert_eq!(info.name_as_str(), Some(name));
        assert_eq!(
            info.gpl_compatible(),
            Some(true),
            "{name} uses helpers that the kernel lends under the GPL only"
        );
    }
}

/// What `bpftool map dump` makes of a table's entries with the help of its types.
fn dump(path: &Path) -> Vec<Value> {
    let output = Command::new("bpftool")
        .args(["--json", "map", "dump", "pinned"])
        .arg(path)
        .output()
        .expect("bpftool runs (apt-get install bpftool)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "bpftool can't dump {}: {said}", path.display());
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
    entries.into_iter().map(|mut entry| entry["formatted"].take()).collect()
}

fn names_in(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .map_or(Vec::new(), |fields| fields.keys().map(String::as_str).collect())
}

#[test]
fn bpftool_shows_frontends_with_the_names_of_their_fields() {
    let mut pinned = Pinned::load("fields");
    let key = FrontendKey::new(
        Ip4 {
            octets: [10, 96, 0, 10],
        },
        Port::new(80),
        Proto::TCP,
    );
    let key6 = FrontendKey::new(Ip6 { octets: [0xfd; 16] }, Port::new(443), Proto::UDP);
    let mut tables = KernelTables::<V4>::open(|name| pinned.datapath.take_map(name)).expect("the IPv4 tables");
    let mut tables6 = KernelTables::<V6>::open(|name| pinned.datapath.take_map(name)).expect("the IPv6 tables");
    tables
        .put_frontend(&key, Frontend::internal(7))
        .expect("a frontend is written");
    tables6
        .put_frontend(&key6, Frontend::filtered(8))
        .expect("a frontend is written");

    let shown = dump(&pinned.path(names::LB4_FRONTENDS));
    let [entry] = &*shown else { panic!("{shown:?}") };
    for field in ["address", "port", "proto"] {
        assert!(names_in(&entry["key"]).contains(&field), "no field {field} in {entry}");
    }
    assert_eq!(
        entry["key"]["address"]["octets"],
        serde_json::json!([10, 96, 0, 10]),
        "{entry}"
    );
    assert_eq!(entry["key"]["port"]["octets"], serde_json::json!([0, 80]), "{entry}");
    assert_eq!(entry["value"], 7, "{entry}");

    let shown = dump(&pinned.path(names::LB6_FRONTENDS));
    assert_eq!(shown[0]["key"]["address"]["octets"][15], 0xfd, "{shown:?}");
    assert_eq!(shown[0]["value"], 0xc000_0008_u32, "kind and number: {shown:?}");
}

#[test]
fn bpftool_shows_flows_with_the_names_of_their_fields() {
    let mut pinned = Pinned::load("flows");
    let mut flows = FlowTable::<V4>::open(pinned.datapath.take_map(names::CT4_FLOWS).expect("a map")).expect("flows");
    let key = FlowKey::new(
        Ip4 { octets: [10, 1, 0, 9] },
        Port::new(40_000),
        Ip4 {
            octets: [10, 96, 0, 10],
        },
        Port::new(80),
        Proto::TCP,
    );
    flows
        .insert(
            &key,
            &Flow {
                backend: 3,
                seen_ns: 5,
                ..Flow::default()
            },
        )
        .expect("a flow is written");

    let shown = dump(&pinned.path(names::CT4_FLOWS));
    let [entry] = &*shown else { panic!("{shown:?}") };
    for field in ["src", "dst", "sport", "dport", "proto"] {
        assert!(names_in(&entry["key"]).contains(&field), "no field {field} in {entry}");
    }
    for field in ["check", "backend", "service", "flags", "tcp", "seen_ns"] {
        assert!(
            names_in(&entry["value"]).contains(&field),
            "no field {field} in {entry}"
        );
    }
    assert_eq!(
        (&entry["value"]["backend"], &entry["value"]["seen_ns"]),
        (&Value::from(3), &Value::from(5))
    );
}
