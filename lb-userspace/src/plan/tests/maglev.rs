//! Which lists have Maglev tables, and the weights of their endpoints.

use rstest::rstest;

use super::super::plan_service;
use crate::model::sample::{NODE, apply_service, apply_slice, endpoints, key, service, slice, synced_store};
use crate::model::{Algorithm, NodeView, TrafficPolicy, Weights};

const HASH: Option<Algorithm> = Some(Algorithm::Hash);
const MAGLEV: Option<Algorithm> = Some(Algorithm::Maglev);

/// Cluster, local: whether each is there and has a table; and whether clients of the ClusterIP are led by them.
#[rstest]
#[case::nobody_comes_from_outside(None, "", (Some(false), None, false))]
#[case::somebody_does(None, "external", (Some(true), None, false))]
#[case::who_comes_gets_local_endpoints(None, "external etp", (Some(true), Some(true), false))]
#[case::others_get_local_endpoints(None, "external itp", (Some(true), Some(false), false))]
#[case::hash_is_for_all(HASH, "external etp", (Some(false), Some(false), false))]
#[case::maglev_is_for_all(MAGLEV, "", (Some(true), None, true))]
#[case::maglev_with_local_endpoints(MAGLEV, "itp", (None, Some(true), true))]
#[case::maglev_from_outside_too(MAGLEV, "external etp", (Some(true), Some(true), true))]
#[case::maglev_where_only_one_list_is_for_outside(MAGLEV, "external itp", (Some(true), Some(true), true))]
fn lists_have_tables(
    #[case] algorithm: Option<Algorithm>,
    #[case] words: &str,
    #[case] expected: (Option<bool>, Option<bool>, bool),
) {
    let mut web = service("web");
    web.algorithm = algorithm;
    for word in words.split_whitespace() {
        match word {
            "external" => web.external_ips = [[198, 51, 100, 7].into()].into(),
            "etp" => web.external_policy = TrafficPolicy::Local,
            "itp" => web.internal_policy = TrafficPolicy::Local,
            other => panic!("what is {other}?"),
        }
    }
    let mut store = synced_store();
    store.apply(apply_service(web));
    store.apply(apply_slice(slice("web-1", "web", &endpoints("10.0.0.1 L; 10.0.0.2 R"))));
    let (_, planned) = plan_service(&store, &NodeView::named(NODE), &key("web")).remove(0);
    let tables = [planned.cluster, planned.local].map(|list| list.map(|list| list.maglev));
    assert_eq!((tables[0], tables[1], planned.internal_maglev), expected);
}

#[test]
fn weights_are_by_address_before_pod_and_one_otherwise() {
    let mut web = service("web");
    web.weights = Some(Box::new(Weights {
        by_address: [([10, 0, 0, 1].into(), 7)].into(),
        by_pod: [("web-0".into(), 3), ("web-1".into(), 5)].into(),
    }));
    let mut store = synced_store();
    store.apply(apply_service(web));
    let lines = "10.0.0.1 pod=web-0; 10.0.0.2 pod=web-1; 10.0.0.3 pod=web-2; 10.0.0.4";
    store.apply(apply_slice(slice("web-1", "web", &endpoints(lines))));
    let (_, planned) = plan_service(&store, &NodeView::named(NODE), &key("web")).remove(0);
    let backends = planned.cluster.expect("a list").backends;
    let weights: Vec<u8> = backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [7, 5, 1, 1]);
}
