//! The masquerade matrix: three Services on four pods, two on each node, by every frontend, from everywhere; and what changes in it
//! without a way to tell pods from others, or with all masqueraded.
//!
//! Services without endpoints on a node are in `policies`.

use rstest::rstest;
use serde_json::json;
use tests::lab::{Host, Lab, LabBuilder, plan};
use tests::traffic::Cluster;
use tests::traffic::manifests::Service;

use crate::rows::{Case, Expect, Source, Who, client, play_by, play_by_both_nodes};
use crate::scene::{Frontend, cluster_cidr, expect_none, ip, service, start};

use Expect::{All, Local};
use Frontend::{ClusterIp, ExternalIp, NodePort, Vip};
use Source::{Kept, Masq};
use Who::{Node, OtherNode, OtherPod, Outside, Pod};

/// The Services of the columns.
const PLAIN: u16 = 81;
const EXTERNAL_LOCAL: u16 = 82;
const INTERNAL_LOCAL: u16 = 83;

/// Number, who asks, by which frontend; what comes of it with a plain Service, with `externalTrafficPolicy: Local`, and with
/// `internalTrafficPolicy: Local`.
type Row = (&'static str, Who, Frontend, [Expect; 3]);

const ROWS_45_TO_58: &[Row] = &[
    ("45, 52", Pod, ClusterIp, [All(Kept), All(Kept), Local(Kept)]),
    ("46, 53", Pod, ExternalIp, [All(Masq), All(Kept), All(Masq)]),
    ("47, 54", Outside, ExternalIp, [All(Masq), Local(Kept), All(Masq)]),
    ("48, 55", Pod, Vip, [All(Masq), All(Kept), All(Masq)]),
    ("49, 56", Outside, Vip, [All(Masq), Local(Kept), All(Masq)]),
    ("50, 57", Pod, NodePort, [All(Masq), All(Kept), All(Masq)]),
    ("51, 58", Outside, NodePort, [All(Masq), Local(Kept), All(Masq)]),
];

const ROWS_59_TO_67: &[Row] = &[
    ("59", Pod, ClusterIp, [All(Kept), All(Kept), Local(Kept)]),
    ("60", Pod, NodePort, [All(Masq), All(Kept), All(Masq)]),
    ("61", Pod, Vip, [All(Masq), All(Kept), All(Masq)]),
    ("62", Node, ClusterIp, [All(Masq), All(Masq), Local(Masq)]),
    ("63", Node, NodePort, [All(Masq), All(Masq), All(Masq)]),
    ("64", Node, Vip, [All(Masq), All(Masq), All(Masq)]),
    ("65", Outside, ClusterIp, [All(Masq), All(Masq), Local(Masq)]),
    ("66", Outside, NodePort, [All(Masq), Local(Kept), All(Masq)]),
    ("67", Outside, Vip, [All(Masq), Local(Kept), All(Masq)]),
];

/// Not numbered there: from section 4.3, and what follows from it for those who dial the other node.
const MORE_ROWS: &[Row] = &[
    ("4.3", Node, ExternalIp, [All(Masq), All(Masq), All(Masq)]),
    // To the node that is dialled, a process of another node is somebody outside.
    ("4.3", OtherNode, NodePort, [All(Masq), Local(Kept), All(Masq)]),
];

/// As [`MORE_ROWS`], where pods are told by their addresses, those of the other node included. With `externalTrafficPolicy: Local`
/// that pod would get a backend on its own node, unmasqueraded, whose answer does not come back by the node that was dialled: it
/// doesn't work in kube-proxy, and is left out here.
const A_POD_OF_THE_OTHER_NODE: &[(&str, Who, Frontend, [u16; 2])] =
    &[("4.2", OtherPod, NodePort, [PLAIN, INTERNAL_LOCAL])];

/// Without a detector nobody is known to be no pod, and nobody to be one.
const ROWS_68_AND_69: &[Row] = &[
    ("68", Node, ClusterIp, [All(Kept), All(Kept), Local(Kept)]),
    ("68", Outside, ClusterIp, [All(Kept), All(Kept), Local(Kept)]),
    ("69", Pod, NodePort, [All(Masq), Local(Kept), All(Masq)]),
    ("69", Pod, Vip, [All(Masq), Local(Kept), All(Masq)]),
];

const ROW_70: &[Row] = &[("70", Pod, ClusterIp, [All(Masq), All(Masq), Local(Masq)])];

#[rstest]
#[case::routed(Lab::two_nodes())]
#[case::bridge(Lab::two_bridge_nodes())]
#[case::routed_strict(Lab::two_nodes().rp_filter(1))]
#[case::bridge_loose(Lab::two_bridge_nodes().rp_filter(2))]
#[case::over_a_wire_with_arp_and_nd(Lab::two_nodes().over_a_wire().learn_neighbours())]
fn rows_59_to_67_by_the_pods_addresses(#[case] builder: LabBuilder) {
    let cluster = begin(builder, cluster_cidr());
    play(&cluster.lab, &[ROWS_59_TO_67, MORE_ROWS].concat());
}

#[test]
fn rows_45_to_58_by_the_pods_addresses() {
    let cluster = begin(Lab::two_nodes(), cluster_cidr());
    play(&cluster.lab, ROWS_45_TO_58);
}

#[rstest]
#[case::devices_named_pod(Lab::two_nodes(), &["interface-name-prefix", "--pod-interface-name-prefix", "pod"])]
#[case::the_bridge(Lab::two_bridge_nodes(), &["bridge-interface", "--pod-bridge-interface", "cni0"])]
fn rows_45_to_67_by_the_pods_devices(#[case] builder: LabBuilder, #[case] words: &[&str]) {
    let words = std::iter::once(&"--detect-local-mode").chain(words);
    let cluster = begin(builder, words.map(|word| (*word).to_owned()).collect());
    play(&cluster.lab, &[ROWS_45_TO_58, ROWS_59_TO_67, MORE_ROWS].concat());
}

#[test]
fn a_pod_reaches_the_node_ports_of_the_other_node() {
    let cluster = begin(Lab::two_nodes(), cluster_cidr());
    let pods: Vec<&Host> = cluster.lab.backends().iter().collect();
    let mut cases = Vec::new();
    for &(number, who, frontend, services) in A_POD_OF_THE_OTHER_NODE {
        cases.extend(services.map(|service| Case {
            number,
            who,
            frontend,
            service,
            pods: &pods,
            expect: All(Masq),
        }));
    }
    play_by_both_nodes(&cluster.lab, &cases);
}

#[test]
fn rows_68_and_69_without_a_detector() {
    let cluster = begin(Lab::two_nodes(), Vec::new());
    play_with(
        &cluster.lab,
        &replaced(ROWS_59_TO_67, ROWS_68_AND_69),
        lead_answers_back,
    );
}

#[test]
fn row_70_with_all_masqueraded() {
    let mut words = cluster_cidr();
    words.push("--masquerade-all".to_owned());
    let cluster = begin(Lab::two_nodes(), words);
    play(&cluster.lab, &replaced(ROWS_59_TO_67, ROW_70));
}

#[test]
fn row_71_with_all_masqueraded_and_no_detector() {
    let cluster = begin(Lab::two_nodes(), vec!["--masquerade-all".to_owned()]);
    let of_pods: Vec<Row> = ROWS_68_AND_69
        .iter()
        .filter(|(_, who, ..)| *who == Pod)
        .copied()
        .collect();
    play(&cluster.lab, &replaced(&replaced(ROWS_59_TO_67, &of_pods), ROW_70));
}

/// What an agent of any version does to ClusterIPs with no detector: the rows and the labs are sound.
#[rstest]
#[case::routed(Lab::two_nodes())]
#[case::bridge(Lab::two_bridge_nodes())]
fn cluster_ips_without_a_detector(#[case] builder: LabBuilder) {
    let cluster = begin(builder, Vec::new());
    let rows = replaced(ROWS_59_TO_67, ROWS_68_AND_69);
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|(_, _, frontend, _)| *frontend == ClusterIp)
        .collect();
    assert_eq!(rows.len(), 3);
    play_with(&cluster.lab, &rows, lead_answers_back);
}

