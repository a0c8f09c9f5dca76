//! Which Services have a health port, and what it counts; rows 109 to 113, 122, 142 and 143 of §7.

use rstest::rstest;

use crate::health::ports::answer;
use crate::health::{HealthPort, health_port, health_ports};
use crate::model::sample::{
    apply_service, apply_slice, endpoints, ip, key, port, service, slice, slice_port, synced_store,
};
use crate::model::{Change, Protocol, Service, ServiceType, Store, TrafficPolicy};

/// A LoadBalancer with eTP Local and the health port 30000.
fn local(name: &str) -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: Some(30_000),
        ..service(name)
    }
}

fn store(services: impl IntoIterator<Item = Service>) -> Store {
    let mut store = synced_store();
    for service in services {
        store.apply(apply_service(service));
    }
    store
}

/// The endpoints that are counted on the port of `web`.
fn count(store: &Store) -> usize {
    health_port(store, &key("web")).unwrap().local_endpoints
}

#[test]
fn row_109_and_row_110_one_health_port_that_goes_with_its_service() {
    let mut store = store([service("a"), service("b"), service("c"), local("web")]);
    let expected = HealthPort {
        service: key("web"),
        port: 30_000,
        local_endpoints: 0,
    };
    assert_eq!(health_ports(&store), [expected]);
    for name in ["b", "c", "web"] {
        store.apply(Change::ServiceDelete(key(name)));
    }
    assert_eq!(health_ports(&store), []);
}

#[rstest]
#[case::row_111_headless(Service { cluster_ips: [].into(), ..local("web") })]
#[case::row_111_headless_without_ports(Service { cluster_ips: [].into(), ports: [].into(), ..local("web") })]
#[case::row_112_external_name(Service { service_type: ServiceType::ExternalName, ..local("web") })]
#[case::policy_cluster(Service { external_policy: TrafficPolicy::Cluster, ..local("web") })]
#[case::type_node_port(Service { service_type: ServiceType::NodePort, ..local("web") })]
#[case::no_port_given(Service { health_check_node_port: None, ..local("web") })]
fn no_health_port(#[case] service: Service) {
    let store = store([service]);
    assert_eq!(health_ports(&store), []);
    assert_eq!(health_port(&store, &key("web")), None);
}

#[test]
fn row_113_a_service_becomes_local_and_is_clusterip_again() {
    let mut store = store([service("web")]);
    let mut counts = vec![health_ports(&store).len()];
    for next in [local("web"), local("web"), service("web")] {
        store.apply(apply_service(next));
        counts.push(health_ports(&store).len());
    }
    assert_eq!(counts, [0, 1, 1, 0]);
}

/// Where NodePorts are served changes where it listens, not whether; no rule of ours is in its way.
#[test]
fn row_122_a_health_port_does_not_depend_on_node_port_addresses() {
    let mut store = store([local("web")]);
    assert_eq!(health_ports(&store).len(), 1);
    store.apply(Change::ServiceDelete(key("web")));
    assert_eq!(health_ports(&store), []);
}

#[rstest]
#[case::row_137_no_endpoints("", 0)]
#[case::one_here("10.0.0.1 L", 1)]
#[case::two_here_and_one_elsewhere("10.0.0.1 L; 10.0.0.2 L; 10.0.0.3 R", 2)]
#[case::only_elsewhere("10.0.0.3 R", 0)]
#[case::on_no_known_node("10.0.0.3", 0)]
#[case::not_ready("10.0.0.1 L u", 0)]
#[case::row_142_only_terminating("10.0.0.1 L t; 10.0.0.2 L x", 0)]
#[case::one_ready_and_one_terminating("10.0.0.1 L t; 10.0.0.2 L", 1)]
fn local_endpoints(#[case] lines: &str, #[case] expected: usize) {
    let mut store = store([local("web")]);
    store.apply(apply_slice(slice("web-1", "web", &endpoints(lines))));
    assert_eq!(count(&store), expected);
}

#[test]
fn row_143_one_pod_with_two_ports_counts_once() {
    let mut two_ports = local("web");
    two_ports.ports = [port("http", Protocol::Tcp, 80), port("https", Protocol::Tcp, 443)].into();
    let mut store = store([two_ports]);
    let mut both = slice("web-1", "web", &endpoints("10.0.0.1 L"));
    both.ports = [
        slice_port(Some("http"), Protocol::Tcp, Some(8080)),
        slice_port(Some("https"), Protocol::Tcp, Some(8443)),
    ]
    .into();
    store.apply(apply_slice(both));
    assert_eq!(count(&store), 1);
}

#[rstest]
#[case::both_families("10.0.0.1 L; 10.0.0.2 L", "2001:db8::1 L; 2001:db8::2 L", 2)]
#[case::more_in_one("10.0.0.1 L", "2001:db8::1 L; 2001:db8::2 L", 2)]
#[case::one_family_is_empty("10.0.0.1 L", "", 1)]
fn a_dual_stack_pod_counts_once(#[case] v4: &str, #[case] v6: &str, #[case] expected: usize) {
    let mut dual = local("web");
    dual.cluster_ips = [ip("10.96.0.1"), ip("fd00::1")].into();
    let mut store = store([dual]);
    store.apply(apply_slice(slice("web-1", "web", &endpoints(v4))));
    store.apply(apply_slice(slice("web-2", "web", &endpoints(v6))));
    assert_eq!(count(&store), expected);
}

#[test]
fn a_family_without_cluster_ip_does_not_count() {
    let mut store = store([local("web")]);
    store.apply(apply_slice(slice("web-1", "web", &endpoints("2001:db8::1 L"))));
    assert_eq!(count(&store), 0);
}

#[rstest]
#[case::row_138_by_count(1, true, 200)]
#[case::row_142_nobody_here(0, true, 503)]
#[case::row_139_the_proxy_is_late(1, false, 503)]
#[case::both(0, false, 503)]
fn codes(#[case] local_endpoints: usize, #[case] proxy_healthy: bool, #[case] code: u16) {
    let answer = answer(&key("web"), local_endpoints, proxy_healthy);
    assert_eq!(answer.code, code);
    let weight = ("x-load-balancing-endpoint-weight", local_endpoints.to_string());
    assert!(answer.headers.contains(&weight), "{:?}", answer.headers);
}

#[test]
fn the_body_is_indented_by_tabs() {
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(answer(&key("web"), 2, true).body, expected);
}
