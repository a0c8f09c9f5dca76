//! Sweeps end flows that have been silent for longer than their limit, and no others.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData};
use lb_common::layout::{V4, V6};
use lb_userspace::kernel::Pins;
use lb_userspace::tables::{FlowEntry, FlowTable, Flows as _, TableFamily};
use tests::lab::{AgentOptions, Host, Lab};
use tests::traffic::manifests::{Endpoint, Service};
use tests::traffic::{Cluster, Over};

use crate::{IMPATIENCE, PATIENCE, ask, connect, echo, service, service_address};

/// Sweeps come every ten seconds.
const SWEPT_WITHIN: Duration = Duration::from_secs(12);
/// A port of a pod whose connections are never closed from its side.
const NEVER_CLOSES: u16 = 7001;

/// A flow of the sweep's story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A datagram that nobody answers.
    Unanswered,
    /// A datagram and its answer.
    Answered,
    /// A SYN that nobody answers.
    Embryonic,
    /// A connection.
    Open,
    /// A connection that the client has closed on its side.
    HalfClosed,
    /// A connection that both sides have closed.
    Closed,
}
use Kind::{Answered, Closed, Embryonic, HalfClosed, Open, Unanswered};

/// How many seconds a flow has been silent, and whether it goes.
const FLOWS: &[(Kind, u64, bool)] = &[
    (Unanswered, 0, false),
    (Unanswered, 31, true),
    (Answered, 31, false),
    (Answered, 121, true),
    (Embryonic, 31, false),
    (Embryonic, 61, true),
    (Open, 121, false),
    (HalfClosed, 121, false),
    (Closed, 0, false),
    (Closed, 11, true),
];

/// Time does not pass for the test: the entries' time stamps are put back instead. All else is the agent's own doing.
#[test]
fn flows_that_are_silent_for_too_long_are_swept() {
    let lab = Lab::one_node().backends(1).build().expect("the lab can be built");
    let nobody: [IpAddr; 2] = [
        Ipv4Addr::new(10, 244, 1, 200).into(),
        Ipv6Addr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, 200]).into(),
    ];
    let services = (1..).zip(FLOWS).map(|(number, (kind, ..))| {
        let service = service(&format!("flow-{number}"), number);
        match kind {
            Unanswered | Embryonic => Service {
                endpoints: nobody.map(Endpoint::local).into(),
                ..service
            },
            HalfClosed => {
                let address = |v6| service_address(number, v6);
                let service = Service::new(&service.name, [address(false), address(true)]);
                service.port("TCP", 80, NEVER_CLOSES).backends(lab.backends())
            }
            _ => service.backends(lab.backends()),
        }
    });
    let services: Vec<_> = services.collect();
    let cluster = Cluster::start(lab, &services, &AgentOptions::default()).expect("servers and agent start");
    let (client, lab) = (cluster.lab.client(), &cluster.lab);
    // Its connections are accepted by the kernel and held by nobody.
    let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, NEVER_CLOSES));
    let _listener = lab.backend(1).run(bind).expect("the port is free");
    // The first sweep of interest is ten seconds after the start: so that nothing that is left alone is over then.
    std::thread::sleep(Duration::from_secs(1));
    let mut streams = Vec::new();
    for (number, (kind, ..)) in (1..).zip(FLOWS) {
        for v6 in [false, true] {
            let stream = make(client, *kind, service_address(number, v6));
            streams.extend(stream.map(|stream| (*kind, stream)));
        }
    }
    // The last segments are on their way.
    std::thread::sleep(Duration::from_millis(100));
    let (mut flows4, mut flows6) = (flows::<V4>(lab), flows::<V6>(lab));
    for (number, (kind, silent, _)) in (1..).zip(FLOWS) {
        let aged = [
            age(&mut flows4, service_address(number, false), *silent),
            age(&mut flows6, service_address(number, true), *silent),
        ];
        assert_eq!(aged, [2, 2], "a flow has two entries: {kind:?}");
    }

    let (all, wanted) = (frontends(|_| true), frontends(|goes| !goes));
    let start = Instant::now();
    let mut left = listed(&cluster);
    assert_eq!(left, all, "before the sweep");
    while left != wanted {
        assert!(left.is_superset(&wanted), "flows that live were swept: {left:?}");
        assert!(
            start.elapsed() < SWEPT_WITHIN,
            "flows that are over are still there: {left:?}, not {wanted:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
        left = listed(&cluster);
    }
    println!(
        "{} of {} flows swept after {:?}",
        all.len() - wanted.len(),
        all.len(),
        start.elapsed()
    );
    let entries = entries(&flows4).len() + entries(&flows6).len();
    assert_eq!(entries, 2 * wanted.len(), "both entries of a flow go");
    for (_, stream) in streams.iter_mut().filter(|(kind, _)| *kind == Open) {
        echo(stream);
    }
}

