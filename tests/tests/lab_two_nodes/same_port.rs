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
        from.run(|| {
            let mut open = targets.map(|target| {
                connect_from(own, target, PATIENCE).unwrap_or_else(|error| panic!("{own} -> {target}: {error}"))
            });
            for (stream, target) in open.iter_mut().zip(targets) {
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
                let greeting = line(stream);
                assert!(greeting.starts_with("backend-"), "{own} -> {target}: {greeting}");
            }
            // In turn, so that all are open at the same time; each hears what it said, and nothing of the others.
            for round in 0..3 {
                for (stream, target) in open.iter_mut().zip(targets) {
                    let said = format!("{target} round {round}\n");
                    stream.write_all(said.as_bytes()).expect("it is open");
                    assert_eq!(line(stream), said, "{own} -> {target}");
                }
            }
        });
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
        from.run(|| {
            // The second and third time, all of the flows are there.
            for target in targets.iter().cycle().take(3 * targets.len()) {
                let answer = Over::Udp.exchange_from(own, *target, 700, PATIENCE);
                answer.unwrap_or_else(|error| panic!("{own} -> {target}: {error}"));
            }
        });
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
        ]
    })
}

fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("a line comes");
        line.extend(octet);
    }
    String::from_utf8(line).expect("text")
}
