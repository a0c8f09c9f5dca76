//! `loadBalancerSourceRanges`: who may dial a VIP, and that no other frontend cares.
//!
//! The numbers are those of kube-proxy's `TestLoadBalancer`.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use tests::lab::{Lab, plan};
use tests::traffic::{Cluster, Over};

use crate::rows::{Who, client};
use crate::scene::{
    Frontend, PATIENCE, SILENCE, cluster_cidr, combinations, expect_none, ip, is_silence, service, start,
};

use Frontend::{ClusterIp, ExternalIp, NodePort, Vip};
use Who::{Node, Outside, Pod};

/// Ranges of both families, which hold the client's usual address and the first node's.
const RANGED: u16 = 81;
/// Ranges of IPv4 only.
const HALF: u16 = 82;

/// Row, who asks (by the client's address outside the ranges?), by which frontend, and whether there is an answer.
const ROWS_18_TO_28: &[(&str, Who, bool, Frontend, bool)] = &[
    ("18", Pod, false, ClusterIp, true),
    ("19", Outside, false, NodePort, true),
    ("20", Outside, true, NodePort, true),
    ("21", Outside, false, Vip, true),
    ("23", Outside, true, Vip, false),
    ("25", Pod, false, Vip, false),
    ("27", Node, false, Vip, true),
    // Not numbered: the other frontends, from outside the ranges.
    ("4.4", Outside, true, ClusterIp, true),
    ("4.4", Outside, true, ExternalIp, true),
    ("4.4", Pod, false, NodePort, true),
    ("4.4", Pod, false, ExternalIp, true),
];

#[test]
fn rows_18_to_28_who_may_dial_a_vip() {
    let cluster = begin();
    let lab = &cluster.lab;
    let mut wrong = Vec::new();
    for (row, who, bad, frontend, answered) in ROWS_18_TO_28 {
        for (over, v6) in combinations() {
            let outcome = dial(lab, (*who, 1, *bad), (RANGED, *frontend), over, v6);
            if outcome != Ok(*answered) {
                wrong.push(format!(
                    "row {row}: {who:?} -> {frontend:?}, {over:?}, IPv6 {v6}: {outcome:?}"
                ));
            }
        }
    }
    expect_none(&wrong);
}

/// The other node's address is in no range.
#[test]
fn each_node_asks_for_its_own_address() {
    let cluster = begin();
    for (over, v6) in combinations() {
        let outcome = dial(&cluster.lab, (Node, 2, false), (RANGED, Vip), over, v6);
        assert_eq!(outcome, Ok(false), "{over:?}, IPv6 {v6}");
        let outcome = dial(&cluster.lab, (Node, 2, false), (RANGED, NodePort), over, v6);
        assert_eq!(outcome, Ok(true), "{over:?}, IPv6 {v6}");
    }
}

#[test]
fn a_family_without_ranges_is_open() {
    let cluster = begin();
    for over in Over::BOTH {
        for bad in [false, true] {
            let outcome = dial(&cluster.lab, (Outside, 1, bad), (HALF, Vip), over, true);
            assert_eq!(outcome, Ok(true), "{over:?}, IPv6");
        }
        let outcome = dial(&cluster.lab, (Outside, 1, true), (HALF, Vip), over, false);
        assert_eq!(outcome, Ok(false), "{over:?}, IPv4");
    }
}

/// Some balancers give the node the VIP for an address of its own; its own connections then come from there.
#[test]
fn rows_29_and_30_from_the_vip_itself() {
    let cluster = begin();
    let (lab, node) = (&cluster.lab, cluster.lab.node());
    ip(node, "link add name vips type bridge");
    ip(node, "link set vips up");
    for (over, v6) in combinations() {
        let target = Vip.of(RANGED, node, over, v6);
        let rest = if v6 { "128 dev vips nodad" } else { "32 dev vips" };
        ip(node, &format!("addr replace {}/{rest}", target.ip()));
        let from = SocketAddr::new(target.ip(), 0);
        let answer = node.run(|| over.exchange_from(from, target, 16, PATIENCE));
        let answer = answer.unwrap_or_else(|error| panic!("{target}, {over:?}: {error}"));
        assert!(node.addresses().contains(&answer.seen.ip()), "{answer:?}");
        // Everyone else is judged as before.
        assert_eq!(dial(lab, (Pod, 1, false), (RANGED, Vip), over, v6), Ok(false));
        assert_eq!(dial(lab, (Outside, 1, false), (RANGED, Vip), over, v6), Ok(true));
    }
}

/// Whether there is an answer; or what came of it instead, if that is neither an answer nor silence.
fn dial(
    lab: &Lab,
    (who, entry, bad): (Who, u8, bool),
    (service, frontend): (u16, Frontend),
    over: Over,
    v6: bool,
) -> Result<bool, String> {
    let (from, node) = (client(lab, who, entry), &lab.nodes()[usize::from(entry) - 1]);
    let target = frontend.of(service, node, over, v6);
    let other = plan::of_family(plan::FAR_CLIENT_OTHER_V4, plan::FAR_CLIENT_OTHER_V6, v6);
    let exchange = || match bad {
        true => over.exchange_from(SocketAddr::new(other, 0), target, 16, SILENCE),
        false => over.ask(target, SILENCE),
    };
    match from.run(exchange) {
        Ok(_) => Ok(true),
        Err(error) if is_silence(&error) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

fn begin() -> Cluster {
    start(Lab::two_nodes(), cluster_cidr(), |lab| {
        let [v4, v6]: [IpAddr; 2] = lab.node().addresses();
        // With the blanks that kube-proxy allows.
        let ranges_v4 = vec!["198.51.100.0/25".to_owned(), format!(" {v4}/32 ")];
        let ranges_v6 = vec!["2001:db8:198::/65".to_owned(), format!("{v6}/128")];
        let both = [ranges_v4.clone(), ranges_v6].concat();
        let ranged = service(lab, "ranged", RANGED, json!({"loadBalancerSourceRanges": both}));
        let half = service(lab, "half", HALF, json!({"loadBalancerSourceRanges": ranges_v4}));
        [ranged, half].map(|service| service.backends(lab.backends())).into()
    })
}
