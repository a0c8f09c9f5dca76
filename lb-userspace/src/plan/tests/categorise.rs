//! The categorisation table, rows 86–108 of the behaviour reference (§7.10).

use std::sync::Arc;

use proptest::prelude::*;
use rstest::rstest;

use crate::model::merge::endpoints_of_port;
use crate::model::sample::{NODE, endpoints, slice};
use crate::model::{EndpointSlice, Family, NodeView, PortEndpoint, Protocol};
use crate::plan::categorise::{Policies, categorise};

/// A Service without any `Local` policy and without external address.
const PLAIN: Policies = Policies {
    internal_local: false,
    external_local: false,
    externally_accessible: false,
    dsr: false,
};
/// iTP Local, ClusterIP only.
const ITP_LOCAL: Policies = Policies {
    internal_local: true,
    ..PLAIN
};
/// eTP Local with a NodePort.
const ETP_LOCAL: Policies = Policies {
    external_local: true,
    externally_accessible: true,
    ..PLAIN
};
/// iTP Local with a NodePort.
const ITP_LOCAL_NODE_PORT: Policies = Policies {
    internal_local: true,
    externally_accessible: true,
    ..PLAIN
};
/// Both Local, with a NodePort.
const BOTH_LOCAL: Policies = Policies {
    internal_local: true,
    external_local: true,
    externally_accessible: true,
    ..PLAIN
};
/// DSR with a NodePort.
const DSR: Policies = Policies {
    externally_accessible: true,
    dsr: true,
    ..PLAIN
};
/// eTP Local without any external address.
const ETP_LOCAL_NOWHERE: Policies = Policies {
    external_local: true,
    ..PLAIN
};

/// A list that no client uses.
const NOT_USED: &str = "n/a";

