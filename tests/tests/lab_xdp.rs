//! The XDP tier on the outward device: everything works with it, and it does the work itself where it can.
//!
//! What it does with single packets is in `packet_xdp`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_common::layout::limits::LAYOUT_VERSION;
use rstest::rstest;
use tests::lab::{AgentOptions, Lab, LabBuilder, XdpMode};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over};

/// How long an exchange may wait for its next bytes.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where nobody answers.
const IMPATIENCE: Duration = Duration::from_millis(150);

const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];

/// What is sent and has to come back: over what, how many octets, how often.
const ROWS: &[(Over, usize, u32)] = &[
    (Over::Tcp, 1, 30),
    (Over::Tcp, 3_000_001, 2),
    (Over::Udp, 1, 30),
    (Over::Udp, 1_300, 5),
];
/// Fragments go up to tc.
const FRAGMENTS: &[(Over, usize, u32)] = &[(Over::Udp, 4_000, 5)];

#[rstest]
#[case::complete_checksums(Lab::one_node().complete_checksums())]
#[case::partial_checksums(Lab::one_node())]
#[case::over_a_wire(Lab::one_node().over_a_wire())]
#[case::bridge_with_complete_checksums(Lab::bridge_node().complete_checksums())]
#[case::bridge_with_partial_checksums(Lab::bridge_node())]
fn both_tiers_together_do_everything(#[case] builder: LabBuilder) {
    let cluster = start(builder);
    for rows in [ROWS, FRAGMENTS] {
        let wrong = failures(&cluster, rows, PATIENCE);
        assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
    }
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
    for rows in [ROWS, FRAGMENTS] {
        let wrong = failures(&cluster, rows, PATIENCE);
        assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// tc no longer sees what comes in from outside: whatever works now, XDP does.
#[rstest]
#[case::routed(Lab::one_node().complete_checksums())]
#[case::bridge(Lab::bridge_node().complete_checksums())]
fn xdp_does_it_alone(#[case] builder: LabBuilder) {
    let mut cluster = start(builder);
    let device = leave_alone(&mut cluster);
    take_away(&cluster, &device, "ingress");
    let wrong = failures(&cluster, ROWS, PATIENCE);
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
    // Fragments are tc's, and so nobody's.
    let wrong = failures(&cluster, FRAGMENTS, IMPATIENCE);
    assert_eq!(wrong.len(), ADDRESSES.len() * FRAGMENTS.len(), "{wrong:?}");
    // And without XDP nothing arrives: it was XDP.
    take_away(&cluster, &device, "xdp");
    let wrong = failures(&cluster, ROWS, IMPATIENCE);
    assert_eq!(wrong.len(), ADDRESSES.len() * ROWS.len(), "{wrong:?}");
}

/// Checksums that nobody has completed are tc's: without it nothing arrives.
#[test]
fn partial_checksums_are_left_to_tc() {
    let mut cluster = start(Lab::one_node());
    let device = leave_alone(&mut cluster);
    take_away(&cluster, &device, "ingress");
    let wrong = failures(&cluster, ROWS, IMPATIENCE);
    assert_eq!(wrong.len(), ADDRESSES.len() * ROWS.len(), "{}", wrong.join("\n"));
}

/// A lab with the agent on native XDP, which says so.
fn start(builder: LabBuilder) -> Cluster {
    let lab = builder.backends(3).build().expect("the lab can be built");
    let addresses = ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address"));
    let web = Service::new("web", addresses)
        .port("TCP", 80, 7000)
        .port("UDP", 53, 5353);
    let web = web.backends(lab.backends());
    let options = AgentOptions {
        xdp: XdpMode::Native,
        ..AgentOptions::default()
    };
    let cluster = Cluster::start(lab, &[web], &options).expect("servers and agent start");
    assert_eq!(outward(&cluster)["xdp"], "native");
    cluster
}

/// What the agent says of the outward device.
fn outward(cluster: &Cluster) -> serde_json::Value {
    let status = cluster
        .agent
        .cli_json(["status", "-o", "json"])
        .expect("a healthy agent");
    let devices = status["agent"]["devices"].as_array().expect("a list of devices");
    let device = devices.iter().find(|device| device["name"] == "eth0");
    device.expect("the outward device is listed").clone()
}

/// Ends the agent, which would put back what is taken away. The outward device's index.
fn leave_alone(cluster: &mut Cluster) -> String {
    let index = outward(cluster)["ifindex"].to_string();
    cluster.agent.kill9().expect("it runs");
    index
}

/// Takes a program off the outward device: the pinned link was all that held it there. The kernel does it a moment later.
fn take_away(cluster: &Cluster, ifindex: &str, direction: &str) {
    let pin = format!("layout-{LAYOUT_VERSION}/links/{ifindex}-{direction}");
    let link = cluster.lab.pin_directory().join(pin);
    std::fs::remove_file(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    let start = Instant::now();
    while is_attached(cluster, direction) {
        assert!(
            start.elapsed() < PATIENCE,
            "{direction} is still there after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_attached(cluster: &Cluster, direction: &str) -> bool {
    if direction == "xdp" {
        let mut ip = cluster.lab.node().command("ip");
        let shown = ip
            .args(["link", "show", "dev", "eth0"])
            .output()
            .expect("ip runs")
            .stdout;
        return String::from_utf8_lossy(&shown).contains("prog/xdp");
    }
    let query = || SchedClassifier::query_tcx("eth0", TcAttachType::Ingress);
    let (_, programs) = cluster.lab.node().run(query).expect("the kernel lists them");
    !programs.is_empty()
}

/// Runs rows from the client in both families, and says what is wrong.
fn failures(cluster: &Cluster, rows: &[(Over, usize, u32)], patience: Duration) -> Vec<String> {
    let mut wrong = Vec::new();
    for address in ADDRESSES {
        for &(over, octets, times) in rows {
            let port = if over == Over::Tcp { 80 } else { 53 };
            let target = SocketAddr::new(address.parse().expect("an address"), port);
            let exchange = || (0..times).try_for_each(|_| over.exchange(target, octets, patience).map(drop));
            if let Err(error) = cluster.lab.client().run(exchange) {
                wrong.push(format!("{target}, {over:?}, {octets} octets: {error}"));
            }
        }
    }
    wrong
}
