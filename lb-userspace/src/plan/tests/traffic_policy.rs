//! Traffic policies and the terminating fall-back, rows 72–85 of the behaviour reference (§7.8, §7.9).

use rstest::rstest;

use super::{external, internal};
use crate::model::sample::{NODE, apply_service, apply_slice, endpoints, ip, key, service, slice, synced_store};
use crate::model::{Change, NodeView, ServiceType, SliceKey, Store, TrafficPolicy};
use crate::plan::{DesiredPort, Scope, WhenEmpty, plan_service};
use TrafficPolicy::{Cluster, Local};

/// A scope as the tables of the reference write it: last numbers of the addresses, or the verdict.
fn outcome(scope: &Scope) -> String {
    if scope.backends.is_empty() {
        return match scope.when_empty {
            WhenEmpty::Reject => "REJECT".to_owned(),
            WhenEmpty::Drop => "DROP".to_owned(),
        };
    }
    let last = |address: std::net::IpAddr| address.to_string().rsplit('.').next().unwrap().to_owned();
    scope
        .backends
        .iter()
        .map(|backend| last(backend.address))
        .collect::<Vec<_>>()
        .join("+")
}

fn only_port(store: &Store) -> DesiredPort {
    let mut planned = plan_service(store, &NodeView::named(NODE), &key("web"));
    assert_eq!(planned.len(), 1);
    planned.remove(0).1
}

#[rstest]
#[case::row_072_cluster_three_endpoints(Cluster, "10.0.0.1 L; 10.0.0.2 R; 10.0.0.3 R", "1+2+3")]
#[case::row_073_local_one_local(Local, "10.0.0.1 L; 10.0.0.2 R; 10.0.0.3 R", "1")]
#[case::row_074_local_two_local(Local, "10.0.0.1 L; 10.0.0.2 L; 10.0.0.3 R", "1+2")]
#[case::row_075_local_none_local(Local, "10.0.0.1 R; 10.0.0.2 R; 10.0.0.3 R", "DROP")]
#[case::local_nobody_anywhere(Local, "10.0.0.1 R x", "REJECT")]
fn rows_72_to_76_pod_dials_cluster_ip(#[case] policy: TrafficPolicy, #[case] lines: &str, #[case] expected: &str) {
    let mut store = synced_store();
    let mut web = service("web");
    web.internal_policy = policy;
    store.apply(apply_service(web));
    store.apply(apply_slice(slice("web-1", "web", &endpoints(lines))));
    assert_eq!(outcome(&internal(&only_port(&store))), expected);

    store.apply(Change::SliceDelete(SliceKey::new("default", "web-1")));
    assert_eq!(
        outcome(&internal(&only_port(&store))),
        "REJECT",
        "row 76: after the slice is deleted"
    );
}