/// Makes a flow; what has to stay open comes back.
fn make(client: &Host, kind: Kind, address: IpAddr) -> Option<TcpStream> {
    match kind {
        Unanswered | Answered => {
            let answer = ask(client, Over::Udp, address, IMPATIENCE);
            assert_eq!(answer.is_ok(), kind == Answered, "{address}: {answer:?}");
            None
        }
        Embryonic => {
            // Given up before the SYN is sent again.
            let answer = ask(client, Over::Tcp, address, IMPATIENCE);
            assert!(answer.is_err(), "{address}: {answer:?}");
            None
        }
        Open => Some(connect(client, address)),
        Closed => {
            let mut stream = connect(client, address);
            stream.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!(stream.read(&mut [0]).expect("the backend closes, too"), 0);
            None
        }
        HalfClosed => {
            let dial = || TcpStream::connect_timeout(&SocketAddr::new(address, 80), PATIENCE);
            let stream = client.run(dial).unwrap_or_else(|error| panic!("{address}: {error}"));
            stream.shutdown(Shutdown::Write).expect("it is open");
            Some(stream)
        }
    }
}

/// The frontends of those flows of the story that go, or don't.
fn frontends(wanted: impl Fn(bool) -> bool) -> BTreeSet<String> {
    let rows = (1..).zip(FLOWS).filter(|(_, (.., goes))| wanted(*goes));
    let frontends = rows.flat_map(|(number, (kind, ..))| {
        let port = if matches!(kind, Unanswered | Answered) { 53 } else { 80 };
        [false, true].map(|v6| SocketAddr::new(service_address(number, v6), port).to_string())
    });
    frontends.collect()
}

/// What `sluice get flows` lists.
fn listed(cluster: &Cluster) -> BTreeSet<String> {
    let rows = cluster
        .agent
        .cli_json(["get", "flows", "-o", "json"])
        .expect("the tables are pinned");
    let rows = rows.as_array().expect("a list").iter();
    rows.map(|row| row["frontend"].as_str().expect("text").to_owned())
        .collect()
}

fn flows<F: TableFamily>(lab: &Lab) -> FlowTable<F> {
    let pin = Pins::new(lab.pin_directory()).maps().join(F::FLOWS);
    let data = MapData::from_pin(pin).expect("the table is pinned");
    FlowTable::open(Map::from_map_data(data).expect("a table")).expect("the flow table")
}

fn entries<F: TableFamily>(table: &FlowTable<F>) -> Vec<FlowEntry<F>> {
    let mut entries = Vec::new();
    table
        .for_each(|key, flow| entries.push((*key, *flow)))
        .expect("the table can be read");
    entries
}

/// Puts the time stamps of a flow's entries back, and says how many there are.
fn age<F: TableFamily>(table: &mut FlowTable<F>, service: IpAddr, seconds: u64) -> usize {
    let own: Vec<_> = entries(table)
        .into_iter()
        .filter(|(key, flow)| F::to_ip(key.dst) == service || F::to_ip(flow.src) == service)
        .collect();
    for (key, flow) in &own {
        let mut flow = *flow;
        flow.seen_ns -= seconds * 1_000_000_000;
        table.insert(key, &flow).expect("the table can be written");
    }
    own.len()
}
