//! Sizes across nodes: megabytes both ways and datagrams in fragments both ways, masqueraded and not, where the way between router
//! and client takes less than all who send believe. Every byte is checked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rstest::rstest;
use serde_json::json;
use tests::lab::{Host, Lab, LabBuilder};
use tests::traffic::{Cluster, Over};

use crate::rows::{Who, client};
use crate::scene::{Frontend, cluster_cidr, expect_none, service, start};

const PLAIN: u16 = 81;
const LOCAL: u16 = 82;

/// What is sent and has to come back: over what, and how many octets.
const ROWS: &[(Over, usize)] = &[
    (Over::Tcp, 1),
    (Over::Tcp, 3_000_001),
    // The answer is longer by a greeting of 30 to 50 octets.
    (Over::Udp, 1_100),
    (Over::Udp, 1_300),
    (Over::Udp, 1_420),
    (Over::Udp, 4_000),
    (Over::Udp, 30_000),
];

/// Who sends, by which frontend of which Service.
const WAYS: &[(Who, Frontend, u16)] = &[
    (Who::Outside, Frontend::NodePort, PLAIN),
    (Who::Outside, Frontend::Vip, PLAIN),
    (Who::Outside, Frontend::NodePort, LOCAL),
    (Who::Outside, Frontend::Vip, LOCAL),
    (Who::Outside, Frontend::ClusterIp, PLAIN),
    (Who::Pod, Frontend::NodePort, PLAIN),
    (Who::Node, Frontend::NodePort, PLAIN),
];

/// How long an exchange may wait for its next bytes: megabytes take their time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(4);
/// A datagram that may be lost has been when there is no answer after this.
const LOST_AFTER: Duration = Duration::from_millis(80);
/// So often a row is played: each time to a backend of chance.
const TIMES: u32 = 4;
/// Datagrams that may be lost before all who answer know how narrow the way is: some for each of four backends and the client.
const LOST_MAX: u32 = 24;

#[rstest]
#[case::as_between_containers(Lab::two_nodes())]
#[case::on_bridges(Lab::two_bridge_nodes())]
#[case::as_from_a_network_card(Lab::two_nodes().complete_checksums())]
#[case::without_gro(Lab::two_bridge_nodes().without_gro())]
#[case::over_a_wire(Lab::two_nodes().over_a_wire())]
fn every_byte_arrives(#[case] builder: LabBuilder) {
    let cluster = begin(builder);
    expect_none(&failures(&cluster.lab, 0));
}

/// Neither client nor pods know how narrow it is between them: the router says so by ICMP, to whom it takes for the sender. Where
/// it is the client's own link, the client knows, and its TCP peers by it.
#[rstest]
#[case::slightly(Lab::two_nodes().way_mtu(1400), Some(1400))]
#[case::slightly_on_bridges(Lab::two_bridge_nodes().way_mtu(1400).over_a_wire(), Some(1400))]
#[case::as_narrow_as_ipv6_allows(Lab::two_nodes().way_mtu(1280), Some(1280))]
#[case::with_small_pods(Lab::two_nodes().way_mtu(1400).pod_mtu(1450), None)]
#[case::a_link_of_the_clients(Lab::two_nodes().outward_mtu(1400), Some(1400))]
#[case::the_narrowest_link_of_the_clients(Lab::two_bridge_nodes().outward_mtu(1280), Some(1280))]
fn a_narrow_way_is_found_out_through_the_translation(#[case] builder: LabBuilder, #[case] learnt: Option<u32>) {
    let cluster = begin(builder);
    let lab = &cluster.lab;
    let mut wrong = failures(lab, LOST_MAX);
    // Small pods cut their datagrams themselves: for what they send over TCP, the client has learnt it in time.
    let [client, entry] = [lab.client(), lab.node()].map(Host::addresses);
    for (mtu, v6) in learnt.into_iter().flat_map(|mtu| [(mtu, 0), (mtu, 1)]) {
        // Whom pods see asking: those of the entry node the client itself, the others the entry node. Which are asked is chance.
        for (node, address) in [(1, client[v6]), (2, entry[v6])] {
            let known = lab.backends_of(node).any(|pod| knows(pod, address, mtu));
            if !known {
                wrong.push(format!(
                    "no pod of node {node} has learnt that {mtu} octets fit on the way to {address}"
                ));
            }
        }
    }
    expect_none(&wrong);
}

/// Partial checksums, completed where the translated packets leave the nodes.
#[test]
fn partial_checksums_are_right_when_they_are_completed() {
    let cluster = begin(Lab::two_nodes());
    cluster
        .lab
        .complete_checksums_on_the_way()
        .expect("the nodes' devices can");
    expect_none(&failures(&cluster.lab, 0));
}

fn begin(builder: LabBuilder) -> Cluster {
    start(builder, cluster_cidr(), |lab| {
        vec![
            service(lab, "plain", PLAIN, json!({})).backends(lab.backends()),
            service(lab, "local", LOCAL, json!({"externalTrafficPolicy": "Local"})).backends(lab.backends()),
        ]
    })
}

/// Plays all rows by all ways in both families, and says what is wrong.
fn failures(lab: &Lab, lost_max: u32) -> Vec<String> {
    let mut wrong = Vec::new();
    for &(who, frontend, number) in WAYS {
        let from = client(lab, who, 1);
        for v6 in [false, true] {
            for &(over, octets) in ROWS {
                let target = frontend.of(number, lab.node(), over, v6);
                // A process that dials a NodePort of its own node sends over loopback, whose MTU says nothing about the way. It is
                // told by ICMP, as by any router: over IPv4 the kernel remembers that, over IPv6 it remembers nothing about its
                // own addresses (`__ip6_rt_update_pmtu`), and the process hears of each datagram that does not fit.
                let by_loopback = matches!(who, Who::Node) && over == Over::Udp && octets > 1_420;
                // Without losses nothing has to be waited for.
                let lost_max = match over {
                    Over::Tcp => 0,
                    Over::Udp if by_loopback => LOST_MAX,
                    Over::Udp => lost_max,
                };
                let outcome = from.run(|| exchanges(target, over, octets, lost_max));
                let outcome = match outcome {
                    Err(error) if by_loopback && v6 && error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
                    Ok(()) if by_loopback && v6 => Err(std::io::Error::other("it fits: say so in the docs")),
                    other => other,
                };
                if let Err(error) = outcome {
                    wrong.push(format!(
                        "{who:?} -> {frontend:?} {target}, {over:?}, {octets} octets: {error}"
                    ));
                }
            }
        }
    }
    wrong
}

/// Exchanges several times in a row, after so many losses at most.
fn exchanges(target: SocketAddr, over: Over, octets: usize, lost_max: u32) -> std::io::Result<()> {
    let (mut in_a_row, mut lost) = (0, 0);
    while in_a_row < TIMES {
        let patience = if lost < lost_max { LOST_AFTER } else { PATIENCE };
        match over.exchange(target, octets, patience) {
            Ok(_) => in_a_row += 1,
            Err(_) if lost < lost_max => (in_a_row, lost) = (0, lost + 1),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a pod knows how narrow it is on the way to an address.
fn knows(pod: &Host, address: IpAddr, mtu: u32) -> bool {
    let mut ip = pod.command("ip");
    let said = ip
        .args(["route", "get", &address.to_string()])
        .output()
        .expect("ip runs")
        .stdout;
    String::from_utf8_lossy(&said).contains(&format!("mtu {mtu}"))
}
