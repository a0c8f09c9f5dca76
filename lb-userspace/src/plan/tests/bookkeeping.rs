//! What becomes of Services, ports and slices, rows 109–113 of the behaviour reference (§7.11), and the form of a plan.
//! Rows 114 and 115 are about reading objects: see `source/convert/tests.rs`.

use rstest::rstest;

use super::internal;
use crate::model::sample::{
    NODE, apply_service, apply_slice, endpoints, ip, key, port, service, slice, slice_port, synced_store,
};
use crate::model::{Change, Family, NodeView, Protocol, Service, ServiceType, Store, TrafficPolicy};
use crate::plan::{Backend, BackendState, Tunnel, plan_problems, plan_service};
use Protocol::{Sctp, Tcp, Udp};

fn plans(store: &Store) -> Vec<String> {
    let keys: Vec<_> = store.services().map(|service| service.key.clone()).collect();
    let planned = keys.iter().flat_map(|key| plan_service(store, store.node(), key));
    planned
        .map(|(id, port)| format!("{id} {}:{}", port.frontends[0].address, port.frontends[0].port))
        .collect()
}

fn health_ports(store: &Store) -> Vec<u16> {
    store.services().filter_map(|service| service.health_port()).collect()
}

fn with_ports(name: &str, count: u16) -> Service {
    let mut made = service(name);
    made.ports = (0..count)
        .map(|number| port(&format!("p{number}"), Tcp, 8000 + number))
        .collect();
    made
}

fn load_balancer(name: &str, ports: u16) -> Service {
    let mut made = with_ports(name, ports);
    made.service_type = ServiceType::LoadBalancer;
    made.external_policy = TrafficPolicy::Local;
    made.load_balancer_vips = [ip("203.0.113.9")].into();
    made.health_check_node_port = Some(32001);
    made
}

#[test]
fn rows_109_and_110_services_come_and_go() {
    let mut store = synced_store();
    for made in [
        with_ports("a", 2),
        with_ports("b", 3),
        with_ports("c", 3),
        load_balancer("d", 2),
    ] {
        store.apply(apply_service(made));
    }
    assert_eq!((plans(&store).len(), health_ports(&store).len()), (10, 1), "row 109");

    for gone in ["b", "c", "d"] {
        store.apply(Change::ServiceDelete(key(gone)));
    }
    store.apply(apply_service(with_ports("a", 1)));
    assert_eq!((plans(&store).len(), health_ports(&store).len()), (1, 0), "row 110");
}

#[rstest]
#[case::row_111_headless_with_ports(|s: &mut Service| s.cluster_ips = [].into())]
#[case::row_111_headless_without_ports(|s: &mut Service| (s.cluster_ips, s.ports) = ([].into(), [].into()))]
#[case::row_112_external_name_with_cluster_ip_and_ports(|s: &mut Service| s.service_type = ServiceType::ExternalName)]
#[case::other_proxy(|s: &mut Service| s.opt_out.proxy_name = true)]
#[case::headless_label(|s: &mut Service| s.opt_out.headless = true)]
fn services_that_produce_nothing(#[case] change: fn(&mut Service)) {
    let mut store = synced_store();
    let mut web = load_balancer("web", 1);
    change(&mut web);
    store.apply(apply_service(web));
    assert_eq!((plans(&store), health_ports(&store)), (vec![], vec![]));
    assert_eq!(plan_problems(&store, &key("web")), []);
}

#[test]
fn row_113_health_port_follows_type_and_policy() {
    let mut store = synced_store();
    let mut seen = Vec::new();
    for made in [
        with_ports("a", 1),
        load_balancer("a", 1),
        load_balancer("a", 1),
        with_ports("a", 1),
    ] {
        store.apply(apply_service(made));
        seen.push(health_ports(&store).len());
    }
    assert_eq!(seen, [0, 1, 1, 0]);
}

#[rstest]
#[case::load_balancer_local(|_: &mut Service| {}, Some(32001))]
#[case::load_balancer_cluster(|s: &mut Service| s.external_policy = TrafficPolicy::Cluster, None)]
#[case::node_port_local(|s: &mut Service| s.service_type = ServiceType::NodePort, None)]
#[case::no_number(|s: &mut Service| s.health_check_node_port = None, None)]
fn a_health_port_is_for_load_balancers_with_local_policy(#[case] change: fn(&mut Service), #[case] port: Option<u16>) {
    let mut web = load_balancer("web", 1);
    change(&mut web);
    assert_eq!(web.health_port(), port);
}

#[rstest]
#[case::v4_external_ip("203.0.113.9", [true, false])]
#[case::v6_external_ip("2001:db8::9", [false, true])]
fn an_external_address_counts_in_its_own_family(#[case] address: &str, #[case] expected: [bool; 2]) {
    let mut web = service("web");
    web.external_ips = [ip(address)].into();
    assert_eq!(
        Family::BOTH.map(|family| web.externally_accessible(&web.ports[0], family)),
        expected
    );
    (web.external_ips, web.load_balancer_vips) = ([].into(), [ip(address)].into());
    assert_eq!(
        Family::BOTH.map(|family| web.externally_accessible(&web.ports[0], family)),
        expected
    );
    web.ports[0].node_port = Some(30080);
    assert_eq!(
        Family::BOTH.map(|family| web.externally_accessible(&web.ports[0], family)),
        [true, true]
    );
}

