//! One client port, one backend, several frontends at the same time: behind the translation these would all be the same connection,
//! unless all but one are given another port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;
use tests::lab::{Host, Lab};
use tests::traffic::{Cluster, Over, connect_from};

use crate::rows::{Who, client};
use crate::scene::{Frontend, PATIENCE, cluster_cidr, service, start};

/// Each has one backend: on the entry node, and on the other.
const NEAR: u16 = 81;
const FAR: u16 = 82;
/// Near, with the client's address kept.
const NEAR_LOCAL: u16 = 83;
/// On the other node, with the client's address kept.
const FAR_LOCAL: u16 = 84;

/// The first port; each story takes another, so that no connection meets what an earlier one left.
const PORTS: u16 = 42_000;

#[test]
fn connections_through_all_frontends_from_one_port() {
    let cluster = begin();
    let mut port = PORTS;
    for (from, service, v6) in stories(&cluster.lab) {
        port += 1;
        let own = SocketAddr::new(from.addresses()[usize::from(v6)], port);
        let targets = Frontend::ALL.map(|frontend| frontend.of(service, cluster.lab.node(), Over::Tcp, v6));
        from.run(|| converse(own, &targets));
    }
}

/// The endpoint's node sees connections through frontends of the other node as direct ones, and has frontends itself.
#[test]
fn connections_through_both_nodes_and_past_them_from_one_port() {
    let cluster = begin();
    let mut port = PORTS;
    for (from, v6, targets) in ways(&cluster.lab, Over::Tcp) {
        port += 1;
        let own = SocketAddr::new(from.addresses()[usize::from(v6)], port);
        from.run(|| converse(own, &targets));
    }
}

#[test]
fn datagrams_through_both_nodes_and_past_them_from_one_port() {
    let cluster = begin();
    let mut port = PORTS;
    for (from, v6, targets) in ways(&cluster.lab, Over::Udp) {
        port += 1;
        let own = SocketAddr::new(from.addresses()[usize::from(v6)], port);
        from.run(|| ask_in_turn(own, &targets));
    }
}

/// From a pod and from a process of one node to a pod of the other, in every order: by a frontend of the own node, by one of the
/// other, and past all frontends.
fn ways(lab: &Lab, over: Over) -> Vec<(&Host, bool, [SocketAddr; 3])> {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let mut ways = Vec::new();
    for who in [Who::Pod, Who::Node] {
        for v6 in [false, true] {
            let pod = lab.backend(3).addresses()[usize::from(v6)];
            let to = [
                Frontend::ClusterIp.of(FAR_LOCAL, lab.node(), over, v6),
                Frontend::NodePort.of(FAR_LOCAL, &lab.nodes()[1], over, v6),
                SocketAddr::new(pod, if over == Over::Tcp { 7000 } else { 5353 }),
            ];
            ways.extend(ORDERS.map(|order| (client(lab, who, 1), v6, order.map(|at| to[at]))));
        }
    }
    ways
}

/// Opens a connection to each, and then speaks on all of them in turn, so that all are open at the same time; each hears what it
/// said, and nothing of the others.
fn converse(own: SocketAddr, targets: &[SocketAddr]) {
    let way = |target: &SocketAddr| format!("{own} -> {target} of {targets:?}");
    let mut open: Vec<TcpStream> = Vec::new();
    for target in targets {
        let stream = connect_from(own, *target, PATIENCE);
        let mut stream = stream.unwrap_or_else(|error| panic!("{}: {error}", way(target)));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
        let greeting = line(&mut stream, &way(target));
        assert!(greeting.starts_with("backend-"), "{}: {greeting}", way(target));
        open.push(stream);
    }
    for round in 0..3 {
        for (stream, target) in open.iter_mut().zip(targets) {
            let said = format!("{target} round {round}\n");
            stream.write_all(said.as_bytes()).expect("it is open");
            assert_eq!(line(stream, &way(target)), said, "{}", way(target));
        }
    }
}

/// The second and third time, all of the flows are there.
fn ask_in_turn(own: SocketAddr, targets: &[SocketAddr]) {
    for round in 0..3 {
        for target in targets {
            let answer = Over::Udp.exchange_from(own, *target, 700, PATIENCE);
            answer.unwrap_or_else(|error| panic!("{own} -> {target} of {targets:?}, round {round}: {error}"));
        }
    }
}

#[test]
fn datagrams_through_all_frontends_from_one_port() {
    let cluster = begin();
    let mut port = PORTS;
    for (from, service, v6) in stories(&cluster.lab) {
        port += 1;
        let own = SocketAddr::new(from.addresses()[usize::from(v6)], port);
        let targets = Frontend::ALL.map(|frontend| frontend.of(service, cluster.lab.node(), Over::Udp, v6));
        from.run(|| ask_in_turn(own, &targets));
    }
}

/// Megabytes through all of them at once.
#[test]
fn transfers_through_all_frontends_from_one_port() {
    let cluster = begin();
    let mut port = PORTS;
    for (from, service, v6) in stories(&cluster.lab) {
        port += 1;
        let own = SocketAddr::new(from.addresses()[usize::from(v6)], port);
        std::thread::scope(|scope| {
            for frontend in Frontend::ALL {
                let target = frontend.of(service, cluster.lab.node(), Over::Tcp, v6);
                scope.spawn(move || {
                    let answer = from.run(|| Over::Tcp.exchange_from(own, target, 1_000_000, PATIENCE));
                    answer.unwrap_or_else(|error| panic!("{own} -> {target}: {error}"));
                });
            }
        });
    }
}

/// Everyone, with each of the Services, in both families.
fn stories(lab: &Lab) -> Vec<(&Host, u16, bool)> {
    let mut stories = Vec::new();
    for who in [Who::Outside, Who::Pod, Who::Node] {
        for service in [NEAR, FAR, NEAR_LOCAL] {
            stories.extend([false, true].map(|v6| (client(lab, who, 1), service, v6)));
        }
    }
    stories
}

fn begin() -> Cluster {
    // The first pod of a node is the client: it is no backend here.
    start(Lab::two_nodes(), cluster_cidr(), |lab| {
        vec![
            service(lab, "near", NEAR, json!({})).backends([lab.backend(2)]),
            service(lab, "far", FAR, json!({})).backends([lab.backend(3)]),
            service(lab, "near-local", NEAR_LOCAL, json!({"externalTrafficPolicy": "Local"}))
                .backends([lab.backend(2)]),
            service(lab, "far-local", FAR_LOCAL, json!({"externalTrafficPolicy": "Local"})).backends([lab.backend(3)]),
        ]
    })
}

fn line(stream: &mut TcpStream, way: &str) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut octet = [0];
        if let Err(error) = stream.read_exact(&mut octet) {
            panic!("{way}: no line comes: {error}");
        }
        line.extend(octet);
    }
    String::from_utf8(line).expect("text")
}
