//! Who reaches whom through a ClusterIP, who answers, and whom the backend sees asking: clients outside, pods, processes of the
//! node, host-network backends, a pod that reaches itself; and that all other traffic is left alone.
//!
//! What large transfers do is in `lab_sizes`, Services without endpoints in `lab_refusals`, the XDP tier in `lab_xdp`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use rstest::rstest;
use tests::lab::{AgentOptions, Lab, LabBuilder, plan};
use tests::traffic::manifests::{Endpoint, Service};
use tests::traffic::{Answer, Cluster, Over, Serve, Server};

use AnsweredBy::{BackendOne, BackendTwo, EveryPod, Node};
use SeenAs::{Itself, ItselfOrNodeIfHairpin, NodeItself};

/// How long a row may wait for anything.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody answers: long enough for an answer that takes a few hundred microseconds.
const IMPATIENCE: Duration = Duration::from_millis(60);
/// One flow more than one, so that no row passes by a lucky first.
const CONNECTIONS_MIN: usize = 3;
/// So many connections miss one of four backends once in 10^24 times.
const CONNECTIONS_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnsweredBy {
    EveryPod,
    BackendOne,
    BackendTwo,
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeenAs {
    /// With its own address and port.
    Itself,
    /// With the node's address, which a hairpin needs: a pod doesn't answer itself over the wire.
    NodeItself,
    /// With its own, except where it is its own backend.
    ItselfOrNodeIfHairpin,
}

/// Who asks, whom, who answers, and whom the backend sees.
type Row = (&'static str, &'static str, AnsweredBy, SeenAs);

/// Services: `web` is every pod, `alone` is backend-1, `host` is a process on the node.
const THROUGH_SERVICES: &[Row] = &[
    ("client", "web", EveryPod, Itself),
    ("client", "alone", BackendOne, Itself),
    ("client", "host", Node, Itself),
    ("backend-1", "web", EveryPod, ItselfOrNodeIfHairpin),
    ("backend-1", "alone", BackendOne, NodeItself),
    ("backend-2", "alone", BackendOne, Itself),
    ("backend-1", "host", Node, Itself),
    ("node", "web", EveryPod, Itself),
    ("node", "alone", BackendOne, Itself),
    ("node", "host", Node, Itself),
];

/// The port that Services lead to, asked for without one; and another port that no Service leads to.
const NOT_OURS: &[Row] = &[
    ("client", "backend-2", BackendTwo, Itself),
    ("client", "backend-2, another port", BackendTwo, Itself),
    ("client", "node", Node, Itself),
    ("client", "node, another port", Node, Itself),
    ("backend-1", "backend-2", BackendTwo, Itself),
    ("backend-1", "backend-2, another port", BackendTwo, Itself),
    ("backend-1", "node", Node, Itself),
    ("node", "backend-2", BackendTwo, Itself),
    ("node", "backend-2, another port", BackendTwo, Itself),
];

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
#[case::routed_strict(Lab::one_node().rp_filter(1))]
#[case::bridge_strict(Lab::bridge_node().rp_filter(1))]
#[case::routed_loose(Lab::one_node().rp_filter(2))]
#[case::over_a_wire_with_arp_and_nd(Lab::one_node().over_a_wire().learn_neighbours())]
fn everyone_reaches_every_service(#[case] builder: LabBuilder) {
    let lab = builder.build().expect("the lab can be built");
    let cluster = start(lab);
    check(&cluster.lab, THROUGH_SERVICES);
}

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
fn traffic_that_is_not_ours_is_left_alone(#[case] builder: LabBuilder) {
    let lab = builder.backends(2).build().expect("the lab can be built");
    let _others = others(&lab);
    let cluster = start(lab);
    check(&cluster.lab, NOT_OURS);
    assert_eq!(
        flows_created(&cluster),
        0,
        "a flow was opened for a packet that is not ours"
    );
    // The counter is the right one: it moves for what is ours.
    ask("client", "web", Over::Tcp, false, PATIENCE, &cluster.lab).expect("the Service answers");
    assert_eq!(flows_created(&cluster), 1);
}

/// A tunnel between client and node whose packets have no link header, as WireGuard's and IPIP's have none. VXLAN with GPE
/// is one that needs no user space and is in most kernels.
#[test]
fn a_device_without_link_header_is_as_good() {
    let lab = Lab::one_node().build().expect("the lab can be built");
    if let Err(why) = tunnel(&lab) {
        println!("SKIP a_device_without_link_header_is_as_good: no VXLAN with GPE here: {why}");
        return;
    }
    let cluster = start(lab);
    let before = cluster.lab.client().counters("tun0").expect("counters can be read");
    check(&cluster.lab, THROUGH_SERVICES);
    for from in ["client", "node"] {
        for (over, v6) in combinations() {
            let refused = ask(from, "empty", over, v6, PATIENCE, &cluster.lab);
            let refused = refused.expect_err("nobody is there to answer").kind();
            assert_eq!(refused, ErrorKind::ConnectionRefused, "{from}, {over:?}, IPv6 {v6}");
        }
    }
    let after = cluster.lab.client().counters("tun0").expect("counters can be read");
    let rows = 3 * combinations().len() as u64;
    assert!(
        after.tx.packets >= before.tx.packets + rows && after.rx.packets >= before.rx.packets + rows,
        "the client's packets did not take the tunnel: {after:?}"
    );
}

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
fn without_the_agent_services_do_not_answer_and_all_else_does(#[case] builder: LabBuilder) {
    let lab = builder.backends(2).build().expect("the lab can be built");
    let serving = [lab.node()].into_iter().chain(lab.backends());
    let _servers = Server::start_on(serving, &Serve::default()).expect("the servers start");
    let _others = others(&lab);
    check(&lab, NOT_OURS);
    // All at the same time: it is nothing but waiting.
    std::thread::scope(|scope| {
        for (from, to, ..) in THROUGH_SERVICES {
            for (over, v6) in combinations() {
                let lab = &lab;
                scope.spawn(move || {
                    let answer = ask(from, to, over, v6, IMPATIENCE, lab);
                    assert!(answer.is_err(), "{from} -> {to}, {over:?}, IPv6 {v6}: {answer:?}");
                });
            }
        }
    });
}

/// Servers on ports that no Service knows.
fn others(lab: &Lab) -> Vec<Server> {
    let ports = Serve {
        http: None,
        echo: Some(7001),
        udp: Some(5354),
    };
    let serving = [lab.node()].into_iter().chain(lab.backends());
    Server::start_on(serving, &ports).expect("the servers start")
}

fn start(lab: Lab) -> Cluster {
    let host = lab.node().addresses().map(Endpoint::local);
    let services = [
        service("web").backends(lab.backends()),
        service("alone").backends([lab.backend(1)]),
        Service {
            endpoints: host.into(),
            ..service("host")
        },
        service("empty"),
    ];
    Cluster::start(lab, &services, &AgentOptions::default()).expect("servers and agent start")
}

fn service(name: &str) -> Service {
    let addresses = [false, true].map(|v6| service_address(name, v6).expect("a Service of this file"));
    Service::new(name, addresses)
        .port("TCP", 80, 7000)
        .port("UDP", 53, 5353)
}

fn service_address(name: &str, v6: bool) -> Option<IpAddr> {
    let number = ["web", "alone", "host", "empty"]
        .iter()
        .position(|known| *known == name)?;
    let text = if v6 {
        format!("fd00:10:96::{}", 80 + number)
    } else {
        format!("10.96.0.{}", 80 + number)
    };
    Some(text.parse().expect("an address"))
}

/// TCP and UDP, IPv4 and IPv6.
fn combinations() -> [(Over, bool); 4] {
    [
        (Over::Tcp, false),
        (Over::Tcp, true),
        (Over::Udp, false),
        (Over::Udp, true),
    ]
}

/// What a row asks.
fn target(lab: &Lab, to: &str, over: Over, v6: bool) -> SocketAddr {
    if let Some(address) = service_address(to, v6) {
        return SocketAddr::new(address, if over == Over::Tcp { 80 } else { 53 });
    }
    let host = to.trim_end_matches(", another port");
    let address = lab
        .hosts()
        .find(|known| known.name == host)
        .expect("a host of the lab")
        .addresses()[usize::from(v6)];
    let port = if over == Over::Tcp { 7000 } else { 5353 };
    SocketAddr::new(address, port + u16::from(host != to))
}

fn ask(from: &str, to: &str, over: Over, v6: bool, patience: Duration, lab: &Lab) -> std::io::Result<Answer> {
    let target = target(lab, to, over, v6);
    let client = lab.hosts().find(|host| host.name == from).expect("a host of the lab");
    client.run(|| over.ask(target, patience))
}

/// Runs rows over both protocols and families, and says all that is wrong.
fn check(lab: &Lab, rows: &[Row]) {
    let mut wrong = Vec::new();
    for row in rows {
        for (over, v6) in combinations() {
            if let Err(why) = check_one(lab, *row, over, v6) {
                let (from, to, ..) = row;
                wrong.push(format!("{from} -> {to} ({}): {why}", target(lab, to, over, v6)));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of the rows fail:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn check_one(lab: &Lab, (from, to, by, seen_as): Row, over: Over, v6: bool) -> Result<(), String> {
    let expected: BTreeSet<String> = match by {
        EveryPod => lab.backends().iter().map(|pod| pod.name.clone()).collect(),
        BackendOne => [plan::backend_name(1)].into(),
        BackendTwo => [plan::backend_name(2)].into(),
        Node => [plan::NODE_NAME.to_owned()].into(),
    };
    // To masquerade is to speak as the node on the device by which the packet leaves, as iptables' MASQUERADE does.
    let node = lab.node_addresses_towards_pods()[usize::from(v6)];
    let (mut answered, mut other_ports) = (BTreeSet::new(), 0);
    for connection in 1..=CONNECTIONS_MAX {
        let answer =
            ask(from, to, over, v6, PATIENCE, lab).map_err(|error| format!("{error} (answered: {answered:?})"))?;
        let hairpin = match seen_as {
            Itself => false,
            NodeItself => true,
            ItselfOrNodeIfHairpin => answer.backend == from,
        };
        let right = if hairpin {
            answer.seen.ip() == node
        } else {
            answer.seen == answer.own
        };
        // Behind the translation a port may be taken: by an earlier connection through another Service, or by a hairpin if the
        // node asks. The connection is given another one then, which chance does not do twice.
        let other_port = answer.seen.ip() == answer.own.ip() && service_address(to, v6).is_some();
        if !right && other_port && other_ports == 0 {
            other_ports += 1;
            continue;
        }
        if !right {
            return Err(format!("{} asked, {} saw {}", answer.own, answer.backend, answer.seen));
        }
        answered.insert(answer.backend);
        if !answered.is_subset(&expected) {
            return Err(format!("answered by {answered:?}"));
        }
        if connection >= CONNECTIONS_MIN && answered == expected {
            return Ok(());
        }
    }
    Err(format!("only {answered:?} answered {CONNECTIONS_MAX} times"))
}

fn flows_created(cluster: &Cluster) -> u64 {
    let status = cluster
        .agent
        .cli_json(["status", "-o", "json"])
        .expect("a healthy agent");
    let counters = status["counters"].as_array().expect("a list of counters");
    let counter = counters.iter().find(|counter| counter["name"] == "flows_created");
    counter
        .and_then(|counter| counter["value"].as_u64())
        .expect("the counter is listed")
}

/// Puts `tun0` between client and node, with addresses of its own, and leads the client's way to pods and Services, and the
/// node's to Services, through it.
fn tunnel(lab: &Lab) -> Result<(), String> {
    let ends = [
        (
            lab.client(),
            lab.node(),
            "9",
            &[plan::SERVICES_V4, plan::PODS_V4],
            &[plan::SERVICES_V6, plan::PODS_V6],
        ),
        (
            lab.node(),
            lab.client(),
            "2",
            &[plan::SERVICES_V4, "10.9.0.9/32"],
            &[plan::SERVICES_V6, "fd00:10:9::9/128"],
        ),
    ];
    for (host, peer, own, v4, v6) in ends {
        let mut lines = vec![
            "link add tun0 mtu 1400 type vxlan dstport 4790 gpe external".to_owned(),
            "link set tun0 up".to_owned(),
            format!("addr add 10.9.0.{own}/32 dev tun0"),
            format!("addr add fd00:10:9::{own}/128 dev tun0 nodad"),
        ];
        let underlay = peer.v4;
        lines.extend(v4.iter().chain(v6).map(|range| {
            let family = if range.contains(':') { "fd00:10:9::" } else { "10.9.0." };
            format!("route replace {range} encap ip id 7 dst {underlay} dev tun0 src {family}{own}")
        }));
        for line in lines {
            let output = Command::new("ip")
                .args(["-n", host.namespace.name()])
                .args(line.split(' '))
                .output();
            let output = output.map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
        }
    }
    Ok(())
}
