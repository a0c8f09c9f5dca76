//! `loadBalancerSourceRanges`: who may dial a Service's load-balancer addresses (behaviour reference §4.4, set-up of
//! §7.3).

use rstest::rstest;

use crate::model::sample::{NODE, apply_service, ip, key, service, synced_store};
use crate::model::{Cidr, NodeFacts, NodeView, ServiceType};
use crate::plan::plan_service;

/// The ranges of both families, or `everybody`.
fn sources(vips: &[&str], ranges: &[&str], node: &NodeView) -> [String; 2] {
    let mut store = synced_store();
    let mut web = service("web");
    web.service_type = ServiceType::LoadBalancer;
    web.cluster_ips = [ip("10.96.0.1"), ip("fd00::1")].into();
    web.load_balancer_vips = vips.iter().map(|vip| ip(vip)).collect();
    web.source_ranges = ranges.iter().filter_map(|range| Cidr::parse_leniently(range)).collect();
    store.apply(apply_service(web));
    let planned = plan_service(&store, node, &key("web"));
    let texts = planned.iter().map(|(_, port)| match &port.sources {
        None => "everybody".to_owned(),
        Some(ranges) => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    });
    texts.collect::<Vec<_>>().try_into().expect("two families")
}

fn node(addresses: &[&str]) -> NodeView {
    NodeView {
        facts: Some(NodeFacts {
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            ..NodeFacts::default()
        }),
        ..NodeView::named(NODE)
    }
}

const VIPS: &[&str] = &["1.2.3.4", "5.6.7.8"];
const BOTH: &[&str] = &["1.2.3.4", "2001:db8::4"];

#[rstest]
#[case::rows_21_to_24_as_written(VIPS, &["203.0.113.0/25"], &["192.168.0.2"], "203.0.113.0/25", "everybody")]
#[case::rows_25_to_30_a_range_with_the_node_lets_all_vips_in(
    VIPS,
    &["192.168.0.0/24", " 203.0.113.0/25"],
    &["192.168.0.2"],
    "1.2.3.4/32 5.6.7.8/32 192.168.0.0/24 203.0.113.0/25",
    "everybody"
)]
#[case::the_node_outside_all_ranges(VIPS, &["192.168.0.0/24"], &["192.168.1.2"], "192.168.0.0/24", "everybody")]
#[case::sorted_and_each_once(
    VIPS, &["203.0.113.0/25", "10.0.0.0/8", "203.0.113.9/25"], &[], "10.0.0.0/8 203.0.113.0/25", "everybody"
)]
#[case::each_family_its_own(
    BOTH, &["203.0.113.0/25", "2001:db8:1::/48"], &[], "203.0.113.0/25", "2001:db8:1::/48"
)]
#[case::a_list_of_one_family_leaves_the_other_open(BOTH, &["203.0.113.0/25"], &[], "203.0.113.0/25", "everybody")]
#[case::the_other_way_round(BOTH, &["2001:db8:1::/48"], &[], "everybody", "2001:db8:1::/48")]
#[case::a_family_without_vip_has_nothing_to_filter(
    VIPS, &["203.0.113.0/25", "2001:db8:1::/48"], &[], "203.0.113.0/25", "everybody"
)]
#[case::the_nodes_address_of_the_other_family_counts_there_only(
    BOTH,
    &["192.168.0.0/24", "2001:db8:1::/48"],
    &["2001:db8:1::2"],
    "192.168.0.0/24",
    "2001:db8::4/128 2001:db8:1::/48"
)]
#[case::an_unknown_node_is_loopback(VIPS, &["127.0.0.0/8"], &[], "1.2.3.4/32 5.6.7.8/32 127.0.0.0/8", "everybody")]
#[case::without_ranges(BOTH, &[], &["192.168.0.2"], "everybody", "everybody")]
#[case::without_vips(&[], &["203.0.113.0/25"], &[], "everybody", "everybody")]
fn who_may_dial_a_balancers_address(
    #[case] vips: &[&str],
    #[case] ranges: &[&str],
    #[case] addresses: &[&str],
    #[case] v4: &str,
    #[case] v6: &str,
) {
    assert_eq!(sources(vips, ranges, &node(addresses)), [v4, v6]);
}

#[test]
fn the_bind_address_stands_for_the_nodes() {
    let mut told = node(&["192.168.0.2"]);
    told.bind_address = Some(ip("203.0.113.9"));
    let [v4, _] = sources(VIPS, &["203.0.113.0/25"], &told);
    assert_eq!(v4, "1.2.3.4/32 5.6.7.8/32 203.0.113.0/25");
    told.bind_address = Some(ip("0.0.0.0"));
    let [v4, _] = sources(VIPS, &["203.0.113.0/25"], &told);
    assert_eq!(v4, "203.0.113.0/25", "unspecified says nothing");
}
