//! Direct server return: the lists of a Service that asks for it, where tunnels to its endpoints lead, and what is said of those
//! that have none.

use std::sync::Arc;

use rstest::rstest;

use super::super::{Tunnel, plan_problems, plan_service};
use crate::model::sample::{NODE, apply_service, apply_slice, endpoint, ip, key, service, slice, synced_store};
use crate::model::{Change, Endpoint, Forwarding, NodeFacts, Store};
use crate::plan::DesiredPort;

/// A store with `web`, whose endpoints are on this node, on `n2` and so on, and which asks for direct answers.
fn store(forwarding: Forwarding, nodes: &[&str]) -> Store {
    let mut store = synced_store();
    let addresses = [ip("192.0.2.1")].into();
    store.apply(Change::Node(Some(NodeFacts {
        addresses,
        ..NodeFacts::default()
    })));
    let mut web = service("web");
    (web.forwarding, web.ports[0].node_port) = (Some(forwarding), Some(30_080));
    store.apply(apply_service(web));
    let on = |(number, name): (usize, &&str)| Endpoint {
        node_name: (!name.is_empty()).then(|| (*name).into()),
        ..endpoint(&format!("10.0.0.{}", number + 1))
    };
    let endpoints: Vec<Endpoint> = nodes.iter().enumerate().map(on).collect();
    store.apply(apply_slice(slice("web-1", "web", &endpoints)));
    store
}

fn others(nodes: &[(&str, &[&str])]) -> Change {
    let node = |(name, addresses): &(&str, &[&str])| ((*name).into(), addresses.iter().map(|text| ip(text)).collect());
    Change::OtherNodes(Arc::new(nodes.iter().map(node).collect()))
}

fn planned(store: &Store) -> DesiredPort {
    plan_service(store, store.node(), &key("web")).remove(0).1
}

fn tunnels(port: &DesiredPort) -> Vec<Tunnel> {
    let list = port.cluster.as_ref().expect("a list");
    list.backends.iter().map(|backend| backend.tunnel).collect()
}

fn to(address: &str) -> Tunnel {
    Tunnel::To(ip(address))
}

#[test]
fn there_is_a_list_of_this_node_with_a_table() {
    let port = planned(&store(Forwarding::Dsr, &[NODE, "n2"]));
    let local = port.local.expect("a list");
    assert!(port.dsr && !port.external_local && local.maglev);
    assert_eq!(local.backends.len(), 1);
    let port = planned(&store(Forwarding::Snat, &[NODE, "n2"]));
    assert!(!port.dsr && port.local.is_none());
}

#[rstest]
#[case::first_of_the_family(&["2001:db8::2", "192.0.2.2", "203.0.113.2"], to("192.0.2.2"))]
#[case::none_of_the_family(&["2001:db8::2"], Tunnel::None)]
#[case::what_cannot_be_reached(&["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "203.0.113.2"], to("203.0.113.2"))]
#[case::no_address(&[], Tunnel::None)]
fn tunnels_lead_to_an_address_of_the_node(#[case] addresses: &[&str], #[case] expected: Tunnel) {
    let mut store = store(Forwarding::Dsr, &[NODE, "n2", "n3", ""]);
    assert_eq!(
        tunnels(&planned(&store)),
        [Tunnel::None, Tunnel::Unknown, Tunnel::Unknown, Tunnel::Unknown],
        "nothing is known of them"
    );
    store.apply(others(&[("n2", addresses)]));
    assert_eq!(
        tunnels(&planned(&store)),
        [Tunnel::None, expected, Tunnel::None, Tunnel::None]
    );
}

#[test]
fn without_dsr_nodes_do_not_matter() {
    let mut store = store(Forwarding::Snat, &[NODE, "n2"]);
    assert_eq!(tunnels(&planned(&store)), [Tunnel::None; 2]);
    store.apply(others(&[("n2", &["192.0.2.2"])]));
    assert_eq!(tunnels(&planned(&store)), [Tunnel::None; 2]);
}

#[rstest]
#[case::all_have_one(&[NODE, "n2"], "")]
#[case::unknown_node(&[NODE, "n2", "n9"], "there is no IPv4 address in the status.addresses of Node n9")]
#[case::node_of_the_other_family(&["n6"], "there is no IPv4 address in the status.addresses of Node n6")]
#[case::nowhere(&["n2", ""], "there are endpoints without nodeName")]
#[case::many(&["a", "b", "c", "d", "e", "f", "g"],
    "there is no IPv4 address in the status.addresses of Node a, b, c, d, e and 2 more")]
fn who_is_not_answered_directly_and_why(#[case] nodes: &[&str], #[case] expected: &str) {
    let said = |store: &Store| {
        let problems = plan_problems(store, &key("web"));
        let before = "Service default/web: DSR of IPv4: connections are masqueraded instead: ";
        let texts = problems.iter().map(ToString::to_string);
        let texts: Vec<_> = texts
            .map(|text| text.strip_prefix(before).map(str::to_owned).expect(before))
            .collect();
        texts.join("; ")
    };
    let mut store = store(Forwarding::Dsr, nodes);
    assert_eq!(said(&store), "the other Nodes are not known yet");
    store.apply(others(&[("n2", &["192.0.2.2"]), ("n6", &["2001:db8::6"])]));
    assert_eq!(said(&store), expected);
    store.apply(Change::Node(None));
    assert_eq!(
        said(&store),
        "this node has no IPv4 address; write one into its Node object, or give --bind-address"
    );
}
