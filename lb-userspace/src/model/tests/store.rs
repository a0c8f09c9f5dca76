//! What a change does to the model, and which Services it dirties.

use std::sync::Arc;

use rstest::rstest;

use crate::model::sample::{NODE, apply_service, apply_slice, endpoints, ip, key, service, slice, synced_store};
use crate::model::{
    AddressType, Change, Cidr, Dirty, EndpointSlice, Family, Forwarding, NodeFacts, NodeView, OptOut, Protocol,
    Service, ServiceType, SliceKey, Store, SyncedKind, TrafficPolicy,
};

fn names(dirty: &Dirty) -> Vec<String> {
    dirty.iter().map(|key| key.name().to_owned()).collect()
}

fn web_slice() -> EndpointSlice {
    slice("web-1", "web", &endpoints("10.0.0.1"))
}

fn store_with_web() -> Store {
    let mut store = synced_store();
    store.apply(apply_service(service("web")));
    store.apply(apply_slice(web_slice()));
    store
}

fn with(mut made: Service, change: fn(&mut Service)) -> Service {
    change(&mut made);
    made
}

fn own_node(change: fn(&mut NodeFacts)) -> Change {
    let mut facts = NodeFacts::default();
    change(&mut facts);
    Change::Node(Some(facts))
}

fn cidr(text: &str) -> Cidr {
    Cidr::parse_leniently(text).unwrap()
}

fn with_slice(change: fn(&mut EndpointSlice)) -> EndpointSlice {
    let mut made = web_slice();
    change(&mut made);
    made
}

#[rstest]
#[case::same_service_again(apply_service(service("web")), &[])]
#[case::same_slice_again(apply_slice(web_slice()), &[])]
#[case::port_number(apply_service(with(service("web"), |s| s.ports[0].port = 81)), &["web"])]
#[case::another_service(apply_service(service("api")), &["api"])]
#[case::service_gone(Change::ServiceDelete(key("web")), &["web"])]
#[case::unknown_service_gone(Change::ServiceDelete(key("api")), &[])]
#[case::endpoint_added(apply_slice(slice("web-1", "web", &endpoints("10.0.0.1; 10.0.0.2"))), &["web"])]
#[case::second_slice(apply_slice(slice("web-2", "web", &endpoints("10.0.0.2"))), &["web"])]
#[case::slice_gone(Change::SliceDelete(SliceKey::new("default", "web-1")), &["web"])]
#[case::unknown_slice_gone(Change::SliceDelete(SliceKey::new("default", "web-2")), &[])]
#[case::slice_before_its_service(apply_slice(slice("api-1", "api", &[])), &[])]
#[case::slice_loses_its_label(apply_slice(with_slice(|s| s.service = None)), &["web"])]
#[case::slice_becomes_names(apply_slice(with_slice(|s| s.address_type = AddressType::Fqdn)), &["web"])]
#[case::slice_gains_proxy_name(apply_slice(with_slice(|s| s.opt_out.proxy_name = true)), &["web"])]
#[case::slice_gains_headless(apply_slice(with_slice(|s| s.opt_out.headless = true)), &["web"])]
#[case::service_gains_proxy_name(apply_service(with(service("web"), |s| s.opt_out.proxy_name = true)), &["web"])]
#[case::service_gains_headless(apply_service(with(service("web"), |s| s.opt_out.headless = true)), &["web"])]
#[case::service_becomes_external_name(
    apply_service(with(service("web"), |s| s.service_type = ServiceType::ExternalName)), &["web"])]
#[case::headless_service_comes(apply_service(with(service("db"), |s| s.cluster_ips = [].into())), &[])]
#[case::slice_with_another_trigger(apply_slice(with_slice(|s| s.triggered = Some(std::time::UNIX_EPOCH))), &[])]
#[case::own_zone(own_node(|node| node.zone = Some("a".into())), &["web"])]
#[case::own_node_without_zone(own_node(|_| {}), &[])]
#[case::own_node_with_addresses(own_node(|node| node.addresses = [ip("192.0.2.1")].into()), &[])]
#[case::own_node_with_pod_ranges(own_node(|node| node.pod_cidrs = [cidr("10.1.0.0/24")].into()), &[])]
#[case::own_node_leaves(own_node(|node| (node.deleting, node.leaving) = (true, true)), &[])]
#[case::own_node_gone(Change::Node(None), &[])]
#[case::service_ranges(Change::ServiceCidrs([cidr("10.96.0.0/16")].into()), &[])]
#[case::synced_again(Change::Synced(SyncedKind::Services), &[])]
fn one_change_to_a_store_with_web(#[case] change: Change, #[case] dirty: &[&str]) {
    assert_eq!(names(&store_with_web().apply(change)), dirty);
}

