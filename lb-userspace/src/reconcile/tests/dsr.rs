//! Nodes of endpoints that answer directly: only what is otherwise is written, and nothing gets another number.

use super::{Bench, backends, desired, ip4, list, with};
use crate::plan::{DesiredPort, Tunnel};

/// A port whose endpoints answer directly, from nodes with these addresses: `?` is not known yet, `-` has none.
fn direct(cluster: &str, nodes: &str) -> DesiredPort {
    with(desired(cluster), |desired| {
        desired.dsr = true;
        desired.local = list("");
        let tunnels = nodes.split_whitespace().map(|node| match node {
            "?" => Tunnel::Unknown,
            "-" => Tunnel::None,
            last => Tunnel::To(format!("192.0.2.{last}").parse().expect("an address")),
        });
        let listed = desired.cluster.iter_mut().flat_map(|list| &mut list.backends);
        for (backend, tunnel) in listed.zip(tunnels) {
            backend.tunnel = tunnel;
        }
    })
}

/// Numbers that were written, and the node of each.
fn written(bench: &mut Bench) -> Vec<String> {
    use crate::tables::Write;
    let writes = std::mem::take(&mut bench.publisher.tables_mut().inner.writes);
    let write = |write: &Write<_>| match write {
        Write::Backend(number, record) if record.node == ip4("0.0.0.0") => format!("{number} nowhere"),
        Write::Backend(number, record) => format!("{number} {}", record.node),
        other => format!("{other:?}"),
    };
    writes.iter().map(write).collect()
}

#[test]
fn a_node_that_appears_moves_or_goes_is_written_where_its_endpoints_are() {
    let mut bench = Bench::new();
    bench.given("web", &direct("1 2 3", "- 2 3"));
    for (nodes, expected) in [
        ("1 2 3", &["1 192.0.2.1"][..]),
        ("1 2 3", &[]),
        ("1 4 4", &["2 192.0.2.4", "3 192.0.2.4"]),
        ("- 4 -", &["1 nowhere", "3 nowhere"]),
    ] {
        bench.publish("web", &direct("1 2 3", nodes)).expect("it fits");
        assert_eq!(written(&mut bench), expected, "{nodes}");
    }
}

#[test]
fn while_nodes_are_unknown_what_an_earlier_agent_has_found_holds() {
    let mut bench = Bench::new();
    bench.given("web", &direct("1 2 3", "1 2 -"));
    let mut bench = bench.successor();
    bench.publish("web", &direct("1 2 3", "? ? ?")).expect("it fits");
    assert_eq!(written(&mut bench), [""; 0]);
    bench.publish("web", &direct("1 2 3", "1 4 -")).expect("it fits");
    assert_eq!(written(&mut bench), ["2 192.0.2.4"]);
}

#[test]
fn a_new_endpoint_on_an_unknown_node_has_none() {
    let mut bench = Bench::new();
    bench.publish("web", &direct("1", "?")).expect("it fits");
    assert!(written(&mut bench).contains(&"1 nowhere".to_owned()));
}

#[test]
fn an_endpoint_in_no_list_follows_its_node_too() {
    let port = |last: &str| {
        with(direct("1", "1"), |desired| {
            desired.others = backends("2t");
            desired.others[0].tunnel = Tunnel::To(format!("192.0.2.{last}").parse().expect("an address"));
        })
    };
    let mut bench = Bench::new();
    bench.given("web", &port("2"));
    bench.publish("web", &port("4")).expect("it fits");
    assert_eq!(written(&mut bench).len(), 1);
}
