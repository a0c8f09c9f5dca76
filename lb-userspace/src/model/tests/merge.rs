//! How the slices of a Service become the endpoints of a port (behaviour reference §1.5), row by row.

use std::sync::Arc;

use rstest::rstest;

use crate::model::merge::endpoints_of_port;
use crate::model::sample::{endpoints, ip, slice, slice_port};
use crate::model::{AddressType, EndpointSlice, Family, Protocol};

/// `address:port` of what the unnamed-or-named port gets, terminating ones marked with `t`.
fn merged(slices: Vec<EndpointSlice>, port_name: &str, protocol: Protocol, family: Family) -> String {
    let slices: Vec<_> = slices.into_iter().map(Arc::new).collect();
    endpoints_of_port(&slices, port_name, protocol, family)
        .iter()
        .map(|found| {
            let mark = if found.endpoint.terminating { "t" } else { "" };
            format!("{}:{}{mark}", found.address, found.port)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn http(slices: Vec<EndpointSlice>) -> String {
    merged(slices, "http", Protocol::Tcp, Family::V4)
}

#[rstest]
#[case::union_over_slices("10.0.0.1; 10.0.0.3", "10.0.0.2", "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080")]
#[case::same_endpoint_twice_while_it_moves("10.0.0.1 r", "10.0.0.1 r", "10.0.0.1:8080")]
#[case::later_live_duplicate_replaces_terminating("10.0.0.1 t", "10.0.0.1 r", "10.0.0.1:8080")]
#[case::later_terminating_duplicate_does_not_replace_live("10.0.0.1 r", "10.0.0.1 t", "10.0.0.1:8080")]
#[case::two_terminating_duplicates("10.0.0.1 t", "10.0.0.1 x", "10.0.0.1:8080t")]
#[case::sorted_by_address_not_by_text("10.0.0.10", "10.0.0.9", "10.0.0.9:8080 10.0.0.10:8080")]
#[case::one_slice_empty("10.0.0.1", "", "10.0.0.1:8080")]
fn two_slices(#[case] first: &str, #[case] second: &str, #[case] expected: &str) {
    let first = slice("a", "web", &endpoints(first));
    let second = slice("b", "web", &endpoints(second));
    assert_eq!(http(vec![first, second]), expected);
}

#[rstest]
#[case::name_and_protocol_match(Some("http"), Protocol::Tcp, Some(8080), "10.0.0.1:8080")]
#[case::other_name(Some("https"), Protocol::Tcp, Some(8080), "")]
#[case::other_protocol(Some("http"), Protocol::Udp, Some(8080), "")]
#[case::empty_name_is_not_the_named_port(Some(""), Protocol::Tcp, Some(8080), "")]
#[case::nil_name_is_skipped(None, Protocol::Tcp, Some(8080), "")]
#[case::nil_port_is_skipped(Some("http"), Protocol::Tcp, None, "")]
#[case::port_zero_is_skipped(Some("http"), Protocol::Tcp, Some(0), "")]
fn matching_a_named_port(
    #[case] name: Option<&str>,
    #[case] protocol: Protocol,
    #[case] number: Option<u16>,
    #[case] expected: &str,
) {
    let mut only = slice("a", "web", &endpoints("10.0.0.1"));
    only.ports = [slice_port(name, protocol, number)].into();
    assert_eq!(http(vec![only]), expected);
}

#[rstest]
#[case::empty_name(Some(""), "10.0.0.1:8080")]
#[case::nil_name(None, "")]
#[case::named(Some("http"), "")]
fn matching_an_unnamed_port(#[case] name: Option<&str>, #[case] expected: &str) {
    let mut only = slice("a", "web", &endpoints("10.0.0.1"));
    only.ports = [slice_port(name, Protocol::Tcp, Some(8080))].into();
    assert_eq!(merged(vec![only], "", Protocol::Tcp, Family::V4), expected);
}

#[test]
fn one_name_with_two_numbers_uses_both_side_by_side() {
    let old_pods = slice("a", "web", &endpoints("10.0.0.1"));
    let mut new_pods = slice("b", "web", &endpoints("10.0.0.2; 10.0.0.1"));
    new_pods.ports = [slice_port(Some("http"), Protocol::Tcp, Some(9090))].into();
    assert_eq!(
        http(vec![old_pods, new_pods]),
        "10.0.0.1:8080 10.0.0.1:9090 10.0.0.2:9090"
    );
}

#[test]
fn families_do_not_mix() {
    let v4 = slice("a", "web", &endpoints("10.0.0.1"));
    let v6 = slice("b", "web", &endpoints("2001:db8::1"));
    assert_eq!(http(vec![v4.clone(), v6.clone()]), "10.0.0.1:8080");
    assert_eq!(
        merged(vec![v4, v6], "http", Protocol::Tcp, Family::V6),
        "2001:db8::1:8080"
    );
}

#[test]
fn an_address_of_the_wrong_family_is_skipped() {
    let mut mixed = slice("a", "web", &endpoints("10.0.0.1; 10.0.0.2"));
    mixed.endpoints[0].address = ip("2001:db8::1");
    assert_eq!(http(vec![mixed.clone()]), "10.0.0.2:8080");
    assert_eq!(
        merged(vec![mixed], "http", Protocol::Tcp, Family::V6),
        "",
        "nor does it serve its own family"
    );
}

#[test]
fn names_instead_of_addresses_are_ignored() {
    let mut names = slice("a", "web", &endpoints("10.0.0.1"));
    names.address_type = AddressType::Fqdn;
    assert_eq!(http(vec![names]), "");
}
