//! What all stories here share: addresses of Services, the Services, the cluster.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder, XdpMode, plan};
use tests::traffic::manifests::Service;
use tests::traffic::{Answer, Cluster, Over};

/// How long anything may take that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody answers.
pub(crate) const SILENCE: Duration = Duration::from_millis(150);
/// The size of a question that only wants to know who answers.
const OCTETS: usize = 16;
/// How long an agent may take to bring a changed file into the tables.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(2);

/// How long five agents may take to start at the same time, on a machine that is busy.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// TCP and UDP, IPv4 and IPv6.
pub(crate) const COMBINATIONS: [(Over, bool); 4] = [
    (Over::Tcp, false),
    (Over::Tcp, true),
    (Over::Udp, false),
    (Over::Udp, true),
];

/// What clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frontend {
    /// A load-balancer address, which the router leads to a node.
    Vip,
    /// A node's own address.
    NodePort,
}

impl Frontend {
    pub(crate) const ALL: [Self; 2] = [Self::Vip, Self::NodePort];

    /// Its address for the Service with this number, with `node` for a NodePort.
    pub(crate) fn of(self, service: u16, node: &Host, over: Over, v6: bool) -> SocketAddr {
        let text = match (self, v6) {
            (Self::NodePort, _) => return SocketAddr::new(node.addresses()[usize::from(v6)], 30_000 + service),
            (Self::Vip, false) => format!("192.0.2.{service}"),
            (Self::Vip, true) => format!("2001:db8:192::{service}"),
        };
        let port = if over == Over::Tcp { 80 } else { 53 };
        SocketAddr::new(text.parse().expect("an address"), port)
    }
}

/// The load-balancer address of the Service with this number.
pub(crate) fn vip(service: u16, lab: &Lab, over: Over, v6: bool) -> SocketAddr {
    Frontend::Vip.of(service, lab.node(), over, v6)
}

/// The Services: all pods, and with which policy; the pod of one node each.
pub(crate) const CLUSTER: u16 = 81;
pub(crate) const LOCAL: u16 = 82;
pub(crate) const STEADY: u16 = 83;
pub(crate) const SHAKEN: u16 = 84;
pub(crate) const NARROW: u16 = 85;
/// All pods, whose answers go past the balancer.
pub(crate) const DIRECT: u16 = 86;
/// The same, of the pod on the node with a narrow cable.
pub(crate) const DIRECT_NARROW: u16 = 87;
/// How that is told.
const FORWARDING: (&str, &str) = ("sluice.io/forwarding", "dsr");
/// How many ports ask for it: two Services with two ports in two families. (That of the policy Local doesn't need to.)
pub(crate) const DIRECT_PORTS: u64 = 8;
/// The node of the last three: one that stays as it is, one to which the way is lost, one with a narrow cable.
pub(crate) const STEADY_NODE: u8 = 3;
pub(crate) const SHAKEN_NODE: u8 = 4;
pub(crate) const NARROW_NODE: u8 = 5;

/// How packets get to the node that answers, as the agents are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    Ipip,
    Gue,
}

impl Tunnel {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }
}

/// Asks from outside, from a port that no question before it had. One that chance gives twice would be right to be changed where
/// a pod sees the client: the flow before it still has it, by whichever frontend it came.
pub(crate) fn ask(lab: &Lab, over: Over, target: SocketAddr, patience: Duration) -> std::io::Result<Answer> {
    /// Below those that the kernel chooses (`tests::lab`), and above what needs a privilege.
    const PORTS: std::ops::Range<u16> = 1_024..10_000;
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let port = PORTS.start + ASKED.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
    let client = lab.client();
    let from = SocketAddr::new(client.addresses()[usize::from(target.is_ipv6())], port);
    client.run(|| over.exchange_from(from, target, OCTETS, patience))
}