fn begin(builder: LabBuilder, extra: Vec<String>) -> Cluster {
    start(builder, extra, services)
}

fn services(lab: &Lab) -> Vec<Service> {
    let columns = [
        ("plain", PLAIN, json!({})),
        (
            "external-local",
            EXTERNAL_LOCAL,
            json!({"externalTrafficPolicy": "Local"}),
        ),
        (
            "internal-local",
            INTERNAL_LOCAL,
            json!({"internalTrafficPolicy": "Local"}),
        ),
    ];
    let services = columns.map(|(name, number, spec)| service(lab, name, number, spec).backends(lab.backends()));
    services.into()
}

fn play(lab: &Lab, rows: &[Row]) {
    play_with(lab, rows, |_, _| ());
}

/// Plays rows by each of the nodes in turn, each time after a preparation.
fn play_with(lab: &Lab, rows: &[Row], prepare: impl Fn(&Lab, u8)) {
    let pods: Vec<&Host> = lab.backends().iter().collect();
    let mut cases = Vec::new();
    for &(number, who, frontend, columns) in rows {
        for (service, expect) in [PLAIN, EXTERNAL_LOCAL, INTERNAL_LOCAL].into_iter().zip(columns) {
            cases.push(Case {
                number,
                who,
                frontend,
                service,
                pods: &pods,
                expect,
            });
        }
    }
    let mut wrong = Vec::new();
    for entry in [1, 2] {
        prepare(lab, entry);
        wrong.extend(play_by(lab, entry, &cases));
    }
    expect_none(&wrong);
}

/// Who answers a client outside that was not masqueraded has to do it by the node that was asked: where pods have another way out,
/// that client gets no answers, with kube-proxy as well.
fn lead_answers_back(lab: &Lab, entry: u8) {
    let (asked, other) = (client(lab, Node, entry), client(lab, OtherNode, entry));
    for (node, gateway) in [
        (asked, [plan::ROUTER_V4.into(), plan::ROUTER_V6.into()]),
        (other, asked.addresses()),
    ] {
        for (outside, gateway) in lab.client().addresses().into_iter().zip(gateway) {
            ip(node, &format!("route replace {outside} via {gateway} dev eth0"));
        }
    }
}

/// The rows, with others in place of those that have the same client and frontend.
fn replaced(rows: &[Row], others: &[Row]) -> Vec<Row> {
    let place = |row: &Row| (row.1, row.2);
    let chosen = |row: &Row| *others.iter().find(|other| place(other) == place(row)).unwrap_or(row);
    rows.iter().map(chosen).collect()
}
