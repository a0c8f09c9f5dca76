//! What all stories here share: Services on a NodePort and a load-balancer VIP, and an agent that knows which addresses are pods'.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder, plan};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over};

/// How long anything may take that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long an agent may take to bring a changed file into the tables.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(2);

/// What clients dial, of the Service with this number.
pub(crate) fn vip(number: u16, over: Over, v6: bool) -> SocketAddr {
    let text = if v6 {
        format!("2001:db8:192::{number}")
    } else {
        format!("192.0.2.{number}")
    };
    let port = if over == Over::Tcp { 80 } else { 53 };
    SocketAddr::new(text.parse().expect("an address"), port)
}

/// The same on the node's own address.
pub(crate) fn node_port(number: u16, v6: bool) -> SocketAddr {
    SocketAddr::new(plan::of_family(plan::NODE_V4, plan::NODE_V6, v6), 30_000 + number)
}

/// Where the servers of a pod listen.
pub(crate) fn server(pod: &Host, over: Over, v6: bool) -> SocketAddr {
    let port = if over == Over::Tcp { 7000 } else { 5353 };
    SocketAddr::new(pod.addresses()[usize::from(v6)], port)
}

/// A Service of TCP and UDP in both families, whose clients are masqueraded.
pub(crate) fn service<'a>(name: &str, number: u16, pods: impl IntoIterator<Item = &'a Host>) -> Service {
    let cluster_ips = [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")];
    let addresses: [IpAddr; 2] = cluster_ips.map(|text| text.parse().expect("an address"));
    let mut service = Service::new(name, addresses)
        .port("TCP", 80, 7000)
        .node_port(30_000 + number)
        .port("UDP", 53, 5353)
        .node_port(30_000 + number)
        .with_spec(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}))
        .backends(pods);
    let ingress = [false, true].map(|v6| json!({"ip": vip(number, Over::Tcp, v6).ip()}));
    service.status = json!({"loadBalancer": {"ingress": ingress}});
    service
}

/// A lab at work, whose agent has these words more on its command line.
pub(crate) fn start(builder: LabBuilder, words: &[&str], services: impl FnOnce(&Lab) -> Vec<Service>) -> Cluster {
    let lab = builder.build().expect("the lab can be built: this needs root");
    let services = services(&lab);
    let pods = [plan::ALL_PODS_V4, plan::ALL_PODS_V6].join(",");
    let mut extra = vec!["--cluster-cidr".to_owned(), pods];
    extra.extend(words.iter().map(|word| (*word).to_owned()));
    let options = AgentOptions {
        extra,
        ..AgentOptions::default()
    };
    Cluster::start(lab, &services, &options).expect("servers and agent start")
}

/// How many packets were dropped for a reason, as `sluice status` says.
pub(crate) fn drops(cluster: &Cluster, reason: &str) -> u64 {
    let status = cluster.agent.cli_json(["status", "-o", "json"]).expect("it is healthy");
    let drops = status["drops"].as_array().expect("a list");
    let of_reason = drops.iter().find(|count| count["name"] == reason);
    of_reason.and_then(|count| count["value"].as_u64()).unwrap_or(0)
}

/// Changes something in a host's network.
pub(crate) fn ip(host: &Host, line: &str) {
    let status = host.command("ip").args(line.split(' ')).status();
    assert!(status.expect("ip runs").success(), "{}: ip {line}", host.name);
}

/// TCP and UDP, IPv4 and IPv6.
pub(crate) const COMBINATIONS: [(Over, bool); 4] = [
    (Over::Tcp, false),
    (Over::Tcp, true),
    (Over::Udp, false),
    (Over::Udp, true),
];
