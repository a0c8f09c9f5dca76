//! Which Services count and how slices merge (§1.2, §1.5); rows 111 and 112 as far as they are about packets.

use rstest::rstest;

use super::{becomes, world};

#[rstest]
#[case::row_111_headless("")]
#[case::row_112_external_name("cluster 172.30.0.41 type ExternalName")]
#[case::other_proxy("cluster 172.30.0.41 other-proxy")]
#[case::headless_label("cluster 172.30.0.41 headless")]
#[case::of_the_other_family("cluster fd00:172::29")]
fn services_that_produce_nothing(#[case] service: &str) {
    let world = world(&format!(
        "service one {service} external 1.2.3.4 ports http/TCP/80/3001
         slice one-1 of one ports http/TCP/80 endpoints 10.180.0.1,L"
    ));
    assert_eq!(becomes(&world, "pod", "1.2.3.4:80"), "not handled");
    assert_eq!(becomes(&world, "pod", "192.168.0.2:3001"), "not handled");
    assert_eq!(becomes(&world, "pod", "172.30.0.41:80"), "DROP, unallocated address");
}

#[rstest]
#[case::union(
    "slice a of one ports http/TCP/80 endpoints 10.0.1.1\nslice b of one ports http/TCP/80 endpoints 10.0.1.2",
    "1+2 -"
)]
#[case::two_numbers(
    "slice a of one ports http/TCP/80 endpoints 10.0.1.1\nslice b of one ports http/TCP/81 endpoints 10.0.1.1",
    "1+1 -"
)]
#[case::other_name("slice a of one ports https/TCP/80 endpoints 10.0.1.1", "REJECT")]
#[case::other_protocol("slice a of one ports http/UDP/80 endpoints 10.0.1.1", "REJECT")]
#[case::no_name("slice a of one ports nil/TCP/80 endpoints 10.0.1.1", "REJECT")]
#[case::no_number("slice a of one ports http/TCP endpoints 10.0.1.1", "REJECT")]
#[case::number_zero("slice a of one ports http/TCP/0 endpoints 10.0.1.1", "REJECT")]
#[case::names_instead_of_addresses("slice a of one type FQDN ports http/TCP/80 endpoints 10.0.1.1", "REJECT")]
#[case::of_nobody("slice a ports http/TCP/80 endpoints 10.0.1.1", "REJECT")]
#[case::of_another_proxy("slice a of one other-proxy ports http/TCP/80 endpoints 10.0.1.1", "REJECT")]
#[case::alive_after_dying(
    "slice a of one ports http/TCP/80 endpoints 10.0.1.1,is=st\nslice b of one ports http/TCP/80 endpoints 10.0.1.1",
    "1 -"
)]
#[case::dying_after_alive(
    "slice a of one ports http/TCP/80 endpoints 10.0.1.1\nslice b of one ports http/TCP/80 endpoints 10.0.1.1,is=st",
    "1 -"
)]
fn merged_slices(#[case] slices: &str, #[case] expected: &str) {
    let world = world(&format!("service one cluster 172.30.0.41 ports http/TCP/80\n{slices}"));
    assert_eq!(becomes(&world, "pod", "172.30.0.41:80"), expected);
}