/// Last numbers of the addresses of a list, such as `1 4`.
fn numbers(list: Option<&[PortEndpoint<'_>]>) -> String {
    let Some(list) = list else { return NOT_USED.to_owned() };
    let last = |entry: &PortEndpoint<'_>| entry.address.to_string().rsplit('.').next().unwrap().to_owned();
    list.iter().map(last).collect::<Vec<_>>().join(" ")
}

fn node(name: &str, zone: &str) -> NodeView {
    let node = NodeView::named(name);
    if zone == "-" { node } else { node.in_zone(zone) }
}

fn one_slice(lines: &str) -> [Arc<EndpointSlice>; 1] {
    [Arc::new(slice("web-1", "web", &endpoints(lines)))]
}

#[rstest]
#[case::row_086_hints_of_several_zones_own_zone_only(
    PLAIN,
    "a",
    "10.0.0.1 zone=a; 10.0.0.2 zone=b; 10.0.0.3 zone=c; 10.0.0.4 zone=a",
    "1 4",
    NOT_USED,
    true
)]
#[case::row_087_one_ready_endpoint_lacks_hints_no_filter(
    PLAIN,
    "a",
    "10.0.0.1 zone=a; 10.0.0.2 zone=b; 10.0.0.3; 10.0.0.4 zone=a",
    "1 2 3 4",
    NOT_USED,
    true
)]
#[case::row_088_no_hint_names_own_zone_no_filter(PLAIN, "b", "10.0.0.1 zone=a", "1", NOT_USED, true)]
#[case::row_089_node_without_zone_no_filter(PLAIN, "-", "10.0.0.1 zone=a", "1", NOT_USED, true)]
#[case::row_089_node_with_empty_zone_no_filter(PLAIN, "", "10.0.0.1 zone=a", "1", NOT_USED, true)]
#[case::row_090_unready_in_own_zone_is_left_out(
    PLAIN,
    "a",
    "10.0.0.1 zone=a; 10.0.0.2 zone=b; 10.0.0.3 zone=c; 10.0.0.4 zone=a u",
    "1",
    NOT_USED,
    true
)]
#[case::row_091_own_zone_all_unready_no_filter(
    PLAIN,
    "a",
    "10.0.0.1 zone=a u; 10.0.0.2 zone=b; 10.0.0.3 zone=c; 10.0.0.4 zone=a u",
    "2 3",
    NOT_USED,
    true
)]
#[case::row_092_several_zones_per_endpoint(
    PLAIN,
    "c",
    "10.0.0.1 zone=a,b,c; 10.0.0.2 zone=b,c; 10.0.0.3 zone=b,d; 10.0.0.4 zone=c",
    "1 2 4",
    NOT_USED,
    true
)]
#[case::row_093_etp_local_ignores_topology_for_local(
    ETP_LOCAL,
    "a",
    "10.0.0.1 L zone=a; 10.0.0.2 L zone=b; 10.0.0.3 R zone=c; 10.0.0.4 R zone=a",
    "1 4",
    "1 2",
    true
)]
#[case::row_094_itp_local_ignores_topology_for_local(
    ITP_LOCAL_NODE_PORT,
    "a",
    "10.0.0.1 L zone=a; 10.0.0.2 L zone=b; 10.0.0.3 R zone=c; 10.0.0.4 R zone=a",
    "1 4",
    "1 2",
    true
)]
#[case::row_095_lists_overlap_without_being_equal(
    ETP_LOCAL,
    "a",
    "10.0.0.1 L zone=a; 10.0.0.2 L zone=b; 10.0.0.3 R zone=a; 10.0.0.4 R zone=b",
    "1 3",
    "1 2",
    true
)]
#[case::row_096_itp_local_no_endpoints(ITP_LOCAL, "-", "", NOT_USED, "", false)]
#[case::row_097_itp_local_only_remote(ITP_LOCAL, "-", "10.0.0.1 R; 10.0.0.2 R", NOT_USED, "", true)]
#[case::row_098_itp_local_local_and_remote(ITP_LOCAL, "-", "10.0.0.1 L; 10.0.0.2 R", NOT_USED, "1", true)]
#[case::row_099_all_unready(PLAIN, "-", "10.0.0.1 u; 10.0.0.2 u", "", NOT_USED, false)]
#[case::row_100_all_serving_and_terminating(PLAIN, "-", "10.0.0.1 t; 10.0.0.2 t", "1 2", NOT_USED, true)]
#[case::row_101_itp_local_etp_cluster(ITP_LOCAL_NODE_PORT, "-", "10.0.0.1 L; 10.0.0.2 R", "1 2", "1", true)]
#[case::row_102_both_local_only_remote_ready(BOTH_LOCAL, "-", "10.0.0.1 R; 10.0.0.2 R", "1 2", "", true)]
#[case::row_103_both_local_only_remote_terminating(BOTH_LOCAL, "-", "10.0.0.1 R t; 10.0.0.2 R t", "1 2", "", true)]
#[case::row_104_lists_fall_back_independently(
    ETP_LOCAL,
    "-",
    "10.0.0.1 R; 10.0.0.2 L x; 10.0.0.3 L t; 10.0.0.4 R t",
    "1",
    "3",
    true
)]
#[case::dsr_has_a_list_of_this_node_beside_the_one_with_hints(
    DSR,
    "a",
    "10.0.0.1 L zone=b; 10.0.0.2 R zone=a; 10.0.0.3 R zone=b",
    "2",
    "1",
    true
)]
#[case::row_105_etp_local_without_external_address(
    ETP_LOCAL_NOWHERE,
    "-",
    "10.0.0.1 L; 10.0.0.2 R",
    "1 2",
    NOT_USED,
    true
)]
#[case::row_106_node_hints_go_before_zone_hints(
    PLAIN,
    "a",
    "10.0.0.1 zone=a node=here; 10.0.0.2 zone=a node=n2; 10.0.0.3 zone=b node=here,n2",
    "1 3",
    NOT_USED,
    true
)]
#[case::row_107_no_node_hint_names_us_zone_hints_do(
    PLAIN,
    "a",
    "10.0.0.1 zone=a node=n1; 10.0.0.2 zone=a node=n1; 10.0.0.3 zone=b node=n1",
    "1 2",
    NOT_USED,
    true
)]
#[case::row_108_one_endpoint_lacks_node_hints_all_have_zones(
    PLAIN,
    "a",
    "10.0.0.1 zone=a node=here; 10.0.0.2 zone=a; 10.0.0.3 zone=b node=n2",
    "1 2",
    NOT_USED,
    true
)]
#[case::node_hints_work_without_a_zone_label(
    PLAIN,
    "-",
    "10.0.0.1 zone=a node=here; 10.0.0.2 zone=a node=n2",
    "1",
    NOT_USED,
    true
)]
#[case::fall_back_ignores_hints(PLAIN, "a", "10.0.0.1 t zone=a; 10.0.0.2 t zone=b", "1 2", NOT_USED, true)]
#[case::unhinted_unready_endpoint_does_not_count(
    PLAIN,
    "a",
    "10.0.0.1 zone=a; 10.0.0.2 zone=b; 10.0.0.3 u; 10.0.0.4 t",
    "1",
    NOT_USED,
    true
)]
#[case::an_empty_zone_is_nobodys_zone(PLAIN, "", "10.0.0.1 zone=; 10.0.0.2 zone=b", "1 2", NOT_USED, true)]
#[case::serving_alone_is_not_enough(PLAIN, "-", "10.0.0.1 s; 10.0.0.2 L s", "", NOT_USED, false)]
#[case::endpoint_on_no_known_node_is_remote(ITP_LOCAL, "-", "10.0.0.1", NOT_USED, "", true)]
fn categories(
    #[case] policies: Policies,
    #[case] zone: &str,
    #[case] lines: &str,
    #[case] cluster: &str,
    #[case] local: &str,
    #[case] has_any: bool,
) {
    let slices = one_slice(lines);
    let merged = endpoints_of_port(&slices, "http", Protocol::Tcp, Family::V4);
    let found = categorise(&merged, policies, &node(NODE, zone));
    let lists = (numbers(found.cluster.as_deref()), numbers(found.local.as_deref()));
    assert_eq!(
        (lists.0.as_str(), lists.1.as_str(), found.has_any),
        (cluster, local, has_any)
    );
}

