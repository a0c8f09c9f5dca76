//! Rows 77 to 85: when endpoints that go away are still used.

use rstest::rstest;

use super::{becomes, world};

#[rstest]
#[case::row_77_local_ready_ones_are_there(
    "etp",
    "10.0.1.1,L 10.0.1.2,L 10.0.1.3,L,is=st 10.0.1.4,L,is=t 10.0.1.5,R",
    "1+2+5 -",
    "1+2 -"
)]
#[case::row_78_local_only_terminating(
    "etp",
    "10.0.1.1,L,is=st 10.0.1.2,L,is=st 10.0.1.3,L,is=t 10.0.1.5,R",
    "5 -",
    "1+2 -"
)]
#[case::row_79_local_only_elsewhere_terminating("etp", "10.0.1.5,R,is=st", "5 -", "DROP, no local endpoint")]
#[case::row_80_local_nobody_serves("etp", "10.0.1.1,L,is=t 10.0.1.5,R,is=t", "REJECT", "REJECT")]
#[case::row_81_cluster_ready_ones_are_there(
    "",
    "10.0.1.1,L 10.0.1.2,L 10.0.1.3,R,is=st 10.0.1.4,R,is=t 10.0.1.5,R",
    "1+2+5 -",
    "1+2+5 M"
)]
#[case::row_82_cluster_only_terminating(
    "",
    "10.0.1.1,L,is=st 10.0.1.2,L,is=st 10.0.1.4,R,is=t 10.0.1.5,R,is=st",
    "1+2+5 -",
    "1+2+5 M"
)]
#[case::row_83_cluster_only_elsewhere_terminating("", "10.0.1.5,R,is=st", "5 -", "5 M")]
#[case::row_84_cluster_nobody_serves("", "10.0.1.1,L,is=t 10.0.1.5,R,is=t", "REJECT", "REJECT")]
#[case::row_85_slice_deleted_cluster("", "", "REJECT", "REJECT")]
#[case::row_85_slice_deleted_local("etp", "", "REJECT", "REJECT")]
fn terminating(#[case] policy: &str, #[case] endpoints: &str, #[case] from_pod: &str, #[case] from_ext: &str) {
    let world = world(&format!(
        "service one type LoadBalancer cluster 172.30.0.41 vips 1.2.3.4 {policy} ports http/TCP/80
         slice one-1 of one ports http/TCP/80 endpoints {endpoints}"
    ));
    assert_eq!(becomes(&world, "pod", "172.30.0.41:80"), from_pod);
    assert_eq!(becomes(&world, "ext", "1.2.3.4:80"), from_ext);
}
