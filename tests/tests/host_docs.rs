//! The documents say what the code says: maps and programs, their sizes and places, drop reasons, counters and metrics; and
//! the examples are sound.
//!
//! Only tables are compared, by their cells. Whether the sentences around them are true is for people.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use lb_common::datapath::Bucket;
use lb_common::layout::{
    Affinity, AffinityKey, BackendEntry, Chunk, Clock, Counter, Desk, Device, DropReason, Event, Flow, FlowKey,
    FragmentKey, FragmentPorts, FrontendKey, Hop, Ip4, Ip6, Label, Node, Peer, ServiceEntry, SocketPeer, SocketPeers,
    SocketTier, SourceKeys, TokenBucket, VlanKey, Way, limits, names,
};
use lb_userspace::metrics;
use lb_userspace::model::{Change, Family, NodeView, Protocol, ServiceKey, Store};
use lb_userspace::plan::{PortId, plan_problems, plan_service};
use lb_userspace::source::kubernetes::Reason;
use lb_userspace::source::{SourceStatus, manifests};
use tests::demo::grouped;
use tokio::sync::{mpsc, watch};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the table whose heading begins with these columns.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|')).map(|line| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    });
    let rows: Vec<_> = rows.collect();
    assert!(!rows.is_empty(), "{document} has no table that begins with {heading}");
    rows
}

/// What stands in backticks.
fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// `(8 / 24)`, or `(4)` where both families are the same.
fn octets<V4, V6>() -> String {
    let (v4, v6) = (size_of::<V4>(), size_of::<V6>());
    if v4 == v6 {
        format!("({v4})")
    } else {
        format!("({v4} / {v6})")
    }
}

/// A row of the table of maps.
struct Row {
    names: Vec<&'static str>,
    /// Nothing where the key is a plain index.
    key: String,
    value: String,
    places: String,
}