#[rstest]
#[case::cluster_ip_type_with_external_ip(ServiceType::ClusterIp, true, true)]
#[case::cluster_ip_type_without_external_ip(ServiceType::ClusterIp, false, false)]
#[case::node_port(ServiceType::NodePort, false, true)]
#[case::load_balancer(ServiceType::LoadBalancer, false, true)]
fn external_local_counts_only_for_clients_outside(
    #[case] service_type: ServiceType,
    #[case] external_ip: bool,
    #[case] counts: bool,
) {
    let mut web = service("web");
    (web.service_type, web.external_policy) = (service_type, TrafficPolicy::Local);
    web.external_ips = external_ip.then(|| ip("203.0.113.9")).into_iter().collect();
    assert_eq!(web.external_is_local(), counts);
}

#[test]
fn a_dual_stack_service_is_planned_once_for_each_family() {
    let mut store = synced_store();
    let mut web = service("web");
    web.cluster_ips = [ip("fd00::1"), ip("10.96.0.1")].into();
    web.ports = [port("dns", Udp, 53), port("dns-tcp", Tcp, 53)].into();
    store.apply(apply_service(web));
    let expected = [
        "default/web:dns/UDP v4 10.96.0.1:53",
        "default/web:dns/UDP v6 fd00::1:53",
        "default/web:dns-tcp/TCP v4 10.96.0.1:53",
        "default/web:dns-tcp/TCP v6 fd00::1:53",
    ];
    assert_eq!(plans(&store), expected);
}

#[test]
fn an_unnamed_port_has_no_colon() {
    let mut store = synced_store();
    let mut web = service("web");
    web.ports = [port("", Tcp, 80)].into();
    store.apply(apply_service(web));
    assert_eq!(plans(&store), ["default/web/TCP v4 10.96.0.1:80"]);
}

#[rstest]
#[case::name_twice(vec![port("a", Tcp, 80), port("a", Tcp, 81)], &["a"], "spec.ports[1]: the name \"a\" was used before")]
#[case::number_twice(vec![port("a", Tcp, 80), port("b", Tcp, 80)], &["a"], "spec.ports[1]: 80/TCP was used before")]
#[case::port_zero(vec![port("a", Tcp, 0), port("b", Tcp, 80)], &["b"], "spec.ports[0]: port 0")]
fn ports_that_cannot_be_served(
    #[case] ports: Vec<crate::model::ServicePort>,
    #[case] served: &[&str],
    #[case] problem: &str,
) {
    let mut store = synced_store();
    let mut web = service("web");
    web.ports = ports.into();
    store.apply(apply_service(web));
    let planned = plan_service(&store, store.node(), &key("web"));
    assert_eq!(planned.iter().map(|(id, _)| &*id.port_name).collect::<Vec<_>>(), served);
    let problems = plan_problems(&store, &key("web"));
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(text.starts_with(&format!("Service default/web: {problem}")), "{text}");
}

#[test]
fn rows_5_to_7_one_number_serves_three_protocols_from_different_endpoints() {
    let mut store = synced_store();
    let mut web = service("web");
    web.ports = [
        port("dns", Udp, 53),
        port("dns-tcp", Tcp, 53),
        port("dns-sctp", Sctp, 53),
    ]
    .into();
    store.apply(apply_service(web));
    let mut both = slice("web-1", "web", &endpoints("10.0.0.1"));
    both.ports = [
        slice_port(Some("dns"), Udp, Some(53)),
        slice_port(Some("dns-tcp"), Tcp, Some(5353)),
        slice_port(Some("dns-sctp"), Sctp, Some(54)),
    ]
    .into();
    store.apply(apply_slice(both));
    let planned = plan_service(&store, store.node(), &key("web"));
    let targets: Vec<_> = planned
        .iter()
        .map(|(_, port)| internal(port).backends[0].port)
        .collect();
    assert_eq!(targets, [53, 5353, 54], "by name, not by number");
}

#[test]
fn slices_report_what_is_skipped() {
    let mut store = synced_store();
    store.apply(apply_service(service("web")));
    let mut odd = slice("web-1", "web", &endpoints("10.0.0.1; 10.0.0.2"));
    odd.endpoints[1].address = ip("2001:db8::2");
    odd.ports = [slice_port(Some("http"), Tcp, None), slice_port(None, Tcp, Some(80))].into();
    store.apply(apply_slice(odd));
    let fields: Vec<_> = plan_problems(&store, &key("web"))
        .iter()
        .map(|p| p.field.to_string())
        .collect();
    assert_eq!(fields, ["endpoints[1].addresses[0]", "ports[0]", "ports[1]"]);
}

#[test]
fn backends_say_where_they_run_and_how_they_are() {
    let mut store = synced_store();
    let mut web = service("web");
    web.affinity_timeout_s = Some(10_800);
    store.apply(apply_service(web));
    store.apply(apply_slice(slice(
        "web-1",
        "web",
        &endpoints("10.0.0.2 R t; 10.0.0.1 L t"),
    )));
    let (_, planned) = plan_service(&store, &NodeView::named(NODE), &key("web")).remove(0);
    let backend = |last, local| Backend {
        address: [10, 0, 0, last].into(),
        port: 8080,
        local,
        state: BackendState::Terminating,
        weight: 1,
        tunnel: Tunnel::None,
    };
    assert_eq!(internal(&planned).backends, [backend(1, true), backend(2, false)]);
    assert_eq!(planned.affinity_timeout_s, Some(10_800));
}

#[test]
fn a_service_that_is_unknown_has_an_empty_plan() {
    assert_eq!(plan_service(&synced_store(), &NodeView::named(NODE), &key("web")), []);
}