/// Ranges that have the node's address have more than they say (§4.4).
#[rstest]
#[case::address(own_node(|node| node.addresses = [ip("192.0.2.1")].into()), &["api"])]
#[case::address_and_zone(
    own_node(|node| (node.addresses, node.zone) = ([ip("192.0.2.1")].into(), Some("a".into()))), &["api", "web"])]
#[case::pod_ranges(own_node(|node| node.pod_cidrs = [cidr("10.1.0.0/24")].into()), &[])]
fn the_nodes_addresses_concern_services_with_source_ranges(#[case] change: Change, #[case] dirty: &[&str]) {
    let mut store = store_with_web();
    let ranges = |s: &mut Service| s.source_ranges = [cidr("192.0.2.0/24")].into();
    store.apply(apply_service(with(service("api"), ranges)));
    let headless = |s: &mut Service| (s.source_ranges, s.cluster_ips) = ([cidr("192.0.2.0/24")].into(), [].into());
    store.apply(apply_service(with(service("db"), headless)));
    assert_eq!(names(&store.apply(change.clone())), dirty);
    assert!(store.apply(change).is_empty(), "said before");
}

fn others(nodes: &[(&str, &str)]) -> Change {
    let node = |(name, address): &(&str, &str)| ((*name).into(), [ip(address)].into());
    Change::OtherNodes(Arc::new(nodes.iter().map(node).collect()))
}

/// Services on a node each: `web` asks for direct answers, `api` doesn't, `db` is not meant for clients outside.
fn store_with_dsr() -> Store {
    let mut store = synced_store();
    store.apply(others(&[("n2", "192.0.2.2"), ("n3", "192.0.2.3")]));
    for (name, address) in [("web", "10.0.0.1"), ("api", "10.0.0.2"), ("db", "10.0.0.3")] {
        let mut made = service(name);
        made.ports[0].node_port = (name != "db").then_some(30_080);
        made.forwarding = (name != "api").then_some(Forwarding::Dsr);
        store.apply(apply_service(made));
        let mut endpoint = endpoints(address);
        endpoint[0].node_name = Some("n2".into());
        store.apply(apply_slice(slice(&format!("{name}-1"), name, &endpoint)));
    }
    store
}

#[rstest]
#[case::said_before(&[("n2", "192.0.2.2"), ("n3", "192.0.2.3")], &[])]
#[case::another_address(&[("n2", "192.0.2.22"), ("n3", "192.0.2.3")], &["web"])]
#[case::gone(&[("n3", "192.0.2.3")], &["web"])]
#[case::all_gone(&[], &["web"])]
#[case::a_node_without_its_endpoints(&[("n2", "192.0.2.2"), ("n3", "192.0.2.33")], &[])]
#[case::one_more(&[("n2", "192.0.2.2"), ("n3", "192.0.2.3"), ("n4", "192.0.2.4")], &[])]
fn other_nodes_concern_services_that_ask_for_direct_answers(#[case] nodes: &[(&str, &str)], #[case] dirty: &[&str]) {
    assert_eq!(names(&store_with_dsr().apply(others(nodes))), dirty);
}

#[test]
fn direct_answers_need_an_own_address() {
    let mut store = store_with_dsr();
    let with = |address: &str| {
        let addresses = [ip(address)].into();
        Change::Node(Some(NodeFacts {
            addresses,
            ..NodeFacts::default()
        }))
    };
    assert_eq!(names(&store.apply(with("192.0.2.1"))), ["web"]);
    assert!(store.apply(with("192.0.2.11")).is_empty(), "it has one");
    assert_eq!(names(&store.apply(with("2001:db8::1"))), ["web"]);
}

/// Nodes, told once, are for those Services, too, that ask later.
#[rstest]
#[case::unknown(None, &["web"])]
#[case::known(Some(&[("n2", "192.0.2.2")][..]), &[])]
fn the_first_list_of_others_concerns_all_who_ask(#[case] before: Option<&[(&str, &str)]>, #[case] dirty: &[&str]) {
    let mut store = store_with_web();
    if let Some(nodes) = before {
        store.apply(others(nodes));
    }
    assert!(!store.asks_for_dsr());
    store.apply(apply_service(with(service("web"), |s| {
        (s.forwarding, s.ports[0].node_port) = (Some(Forwarding::Dsr), Some(30_080));
    })));
    assert!(store.asks_for_dsr());
    assert_eq!(names(&store.apply(others(&[("n2", "192.0.2.2")]))), dirty);
    store.apply(Change::ServiceDelete(key("web")));
    assert!(!store.asks_for_dsr());
}

