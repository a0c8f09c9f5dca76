//! What all stories here share: addresses of Services, the Services, who asks.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tests::lab::{AgentOptions, Host, Lab, LabBuilder, plan};
use tests::traffic::manifests::Service;
use tests::traffic::{Answer, Cluster, Over};

/// How long anything may take that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody answers.
pub(crate) const SILENCE: Duration = Duration::from_millis(150);
/// How long an agent may take to bring a changed file into the tables.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(2);
/// One flow more than one, so that no row passes by a lucky first.
pub(crate) const CONNECTIONS_MIN: usize = 3;
/// So many connections miss one of four backends once in 10^24 times.
pub(crate) const CONNECTIONS_MAX: usize = 200;

/// What clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frontend {
    ClusterIp,
    ExternalIp,
    Vip,
    /// A node's own address.
    NodePort,
}

impl Frontend {
    pub(crate) const ALL: [Self; 4] = [Self::ClusterIp, Self::ExternalIp, Self::Vip, Self::NodePort];
    /// Those for which `externalTrafficPolicy` holds.
    pub(crate) const EXTERNAL: [Self; 3] = [Self::ExternalIp, Self::Vip, Self::NodePort];

    /// Its address for the Service with this number, with `node` for a NodePort.
    pub(crate) fn of(self, service: u16, node: &Host, over: Over, v6: bool) -> SocketAddr {
        let text = match (self, v6) {
            (Self::NodePort, _) => return SocketAddr::new(node.addresses()[usize::from(v6)], node_port(service)),
            (Self::ClusterIp, false) => format!("10.96.0.{service}"),
            (Self::ClusterIp, true) => format!("fd00:10:96::{service}"),
            (Self::Vip, false) => format!("192.0.2.{service}"),
            (Self::Vip, true) => format!("2001:db8:192::{service}"),
            (Self::ExternalIp, false) => format!("192.0.2.{}", 100 + service),
            (Self::ExternalIp, true) => format!("2001:db8:192::{}", 100 + service),
        };
        let port = if over == Over::Tcp { 80 } else { 53 };
        SocketAddr::new(text.parse().expect("an address"), port)
    }

    fn addresses(self, service: u16, node: &Host) -> [IpAddr; 2] {
        [false, true].map(|v6| self.of(service, node, Over::Tcp, v6).ip())
    }
}

/// The NodePort of the Service with this number: TCP and UDP have the same.
pub(crate) fn node_port(service: u16) -> u16 {
    30_000 + service
}

/// A Service on all frontends, TCP and UDP, with both families. Its number says what its addresses are; `spec` has more fields.
pub(crate) fn service(lab: &Lab, name: &str, number: u16, spec: Value) -> Service {
    let ingress = Frontend::Vip.addresses(number, lab.node()).map(|ip| json!({"ip": ip}));
    let mut all = json!({
        "type": "LoadBalancer",
        "externalIPs": Frontend::ExternalIp.addresses(number, lab.node()),
    });
    let fields = all.as_object_mut().expect("an object");
    fields.extend(spec.as_object().cloned().unwrap_or_default());
    let mut service = Service::new(name, Frontend::ClusterIp.addresses(number, lab.node()))
        .port("TCP", 80, 7000)
        .node_port(node_port(number))
        .port("UDP", 53, 5353)
        .node_port(node_port(number))
        .with_spec(all);
    service.status = json!({"loadBalancer": {"ingress": ingress}});
    service
}

/// What agents are told where pods are told from others by their addresses.
pub(crate) fn cluster_cidr() -> Vec<String> {
    let ranges = [plan::ALL_PODS_V4, plan::ALL_PODS_V6].join(",");
    vec!["--cluster-cidr".to_owned(), ranges]
}

/// A lab with servers everywhere and an agent on each node, which has these words on its command line.
pub(crate) fn start(builder: LabBuilder, extra: Vec<String>, services: impl FnOnce(&Lab) -> Vec<Service>) -> Cluster {
    let lab = builder.build().expect("the lab can be built: this needs root");
    let services = services(&lab);
    let options = AgentOptions {
        extra,
        ..AgentOptions::default()
    };
    Cluster::start(lab, &services, &options).expect("servers and agents start")
}

/// TCP and UDP, IPv4 and IPv6.
pub(crate) fn combinations() -> [(Over, bool); 4] {
    [
        (Over::Tcp, false),
        (Over::Tcp, true),
        (Over::Udp, false),
        (Over::Udp, true),
    ]
}

/// Asks once.
pub(crate) fn ask(from: &Host, target: SocketAddr, over: Over, patience: Duration) -> Result<Answer> {
    from.run(|| over.ask(target, patience))
}

/// Whether nothing came back. What a host's own kernel drops on its way out may be said to the sender at once (netfilter does so).
pub(crate) fn is_silence(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied
    )
}

/// Changes something in a host's network.
pub(crate) fn ip(host: &Host, line: &str) {
    let status = host.command("ip").args(line.split(' ')).status();
    assert!(status.expect("ip runs").success(), "{}: ip {line}", host.name);
}

/// Fails with everything that is wrong.
pub(crate) fn expect_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}
