//! A Service without endpoints refuses at once, by ICMP port unreachable, whoever asks; it serves when endpoints come, and refuses
//! again when they go.
//!
//! What the answers look like is in `packet_refusals`.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rstest::rstest;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over, Serve, Server};

const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];

/// A refusal takes less: the network needs a fraction of a millisecond, a busy machine a moment.
const AT_ONCE: Duration = Duration::from_millis(300);
/// Between namespaces of one machine the answer comes back inside `connect`, which still holds the socket; the kernel drops an ICMP
/// error then (`TcpExtLockDroppedIcmps`), and the next SYN, a second later, brings the one that counts.
const AT_THE_SECOND_SYN: Duration = Duration::from_secs(3);
/// How long the agent may take to bring a changed file into the tables.
const CHANGE_MAX: Duration = Duration::from_secs(2);
/// Where no answer is due.
const SILENCE: Duration = Duration::from_millis(100);

/// Who asks, and how long a refusal may take by TCP and by UDP.
const ROWS: &[(&str, Duration, Duration)] = &[
    ("client", AT_ONCE, AT_ONCE),
    ("backend-1", AT_THE_SECOND_SYN, AT_ONCE),
    ("backend-2", AT_THE_SECOND_SYN, AT_ONCE),
    ("node", AT_THE_SECOND_SYN, AT_ONCE),
];

#[rstest]
#[case::routed(Lab::one_node().over_a_wire())]
#[case::bridge(Lab::bridge_node().over_a_wire())]
fn refused_then_served_then_refused(#[case] builder: LabBuilder) {
    let lab = builder.backends(2).build().expect("the lab can be built");
    let served = empty().backends(lab.backends());
    let cluster = Cluster::start(lab, &[empty()], &AgentOptions::default()).expect("servers and agent start");
    everyone_is_refused(&cluster);
    let refusals = drops(&cluster, "no_endpoint");
    assert!(refusals >= 16, "only {refusals} refusals are counted");

    cluster.manifests.apply(&served).expect("the file can be written");
    until(&cluster, true);
    for (from, over, target) in combinations(&cluster.lab) {
        let answer = from.run(|| over.ask(target, AT_ONCE));
        let answer = answer.unwrap_or_else(|error| panic!("{} -> {target}, {over:?}: {error}", from.name));
        assert!(answer.backend.starts_with("backend-"), "{answer:?}");
    }
    assert_eq!(drops(&cluster, "no_local_endpoint"), 0);

    let none = |_| false;
    cluster
        .manifests
        .keep_endpoints("web.yaml", none)
        .expect("the file can be edited");
    until(&cluster, false);
    everyone_is_refused(&cluster);
}

#[test]
fn without_the_agent_nobody_is_refused() {
    let lab = Lab::one_node()
        .over_a_wire()
        .backends(2)
        .build()
        .expect("the lab can be built");
    let _servers = Server::start_on(lab.backends(), &Serve::default()).expect("the servers start");
    for (from, over, target) in combinations(&lab) {
        let error = from
            .run(|| over.ask(target, SILENCE))
            .expect_err("nobody is there to answer");
        let kind = error.kind();
        assert_ne!(
            kind,
            ErrorKind::ConnectionRefused,
            "{} -> {target}, {over:?}",
            from.name
        );
    }
}

fn empty() -> Service {
    let addresses = ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address"));
    Service::new("web", addresses)
        .port("TCP", 80, 7000)
        .port("UDP", 53, 5353)
}

/// Everyone of the rows, over both protocols, in both families.
fn combinations(lab: &Lab) -> Vec<(&Host, Over, SocketAddr)> {
    let mut all = Vec::new();
    for (name, ..) in ROWS {
        let from = lab.hosts().find(|host| host.name == *name).expect("a host of the lab");
        for over in Over::BOTH {
            let port = if over == Over::Tcp { 80 } else { 53 };
            all.extend(ADDRESSES.map(|text| (from, over, SocketAddr::new(text.parse().expect("an address"), port))));
        }
    }
    all
}

/// All rows at the same time: most of it is waiting.
fn everyone_is_refused(cluster: &Cluster) {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let rows = combinations(&cluster.lab).into_iter();
        let running: Vec<_> = rows.map(|row| scope.spawn(move || check_refusal(row))).collect();
        let ended = running
            .into_iter()
            .map(|row| row.join().expect("a row says what is wrong"));
        ended.flatten().collect()
    });
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}

fn check_refusal((from, over, target): (&Host, Over, SocketAddr)) -> Option<String> {
    let (_, tcp, udp) = ROWS.iter().find(|(name, ..)| *name == from.name).expect("a row");
    let limit = if over == Over::Tcp { *tcp } else { *udp };
    let (outcome, took) = from.run(|| {
        let start = Instant::now();
        (over.ask(target, limit), start.elapsed())
    });
    let refused = outcome
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let right = refused && took <= limit;
    (!right).then(|| format!("{} -> {target}, {over:?}: {outcome:?} after {took:?}", from.name))
}

/// Waits until a change of the manifests shows, in both families: one file is one change, but each family has its tables.
fn until(cluster: &Cluster, served: bool) {
    let start = Instant::now();
    let client = cluster.lab.client();
    let shows = |address: &str| {
        let target = SocketAddr::new(address.parse().expect("an address"), 53);
        client.run(|| Over::Udp.ask(target, AT_ONCE)).is_ok() == served
    };
    while !ADDRESSES.iter().all(|address| shows(address)) {
        assert!(
            start.elapsed() < CHANGE_MAX,
            "after {CHANGE_MAX:?} not yet served: {served}"
        );
    }
}

fn drops(cluster: &Cluster, reason: &str) -> u64 {
    let status = cluster
        .agent
        .cli_json(["status", "-o", "json"])
        .expect("a healthy agent");
    let drops = status["drops"].as_array().expect("a list of reasons");
    let count = drops.iter().find(|count| count["name"] == reason);
    count
        .and_then(|count| count["value"].as_u64())
        .expect("the reason is listed")
}