/// A lab with servers everywhere and an agent on each node.
pub(crate) fn start(builder: LabBuilder, xdp: XdpMode, tunnel: Tunnel) -> Cluster {
    let lab = builder.build().expect("the lab can be built: this needs root");
    let services = [
        service("cluster", CLUSTER, "Cluster", lab.backends()),
        service("local", LOCAL, "Local", lab.backends()).annotated(FORWARDING.0, FORWARDING.1),
        service("steady", STEADY, "Cluster", [pod_of(&lab, STEADY_NODE)]),
        service("shaken", SHAKEN, "Cluster", [pod_of(&lab, SHAKEN_NODE)]),
        service("direct", DIRECT, "Cluster", lab.backends()).annotated(FORWARDING.0, FORWARDING.1),
        service("direct-narrow", DIRECT_NARROW, "Cluster", [pod_of(&lab, NARROW_NODE)])
            .annotated(FORWARDING.0, FORWARDING.1),
        service("narrow", NARROW, "Cluster", [pod_of(&lab, NARROW_NODE)]),
    ];
    let pods = [plan::ALL_PODS_V4, plan::ALL_PODS_V6].join(",");
    let options = AgentOptions {
        xdp,
        extra: ["--cluster-cidr", &pods, "--tunnel", tunnel.word()]
            .map(str::to_owned)
            .into(),
        ready_within: READY_WITHIN,
        ..AgentOptions::default()
    };
    Cluster::start(lab, &services, &options).expect("servers and agents start")
}

/// A Service with these pods, on NodePort and load-balancer address, TCP and UDP, with both families. Its number says what its
/// addresses are.
fn service<'a>(name: &str, number: u16, policy: &str, pods: impl IntoIterator<Item = &'a Host>) -> Service {
    let cluster_ips = [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")];
    let addresses: [IpAddr; 2] = cluster_ips.map(|text| text.parse().expect("an address"));
    let mut service = Service::new(name, addresses)
        .port("TCP", 80, 7000)
        .node_port(30_000 + number)
        .port("UDP", 53, 5353)
        .node_port(30_000 + number)
        .with_spec(json!({"type": "LoadBalancer", "externalTrafficPolicy": policy}))
        .backends(pods);
    let ingress = [format!("192.0.2.{number}"), format!("2001:db8:192::{number}")];
    service.status = json!({"loadBalancer": {"ingress": ingress.map(|ip| json!({"ip": ip}))}});
    service
}

/// The pod of a node that has one.
pub(crate) fn pod_of(lab: &Lab, node: u8) -> &Host {
    lab.backends_of(node).next().expect("nodes 3 to 5 have a pod")
}

/// A node.
pub(crate) fn node(lab: &Lab, number: u8) -> &Host {
    &lab.nodes()[usize::from(number) - 1]
}

/// Changes something in a host's network.
pub(crate) fn ip(host: &Host, line: &str) {
    let status = host.command("ip").args(line.split(' ')).status();
    assert!(status.expect("ip runs").success(), "{}: ip {line}", host.name);
}

/// Whether frames of the stories have left both balancers by XDP, as their drivers have counted.
pub(crate) fn xdp_has_sent(cluster: &Cluster) -> Vec<String> {
    let idle = sent_by_xdp(cluster).into_iter().filter(|(_, frames)| *frames == 0);
    idle.map(|(node, _)| format!("XDP has sent nothing on node {node}"))
        .collect()
}

/// Whether none has: without XDP, and where checksums are unfinished.
pub(crate) fn xdp_has_sent_nothing(cluster: &Cluster) -> Vec<String> {
    let busy = sent_by_xdp(cluster).into_iter().filter(|(_, frames)| *frames > 0);
    busy.map(|(node, frames)| format!("XDP has sent {frames} frames on node {node}"))
        .collect()
}

fn sent_by_xdp(cluster: &Cluster) -> [(u8, u64); 2] {
    [1, 2].map(|number| {
        let balancer = node(&cluster.lab, number);
        let devices = balancer.devices().expect("devices have names");
        let counted = devices
            .iter()
            .flat_map(|device| balancer.driver_counters(device).unwrap_or_default());
        let redirected = counted.filter(|(name, _)| name.ends_with("xdp_redirect"));
        (number, redirected.map(|(_, frames)| frames).sum())
    })
}