fn row(names: &[&'static str], key: impl Into<String>, value: String, places: impl Into<String>) -> Row {
    Row {
        names: names.to_vec(),
        key: key.into(),
        value,
        places: places.into(),
    }
}

fn rows() -> Vec<Row> {
    use names::{
        BUCKETS, CLOCK, COUNTERS, CT4_AFFINITY, CT4_DESK, CT4_FLOWS, CT4_FRAGMENTS, CT4_WAYS, CT6_AFFINITY, CT6_DESK,
        CT6_FLOWS, CT6_FRAGMENTS, CT6_WAYS, DEFERS, DEVICES, DROPS, EVENTS, HOPS, LB4_ADDRESSES, LB4_BACKENDS,
        LB4_FRONTENDS, LB4_LABELS, LB4_MAGLEV, LB4_NODE, LB4_PEERS, LB4_SERVICES, LB4_SLOTS, LB4_SOURCES,
        LB6_ADDRESSES, LB6_BACKENDS, LB6_FRONTENDS, LB6_LABELS, LB6_MAGLEV, LB6_NODE, LB6_PEERS, LB6_SERVICES,
        LB6_SLOTS, LB6_SOURCES, LEFT_CGROUPS, ROUTES, SK_PEER, SK_PEERS, SOCKET_TIER, VLANS,
    };
    let services = grouped(limits::SERVICES_MAX.into());
    let flows = format!("`--flows-max`, {}", grouped(limits::FLOWS_DEFAULT.into()));
    let events = format!("{} KiB", limits::EVENTS_BYTES / 1024);
    let frontend = octets::<FrontendKey<Ip4>, FrontendKey<Ip6>>();
    let backend = octets::<BackendEntry<Ip4>, BackendEntry<Ip6>>();
    let flow_key = octets::<FlowKey<Ip4>, FlowKey<Ip6>>();
    let flow = octets::<Flow<Ip4>, Flow<Ip6>>();
    let fragment = octets::<FragmentKey<Ip4>, FragmentKey<Ip6>>();
    let ports = octets::<FragmentPorts, FragmentPorts>();
    let number = octets::<u32, u32>();
    let count = octets::<u64, u64>();
    // A prefix tree's key begins with the length of the prefix, four octets.
    let source = octets::<(u32, <Ip4 as SourceKeys>::SourceKey), (u32, <Ip6 as SourceKeys>::SourceKey)>();
    vec![
        row(
            &[LB4_ADDRESSES, LB6_ADDRESSES],
            octets::<Ip4, Ip6>(),
            number.clone(),
            grouped(limits::ADDRESSES_MAX.into()),
        ),
        row(
            &[LB4_FRONTENDS, LB6_FRONTENDS],
            frontend,
            number.clone(),
            grouped(limits::FRONTENDS_MAX.into()),
        ),
        row(
            &[LB4_SERVICES, LB6_SERVICES],
            "",
            octets::<ServiceEntry, ServiceEntry>(),
            services.clone(),
        ),
        row(
            &[LB4_SLOTS, LB6_SLOTS],
            "",
            number.clone(),
            grouped(limits::SLOTS_MAX.into()),
        ),
        row(
            &[LB4_MAGLEV, LB6_MAGLEV],
            "",
            octets::<Chunk, Chunk>(),
            grouped(limits::MAGLEV_CHUNKS_MAX.into()),
        ),
        row(
            &[LB4_BACKENDS, LB6_BACKENDS],
            "",
            backend,
            grouped(limits::BACKENDS_MAX.into()),
        ),
        row(
            &[LB4_LABELS, LB6_LABELS],
            "",
            octets::<Label, Label>(),
            services.clone(),
        ),
        row(
            &[LB4_SOURCES, LB6_SOURCES],
            source,
            number,
            grouped(limits::SOURCES_MAX.into()),
        ),
        row(&[LB4_NODE, LB6_NODE], "", octets::<Node<Ip4>, Node<Ip6>>(), "1"),
        row(
            &[LB4_PEERS, LB6_PEERS],
            octets::<Ip4, Ip6>(),
            octets::<Peer, Peer>(),
            grouped(limits::PEERS_MAX.into()),
        ),
        row(
            &[DEVICES],
            "",
            octets::<Device, Device>(),
            grouped(limits::DEVICES_MAX.into()),
        ),
        row(
            &[VLANS],
            octets::<VlanKey, VlanKey>(),
            octets::<u32, u32>(),
            grouped(limits::DEVICES_MAX.into()),
        ),
        row(&[CT4_FLOWS, CT6_FLOWS], flow_key.clone(), flow, flows),
        row(
            &[CT4_WAYS, CT6_WAYS],
            flow_key,
            octets::<Way<Ip4>, Way<Ip6>>(),
            "half of `--flows-max`",
        ),
        row(
            &[CT4_AFFINITY, CT6_AFFINITY],
            octets::<AffinityKey<Ip4>, AffinityKey<Ip6>>(),
            octets::<Affinity, Affinity>(),
            grouped(limits::AFFINITY_MAX.into()),
        ),
        row(
            &[CT4_FRAGMENTS, CT6_FRAGMENTS],
            fragment,
            ports,
            grouped(limits::FRAGMENTS_MAX.into()),
        ),
        row(&[CT4_DESK, CT6_DESK], "", octets::<Desk<Ip4>, Desk<Ip6>>(), "1"),
        row(&[SK_PEER], "", octets::<SocketPeer, SocketPeer>(), "one a socket"),
        row(&[SK_PEERS], "", octets::<SocketPeers, SocketPeers>(), "one a socket"),
        row(&[SOCKET_TIER], "", octets::<SocketTier, SocketTier>(), "1"),
        row(
            &[LEFT_CGROUPS],
            octets::<u64, u64>(),
            octets::<u32, u32>(),
            grouped(limits::LEFT_CGROUPS_MAX.into()),
        ),
        row(&[CLOCK], "", octets::<Clock, Clock>(), "1"),
        row(
            &[HOPS],
            octets::<Hop, Hop>(),
            octets::<u64, u64>(),
            grouped(limits::HOPS_MAX.into()),
        ),
        row(&[ROUTES], "", octets::<u32, u32>(), "1"),
        row(&[DEFERS], "", octets::<u32, u32>(), "1"),
        row(&[DROPS], "", count.clone(), "one each"),
        row(&[COUNTERS], "", count, "one each"),
        row(
            &[BUCKETS],
            "",
            octets::<TokenBucket, TokenBucket>(),
            Bucket::COUNT.to_string(),
        ),
        row(&[EVENTS], "", octets::<Event, Event>(), events),
    ]
}

#[test]
fn maps_are_named_with_their_sizes_and_places() {
    let (expected, found) = (rows(), table("docs/maps.md", "| map | kind | key"));
    let all: Vec<_> = expected.iter().flat_map(|row| row.names.clone()).collect();
    assert_eq!(
        BTreeSet::from_iter(all),
        BTreeSet::from_iter(names::MAPS.iter().copied()),
        "this test knows all maps"
    );
    assert_eq!(found.len(), expected.len(), "one line for each map or pair of maps");
    for (cells, row) in found.iter().zip(&expected) {
        let [map, _kind, key, value, places, ..] = cells.as_slice() else {
            panic!("too few cells: {cells:?}");
        };
        assert_eq!(in_backticks(map), row.names);
        assert!(key.ends_with(&row.key), "{map}: the key is {key}, its size {}", row.key);
        assert!(
            value.ends_with(&row.value),
            "{map}: the value is {value}, its size {}",
            row.value
        );
        assert_eq!(*places, row.places, "{map}: places");
    }
}

#[test]
fn programs_and_the_pin_folder_are_named() {
    let text = read("docs/maps.md");
    let from = text.find("\nPrograms: ").expect("a sentence about programs");
    let sentence = text[from..].split("\n\n").next().unwrap_or_default();
    let named: Vec<&str> = in_backticks(sentence);
    assert_eq!(named, [names::PROGRAMS, names::SOCKET_PROGRAMS].concat());
    let layout = format!("layout-{}/", limits::LAYOUT_VERSION);
    assert!(text.contains(&layout), "docs/maps.md does not name {layout}");
}

#[test]
fn no_document_names_a_map_that_is_not_there() {
    let folder = fs::read_dir(root().join("docs")).expect("the folder of documents");
    let mut documents: Vec<String> = folder
        .map(|entry| format!("docs/{}", entry.expect("a document").file_name().to_string_lossy()))
        .collect();
    documents.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_owned));
    for document in documents.iter().filter(|name| name.ends_with(".md")) {
        let text = read(document);
        let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        for word in words.filter(|word| {
            ["LB4_", "LB6_", "CT4_", "CT6_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        }) {
            // `LB4_*` and the like stand for all of them.
            let known = word.len() == 4 || names::MAPS.contains(&word);
            assert!(known, "{document} names {word}, which is no map");
        }
    }
}

#[test]
fn drop_reasons_are_those_of_the_code() {
    let expected = DropReason::ALL.map(|reason| {
        let (number, name) = (reason as u16, reason.name());
        let (meaning, remedy) = (reason.meaning().to_owned(), reason.remedy().to_owned());
        vec![number.to_string(), format!("`{name}`"), meaning, remedy]
    });
    let found = table("docs/drop-reasons.md", "| number | name | what it means | what to do |");
    assert_eq!(found, expected);
}

#[test]
fn counters_are_those_of_the_code() {
    let expected = Counter::ALL.map(|counter| {
        let (number, name, meaning) = (counter as u32, counter.name(), counter.meaning());
        vec![number.to_string(), format!("`{name}`"), meaning.to_owned()]
    });
    let found = table("docs/drop-reasons.md", "| number | name | what is counted |");
    assert_eq!(found, expected);
}

/// What `/metrics` says when there is something of everything: name, type and labels of each metric.
fn metrics_written() -> Vec<[String; 3]> {
    let port = || PortId {
        service: ServiceKey::new("default", "web"),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    };
    let snapshot = metrics::Snapshot {
        drops: vec![(DropReason::NoEndpoint, 1)],
        events: vec![(Counter::FlowsCreated, 1)],
        tables: vec![metrics::TableReading {
            table: names::LB4_BACKENDS,
            used: 1,
            places: 2,
        }],
        ports: vec![metrics::PortReading {
            port: port(),
            connections: 1,
            flows: 1,
        }],
        backends: vec![metrics::BackendReading {
            port: port(),
            backend: ([10, 0, 0, 1], 80).into(),
            connections: 1,
            flows: 1,
        }],
        source_ports: vec![metrics::SourcePorts {
            family: Family::V4,
            used_max: 1,
            free_min: 1,
        }],
        drift: vec![(names::LB4_BACKENDS, 1)],
        ..metrics::Snapshot::default()
    };
    let (_, registry) = metrics::Recorder::new(SystemTime::now(), Arc::default(), Arc::default());
    let text = metrics::write(&registry, snapshot, metrics::SERIES_MAX);
    let mut written = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let suffix = if kind == "histogram" { "_count" } else { "" };
        let series = |line: &str| line.strip_prefix(name)?.strip_prefix(suffix).map(str::to_owned);
        let first = text.lines().filter(|line| !line.starts_with('#')).find_map(series);
        let first = first.unwrap_or_else(|| panic!("{name} has no series"));
        let labels = first.strip_prefix('{').and_then(|labels| labels.split_once('}'));
        let labels = labels.map_or("none".to_owned(), |(labels, _)| {
            let names = labels.split("\",").filter_map(|label| label.split_once('='));
            names
                .map(|(name, _)| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        });
        written.push([format!("`{name}`"), kind.to_owned(), labels]);
    }
    written
}

#[test]
fn metrics_are_those_of_the_code() {
    // The document is ordered by theme.
    let written = BTreeSet::from_iter(metrics_written().iter().map(|cells| cells.to_vec()));
    let rows = table("docs/metrics.md", "| name | type | labels |");
    let documented = BTreeSet::from_iter(rows.iter().map(|cells| cells[..3].to_vec()));
    assert_eq!(documented, written);
    assert_eq!(documented.len(), rows.len(), "one line for each metric");
    let limit = format!("at most {} series", grouped(metrics::SERIES_MAX as u64));
    assert!(read("docs/metrics.md").replace('\n', " ").contains(&limit), "{limit}");
}

#[test]
fn kubernetes_events_are_those_of_the_code() {
    let rows = table("docs/kubernetes.md", "| reason | on | action |");
    let documented: Vec<_> = rows
        .iter()
        .map(|cells| [cells[0].as_str(), cells[2].as_str()])
        .collect();
    let expected = Reason::ALL.map(|reason| [format!("`{}`", reason.name()), format!("`{}`", reason.action())]);
    assert_eq!(documented, expected);
}

#[test]
fn examples_are_read_and_planned_without_a_complaint() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut store = Store::new(NodeView::named("node"));
    let status = runtime.block_on(async {
        let (sender, mut changes) = mpsc::channel::<Change>(64);
        let (status_sender, mut status) = watch::channel(SourceStatus::default());
        let source = tokio::spawn(manifests::run(
            root().join("examples"),
            "node".to_owned(),
            sender,
            status_sender,
        ));
        while !store.is_synced() {
            drop(store.apply(changes.recv().await.expect("the source goes on")));
        }
        let status = status
            .wait_for(|status| status.synced)
            .await
            .expect("the source goes on")
            .clone();
        source.abort();
        status
    });
    assert_eq!(status.problems.to_vec(), [], "complaints about the examples");
    let keys: Vec<_> = store.services().map(|service| service.key.clone()).collect();
    assert!(!keys.is_empty(), "there are examples");
    for key in keys {
        assert_eq!(plan_problems(&store, &key), []);
        let ports = plan_service(&store, store.node(), &key);
        assert!(!ports.is_empty(), "{key} is not served");
        for (id, port) in ports {
            let list = if port.internal_local { port.local } else { port.cluster };
            let backends = list.map(|list| list.backends).unwrap_or_default();
            assert!(!backends.is_empty(), "{id} has no backends");
        }
    }
}
