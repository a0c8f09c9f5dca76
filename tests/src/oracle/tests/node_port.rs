//! Rows 31 to 44: on which addresses NodePorts are. Where the rows depend on the mode, the expectations here are Sluice's.

use rstest::rstest;

use super::{becomes, world};

/// What becomes of a flow where `nodePortAddresses` is so.
fn with(addresses: &str, who: &str, dialled: &str) -> String {
    let mut world = world(
        "service one type NodePort cluster 172.30.0.41 fd00:172::29 ports http/TCP/80/3001
         slice one-1 of one ports http/TCP/80 endpoints 10.180.0.1,R 10.180.2.2,L
         slice one-2 of one ports http/TCP/80 endpoints fd00:10::180:1,R fd00:10::180:2,L",
    );
    let node = format!("node here node-ports {addresses}");
    world.node.node_port_addresses = crate::oracle::World::read(&node).node.node_port_addresses;
    becomes(&world, who, dialled)
}

#[rstest]
#[case::row_31_cluster_ip("pod", "172.30.0.41:80", "1+2 -")]
#[case::row_32_ext("ext", "192.168.0.2:3001", "1+2 M")]
#[case::row_33_node("node", "192.168.0.2:3001", "1+2 M")]
fn anywhere(
    #[values("", "all", "primary", "192.168.0.0/24")] addresses: &str,
    #[case] who: &str,
    #[case] dialled: &str,
    #[case] expected: &str,
) {
    assert_eq!(with(addresses, who, dialled), expected);
}

#[rstest]
#[case::row_34_second_address("", "ext", "192.168.1.2:3001", "1+2 M")]
#[case::row_35_loopback("", "lo", "127.0.0.1:3001", "1+2 M")]
// Rows 36, 38 and 40: there is no switch for localhost; rows 37, 39, 41 and 42 hold.
#[case::row_36_loopback_has_no_switch("", "lo", "127.0.0.1:3001", "1+2 M")]
#[case::row_37_second_address_not_listed("192.168.0.0/24 127.0.0.1/32", "ext", "192.168.1.2:3001", "not handled")]
#[case::row_38_loopback_listed("192.168.0.0/24 127.0.0.1/32", "lo", "127.0.0.1:3001", "1+2 M")]
#[case::row_38_loopback_not_listed("192.168.0.0/24", "lo", "127.0.0.1:3001", "not handled")]
#[case::row_39_second_range("192.168.0.0/24 192.168.1.0/24 2001:db8::/64", "ext", "192.168.1.2:3001", "1+2 M")]
#[case::row_40_loopback_v6("", "lo", "[::1]:3001", "1+2 M")]
#[case::row_41_second_address_v6("", "ext", "[2001:db8:1::2]:3001", "1+2 M")]
#[case::row_42_v6_outside_its_range("192.168.0.0/24 2001:db8::/64", "ext", "[2001:db8:1::2]:3001", "not handled")]
#[case::row_43_primary("primary", "ext", "192.168.1.2:3001", "not handled")]
#[case::row_43_primary_v6("primary", "ext", "[2001:db8:1::2]:3001", "not handled")]
#[case::row_44_listed("primary 192.168.1.0/24", "ext", "192.168.1.2:3001", "1+2 M")]
#[case::row_44_everything_is_listed("192.168.0.0/24 0.0.0.0/0", "ext", "192.168.1.2:3001", "1+2 M")]
#[case::other_family_only("2001:db8::/64", "ext", "192.168.1.2:3001", "1+2 M")]
#[case::localhost_only("localhost", "lo", "127.0.0.1:3001", "1+2 M")]
#[case::localhost_only_v6("localhost", "lo", "[::1]:3001", "1+2 M")]
#[case::localhost_is_not_the_node("localhost", "ext", "192.168.0.2:3001", "not handled")]
#[case::loopback_only_for_the_host("", "pod", "127.0.0.1:3001", "not handled")]
#[case::loopback_v6_is_not_of_the_range("primary", "lo", "[::1]:3001", "not handled")]
#[case::somebody_elses_address("", "pod", "192.168.0.99:3001", "not handled")]
#[case::no_node_port("", "ext", "192.168.0.2:3002", "not handled")]
fn where_node_ports_are(#[case] addresses: &str, #[case] who: &str, #[case] dialled: &str, #[case] expected: &str) {
    assert_eq!(with(addresses, who, dialled), expected);
}

#[test]
fn a_vip_of_the_host_has_node_ports_and_goes_before_them() {
    let mut world = world(
        "service one type LoadBalancer cluster 172.30.0.41 vips 1.2.3.4 ports http/TCP/80/3001
         slice one-1 of one ports http/TCP/80 endpoints 10.180.0.1,R
         service two type LoadBalancer cluster 172.30.0.42 vips 192.168.0.2 ports x/TCP/3001/80
         slice two-1 of two ports x/TCP/80 endpoints 10.180.0.7,R",
    );
    assert_eq!(becomes(&world, "ext", "1.2.3.4:3001"), "not handled");
    world.node.local_addresses.push("1.2.3.4".parse().expect("an address"));
    assert_eq!(becomes(&world, "ext", "1.2.3.4:3001"), "1 M");
    assert_eq!(becomes(&world, "ext", "192.168.0.2:3001"), "7 M");
    assert_eq!(becomes(&world, "ext", "192.168.1.2:3001"), "1 M");
}
