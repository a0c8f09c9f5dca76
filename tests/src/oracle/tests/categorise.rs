//! Rows 86 to 108: which endpoints are in which list.

use std::collections::BTreeSet;

use lb_userspace::model::Family;
use rstest::rstest;

use crate::oracle::World;
use crate::oracle::categorise::categorise;
use crate::oracle::world::Candidate;

const PLAIN: &str = "";
const ITP: &str = "itp";
const NODE_PORT: &str = "type NodePort";

fn last(list: &[Candidate<'_>]) -> String {
    let names = list.iter().map(|one| one.at.ip().to_string());
    let names: Vec<String> = names
        .map(|text| text.rsplit('.').next().unwrap_or_default().to_owned())
        .collect();
    names.join("+")
}

/// `Cluster list | Local list | hasAny`, `n/a` where a list is not used, and how many endpoints are in either.
fn lists(service: &str, node: &str, endpoints: &str) -> (String, usize) {
    let port = if service.contains("NodePort") {
        "http/TCP/80/30080"
    } else {
        "http/TCP/80"
    };
    let world = World::read(&format!(
        "node {node}
         service one cluster 172.30.0.41 {service} ports {port}
         slice one-1 of one ports http/TCP/80 endpoints {endpoints}"
    ));
    let service = &world.services[0];
    let found = world.endpoints(service, &service.ports[0], Family::V4);
    let made = categorise(service, &service.ports[0], Family::V4, &found, &world.node.view);
    let shown = |used: bool, list: &[Candidate<'_>]| if used { last(list) } else { "n/a".to_owned() };
    let reachable: BTreeSet<_> = made.cluster.iter().chain(&made.local).map(|one| one.at).collect();
    let any = if made.has_any { "yes" } else { "no" };
    let text = format!(
        "{} | {} | {any}",
        shown(made.uses.0, &made.cluster),
        shown(made.uses.1, &made.local)
    );
    (text, reachable.len())
}

#[rstest]
#[case::row_86_own_zone(
    "here zone a",
    PLAIN,
    "10.0.0.1,zones=a 10.0.0.2,zones=b 10.0.0.3,zones=c 10.0.0.4,zones=a",
    "1+4 | n/a | yes"
)]
#[case::row_87_one_lacks_hints(
    "here zone a",
    PLAIN,
    "10.0.0.1,zones=a 10.0.0.2,zones=b 10.0.0.3",
    "1+2+3 | n/a | yes"
)]
#[case::row_88_no_hint_for_us("here zone b", PLAIN, "10.0.0.1,zones=a", "1 | n/a | yes")]
#[case::row_89_no_zone("here", PLAIN, "10.0.0.1,zones=a", "1 | n/a | yes")]
#[case::row_89_empty_zone("here zone -", PLAIN, "10.0.0.1,zones=a", "1 | n/a | yes")]
#[case::row_90_unready_in_own_zone(
    "here zone a",
    PLAIN,
    "10.0.0.1,zones=a 10.0.0.2,zones=b 10.0.0.3,zones=c 10.0.0.4,zones=a,is=",
    "1 | n/a | yes"
)]
#[case::row_91_own_zone_all_unready(
    "here zone a",
    PLAIN,
    "10.0.0.1,zones=a,is= 10.0.0.2,zones=b 10.0.0.3,zones=c 10.0.0.4,zones=a,is=",
    "2+3 | n/a | yes"
)]
#[case::row_92_several_zones(
    "here zone c",
    PLAIN,
    "10.0.0.1,zones=a+b+c 10.0.0.2,zones=b+c 10.0.0.3,zones=b+d 10.0.0.4,zones=c",
    "1+2+4 | n/a | yes"
)]
#[case::row_93_external_local(
    "here zone a",
    "type NodePort etp",
    "10.0.0.1,L,zones=a 10.0.0.2,L,zones=b 10.0.0.3,R,zones=c 10.0.0.4,R,zones=a",
    "1+4 | 1+2 | yes"
)]
#[case::row_94_internal_local(
    "here zone a",
    "type NodePort itp",
    "10.0.0.1,L,zones=a 10.0.0.2,L,zones=b 10.0.0.3,R,zones=c 10.0.0.4,R,zones=a",
    "1+4 | 1+2 | yes"
)]
#[case::row_96_none("here", ITP, "", "n/a |  | no")]
#[case::row_97_remote_only("here", ITP, "10.0.0.1,R 10.0.0.2,R", "n/a |  | yes")]
#[case::row_98_local_and_remote("here", ITP, "10.0.0.1,L 10.0.0.2,R", "n/a | 1 | yes")]
#[case::row_99_all_unready("here", PLAIN, "10.0.0.1,is= 10.0.0.2,is=", " | n/a | no")]
#[case::row_99_serving_is_not_enough("here", PLAIN, "10.0.0.1,is=s", " | n/a | no")]
#[case::row_100_all_terminating("here", PLAIN, "10.0.0.1,is=st 10.0.0.2,is=st", "1+2 | n/a | yes")]
#[case::row_101_internal_local_external_cluster("here", "type NodePort itp", "10.0.0.1,L 10.0.0.2,R", "1+2 | 1 | yes")]
#[case::row_102_both_local_remote_ready("here", "type NodePort itp etp", "10.0.0.1,R 10.0.0.2,R", "1+2 |  | yes")]
#[case::row_103_both_local_remote_terminating(
    "here",
    "type NodePort itp etp",
    "10.0.0.1,R,is=st 10.0.0.2,R,is=st",
    "1+2 |  | yes"
)]
#[case::row_105_no_external_address("here", "type LoadBalancer etp", "10.0.0.1,L 10.0.0.2,R", "1+2 | n/a | yes")]
#[case::row_106_node_hints_first(
    "n1 zone a",
    PLAIN,
    "10.0.0.1,nodes=n1,zones=a 10.0.0.2,nodes=n2,zones=a 10.0.0.3,nodes=n3,zones=b",
    "1 | n/a | yes"
)]
#[case::row_107_no_node_hint_for_us(
    "n2 zone a",
    PLAIN,
    "10.0.0.1,nodes=n1,zones=a 10.0.0.2,nodes=n1,zones=b",
    "1 | n/a | yes"
)]
#[case::row_108_one_lacks_node_hints(
    "n1 zone a",
    PLAIN,
    "10.0.0.1,nodes=n1,zones=a 10.0.0.2,zones=a 10.0.0.3,nodes=n1,zones=b",
    "1+2 | n/a | yes"
)]
#[case::terminating_ones_know_no_topology(
    "here zone a",
    PLAIN,
    "10.0.0.1,zones=a,is=st 10.0.0.2,zones=b,is=st",
    "1+2 | n/a | yes"
)]
#[case::ready_though_terminating_is_ready("here", PLAIN, "10.0.0.1,is=rst 10.0.0.2,is=st", "1 | n/a | yes")]
fn rows(#[case] node: &str, #[case] service: &str, #[case] endpoints: &str, #[case] expected: &str) {
    assert_eq!(lists(service, node, endpoints).0, expected);
}

#[test]
fn row_95_lists_overlap() {
    let endpoints = "10.0.0.1,L,zones=a 10.0.0.2,L,zones=b 10.0.0.3,R,zones=a 10.0.0.4,R,zones=b";
    let (text, reachable) = lists(&format!("{NODE_PORT} etp"), "here zone a", endpoints);
    assert_eq!((&*text, reachable), ("1+3 | 1+2 | yes", 3));
}

#[test]
fn row_104_lists_fall_back_independently() {
    let endpoints = "10.0.0.1,R 10.0.0.2,L,is= 10.0.0.3,L,is=st 10.0.0.4,R,is=st";
    let (text, reachable) = lists(&format!("{NODE_PORT} etp"), "here", endpoints);
    assert_eq!((&*text, reachable), ("1 | 3 | yes", 2));
}
