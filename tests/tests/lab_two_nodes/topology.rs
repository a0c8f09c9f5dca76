//! The lab itself, without agents: the router leads where it should, its ICMP errors are heard, and each node has its own.
//!
//! That everyone reaches everyone is in `lab_selfcheck`.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use rstest::rstest;
use serde_json::Value;
use tests::lab::{Capture, Host, Lab, LabBuilder, plan};
use tests::traffic::{Over, Serve, Server};

use crate::scene::{PATIENCE, SILENCE};

/// The services that reach a node's `eth0` while the client asks for all of them.
#[test]
fn the_router_leads_services_to_the_node_of_choice() {
    let lab = Lab::two_nodes().backends(1).build().expect("the lab can be built");
    for (chosen, other) in [(1, 0), (0, 1), (1, 0)] {
        lab.lead_services_to(chosen + 1).expect("the router has other routes");
        let nodes = [chosen, other].map(|index| &lab.nodes()[usize::from(index)]);
        let captures = nodes.map(|node| {
            let file = lab.directory().join(format!("{}.pcap", node.name));
            let filter = "ether dst ".to_owned() + &plan::node_mac(if node.name == "node" { 1 } else { 2 });
            Capture::start(node, "eth0", &filter, &file).expect("tcpdump runs")
        });
        lab.client().run(|| {
            for target in [
                "10.96.0.10:80",
                "192.0.2.1:80",
                "[fd00:10:96::a]:80",
                "[2001:db8:192::1]:80",
            ] {
                let target: SocketAddr = target.parse().expect("an address");
                let outcome = TcpStream::connect_timeout(&target, Duration::from_millis(50));
                assert!(outcome.is_err(), "nobody serves {target} without an agent");
            }
        });
        let [at_chosen, at_other] = captures.map(|capture| capture.stop().expect("tcpdump ends").join("\n"));
        for target in [
            "10.96.0.10.80",
            "192.0.2.1.80",
            "fd00:10:96::a.80",
            "2001:db8:192::1.80",
        ] {
            let to = format!("> {target}");
            assert!(
                at_chosen.contains(&to) && !at_other.contains(&to),
                "{target}:\n{at_chosen}\n{at_other}"
            );
        }
    }
}

/// Between client and node is a link narrower than theirs. Who sends learns that by ICMP from the router.
#[rstest]
#[case::slightly(Lab::two_nodes(), 1400)]
#[case::slightly_on_bridges(Lab::two_bridge_nodes(), 1400)]
#[case::as_narrow_as_ipv6_allows(Lab::two_nodes(), 1280)]
#[case::as_narrow_as_ipv6_allows_on_bridges(Lab::two_bridge_nodes(), 1280)]
fn a_narrow_way_is_found_out(
    #[case] builder: LabBuilder,
    #[case] mtu: u32,
    #[values(Over::Tcp, Over::Udp)] over: Over,
) {
    let lab = builder.way_mtu(mtu).build().expect("the lab can be built");
    let pods = [lab.backend(1), lab.backend(3)];
    let _servers = Server::start_on(pods, &Serve::default()).expect("the servers start");
    for pod in pods {
        for address in pod.addresses() {
            let (port, octets) = if over == Over::Tcp {
                (7000, 1_000_000)
            } else {
                (5353, 1_380)
            };
            let exchange = |patience| over.exchange(SocketAddr::new(address, port), octets, patience);
            if over == Over::Udp {
                // The question teaches the client, its next one brings an answer that teaches the pod.
                lab.client().run(|| (0..2).for_each(|_| drop(exchange(SILENCE))));
            }
            let answer = lab.client().run(|| exchange(PATIENCE)).expect("every byte arrives");
            assert_eq!((&answer.backend, answer.seen), (&pod.name, answer.own));
            let client = lab.client().addresses()[usize::from(address.is_ipv6())];
            for (at, toward) in [(lab.client(), address), (pod, client)] {
                let route = ip_json(at, &["route", "get", &toward.to_string()]);
                let learnt = &route[0]["metrics"][0]["mtu"];
                assert_eq!(*learnt, mtu, "{} to {toward}: {route}", at.name);
            }
        }
    }
}

#[test]
fn another_node_is_outside_the_lab_cgroup() {
    let lab = Lab::two_nodes().backends(1).build().expect("the lab can be built");
    let cgroup = lab.cgroup().expect("cgroup2 is mounted").display().to_string();
    let inside = |host: &Host| {
        let group = host
            .run(|| std::fs::read_to_string("/proc/thread-self/cgroup"))
            .expect("readable");
        group
            .lines()
            .any(|line| line.strip_prefix("0::").is_some_and(|path| cgroup.ends_with(path)))
    };
    let hosts: Vec<_> = lab
        .hosts()
        .filter(|host| inside(host))
        .map(|host| &*host.name)
        .collect();
    assert_eq!(hosts, ["node", "backend-1"]);
}

fn ip_json(host: &Host, arguments: &[&str]) -> Value {
    let output = Command::new("ip")
        .args(["-n", host.namespace.name(), "-json"])
        .args(arguments)
        .output();
    serde_json::from_slice(&output.expect("ip runs").stdout).expect("ip prints JSON")
}