#[rstest]
#[case::by_flag(None, "tcp", |_: &mut Service| {}, true)]
#[case::of_another_protocol(None, "udp", |_: &mut Service| {}, false)]
#[case::nobody_asks(None, "", |_: &mut Service| {}, false)]
#[case::by_annotation(Some(Forwarding::Dsr), "", |_: &mut Service| {}, true)]
#[case::not_by_annotation(Some(Forwarding::Snat), "tcp", |_: &mut Service| {}, false)]
#[case::no_external_address(Some(Forwarding::Dsr), "", |web: &mut Service| web.ports[0].node_port = None, false)]
#[case::local_answers_directly_anyway(
    Some(Forwarding::Dsr), "", |web: &mut Service| {
        (web.service_type, web.external_policy) = (ServiceType::NodePort, TrafficPolicy::Local);
    }, false
)]
#[case::local_does_not_count(
    Some(Forwarding::Dsr), "", |web: &mut Service| web.external_policy = TrafficPolicy::Local, true
)]
fn who_asks_for_direct_answers(
    #[case] forwarding: Option<Forwarding>,
    #[case] flag: &str,
    #[case] change: fn(&mut Service),
    #[case] expected: bool,
) {
    let protocol = Protocol::from_api(&flag.to_uppercase());
    let node = NodeView {
        dsr_protocols: protocol.into_iter().collect(),
        ..NodeView::named(NODE)
    };
    let mut web = service("web");
    (web.forwarding, web.ports[0].node_port) = (forwarding, Some(30_080));
    change(&mut web);
    assert_eq!(web.asks_for_dsr(&web.ports[0], Family::V4, &node), expected);
    assert!(!web.asks_for_dsr(&web.ports[0], Family::V6, &node), "it has no IPv6");
}

#[test]
fn the_bind_address_goes_before_the_nodes_addresses() {
    let told = NodeView {
        bind_address: Some(ip("192.0.2.9")),
        ..NodeView::named(NODE)
    };
    let mut store = Store::new(told);
    store.apply(Change::Synced(SyncedKind::Services));
    store.apply(Change::Synced(SyncedKind::EndpointSlices));
    let ranges = |s: &mut Service| s.source_ranges = [cidr("192.0.2.0/24")].into();
    store.apply(apply_service(with(service("api"), ranges)));
    assert!(
        store
            .apply(own_node(|node| node.addresses = [ip("192.0.2.1")].into()))
            .is_empty()
    );
    assert_eq!(store.node().address(Family::V4), Some(ip("192.0.2.9")));
    let v6 = own_node(|node| node.addresses = [ip("192.0.2.1"), ip("2001:db8::1")].into());
    assert_eq!(names(&store.apply(v6)), ["api"]);
}

#[test]
fn a_slice_that_changes_its_owner_dirties_both() {
    let mut store = store_with_web();
    store.apply(apply_service(service("api")));
    let dirty = store.apply(apply_slice(slice("web-1", "api", &endpoints("10.0.0.1"))));
    assert_eq!(names(&dirty), ["api", "web"]);
    assert_eq!(
        (store.slices(&key("web")).len(), store.slices(&key("api")).len()),
        (0, 1)
    );
}

