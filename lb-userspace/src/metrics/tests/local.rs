//! Service ports without an endpoint on this node; rows 117 to 120 of §7.11.

use rstest::rstest;

use crate::metrics::{NoLocalEndpoints, no_local_endpoints};
use crate::model::sample::{apply_service, apply_slice, endpoints, ip, service, slice, synced_store};
use crate::model::{Service, ServiceType, TrafficPolicy};

const LOCAL: TrafficPolicy = TrafficPolicy::Local;
const CLUSTER: TrafficPolicy = TrafficPolicy::Cluster;

fn web(internal: TrafficPolicy, external: TrafficPolicy) -> Service {
    let mut web = service("web");
    web.service_type = ServiceType::NodePort;
    web.ports[0].node_port = Some(30_080);
    (web.internal_policy, web.external_policy) = (internal, external);
    web
}

fn count(service: Service, lines: &str) -> NoLocalEndpoints {
    let mut store = synced_store();
    store.apply(apply_service(service));
    store.apply(apply_slice(slice("web-1", "web", &endpoints(lines))));
    no_local_endpoints(&store)
}

#[rstest]
#[case::row_117_one_is_here(LOCAL, LOCAL, "10.0.0.1 L; 10.0.0.2 R", (0, 0))]
#[case::row_118_internal_and_only_elsewhere(LOCAL, CLUSTER, "10.0.0.2 R", (1, 0))]
#[case::row_119_external_and_only_elsewhere(CLUSTER, LOCAL, "10.0.0.2 R", (0, 1))]
#[case::row_120_nobody_anywhere(LOCAL, LOCAL, "", (0, 0))]
#[case::both_and_only_elsewhere(LOCAL, LOCAL, "10.0.0.2 R", (1, 1))]
#[case::policy_cluster(CLUSTER, CLUSTER, "10.0.0.2 R", (0, 0))]
#[case::nobody_usable(LOCAL, LOCAL, "10.0.0.1 L u; 10.0.0.2 R x", (0, 0))]
#[case::one_here_terminates_and_serves(LOCAL, LOCAL, "10.0.0.1 L t; 10.0.0.2 R", (0, 0))]
#[case::one_here_terminates_and_does_not_serve(LOCAL, LOCAL, "10.0.0.1 L x; 10.0.0.2 R", (1, 1))]
fn counted(
    #[case] internal: TrafficPolicy,
    #[case] external: TrafficPolicy,
    #[case] lines: &str,
    #[case] expected: (u64, u64),
) {
    let found = count(web(internal, external), lines);
    assert_eq!((found.internal, found.external), ([expected.0, 0], [expected.1, 0]));
}

#[test]
fn families_are_counted_apart() {
    let mut dual = web(LOCAL, LOCAL);
    dual.cluster_ips = [ip("10.96.0.1"), ip("fd00::1")].into();
    let found = count(dual, "2001:db8::2 R");
    assert_eq!((found.internal, found.external), ([0, 1], [0, 1]));
}

#[rstest]
#[case::headless(Service { cluster_ips: [].into(), ..web(LOCAL, LOCAL) })]
#[case::external_name(Service { service_type: ServiceType::ExternalName, ..web(LOCAL, LOCAL) })]
fn what_is_not_served_does_not_count(#[case] service: Service) {
    assert_eq!(count(service, "10.0.0.2 R"), NoLocalEndpoints::default());
}

/// eTP Local counts only where there is an external address (§3.1).
#[test]
fn a_port_without_external_address_does_not_count_as_external() {
    let mut web = web(CLUSTER, LOCAL);
    web.ports[0].node_port = None;
    assert_eq!(count(web, "10.0.0.2 R"), NoLocalEndpoints::default());
}
