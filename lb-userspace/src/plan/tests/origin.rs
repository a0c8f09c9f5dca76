//! How pods' connections are told from others (behaviour reference §4.2; rows 68, 69 and 71 are about the first mode
//! without a range).

use rstest::rstest;

use crate::model::sample::NODE;
use crate::model::{Cidr, Family, NodeFacts, NodeView};
use crate::plan::Detector;

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().filter_map(|text| Cidr::parse_leniently(text)).collect()
}

fn node(pod_cidrs: &[&str]) -> NodeView {
    NodeView {
        facts: Some(NodeFacts {
            pod_cidrs: cidrs(pod_cidrs).into(),
            ..NodeFacts::default()
        }),
        ..NodeView::named(NODE)
    }
}

#[rstest]
#[case::one_of_each(&["10.0.0.0/8", "fd00:10::/64"], "10.0.0.0/8", "fd00:10::/64")]
#[case::only_the_first_of_a_family(&["10.0.0.0/8", "fd00:10::/64", "172.16.0.0/12"], "10.0.0.0/8", "fd00:10::/64")]
#[case::rows_68_and_69_a_family_without_range_has_no_detector(&["10.0.0.0/8"], "10.0.0.0/8", "-")]
#[case::rows_68_and_69_none_at_all(&[], "-", "-")]
fn by_the_clusters_ranges(#[case] ranges: &[&str], #[case] v4: &str, #[case] v6: &str) {
    let detector = Detector::ClusterCidr(cidrs(ranges));
    assert_eq!(pods(&detector, &node(&["10.9.0.0/16"])), [v4, v6]);
    assert!(!detector.is_by_device());
}

#[rstest]
#[case::both(&["10.1.0.0/24", "fd00:1::/64"], "10.1.0.0/24", "fd00:1::/64")]
#[case::the_first_of_a_family(&["10.1.0.0/24", "10.2.0.0/24"], "10.1.0.0/24", "-")]
#[case::none_yet(&[], "-", "-")]
fn by_the_nodes_ranges(#[case] ranges: &[&str], #[case] v4: &str, #[case] v6: &str) {
    assert_eq!(pods(&Detector::NodeCidr, &node(ranges)), [v4, v6]);
    assert_eq!(
        pods(&Detector::NodeCidr, &NodeView::named(NODE)),
        ["-", "-"],
        "unknown node"
    );
}

fn pods(detector: &Detector, node: &NodeView) -> [String; 2] {
    Family::BOTH.map(|family| {
        detector
            .pods(family, node)
            .map_or("-".to_owned(), |range| range.to_string())
    })
}

#[rstest]
#[case::a_port_of_the_bridge(Detector::BridgeInterface("cni0".to_owned()), "veth1", Some("cni0"), true)]
#[case::the_bridge_itself(Detector::BridgeInterface("cni0".to_owned()), "cni0", None, true)]
#[case::a_port_of_another_bridge(Detector::BridgeInterface("cni0".to_owned()), "veth1", Some("br1"), false)]
#[case::no_port(Detector::BridgeInterface("cni0".to_owned()), "eth0", None, false)]
#[case::prefix(Detector::InterfaceNamePrefix("cali".to_owned()), "cali123", None, true)]
#[case::the_prefix_itself(Detector::InterfaceNamePrefix("cali".to_owned()), "cali", None, true)]
#[case::another_name(Detector::InterfaceNamePrefix("cali".to_owned()), "xcali1", Some("cali"), false)]
#[case::by_address(Detector::default(), "cali123", Some("cni0"), false)]
fn by_device(
    #[case] detector: Detector,
    #[case] device: &str,
    #[case] controller: Option<&str>,
    #[case] is_pods: bool,
) {
    assert_eq!(detector.is_pod_device(device, controller), is_pods);
    let by_address = matches!(detector, Detector::ClusterCidr(_));
    assert_eq!(detector.is_by_device(), !by_address);
    assert_eq!(pods(&detector, &node(&["10.1.0.0/24"])), ["-", "-"]);
}
