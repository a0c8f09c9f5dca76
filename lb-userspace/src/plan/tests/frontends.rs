//! On which addresses a port is served, what each is, and what of a Service goes with it (behaviour reference §2, §2.4,
//! §2.5). Which ingress entries become addresses at all (row 114) is decided where objects are read:
//! `source/convert/tests.rs`.

use rstest::rstest;

use super::only_port;
use crate::model::sample::{apply_service, ip, key, port, service, synced_store};
use crate::model::{NodeView, Protocol, Service, ServiceType, TrafficPolicy};
use crate::plan::{FrontendKind, plan_service};

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster",
        FrontendKind::NodePort => "node port",
        FrontendKind::ExternalIp => "external",
        FrontendKind::LoadBalancer => "balancer",
    }
}

/// The frontends of both families, such as `cluster 10.96.0.1:80`; the second list is that of IPv6.
fn frontends(web: &Service) -> [Vec<String>; 2] {
    let mut store = synced_store();
    store.apply(apply_service(web.clone()));
    let mut both = [Vec::new(), Vec::new()];
    for (id, port) in plan_service(&store, store.node(), &key("web")) {
        let list = &mut both[usize::from(id.family == crate::model::Family::V6)];
        let text = |frontend: &crate::plan::Frontend| {
            format!("{} {}:{}", kind(frontend.kind), frontend.address, frontend.port)
        };
        list.extend(port.frontends.iter().map(text));
    }
    both
}

fn dual_stack() -> Service {
    let mut web = service("web");
    web.cluster_ips = [ip("10.96.0.1"), ip("fd00::1")].into();
    web
}

fn as_balancer(web: &mut Service) {
    web.service_type = ServiceType::LoadBalancer;
    web.load_balancer_vips = [ip("203.0.113.9"), ip("203.0.113.10"), ip("2001:db8::9")].into();
    web.ports[0].node_port = Some(30_080);
}

#[rstest]
#[case::cluster_ip(|_: &mut Service| {}, &["cluster 10.96.0.1:80"], &["cluster fd00::1:80"])]
#[case::node_port_on_the_unspecified_address(
    |web: &mut Service| web.ports[0].node_port = Some(30_080),
    &["node port 0.0.0.0:30080", "cluster 10.96.0.1:80"],
    &["node port :::30080", "cluster fd00::1:80"]
)]
#[case::external_ip_in_its_own_family(
    |web: &mut Service| web.external_ips = [ip("198.51.100.7")].into(),
    &["cluster 10.96.0.1:80", "external 198.51.100.7:80"],
    &["cluster fd00::1:80"]
)]
#[case::row_114_balancer_addresses_have_the_port_and_not_the_node_port(
    as_balancer,
    &["node port 0.0.0.0:30080", "cluster 10.96.0.1:80", "balancer 203.0.113.9:80", "balancer 203.0.113.10:80"],
    &["node port :::30080", "balancer 2001:db8::9:80", "cluster fd00::1:80"]
)]
#[case::balancer_without_node_ports(
    |web: &mut Service| { as_balancer(web); web.ports[0].node_port = None; },
    &["cluster 10.96.0.1:80", "balancer 203.0.113.9:80", "balancer 203.0.113.10:80"],
    &["balancer 2001:db8::9:80", "cluster fd00::1:80"]
)]
#[case::row_112_external_name(
    |web: &mut Service| { as_balancer(web); web.service_type = ServiceType::ExternalName; }, &[], &[]
)]
#[case::row_111_headless(|web: &mut Service| { as_balancer(web); web.cluster_ips = [].into(); }, &[], &[])]
#[case::a_family_without_cluster_ip_is_not_served(
    |web: &mut Service| { as_balancer(web); web.cluster_ips = [ip("10.96.0.1")].into(); },
    &["node port 0.0.0.0:30080", "cluster 10.96.0.1:80", "balancer 203.0.113.9:80", "balancer 203.0.113.10:80"],
    &[]
)]
#[case::an_address_written_twice_is_the_stricter_kind(
    |web: &mut Service| {
        web.load_balancer_vips = [ip("203.0.113.9")].into();
        web.external_ips = [ip("203.0.113.9"), ip("10.96.0.1"), ip("203.0.113.9")].into();
    },
    &["cluster 10.96.0.1:80", "balancer 203.0.113.9:80"],
    &["cluster fd00::1:80"]
)]
fn addresses_of_a_service(#[case] change: fn(&mut Service), #[case] v4: &[&str], #[case] v6: &[&str]) {
    let mut web = dual_stack();
    change(&mut web);
    assert_eq!(frontends(&web), [v4, v6]);
}

#[test]
fn rows_109_and_110_every_port_has_all_addresses_and_its_own_node_port() {
    let mut web = service("web");
    web.ports = [port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)].into();
    web.external_ips = [ip("198.51.100.7")].into();
    web.ports[0].node_port = Some(30_080);
    let expected = [
        "node port 0.0.0.0:30080",
        "cluster 10.96.0.1:80",
        "external 198.51.100.7:80",
        "cluster 10.96.0.1:53",
        "external 198.51.100.7:53",
    ];
    assert_eq!(frontends(&web)[0], expected);
    web.ports = [web.ports[1].clone()].into();
    assert_eq!(frontends(&web)[0], expected[3..]);
}

#[rstest]
#[case::with_a_node_port(ServiceType::NodePort, Some(30_080), true)]
#[case::row_105_without_an_external_address(ServiceType::NodePort, None, false)]
#[case::cluster_ip_type_with_a_stray_node_port(ServiceType::ClusterIp, Some(30_080), false)]
fn external_policy_counts_where_it_can(
    #[case] service_type: ServiceType,
    #[case] node_port: Option<u16>,
    #[case] counts: bool,
) {
    let mut web = service("web");
    (web.service_type, web.external_policy) = (service_type, TrafficPolicy::Local);
    web.ports[0].node_port = node_port;
    let port = only_port(web, &NodeView::default());
    assert_eq!((port.external_local, port.local.is_some()), (counts, counts));
}

#[rstest]
#[case::none(None)]
#[case::some(Some(10_800))]
fn session_affinity_is_that_of_the_service(#[case] timeout_s: Option<u32>) {
    let mut web = service("web");
    web.affinity_timeout_s = timeout_s;
    assert_eq!(only_port(web, &NodeView::default()).affinity_timeout_s, timeout_s);
}

#[rstest]
#[case::neither(None, false, false)]
#[case::the_node_says_so(None, true, true)]
#[case::the_annotation_says_so(Some(true), false, true)]
#[case::the_annotation_says_no(Some(false), true, false)]
fn the_annotation_reset_removed_goes_before_the_node(
    #[case] annotation: Option<bool>,
    #[case] of_node: bool,
    #[case] resets: bool,
) {
    let mut web = service("web");
    web.resets_removed = annotation;
    let node = NodeView {
        resets_removed: of_node,
        ..NodeView::default()
    };
    assert_eq!(only_port(web, &node).resets, resets);
}
