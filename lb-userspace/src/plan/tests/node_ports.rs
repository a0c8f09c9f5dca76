//! On which addresses NodePorts are served (behaviour reference §2.2 rules 1 to 5; rows 31 to 44 of §7.4).
//!
//! `default` is Sluice's own: all addresses, as iptables mode has it; nftables mode's is `primary`. On loopback addresses
//! NodePorts are served for the node's own processes, of both families, wherever the list has them.

use rstest::rstest;

use crate::model::sample::{NODE, ip};
use crate::model::{Family, NodeFacts, NodeView};
use crate::plan::{BadEntry, NodePortAddresses};

/// 192.168.0.2 and 2001:db8::1 are the Node object's addresses; the host has others, too.
fn node() -> NodeView {
    NodeView {
        facts: Some(NodeFacts {
            addresses: [ip("192.168.0.2"), ip("2001:db8::1")].into(),
            ..NodeFacts::default()
        }),
        ..NodeView::named(NODE)
    }
}

fn list(text: &str) -> NodePortAddresses {
    text.parse().expect("a list")
}

#[rstest]
#[case::rows_31_to_33_the_nodes_address_by_default("", "192.168.0.2", true)]
#[case::rows_31_to_33_the_nodes_address_as_primary("primary", "192.168.0.2", true)]
#[case::row_34_another_address_by_default("", "100.64.0.1", true)]
#[case::row_34_another_address_of_all("all", "100.64.0.1", true)]
#[case::row_35_loopback_by_default("", "127.0.0.1", true)]
#[case::row_36_no_loopback_unless_listed("primary", "127.0.0.1", false)]
#[case::row_37_another_address_is_in_no_range("192.168.0.0/24,127.0.0.1/32", "100.64.0.1", false)]
#[case::row_38_loopback_is_listed_there("192.168.0.0/24,127.0.0.1/32", "127.0.0.1", true)]
#[case::row_38_loopback_is_not_listed("192.168.0.0/24", "127.0.0.1", false)]
#[case::row_39_another_address_is_in_a_range("192.168.0.0/24,100.64.0.0/24,2001:db8::/64", "100.64.0.1", true)]
#[case::row_40_loopback_of_ipv6_by_default("", "::1", true)]
#[case::row_40_loopback_of_ipv6_unless_listed("2001:db8::/64", "::1", false)]
#[case::row_41_another_address_of_ipv6_by_default("", "2001:db8:1::2", true)]
#[case::row_42_another_address_of_ipv6_is_outside("192.168.0.0/24,100.64.0.0/24,2001:db8::/64", "2001:db8:1::2", false)]
#[case::row_43_primary_is_one_address("primary", "100.64.0.1", false)]
#[case::row_43_primary_is_one_address_of_ipv6("primary", "2001:db8:1::2", false)]
#[case::row_44_a_list_that_has_another_address("primary,100.64.0.0/24", "100.64.0.1", true)]
#[case::row_44_a_list_that_has_the_primary_one_too("primary,100.64.0.0/24", "192.168.0.2", true)]
#[case::rule_1_a_family_without_entry_is_served_everywhere("2001:db8::/64", "100.64.0.1", true)]
#[case::rule_1_the_other_way_round("192.168.0.0/24", "2001:db8:1::2", true)]
#[case::rule_2_a_zero_range_hides_all_others("192.168.0.0/24,0.0.0.0/0", "100.64.0.1", true)]
#[case::rule_2_a_zero_range_of_the_other_family_does_not("192.168.0.0/24,::/0", "100.64.0.1", false)]
#[case::rule_5_localhost_is_127_slash_8("localhost", "127.0.0.1", true)]
#[case::rule_5_localhost_is_nothing_else("localhost", "192.168.0.2", false)]
#[case::rule_5_localhost_of_ipv6("localhost", "::1", true)]
#[case::rule_5_any_loopback_address_stands_for_all("127.0.0.77/32", "127.0.0.1", true)]
#[case::blanks_and_empty_entries_are_forgiven(" 192.168.0.0/24 ,, ", "192.168.0.2", true)]
fn served_on(#[case] addresses: &str, #[case] address: &str, #[case] served: bool) {
    assert_eq!(list(addresses).serve_on(ip(address), &node()), served);
}

#[rstest]
#[case::by_default("", [true, true])]
#[case::primary("primary", [false, false])]
#[case::one_family("192.168.0.0/24", [false, true])]
#[case::zero_range("192.168.0.0/24,0.0.0.0/0", [true, true])]
#[case::zero_range_of_one("0.0.0.0/0,2001:db8::/64", [true, false])]
#[case::localhost("localhost", [false, false])]
fn match_all(#[case] addresses: &str, #[case] expected: [bool; 2]) {
    assert_eq!(
        Family::BOTH.map(|family| list(addresses).match_all(family, &node())),
        expected
    );
}

#[test]
fn rule_1_primary_of_a_family_that_the_node_has_no_address_of_is_everything() {
    let mut only_v4 = node();
    only_v4.facts = Some(NodeFacts {
        addresses: [ip("192.168.0.2")].into(),
        ..NodeFacts::default()
    });
    let primary = list("primary");
    assert!(primary.serve_on(ip("2001:db8:1::2"), &only_v4));
    assert!(!primary.serve_on(ip("100.64.0.1"), &only_v4));
    let unknown = NodeView::named(NODE);
    assert!(
        primary.serve_on(ip("100.64.0.1"), &unknown),
        "while the Node is unknown"
    );
    let mut told = unknown;
    told.bind_address = Some(ip("127.0.0.1"));
    assert!(
        primary.serve_on(ip("100.64.0.1"), &told),
        "a loopback address is no primary one"
    );
}

#[test]
fn the_bind_address_is_the_primary_one() {
    let mut told = node();
    told.bind_address = Some(ip("100.64.0.1"));
    assert!(list("primary").serve_on(ip("100.64.0.1"), &told));
    assert!(!list("primary").serve_on(ip("192.168.0.2"), &told));
}

#[rstest]
#[case::word("secondary")]
#[case::address_without_length("192.168.0.2")]
#[case::too_long("192.168.0.0/33")]
fn entries_that_say_nothing_are_refused(#[case] entry: &str) {
    let error: BadEntry = format!("primary,{entry}")
        .parse::<NodePortAddresses>()
        .expect_err("no entry");
    assert!(error.to_string().contains(entry), "{error}");
}
