//! NodePorts: on which of a node's addresses, on loopback, and by a pod that reaches itself.

use std::net::{IpAddr, SocketAddr};

use rstest::rstest;
use serde_json::json;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over};

use crate::rows::{Case, Expect, Source, Who, play_by};
use crate::scene::{
    CONNECTIONS_MAX, Frontend, PATIENCE, SILENCE, ask, cluster_cidr, combinations, expect_none, ip, node_port, service,
    start,
};

const PLAIN: u16 = 81;
const LOCAL: u16 = 82;
const ALONE: u16 = 83;
const ALONE_LOCAL: u16 = 84;

/// More addresses of the first node, on a device that nothing else is on.
const MORE: [&str; 2] = ["10.99.0.1", "fd00:99::1"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// Loopback has no way to another machine: the source is a node's address there, too.
#[rstest]
#[case::routed(Lab::two_nodes())]
#[case::bridge(Lab::two_bridge_nodes())]
#[case::routed_strict(Lab::two_nodes().rp_filter(1))]
fn row_35_on_loopback(#[case] builder: LabBuilder) {
    let cluster = start(builder, cluster_cidr(), services);
    for node in cluster.lab.nodes() {
        for number in [PLAIN, LOCAL] {
            for (over, v6) in combinations() {
                let target = SocketAddr::new(address(LOOPBACK, v6), node_port(number));
                let mut answered = std::collections::BTreeSet::new();
                for _ in 0..CONNECTIONS_MAX {
                    let answer = ask(node, target, over, PATIENCE)
                        .unwrap_or_else(|error| panic!("{} -> {target}, {over:?}: {error}", node.name));
                    assert!(!answer.seen.ip().is_loopback(), "{answer:?}");
                    answered.insert(answer.backend);
                    if answered.len() == cluster.lab.backends().len() {
                        break;
                    }
                }
                // What comes from the node itself short-circuits to all of them.
                let all = cluster.lab.backends().len();
                assert_eq!(answered.len(), all, "{} -> {target}, {over:?}: {answered:?}", node.name);
            }
        }
    }
}

/// What another machine sends to a loopback address, as in CVE-2020-8558, reaches no NodePort.
#[test]
fn loopback_is_nobody_elses() {
    let cluster = start(Lab::two_nodes(), cluster_cidr(), services);
    let (lab, node) = (&cluster.lab, cluster.lab.node());
    // The router is a neighbour without an agent of its own. It leads 127.0.0.9 to the node.
    let neighbour = lab.router().expect("there are two nodes");
    neighbour.run(|| {
        for device in ["all", "lan0"] {
            let setting = format!("/proc/sys/net/ipv4/conf/{device}/route_localnet");
            std::fs::write(setting, "1").expect("the setting is there");
        }
    });
    let route = format!("route add 127.0.0.9 via {} dev lan0", node.v4);
    ip(neighbour, &route);
    for line in [
        "rule add pref 9 lookup main",
        "rule add pref 10 lookup local",
        "rule del pref 0",
    ] {
        ip(neighbour, line);
    }
    for over in Over::BOTH {
        let target = SocketAddr::new("127.0.0.9".parse().expect("an address"), node_port(PLAIN));
        let before = node.counters("eth0").expect("counters").rx.packets;
        let answer = ask(neighbour, target, over, SILENCE);
        assert!(answer.is_err(), "{answer:?}");
        let after = node.counters("eth0").expect("counters").rx.packets;
        assert!(after > before, "nothing came to the node");
    }
}

/// `--nodeport-addresses`, and where a NodePort is then served: on `eth0`, on another address, on loopback, in each family.
#[rstest]
#[case::unless_told(None, [(true, true), (true, true), (true, true)])]
#[case::all(Some("all"), [(true, true), (true, true), (true, true)])]
#[case::primary(Some("primary"), [(true, true), (false, false), (false, false)])]
#[case::localhost(Some("localhost"), [(false, false), (false, false), (true, true)])]
#[case::the_nodes_network(Some("172.18.0.0/24,fd00:172:18::/64"), [(true, true), (false, false), (false, false)])]
#[case::another_network(Some("10.99.0.0/16,fd00:99::/64"), [(false, false), (true, true), (false, false)])]
#[case::mixed(Some("primary,localhost"), [(true, true), (false, false), (true, true)])]
fn rows_34_to_44_on_the_addresses_of_choice(#[case] list: Option<&str>, #[case] served: [(bool, bool); 3]) {
    let lab = Lab::two_nodes().build().expect("the lab can be built: this needs root");
    let node = lab.node();
    ip(node, "link add name more0 type bridge");
    ip(node, "link set more0 up");
    ip(node, &format!("addr add {}/32 dev more0", MORE[0]));
    ip(node, &format!("addr add {}/128 dev more0 nodad", MORE[1]));
    let services = services(&lab);
    let mut extra = cluster_cidr();
    extra.extend(
        list.iter()
            .flat_map(|list| ["--nodeport-addresses".to_owned(), (*list).to_owned()]),
    );
    let options = AgentOptions {
        extra,
        ..AgentOptions::default()
    };
    let cluster = Cluster::start(lab, &services, &options).expect("servers and agents start");
    let node = cluster.lab.node();
    let own = node.addresses().map(|address| address.to_string());
    let own = [own[0].as_str(), own[1].as_str()];
    let (pod, outside) = (cluster.lab.backend(2), cluster.lab.client());
    let mut wrong = Vec::new();
    for (addresses, served, clients) in [
        (own, served[0], [outside, pod, node].as_slice()),
        (MORE, served[1], &[pod, node]),
        (LOOPBACK, served[2], &[node]),
    ] {
        for (over, v6) in combinations() {
            let target = SocketAddr::new(address(addresses, v6), node_port(PLAIN));
            for client in clients {
                let outcome = ask(client, target, over, PATIENCE);
                // Nobody listens there: the node itself refuses it.
                if outcome.is_ok() != if v6 { served.1 } else { served.0 } {
                    wrong.push(format!("{} -> {target}, {over:?}: {outcome:?}", client.name));
                }
            }
        }
    }
    expect_none(&wrong);
}

/// A family that the list does not name is served on all addresses.
#[test]
fn a_list_of_one_family_says_nothing_of_the_other() {
    let mut extra = cluster_cidr();
    extra.extend(["--nodeport-addresses", "10.99.0.0/16"].map(str::to_owned));
    let cluster = start(Lab::two_nodes(), extra, services);
    let lab = &cluster.lab;
    for over in Over::BOTH {
        for (v6, served) in [(false, false), (true, true)] {
            let target = Frontend::NodePort.of(PLAIN, lab.node(), over, v6);
            let outcome = ask(lab.client(), target, over, PATIENCE);
            assert_eq!(outcome.is_ok(), served, "{target}, {over:?}: {outcome:?}");
        }
    }
}

/// The only pod of a Service reaches itself by every frontend, whatever the policy.
#[rstest]
#[case::routed(Lab::two_nodes())]
#[case::bridge(Lab::two_bridge_nodes())]
fn a_pod_reaches_itself(#[case] builder: LabBuilder) {
    let cluster = start(builder, cluster_cidr(), services);
    let pods: Vec<&Host> = vec![cluster.lab.backend(1)];
    let mut cases = Vec::new();
    for frontend in Frontend::ALL {
        for service in [ALONE, ALONE_LOCAL] {
            cases.push(Case {
                number: "4.3",
                who: Who::Pod,
                frontend,
                service,
                pods: &pods,
                expect: Expect::All(Source::Masq),
            });
        }
    }
    expect_none(&play_by(&cluster.lab, 1, &cases));
}

fn services(lab: &Lab) -> Vec<Service> {
    let local = || json!({"externalTrafficPolicy": "Local"});
    vec![
        service(lab, "plain", PLAIN, json!({})).backends(lab.backends()),
        service(lab, "local", LOCAL, local()).backends(lab.backends()),
        service(lab, "alone", ALONE, json!({})).backends([lab.backend(1)]),
        service(lab, "alone-local", ALONE_LOCAL, local()).backends([lab.backend(1)]),
    ]
}

fn address(texts: [&str; 2], v6: bool) -> IpAddr {
    texts[usize::from(v6)].parse().expect("an address")
}
