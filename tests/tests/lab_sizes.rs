//! Sizes: megabytes in both directions, segments as large as the kernel makes them and as small as a card sends them, small MTUs,
//! datagrams in fragments; through ClusterIPs, from everywhere, with every byte checked.
//!
//! Who reaches whom at all is in `lab_reach`, the same by XDP in `lab_xdp`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rstest::rstest;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over, Serve, Server};

/// How long an exchange may wait for its next bytes.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where nobody answers.
const IMPATIENCE: Duration = Duration::from_millis(100);

const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];

/// What is sent and has to come back: over what, how many octets, and how often (each time to a backend of the hash's choice).
const ROWS: &[(Over, usize, u32)] = &[
    (Over::Tcp, 0, 1),
    (Over::Tcp, 1, 1),
    // Around one and two segments.
    (Over::Tcp, 1_400, 1),
    (Over::Tcp, 1_461, 1),
    (Over::Tcp, 2_897, 1),
    (Over::Tcp, 3_000_001, 1),
    (Over::Udp, 0, 1),
    (Over::Udp, 1, 1),
    // The answer is longer by a greeting of 30 to 50 octets: together they fit into a frame…
    (Over::Udp, 1_300, 3),
    // …or just don't…
    (Over::Udp, 1_420, 3),
    // …or need three, and many.
    (Over::Udp, 4_000, 3),
    (Over::Udp, 30_000, 1),
];

#[rstest]
#[case::as_between_containers(Lab::one_node())]
#[case::as_between_containers_on_a_bridge(Lab::bridge_node())]
#[case::as_from_a_network_card(Lab::one_node().complete_checksums())]
#[case::without_gro(Lab::one_node().without_gro())]
#[case::from_a_network_card_without_gro(Lab::bridge_node().complete_checksums().without_gro())]
#[case::over_a_wire(Lab::one_node().over_a_wire())]
#[case::small_mtu(Lab::one_node().outward_mtu(1400).pod_mtu(1400))]
#[case::small_mtu_like_a_network_card(Lab::bridge_node().outward_mtu(1400).pod_mtu(1400).complete_checksums())]
fn every_byte_arrives(#[case] builder: LabBuilder) {
    let cluster = start(builder);
    let wrong = failures(&cluster.lab, ROWS);
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// Partial checksums from client and pods, completed where the translated packets leave the node.
#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
fn partial_checksums_are_right_when_they_are_completed(#[case] builder: LabBuilder) {
    let cluster = start(builder);
    cluster
        .lab
        .complete_checksums_on_the_way()
        .expect("the node's devices can");
    let wrong = failures(&cluster.lab, ROWS);
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// A datagram that a later link can't carry: IPv4 routers cut it smaller; an IPv6 sender learns the size by ICMPv6, and its next
/// one gets through.
#[test]
fn a_smaller_mtu_on_the_way_back() {
    let cluster = start(Lab::one_node().outward_mtu(1400));
    // The first answer of each backend in IPv6 is the one that is lost.
    for from in clients(&cluster.lab) {
        let target = service(ADDRESSES[1], Over::Udp);
        from.run(|| (0..16).for_each(|_| drop(Over::Udp.exchange(target, 4_000, IMPATIENCE))));
    }
    let wrong = failures(&cluster.lab, &[(Over::Tcp, 3_000_001, 1), (Over::Udp, 4_000, 4)]);
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same on the way there: the node tells the sender of a datagram that no pod can take, and what it quotes is the datagram
/// as it was sent to the Service. Without that the sender would never learn.
#[test]
fn a_smaller_mtu_on_the_way_there() {
    let cluster = start(Lab::one_node().pod_mtu(1400));
    for address in ADDRESSES {
        let target = service(address, Over::Udp);
        let ask = || Over::Udp.exchange(target, 1_420, IMPATIENCE);
        // The first one says how large they may be.
        cluster.lab.client().run(|| drop(ask()));
        for _ in 0..4 {
            let answer = cluster.lab.client().run(ask);
            assert!(answer.is_ok(), "{address}: {answer:?}");
        }
    }
}

#[test]
fn without_the_agent_no_byte_arrives() {
    let lab = Lab::one_node().backends(2).build().expect("the lab can be built");
    let _servers = Server::start_on(lab.backends(), &Serve::default()).expect("the servers start");
    for from in clients(&lab) {
        for address in ADDRESSES {
            for over in Over::BOTH {
                let outcome = from.run(|| over.exchange(service(address, over), 1, IMPATIENCE));
                assert!(outcome.is_err(), "{} was answered: {outcome:?}", from.name);
            }
        }
    }
}

fn start(builder: LabBuilder) -> Cluster {
    let lab = builder.backends(3).build().expect("the lab can be built");
    let addresses = ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address"));
    let web = Service::new("web", addresses)
        .port("TCP", 80, 7000)
        .port("UDP", 53, 5353);
    let web = web.backends(lab.backends());
    Cluster::start(lab, &[web], &AgentOptions::default()).expect("servers and agent start")
}

fn clients(lab: &Lab) -> [&Host; 3] {
    [lab.client(), lab.backend(1), lab.node()]
}

fn service(address: &str, over: Over) -> SocketAddr {
    let port = if over == Over::Tcp { 80 } else { 53 };
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Runs rows from everywhere and in both families, and says what is wrong.
fn failures(lab: &Lab, rows: &[(Over, usize, u32)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for from in clients(lab) {
        for address in ADDRESSES {
            for &(over, octets, times) in rows {
                let target = service(address, over);
                let exchange = || (0..times).try_for_each(|_| over.exchange(target, octets, PATIENCE).map(drop));
                if let Err(error) = from.run(exchange) {
                    wrong.push(format!("{} -> {target}, {over:?}, {octets} octets: {error}", from.name));
                }
            }
        }
    }
    wrong
}
