//! Rows 59 to 71: who is masqueraded, for every kind of client and frontend and both policies.

use rstest::rstest;

use super::{becomes, world};
use crate::oracle::{Detector, World};

/// The Services of rows 59 to 71, by what is special about them.
fn with(policy: &str) -> World {
    world(&format!(
        "service one type LoadBalancer cluster 172.30.0.41 vips 5.6.7.8 {policy} ports http/TCP/80/30010
         slice one-1 of one ports http/TCP/8080 endpoints 10.180.0.1,R 10.180.1.2,L"
    ))
}

fn dialled(what: &str) -> &'static str {
    match what {
        "ClusterIP" => "172.30.0.41:80",
        "NodePort" => "192.168.0.2:30010",
        "VIP" => "5.6.7.8:80",
        other => panic!("nobody dials a {other}"),
    }
}

/// The 27 cells: client, frontend, and what it gets from the three Services.
const CELLS: [(&str, &str, [&str; 3]); 9] = [
    ("pod", "ClusterIP", ["1+2 -", "1+2 -", "2 -"]),
    ("pod", "NodePort", ["1+2 M", "1+2 -", "1+2 M"]),
    ("pod", "VIP", ["1+2 M", "1+2 -", "1+2 M"]),
    ("node", "ClusterIP", ["1+2 M", "1+2 M", "2 M"]),
    ("node", "NodePort", ["1+2 M", "1+2 M", "1+2 M"]),
    ("node", "VIP", ["1+2 M", "1+2 M", "1+2 M"]),
    ("ext", "ClusterIP", ["1+2 M", "1+2 M", "2 M"]),
    ("ext", "NodePort", ["1+2 M", "2 -", "1+2 M"]),
    ("ext", "VIP", ["1+2 M", "2 -", "1+2 M"]),
];

/// All cells, with those that a variant changes, and how the node is changed for it.
fn check(change: fn(&mut World), overrides: &[(&str, &str, [&str; 3])]) {
    for (who, what, expected) in CELLS {
        let other = overrides.iter().find(|(a, b, _)| (*a, *b) == (who, what));
        let expected = other.map_or(expected, |(_, _, expected)| *expected);
        for (policy, expected) in ["", "etp", "itp"].into_iter().zip(expected) {
            let mut world = with(policy);
            change(&mut world);
            assert_eq!(
                becomes(&world, who, dialled(what)),
                expected,
                "{who} to {what}, {policy:?}"
            );
        }
    }
}

#[test]
fn rows_59_to_67_the_27_cells() {
    check(|_| {}, &[]);
}

#[rstest]
#[case::in_the_range(Detector::NodeCidr)]
#[case::by_device(Detector::Devices(["pod0".to_owned()].into()))]
fn rows_59_to_67_with_other_detectors(#[case] detector: Detector) {
    for (who, what, expected) in CELLS {
        for (policy, expected) in ["", "etp", "itp"].into_iter().zip(expected) {
            let mut world = with(policy);
            world.node.pod_cidrs = vec![lb_userspace::model::Cidr::parse_leniently("10.0.0.0/24").expect("a range")];
            world.node.detector = detector.clone();
            assert_eq!(
                becomes(&world, who, dialled(what)),
                expected,
                "{who} to {what}, {policy:?}"
            );
        }
    }
}

#[test]
fn rows_68_and_69_no_detector() {
    check(
        |world| world.node.detector = Detector::None,
        &[
            ("node", "ClusterIP", ["1+2 -", "1+2 -", "2 -"]),
            ("ext", "ClusterIP", ["1+2 -", "1+2 -", "2 -"]),
            ("pod", "NodePort", ["1+2 M", "2 -", "1+2 M"]),
            ("pod", "VIP", ["1+2 M", "2 -", "1+2 M"]),
        ],
    );
}

#[test]
fn row_70_masquerade_all() {
    check(
        |world| world.node.masquerade_all = true,
        &[("pod", "ClusterIP", ["1+2 M", "1+2 M", "2 M"])],
    );
}

#[test]
fn row_71_masquerade_all_and_no_detector() {
    check(
        |world| (world.node.masquerade_all, world.node.detector) = (true, Detector::None),
        &[
            ("pod", "ClusterIP", ["1+2 M", "1+2 M", "2 M"]),
            ("pod", "NodePort", ["1+2 M", "2 -", "1+2 M"]),
            ("pod", "VIP", ["1+2 M", "2 -", "1+2 M"]),
        ],
    );
}

#[test]
fn a_range_of_one_family_detects_nobody_in_the_other() {
    let mut world = with("");
    world.node.detector = Detector::ClusterCidr(vec![
        lb_userspace::model::Cidr::parse_leniently("fd00:10::/64").expect("a range"),
    ]);
    assert_eq!(becomes(&world, "ext", "172.30.0.41:80"), "1+2 -");
}

#[test]
fn a_pod_that_meets_itself_is_masqueraded_whatever_it_dials() {
    for what in ["ClusterIP", "NodePort", "VIP"] {
        assert_eq!(
            becomes(&with("etp"), "pod2 10.180.1.2:40000", dialled(what)),
            "1 - or 2 M"
        );
    }
}