fn any_line() -> impl Strategy<Value = String> {
    (
        1..30u8,
        "[LR]?",
        "[rtxus]",
        "(|zone=a|zone=b|zone=a,b)",
        "(|node=here|node=n2)",
    )
        .prop_map(|(number, place, state, zones, nodes)| format!("10.0.0.{number} {place} {state} {zones} {nodes}"))
}

proptest! {
    /// What holds for every set of endpoints, every policy and every node.
    #[test]
    fn promises_of_categorisation(
        lines in prop::collection::vec(any_line(), 0..12),
        internal_local: bool, external_local: bool, externally_accessible: bool, dsr: bool,
        zone in "(-|a|b|c)",
    ) {
        let slices = one_slice(&lines.join(";"));
        let merged = endpoints_of_port(&slices, "http", Protocol::Tcp, Family::V4);
        let policies = Policies { internal_local, external_local, externally_accessible, dsr };
        let found = categorise(&merged, policies, &node(NODE, &zone));
        let usable = |entry: &PortEndpoint<'_>| {
            entry.endpoint.ready || (entry.endpoint.serving && entry.endpoint.terminating)
        };
        let local = found.local.as_deref().unwrap_or_default();
        let cluster = found.cluster.as_deref().unwrap_or_default();
        prop_assert!(found.cluster.is_some() || found.local.is_some(), "every Service uses some list");
        prop_assert!(cluster.iter().chain(local).all(usable), "only usable endpoints");
        prop_assert!(local.iter().all(|entry| entry.endpoint.is_on(NODE)), "Local is local");
        prop_assert_eq!(found.has_any, merged.iter().any(usable), "topology never makes a Service look empty");
        if found.cluster.is_some() {
            prop_assert_eq!(cluster.is_empty(), !found.has_any, "Cluster is empty only if nobody is there");
        }
        for list in [cluster, local] {
            let ready = list.iter().filter(|entry| entry.endpoint.ready).count();
            prop_assert!(ready == 0 || ready == list.len(), "ready and terminating never mix");
        }
    }
}