/// Letters of the reference: Lr, Lt, Lx are `L r`, `L t`, `L x`; R likewise.
#[rstest]
#[case::row_077_local_ready_ones_hide_terminating(
    Local,
    "10.0.0.1 L r; 10.0.0.2 L r; 10.0.0.3 L t; 10.0.0.4 L x; 10.0.0.5 R r",
    "1+2+5",
    "1+2"
)]
#[case::row_078_local_only_terminating_here(
    Local,
    "10.0.0.1 L t; 10.0.0.2 L t; 10.0.0.4 L x; 10.0.0.5 R r",
    "5",
    "1+2"
)]
#[case::row_079_local_only_terminating_elsewhere(Local, "10.0.0.5 R t", "5", "DROP")]
#[case::row_080_local_nobody_serves(Local, "10.0.0.1 L x; 10.0.0.5 R x", "REJECT", "REJECT")]
#[case::row_081_cluster_ready_ones_hide_terminating(
    Cluster,
    "10.0.0.1 L r; 10.0.0.2 L r; 10.0.0.3 R t; 10.0.0.4 R x; 10.0.0.5 R r",
    "1+2+5",
    "1+2+5"
)]
#[case::row_082_cluster_only_terminating(
    Cluster,
    "10.0.0.1 L t; 10.0.0.2 L t; 10.0.0.4 R x; 10.0.0.5 R t",
    "1+2+5",
    "1+2+5"
)]
#[case::row_083_cluster_only_terminating_elsewhere(Cluster, "10.0.0.5 R t", "5", "5")]
#[case::row_084_cluster_nobody_serves(Cluster, "10.0.0.1 L x; 10.0.0.5 R x", "REJECT", "REJECT")]
fn rows_77_to_85_terminating_endpoints(
    #[case] policy: TrafficPolicy,
    #[case] lines: &str,
    #[case] pod_to_cluster_ip: &str,
    #[case] outside_to_vip: &str,
) {
    let mut store = synced_store();
    let mut web = service("web");
    web.service_type = ServiceType::LoadBalancer;
    web.load_balancer_vips = [ip("203.0.113.9")].into();
    web.external_policy = policy;
    store.apply(apply_service(web));
    store.apply(apply_slice(slice("web-1", "web", &endpoints(lines))));
    let port = only_port(&store);
    assert_eq!(
        (outcome(&internal(&port)).as_str(), outcome(&external(&port)).as_str()),
        (pod_to_cluster_ip, outside_to_vip)
    );

    store.apply(Change::SliceDelete(SliceKey::new("default", "web-1")));
    let port = only_port(&store);
    assert_eq!(
        (outcome(&internal(&port)).as_str(), outcome(&external(&port)).as_str()),
        ("REJECT", "REJECT"),
        "row 85"
    );
}

/// Silence is for clients that may find an endpoint on another node; with policy Cluster there is none to be found.
#[test]
fn only_a_local_scope_would_ever_drop() {
    let mut store = synced_store();
    let mut web = service("web");
    (web.service_type, web.external_policy) = (ServiceType::NodePort, Local);
    web.ports[0].node_port = Some(30080);
    store.apply(apply_service(web));
    store.apply(apply_slice(slice("web-1", "web", &endpoints("10.0.0.1 L"))));
    let port = only_port(&store);
    assert_eq!(
        (internal(&port).when_empty, external(&port).when_empty),
        (WhenEmpty::Reject, WhenEmpty::Drop)
    );
}

#[test]
fn without_an_external_address_there_is_no_list_for_clients_outside() {
    let mut store = synced_store();
    let mut web = service("web");
    (web.service_type, web.external_policy) = (ServiceType::NodePort, Local);
    store.apply(apply_service(web));
    store.apply(apply_slice(slice("web-1", "web", &endpoints("10.0.0.1 L; 10.0.0.2 R"))));
    let port = only_port(&store);
    assert_eq!((port.external_local, port.local), (false, None));
    assert_eq!(port.cluster.map(|scope| outcome(&scope)).as_deref(), Some("1+2"));
}

#[test]
fn an_external_address_of_one_family_leaves_the_other_alone() {
    let mut store = synced_store();
    let mut web = service("web");
    web.cluster_ips = [ip("10.96.0.1"), ip("fd00::1")].into();
    web.external_ips = [ip("203.0.113.9")].into();
    web.external_policy = Local;
    store.apply(apply_service(web));
    store.apply(apply_slice(slice("web-4", "web", &endpoints("10.0.0.1 L; 10.0.0.2 R"))));
    store.apply(apply_slice(slice(
        "web-6",
        "web",
        &endpoints("2001:db8::1 L; 2001:db8::2 R"),
    )));
    let planned = plan_service(&store, store.node(), &key("web"));
    let local: Vec<_> = planned
        .iter()
        .map(|(_, port)| (port.external_local, port.local.as_ref().map(outcome)))
        .collect();
    let expected = [(true, Some("1".to_owned())), (false, None)];
    assert_eq!(local, expected, "v4 has the local one, v6 has no external address");
}
