//! Rows 1 to 11 and 72 to 76: ClusterIPs, `internalTrafficPolicy`.

use rstest::rstest;

use super::{becomes, flow_of, world};
use crate::oracle::World;

/// The Services of rows 1 to 10.
fn general() -> World {
    world(
        "service one cluster 172.30.0.41 fd00:172::29 ports http/TCP/80
         slice one-1 of one ports http/TCP/80 endpoints 10.180.0.1,L
         slice one-2 of one ports http/TCP/80 endpoints fd00:10::180:1,L
         service two cluster 172.30.0.42 ports http/TCP/80 https/TCP/443
         slice two-1 of two ports http/TCP/80 https/TCP/8443 endpoints 10.180.0.1,L 10.180.2.2,R
         service dns cluster 172.30.0.43 ports dns-tcp/TCP/53 dns/UDP/53 dns-sctp/SCTP/53
         slice dns-1 of dns ports dns-tcp/TCP/5353 dns/UDP/53 dns-sctp/SCTP/53 endpoints 10.180.0.1,L 10.180.2.2,R",
    )
}

#[rstest]
#[case::row_1_one_endpoint("TCP", "pod", "172.30.0.41:80", "10.180.0.1:80 -")]
#[case::row_1_v6("TCP", "pod", "[fd00:172::29]:80", "[fd00:10::180:1]:80 -")]
#[case::row_2_hairpin("TCP", "pod1 10.180.0.1:40000", "172.30.0.41:80", "10.180.0.1:80 M")]
#[case::row_3_two_endpoints("TCP", "pod", "172.30.0.42:80", "10.180.0.1:80 - or 10.180.2.2:80 -")]
#[case::row_4_target_port("TCP", "pod", "172.30.0.42:443", "10.180.0.1:8443 - or 10.180.2.2:8443 -")]
#[case::row_5_tcp_of_three("TCP", "pod", "172.30.0.43:53", "10.180.0.1:5353 - or 10.180.2.2:5353 -")]
#[case::row_6_udp_of_three("UDP", "pod", "172.30.0.43:53", "10.180.0.1:53 - or 10.180.2.2:53 -")]
#[case::row_7_sctp_of_three("SCTP", "pod", "172.30.0.43:53", "10.180.0.1:53 - or 10.180.2.2:53 -")]
#[case::row_8_wrong_protocol("UDP", "pod", "172.30.0.42:80", "REJECT")]
#[case::row_9_port_of_another_service("TCP", "pod", "172.30.0.42:53", "REJECT")]
#[case::row_10_unallocated("TCP", "pod", "172.30.0.99:80", "DROP, unallocated address")]
#[case::row_10_unallocated_v6("TCP", "node", "[fd00:172::99]:80", "DROP, unallocated address")]
#[case::row_10_in_no_service_cidr("TCP", "pod", "172.31.0.99:80", "not handled")]
#[case::two_endpoints_one_of_them_the_client(
    "TCP",
    "pod1 10.180.0.1:40000",
    "172.30.0.42:80",
    "10.180.0.1:80 M or 10.180.2.2:80 -"
)]
fn general_rows(#[case] protocol: &str, #[case] who: &str, #[case] dialled: &str, #[case] expected: &str) {
    assert_eq!(general().decide(&flow_of(protocol, who, dialled)).to_string(), expected);
}

#[test]
fn unallocated_addresses_pass_while_no_range_is_known() {
    let mut world = general();
    world.node.service_cidrs.clear();
    assert_eq!(becomes(&world, "pod", "172.30.0.99:80"), "not handled");
}

#[rstest]
#[case::row_11_no_endpoints("", "REJECT")]
#[case::row_72_cluster_three_endpoints("10.180.0.1,L 10.180.0.2,R 10.180.0.3,R", "1+2+3 -")]
#[case::row_76_slice_deleted("", "REJECT")]
fn internal_cluster(#[case] endpoints: &str, #[case] expected: &str) {
    let world = world(&format!(
        "service one cluster 172.30.0.41 ports http/TCP/80
         slice one-1 of one ports http/TCP/80 endpoints {endpoints}"
    ));
    assert_eq!(becomes(&world, "pod", "172.30.0.41:80"), expected);
}

#[rstest]
#[case::row_73_local_one("10.180.0.1,L 10.180.0.2,R 10.180.0.3,R", "1 -")]
#[case::row_74_local_two("10.180.0.1,L 10.180.0.2,L 10.180.0.3,R", "1+2 -")]
#[case::row_75_local_none("10.180.0.1,R 10.180.0.2,R", "DROP, no local endpoint")]
#[case::row_76_slice_deleted("", "REJECT")]
fn internal_local(#[case] endpoints: &str, #[case] expected: &str) {
    let world = world(&format!(
        "service one cluster 172.30.0.41 itp ports http/TCP/80
         slice one-1 of one ports http/TCP/80 endpoints {endpoints}"
    ));
    assert_eq!(becomes(&world, "pod", "172.30.0.41:80"), expected);
}
