//! A node with two pods and a Service on TCP and UDP, dual-stack, with NodePorts; the agent serves the sockets of the lab's cgroup.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::{Agent, AgentOptions, Lab, SocketMode};
use tests::traffic::Cluster;
use tests::traffic::manifests::Service;

pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) const WEB: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
pub(crate) const EMPTY: [&str; 2] = ["10.96.0.81", "fd00:10:96::81"];
pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const NODE_PORT_UDP: u16 = 30_053;

/// `web`: TCP 80 and UDP 53, NodePorts 30080 and 30053.
pub(crate) fn web() -> Service {
    Service::new("web", ips(WEB))
        .port("TCP", 80, 7000)
        .node_port(NODE_PORT)
        .port("UDP", 53, 5353)
        .node_port(NODE_PORT_UDP)
        .with_spec(serde_json::json!({"type": "NodePort"}))
}

pub(crate) fn ips(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("an address"))
}

pub(crate) fn options(words: &[&str]) -> AgentOptions {
    AgentOptions {
        sockets: SocketMode::OfLab,
        extra: words.iter().map(|word| (*word).to_owned()).collect(),
        ..AgentOptions::default()
    }
}

/// Everything runs, and sockets are served.
pub(crate) fn start(services: &[Service], lab: Lab, words: &[&str]) -> Cluster {
    let cluster = Cluster::start(lab, services, &options(words)).expect("servers and agent start");
    let state = cluster.agent.state().expect("a state");
    assert!(state["sockets"]["On"].is_string(), "{}", state["sockets"]);
    cluster
}

pub(crate) fn served(lab: Lab, words: &[&str]) -> Cluster {
    let services = [
        web().backends(lab.backends()),
        Service::new("empty", ips(EMPTY))
            .port("TCP", 80, 7000)
            .port("UDP", 53, 5353),
    ];
    start(&services, lab, words)
}

/// What `sluice status` counts under a name, in a list of it.
pub(crate) fn count(cluster: &Cluster, list: &str, name: &str) -> u64 {
    let mut command = cluster
        .lab
        .node()
        .command(Agent::binary().expect("the binary was built"));
    command.args(["status", "-o", "json"]).args(cluster.agent.places());
    // It fails while no agent runs; what the kernel says is there all the same.
    let output = command.output().expect("it runs");
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = status[list]
        .as_array()
        .expect("a list")
        .iter()
        .find(|count| count["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))["value"]
        .as_u64()
        .expect("a number")
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