#[test]
fn the_zone_outlives_the_node_object_and_the_facts_do_not() {
    let mut store = store_with_web();
    store.apply(own_node(|node| {
        node.zone = Some("a".into());
        node.addresses = [ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.2")].into();
        node.pod_cidrs = [cidr("fd00::/64"), cidr("10.1.0.0/24")].into();
    }));
    let facts = store.node().facts.as_ref().unwrap();
    assert_eq!(store.node().address(Family::V4), Some(ip("192.0.2.1")));
    assert_eq!(store.node().address(Family::V6), Some(ip("2001:db8::1")));
    assert_eq!(facts.pod_cidr(Family::V4), Some(cidr("10.1.0.0/24")));
    assert!(facts.eligible());
    assert!(store.apply(Change::Node(None)).is_empty());
    assert_eq!(
        (store.node().zone(), store.node().address(Family::V4)),
        (Some("a"), None)
    );
    let moved = own_node(|node| node.zone = Some("b".into()));
    assert_eq!(names(&store.apply(moved)), ["web"]);
}

#[rstest]
#[case::row_116_both_families(&["10.96.0.0/16", "fd00:96::/112"])]
#[case::none(&[])]
fn service_ranges_are_kept(#[case] ranges: &[&str]) {
    let mut store = synced_store();
    store.apply(Change::ServiceCidrs([cidr("192.0.2.0/24")].into()));
    store.apply(Change::ServiceCidrs(ranges.iter().map(|text| cidr(text)).collect()));
    let kept: Vec<_> = store.service_cidrs().iter().map(ToString::to_string).collect();
    assert_eq!(kept, ranges);
}

#[test]
fn a_slice_is_found_by_its_name_while_it_is_in_force() {
    let mut store = store_with_web();
    let web_1 = SliceKey::new("default", "web-1");
    assert_eq!(store.slice(&web_1).map(|slice| &slice.key), Some(&web_1));
    store.apply(Change::SliceDelete(web_1.clone()));
    assert_eq!(store.slice(&web_1), None);
}

#[test]
fn a_slice_that_regains_its_label_is_back() {
    let mut store = store_with_web();
    store.apply(apply_slice(with_slice(|s| s.service = None)));
    assert_eq!(store.slices(&key("web")).len(), 0);
    assert_eq!(names(&store.apply(apply_slice(web_slice()))), ["web"]);
    assert_eq!(store.slices(&key("web")).len(), 1);
}

#[rstest]
#[case::proxy_name(|s: &mut Service| s.opt_out.proxy_name = true)]
#[case::headless_label(|s: &mut Service| s.opt_out.headless = true)]
#[case::headless(|s: &mut Service| s.cluster_ips = [].into())]
fn an_excluded_service_is_quiet_until_it_is_served_again(#[case] exclude: fn(&mut Service)) {
    let mut store = store_with_web();
    let excluded = with(service("web"), exclude);
    store.apply(apply_service(excluded.clone()));
    let still_excluded = with(excluded, |s| s.ports[0].port = 81);
    assert!(
        store.apply(apply_service(still_excluded)).is_empty(),
        "excluded before and after"
    );
    assert!(
        store.apply(apply_slice(slice("web-1", "web", &[]))).is_empty(),
        "endpoints of an excluded Service"
    );
    assert_eq!(names(&store.apply(apply_service(service("web")))), ["web"]);
    store.apply(apply_service(with(service("web"), exclude)));
    assert!(
        store.apply(Change::ServiceDelete(key("web"))).is_empty(),
        "it was not served when it went"
    );
}

#[test]
fn endpoints_outlive_their_service() {
    let mut store = store_with_web();
    store.apply(Change::ServiceDelete(key("web")));
    assert_eq!(names(&store.apply(apply_service(service("web")))), ["web"]);
    assert_eq!(store.slices(&key("web")).len(), 1);
}

#[rstest]
#[case::services_first([SyncedKind::Services, SyncedKind::EndpointSlices])]
#[case::slices_first([SyncedKind::EndpointSlices, SyncedKind::Services])]
fn nothing_is_dirty_until_both_lists_are_complete(#[case] order: [SyncedKind; 2]) {
    let [first, second] = order;
    let mut store = Store::new(NodeView::named(NODE));
    assert!(store.apply(apply_service(service("web"))).is_empty());
    assert!(store.apply(Change::Synced(first)).is_empty());
    assert!(store.apply(apply_slice(web_slice())).is_empty());
    assert!(!store.is_synced());
    assert_eq!(names(&store.apply(Change::Synced(second))), ["web"]);
    assert!(store.is_synced());
}

#[test]
fn a_service_that_left_before_the_sync_is_not_planned() {
    let mut store = Store::new(NodeView::named(NODE));
    store.apply(apply_service(service("web")));
    store.apply(Change::ServiceDelete(key("web")));
    store.apply(Change::Synced(SyncedKind::Services));
    assert!(store.apply(Change::Synced(SyncedKind::EndpointSlices)).is_empty());
}

#[test]
fn slices_are_kept_by_name_whatever_order_they_came_in() {
    let mut store = synced_store();
    for name in ["c", "a", "b"] {
        store.apply(apply_slice(slice(name, "web", &[])));
    }
    let order: Vec<_> = store.slices(&key("web")).iter().map(|slice| slice.key.name()).collect();
    assert_eq!(order, ["a", "b", "c"]);
}

#[test]
fn opt_out_labels_count_by_presence() {
    assert!(!OptOut::default().any());
    assert!(
        OptOut {
            proxy_name: true,
            headless: false
        }
        .any()
    );
    assert!(
        OptOut {
            proxy_name: false,
            headless: true
        }
        .any()
    );
}
