//! Rows 12 to 30 and 45 to 58: external addresses, source ranges, `externalTrafficPolicy`.

use rstest::rstest;

use super::{becomes, world};
use crate::oracle::World;

const SERVICE: &str = "service one type LoadBalancer cluster 172.30.0.41 external 192.168.99.11 vips 1.2.3.4 \
                       ports http/TCP/80/3001";

#[rstest]
#[case::row_12_pod_external_ip("pod", "192.168.99.11:80")]
#[case::row_13_ext_external_ip("ext", "192.168.99.11:80")]
#[case::row_14_pod_node_port("pod", "192.168.0.2:3001")]
#[case::row_15_ext_node_port("ext", "192.168.0.2:3001")]
#[case::row_16_pod_vip("pod", "1.2.3.4:80")]
#[case::row_17_ext_vip("ext", "1.2.3.4:80")]
fn no_endpoints(#[case] who: &str, #[case] dialled: &str) {
    assert_eq!(becomes(&world(SERVICE), who, dialled), "REJECT");
    // Nor is it a matter of policy.
    assert_eq!(
        becomes(&world(&SERVICE.replace("ports", "etp ports")), who, dialled),
        "REJECT"
    );
}

/// Rows 18 to 30: the first range holds the node's address.
fn with_ranges() -> World {
    world(
        "service one type LoadBalancer cluster 172.30.0.41 vips 1.2.3.4 5.6.7.8 \
         ranges 192.168.0.0/24 203.0.113.0/25 ports http/TCP/80/3001
         slice one-1 of one ports http/TCP/80 endpoints 10.180.0.1,R",
    )
}

#[rstest]
#[case::row_18_cluster_ip("pod", "172.30.0.41:80", "1 -")]
#[case::row_19_ext_node_port("ext", "192.168.0.2:3001", "1 M")]
#[case::row_20_bad_node_port("bad", "192.168.0.2:3001", "1 M")]
#[case::row_21_ext_vip_1("ext", "1.2.3.4:80", "1 M")]
#[case::row_22_ext_vip_2("ext", "5.6.7.8:80", "1 M")]
#[case::row_23_bad_vip_1("bad", "1.2.3.4:80", "DROP, source not allowed")]
#[case::row_24_bad_vip_2("bad", "5.6.7.8:80", "DROP, source not allowed")]
#[case::row_25_pod_vip_1("pod", "1.2.3.4:80", "DROP, source not allowed")]
#[case::row_26_pod_vip_2("pod", "5.6.7.8:80", "DROP, source not allowed")]
#[case::row_27_node_vip_1("node", "1.2.3.4:80", "1 M")]
#[case::row_28_node_vip_2("node", "5.6.7.8:80", "1 M")]
#[case::row_29_vip_1_to_itself("host 1.2.3.4:40000", "1.2.3.4:80", "1 M")]
#[case::row_30_vip_2_to_itself("host 5.6.7.8:40000", "5.6.7.8:80", "1 M")]
#[case::one_vip_to_the_other("host 1.2.3.4:40000", "5.6.7.8:80", "1 M")]
#[case::other_ports_of_a_vip_are_not_ours("bad", "1.2.3.4:81", "not handled")]
fn source_ranges(#[case] who: &str, #[case] dialled: &str, #[case] expected: &str) {
    assert_eq!(becomes(&with_ranges(), who, dialled), expected);
}

#[test]
fn a_vip_as_source_is_allowed_only_where_the_node_is() {
    let mut world = with_ranges();
    world.node.node_ips = vec!["192.168.77.1".parse().expect("an address")];
    assert_eq!(
        becomes(&world, "host 1.2.3.4:40000", "1.2.3.4:80"),
        "DROP, source not allowed"
    );
}

#[test]
fn ranges_of_one_family_leave_the_other_open() {
    let world = world(
        "service one type LoadBalancer cluster 172.30.0.41 fd00:172::29 vips 1.2.3.4 2001:db8::5678 \
         ranges 192.168.0.0/24 ports http/TCP/80
         slice one-1 of one ports http/TCP/80 endpoints fd00:10::180:1,R",
    );
    assert_eq!(becomes(&world, "ext", "[2001:db8::5678]:80"), "1 M");
}

#[test]
fn a_source_that_is_not_allowed_is_dropped_before_anything_else() {
    let mut world = with_ranges();
    world.slices.clear();
    assert_eq!(becomes(&world, "bad", "1.2.3.4:80"), "DROP, source not allowed");
    assert_eq!(becomes(&world, "ext", "1.2.3.4:80"), "REJECT");
}

const ENDPOINTS: &str = "slice one-1 of one ports http/TCP/80 endpoints 10.180.0.1,R 10.180.2.2,L";

#[rstest]
#[case::row_45_pod_cluster_ip("pod", "172.30.0.41:80", "1+2 -")]
#[case::row_46_pod_external_ip("pod", "192.168.99.11:80", "1+2 -")]
#[case::row_47_ext_external_ip("ext", "192.168.99.11:80", "2 -")]
#[case::row_48_pod_vip("pod", "1.2.3.4:80", "1+2 -")]
#[case::row_49_ext_vip("ext", "1.2.3.4:80", "2 -")]
#[case::row_50_pod_node_port("pod", "192.168.0.2:3001", "1+2 -")]
#[case::row_51_ext_node_port("ext", "192.168.0.2:3001", "2 -")]
fn external_local(#[case] who: &str, #[case] dialled: &str, #[case] expected: &str) {
    let service = SERVICE.replace("ports", "etp ports");
    assert_eq!(
        becomes(&world(&format!("{service}\n{ENDPOINTS}")), who, dialled),
        expected
    );
}

#[rstest]
#[case::row_52_pod_cluster_ip("pod", "172.30.0.41:80", "1+2 -")]
#[case::row_53_pod_external_ip("pod", "192.168.99.11:80", "1+2 M")]
#[case::row_54_ext_external_ip("ext", "192.168.99.11:80", "1+2 M")]
#[case::row_55_pod_vip("pod", "1.2.3.4:80", "1+2 M")]
#[case::row_56_ext_vip("ext", "1.2.3.4:80", "1+2 M")]
#[case::row_57_pod_node_port("pod", "192.168.0.2:3001", "1+2 M")]
#[case::row_58_ext_node_port("ext", "192.168.0.2:3001", "1+2 M")]
fn external_cluster(#[case] who: &str, #[case] dialled: &str, #[case] expected: &str) {
    assert_eq!(
        becomes(&world(&format!("{SERVICE}\n{ENDPOINTS}")), who, dialled),
        expected
    );
}

#[test]
fn a_cluster_ip_service_with_a_stray_node_port_has_no_local_policy() {
    let text = "service one cluster 172.30.0.41 etp ports http/TCP/80/3001";
    let made = world(&format!("{text}\n{ENDPOINTS}"));
    assert_eq!(becomes(&made, "ext", "192.168.0.2:3001"), "1+2 M");
    let made = world(&format!(
        "{}\n{ENDPOINTS}",
        text.replace("etp", "external 192.168.99.11 etp")
    ));
    assert_eq!(becomes(&made, "ext", "192.168.0.2:3001"), "2 -");
}
