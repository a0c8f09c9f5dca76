//! Objects of the API and what they are read as; rows 114 and 115 of the behaviour reference (§7.11).

use k8s_openapi::api::{core::v1 as core_v1, discovery::v1 as discovery};
use rstest::rstest;
use serde_json::{Value, json};

use crate::model::{
    Algorithm, EndpointSlice, Forwarding, NodeFacts, Problem, Service, ServiceKey, ServiceType, SliceKey,
};

fn service(spec: &Value, ingress: &Value) -> (Service, Vec<Problem>) {
    let object = json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
    let object: core_v1::Service = serde_json::from_value(object).unwrap();
    super::service(ServiceKey::new("default", "web"), &object)
}

fn slice(mut object: Value) -> (EndpointSlice, Vec<Problem>) {
    object["metadata"] = json!({"labels": {"kubernetes.io/service-name": "web"}});
    let object: discovery::EndpointSlice = serde_json::from_value(object).unwrap();
    super::endpoint_slice(SliceKey::new("default", "web-1"), &object)
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

#[rstest]
#[case::row_114_mode_proxy(json!({"ip": "203.0.113.9", "ipMode": "Proxy"}), &[])]
#[case::row_114_mode_vip(json!({"ip": "203.0.113.9", "ipMode": "VIP"}), &["203.0.113.9"])]
#[case::row_114_mode_nil(json!({"ip": "203.0.113.9"}), &["203.0.113.9"])]
#[case::hostname_only(json!({"hostname": "lb.example.com"}), &[])]
fn load_balancer_ingress(#[case] entry: Value, #[case] vips: &[&str]) {
    let (read, problems) = service(&json!({"type": "LoadBalancer"}), &json!([entry]));
    assert_eq!(
        (texts(&read.load_balancer_vips), problems),
        (vips.iter().map(ToString::to_string).collect(), vec![])
    );
}

#[test]
fn row_115_leading_zeros_everywhere() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "172.030.000.041", "externalIPs": ["203.000.113.007"],
        "loadBalancerSourceRanges": [" 203.0.113.000/025"],
    });
    let (read, problems) = service(&spec, &json!([{"ip": "198.051.100.001"}]));
    assert_eq!(texts(&read.cluster_ips), ["172.30.0.41"]);
    assert_eq!(texts(&read.external_ips), ["203.0.113.7"]);
    assert_eq!(texts(&read.load_balancer_vips), ["198.51.100.1"]);
    assert_eq!(texts(&read.source_ranges), ["203.0.113.0/25"]);
    assert_eq!(problems, []);

    let (read, problems) = slice(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["010.0.0.01"]}]}));
    assert_eq!(
        (read.endpoints[0].address.to_string().as_str(), problems),
        ("10.0.0.1", vec![])
    );
}

#[rstest]
#[case::nothing_written(json!({}), &[])]
#[case::headless(json!({"clusterIP": "None"}), &[])]
#[case::headless_in_both(json!({"clusterIP": "None", "clusterIPs": ["None"]}), &[])]
#[case::empty(json!({"clusterIP": ""}), &[])]
#[case::only_the_single_field(json!({"clusterIP": "10.96.0.1"}), &["10.96.0.1"])]
#[case::only_the_list(json!({"clusterIPs": ["10.96.0.1", "fd00::1"]}), &["10.96.0.1", "fd00::1"])]
#[case::both(json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}), &["fd00::1"])]
fn cluster_ips(#[case] spec: Value, #[case] expected: &[&str]) {
    let (read, problems) = service(&spec, &json!([]));
    assert_eq!(
        (texts(&read.cluster_ips), problems),
        (expected.iter().map(ToString::to_string).collect(), vec![])
    );
}

#[rstest]
#[case::not_written(json!({}), None)]
#[case::none(json!({"sessionAffinity": "None"}), None)]
#[case::default_three_hours(json!({"sessionAffinity": "ClientIP"}), Some(10_800))]
#[case::given(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}), Some(60))]
#[case::config_without_affinity(json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}), None)]
fn affinity(#[case] spec: Value, #[case] timeout_s: Option<u32>) {
    assert_eq!(service(&spec, &json!([])).0.affinity_timeout_s, timeout_s);
}

#[rstest]
#[case::not_written(json!({}), ServiceType::ClusterIp)]
#[case::cluster_ip(json!({"type": "ClusterIP"}), ServiceType::ClusterIp)]
#[case::node_port(json!({"type": "NodePort"}), ServiceType::NodePort)]
#[case::load_balancer(json!({"type": "LoadBalancer"}), ServiceType::LoadBalancer)]
#[case::external_name(json!({"type": "ExternalName"}), ServiceType::ExternalName)]
fn types(#[case] spec: Value, #[case] expected: ServiceType) {
    assert_eq!(service(&spec, &json!([])).0.service_type, expected);
}

#[rstest]
#[case::not_written(json!({"ports": [{"port": 80}]}), None, None)]
#[case::zero_is_none(json!({"ports": [{"port": 80, "nodePort": 0}], "healthCheckNodePort": 0}), None, None)]
#[case::written(json!({"ports": [{"port": 80, "nodePort": 30080}], "healthCheckNodePort": 32001}), Some(30080), Some(32001))]
fn optional_ports(#[case] spec: Value, #[case] node_port: Option<u16>, #[case] health_port: Option<u16>) {
    let (read, problems) = service(&spec, &json!([]));
    assert_eq!(
        (read.ports[0].node_port, read.health_check_node_port, problems),
        (node_port, health_port, vec![])
    );
}

#[rstest]
#[case::port_zero(json!({"ports": [{"port": 0}]}), "spec.ports[0].port: 0 is not a port")]
#[case::port_too_big(json!({"ports": [{"port": 70000}]}), "spec.ports[0].port: 70000 is not a port")]
#[case::port_negative(json!({"ports": [{"port": -1}]}), "spec.ports[0].port: -1 is not a port")]
#[case::node_port_too_big(json!({"ports": [{"port": 1, "nodePort": 65536}]}), "spec.ports[0].nodePort: 65536 is not")]
#[case::protocol(json!({"ports": [{"port": 1, "protocol": "tcp"}]}), "spec.ports[0].protocol: \"tcp\" is not a protocol")]
#[case::unnamed_of_two(
    json!({"ports": [{"name": "a", "port": 1}, {"port": 2}]}), "spec.ports[1].name: a Service with several ports")]
#[case::name_twice(
    json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}), "spec.ports[1].name: \"a\" was used before")]
#[case::number_twice(
    json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}), "spec.ports[1].port: 1/TCP was used before")]
#[case::cluster_ip(json!({"clusterIP": "10.96.0"}), "spec.clusterIP: \"10.96.0\" is not an IP address")]
#[case::cluster_ip_unspecified(json!({"clusterIP": "0.0.0.0"}), "spec.clusterIP: 0.0.0.0 cannot be dialled")]
#[case::two_of_a_family(json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}), "spec.clusterIPs[1]: 10.0.0.2 is the second")]
#[case::cluster_ip_differs(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}), "spec.clusterIP: it differs from")]
#[case::external_ip(json!({"externalIPs": ["203.0.113.9", "x"]}), "spec.externalIPs[1]: \"x\" is not an IP address")]
#[case::loopback(json!({"externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]: 127.0.0.1 is a loopback address")]
#[case::range(json!({"loadBalancerSourceRanges": ["10.0.0.0"]}), "spec.loadBalancerSourceRanges[0]: \"10.0.0.0\" is not")]
#[case::service_type(json!({"type": "Loadbalancer"}), "spec.type: \"Loadbalancer\" is not a type")]
#[case::internal_policy(json!({"internalTrafficPolicy": "local"}), "spec.internalTrafficPolicy: \"local\" is not a policy")]
#[case::external_policy(json!({"externalTrafficPolicy": "Global"}), "spec.externalTrafficPolicy: \"Global\" is not")]
#[case::affinity(json!({"sessionAffinity": "Cookie"}), "spec.sessionAffinity: \"Cookie\" is not known")]
#[case::affinity_timeout(
    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
    "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is out of range")]
#[case::health_port_missing(
    json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local"}),
    "spec.healthCheckNodePort: it is not set")]
#[case::text_is_made_harmless(json!({"type": "a\nb\u{1b}[31m"}), "spec.type: \"a\\nb\\u{1b}[31m\" is not a type")]
fn what_is_wrong_with_a_service(#[case] spec: Value, #[case] expected: &str) {
    let (_, problems) = service(&spec, &json!([]));
    assert_eq!(problems.len(), 1, "{problems:?}");
    let text = problems[0].to_string();
    assert!(text.starts_with(&format!("Service default/web: {expected}")), "{text}");
}

#[rstest]
#[case::family(json!([{"addresses": ["2001:db8::1"]}]), "[0].addresses[0]: 2001:db8::1 does not fit the slice's addressType")]
#[case::no_address(json!([{"addresses": []}]), "[0].addresses: it is empty")]
#[case::name(json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["db"]}]), "[1].addresses[0]: \"db\" is not an IP address")]
#[case::link_local(json!([{"addresses": ["169.254.1.1"]}]), "[0].addresses[0]: 169.254.1.1 is a link-local address")]
#[case::loopback(json!([{"addresses": ["127.0.0.1"]}]), "[0].addresses[0]: 127.0.0.1 is a loopback address")]
#[case::multicast(json!([{"addresses": ["224.0.0.1"]}]), "[0].addresses[0]: 224.0.0.1 is a multicast address")]
#[case::unspecified(json!([{"addresses": ["0.0.0.0"]}]), "[0].addresses[0]: 0.0.0.0 is the unspecified address")]
fn what_is_wrong_with_an_endpoint(#[case] endpoints: Value, #[case] expected: &str) {
    let count = endpoints.as_array().unwrap().len();
    let (read, problems) = slice(json!({"addressType": "IPv4", "endpoints": endpoints}));
    let text = problems[0].to_string();
    assert!(
        text.starts_with(&format!("EndpointSlice default/web-1: endpoints{expected}")),
        "{text}"
    );
    assert_eq!(
        (problems.len(), read.endpoints.len()),
        (1, count - 1),
        "its neighbours stay"
    );
}

#[rstest]
#[case::port_zero(json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 0}]}), "ports[0].port: 0 is not a port")]
#[case::port_too_big(
    json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 65536}]}), "ports[0].port: 65536 is not a port")]
#[case::protocol(
    json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 1, "protocol": "QUIC"}]}),
    "ports[0].protocol: \"QUIC\" is not a protocol")]
#[case::address_type(json!({"addressType": "ipv4", "endpoints": []}), "addressType: \"ipv4\" is not known")]
#[case::names(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["db.example.com"]}]}), "addressType: FQDN: names")]
fn what_is_wrong_with_a_slice(#[case] object: Value, #[case] expected: &str) {
    let (read, problems) = slice(object);
    let text = problems[0].to_string();
    assert!(
        text.starts_with(&format!("EndpointSlice default/web-1: {expected}")),
        "{text}"
    );
    assert_eq!((problems.len(), read.ports.len(), read.endpoints.len()), (1, 0, 0));
}

#[rstest]
#[case::nothing_written(json!({}), [true, true, false])]
#[case::all_null(json!({"ready": null, "serving": null, "terminating": null}), [true, true, false])]
#[case::all_written(json!({"ready": false, "serving": false, "terminating": true}), [false, false, true])]
fn endpoint_conditions(#[case] conditions: Value, #[case] expected: [bool; 3]) {
    let (read, _) =
        slice(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}]}));
    let endpoint = &read.endpoints[0];
    assert_eq!([endpoint.ready, endpoint.serving, endpoint.terminating], expected);
}

#[test]
fn a_slice_is_read_whole() {
    let (read, problems) = slice(json!({
        "addressType": "IPv6",
        "ports": [{"name": "", "port": 53, "protocol": "UDP"}, {"port": 80}, {"name": "all"}],
        "endpoints": [{
            "addresses": ["2001:db8::1", "2001:db8::2"], "nodeName": "n1",
            "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]},
        }],
    }));
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|p| (p.name.as_deref(), p.protocol.to_string(), p.port))
        .collect();
    let expected = [
        (Some(""), "UDP".to_owned(), Some(53)),
        (None, "TCP".to_owned(), Some(80)),
        (Some("all"), "TCP".to_owned(), None),
    ];
    assert_eq!(ports, expected);
    let endpoint = &read.endpoints[0];
    assert_eq!(
        (endpoint.address.to_string().as_str(), endpoint.node_name.as_deref()),
        ("2001:db8::1", Some("n1"))
    );
    assert_eq!(
        (texts(&endpoint.zone_hints), texts(&endpoint.node_hints)),
        (vec!["a".into(), "b".into()], vec!["n1".into()])
    );
    assert_eq!(read.serves().unwrap().0.to_string(), "default/web");
    assert_eq!(problems, []);
}

#[rstest]
#[case::none(json!({}))]
#[case::empty(json!({"kubernetes.io/service-name": ""}))]
fn a_slice_without_owner_is_ignored(#[case] labels: Value) {
    let object = json!({"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": []});
    let object = serde_json::from_value(object).unwrap();
    let (read, problems) = super::endpoint_slice(SliceKey::new("default", "web-1"), &object);
    assert_eq!(read.serves(), None);
    assert!(
        problems[0]
            .to_string()
            .contains("kubernetes.io/service-name is missing")
    );
}

#[rstest]
#[case::proxy_name("service.kubernetes.io/service-proxy-name")]
#[case::headless("service.kubernetes.io/headless")]
fn opt_out_labels_count_whatever_their_value(#[case] label: &str) {
    let labels = json!({label: "", "kubernetes.io/service-name": "web"});
    let object =
        serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": {"clusterIP": "10.96.0.1"}})).unwrap();
    assert!(
        super::service(ServiceKey::new("default", "web"), &object)
            .0
            .exclusion()
            .is_some()
    );
    let object = json!({"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": []});
    let object = serde_json::from_value(object).unwrap();
    assert_eq!(
        super::endpoint_slice(SliceKey::new("default", "web-1"), &object)
            .0
            .serves(),
        None
    );
}

fn node(object: Value) -> (NodeFacts, Vec<Problem>) {
    let object: core_v1::Node = serde_json::from_value(object).unwrap();
    super::node("n1", &object)
}

fn address(kind: &str, address: &str) -> Value {
    json!({"type": kind, "address": address})
}

#[rstest]
#[case::nothing_written(json!([]), &[])]
#[case::internal_in_order(json!([address("InternalIP", "192.0.2.2"), address("InternalIP", "192.0.2.1")]), &["192.0.2.2", "192.0.2.1"])]
#[case::external_after_internal(json!([address("ExternalIP", "203.0.113.1"), address("InternalIP", "192.0.2.1")]), &["192.0.2.1", "203.0.113.1"])]
#[case::external_only(json!([address("ExternalIP", "203.0.113.1")]), &["203.0.113.1"])]
#[case::both_families(json!([address("InternalIP", "2001:db8::1"), address("InternalIP", "192.0.2.1")]), &["2001:db8::1", "192.0.2.1"])]
#[case::names_are_no_addresses(json!([address("Hostname", "n1"), address("InternalDNS", "n1.example"), address("InternalIP", "192.0.2.1")]), &["192.0.2.1"])]
#[case::each_once(json!([address("InternalIP", "192.0.2.1"), address("ExternalIP", "192.0.2.1")]), &["192.0.2.1"])]
#[case::row_115_leniently(json!([address("InternalIP", "192.000.002.001")]), &["192.0.2.1"])]
fn node_addresses(#[case] written: Value, #[case] expected: &[&str]) {
    let (read, problems) = node(json!({"metadata": {}, "status": {"addresses": written}}));
    let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    assert_eq!((texts(&read.addresses), problems), (expected, vec![]));
}

#[rstest]
#[case::nothing_written(json!({}), &[])]
#[case::only_the_single_field(json!({"podCIDR": "10.1.0.0/24"}), &["10.1.0.0/24"])]
#[case::the_list_counts(json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}), &["10.1.0.0/24", "fd00:1::/64"])]
#[case::row_115_leniently(json!({"podCIDRs": ["010.001.000.000/024"]}), &["10.1.0.0/24"])]
fn pod_ranges(#[case] spec: Value, #[case] expected: &[&str]) {
    let (read, problems) = node(json!({"metadata": {}, "spec": spec}));
    let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    assert_eq!((texts(&read.pod_cidrs), problems), (expected, vec![]));
}

#[rstest]
#[case::stays(json!({}), json!([]), true)]
#[case::another_taint(json!({}), json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]), true)]
#[case::row_141_autoscaler_taint(json!({}), json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]), false)]
#[case::row_141_autoscaler_taint_of_any_effect(json!({}), json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "PreferNoSchedule"}]), false)]
#[case::row_141_deletion_timestamp(json!({"deletionTimestamp": "2026-01-02T03:04:05Z"}), json!([]), false)]
fn node_eligibility(#[case] metadata: Value, #[case] taints: Value, #[case] eligible: bool) {
    let (read, _) = node(json!({"metadata": metadata, "spec": {"taints": taints}}));
    assert_eq!(read.eligible(), eligible);
}

#[rstest]
#[case::named(json!({"topology.kubernetes.io/zone": "a"}), Some("a"))]
#[case::empty_is_none(json!({"topology.kubernetes.io/zone": ""}), None)]
#[case::no_label(json!({}), None)]
fn node_zone(#[case] labels: Value, #[case] zone: Option<&str>) {
    assert_eq!(node(json!({"metadata": {"labels": labels}})).0.zone.as_deref(), zone);
}

#[rstest]
#[case::address(json!({"status": {"addresses": [address("InternalIP", "n1")]}}), "Node n1: status.addresses[0].address: \"n1\" is not an IP address")]
#[case::pod_range(json!({"spec": {"podCIDRs": ["10.1.0.0"]}}), "Node n1: spec.podCIDRs[0]: \"10.1.0.0\" is not an address range")]
fn a_node_that_cannot_be_read(#[case] mut object: Value, #[case] complaint: &str) {
    object["metadata"] = json!({});
    let (_, problems) = node(object);
    assert!(problems[0].to_string().starts_with(complaint), "{}", problems[0]);
}

#[test]
fn service_ranges_are_read_leniently_and_united_once_each() {
    let read = |cidrs: Value| {
        let object = serde_json::from_value(json!({"metadata": {}, "spec": {"cidrs": cidrs}})).unwrap();
        super::service_cidr("kubernetes", &object)
    };
    let (first, problems) = read(json!(["fd00:96::/112", "10.096.0.0/16"]));
    assert_eq!(
        (texts(&first), problems),
        (vec!["fd00:96::/112".into(), "10.96.0.0/16".into()], vec![])
    );
    let (second, problems) = read(json!(["10.96.0.0/16", "ten"]));
    assert_eq!(
        problems[0].to_string(),
        "ServiceCIDR kubernetes: spec.cidrs[1]: \"ten\" is not an address range such as 192.0.2.0/24"
    );
    assert_eq!(
        texts(&super::union(first.iter().chain(&second))),
        ["10.96.0.0/16", "fd00:96::/112"]
    );
}

#[rstest]
#[case::nanoseconds(Some("2026-01-02T03:04:05.678901234Z"), Some(1_767_323_045_678_901_234))]
#[case::with_an_offset(Some("2026-01-02T04:04:05+01:00"), Some(1_767_323_045_000_000_000))]
#[case::no_time(Some("soon"), None)]
#[case::no_annotation(None, None)]
fn what_triggered_a_slice(#[case] text: Option<&str>, #[case] nanoseconds: Option<u64>) {
    let annotations = text.map(|text| json!({"endpoints.kubernetes.io/last-change-trigger-time": text}));
    let object = json!({"addressType": "IPv4", "metadata": {"annotations": annotations}, "endpoints": []});
    let object: discovery::EndpointSlice = serde_json::from_value(object).unwrap();
    let (read, _) = super::endpoint_slice(SliceKey::new("default", "web-1"), &object);
    let expected = nanoseconds.map(|nanoseconds| std::time::UNIX_EPOCH + std::time::Duration::from_nanos(nanoseconds));
    assert_eq!(read.triggered, expected);
}

fn annotated(name: &str, value: &str) -> (Service, Vec<String>) {
    let object = json!({"metadata": {"annotations": {name: value}}, "spec": {"clusterIP": "10.96.0.10"}});
    let object: core_v1::Service = serde_json::from_value(object).unwrap();
    let (read, problems) = super::service(ServiceKey::new("default", "web"), &object);
    let reasons = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.field, problem.reason));
    (read, reasons.collect())
}

#[rstest]
#[case::hash("hash", Some(Algorithm::Hash), None)]
#[case::maglev("maglev", Some(Algorithm::Maglev), None)]
#[case::unknown(
    "random",
    None,
    Some("metadata.annotations[sluice.io/algorithm]: \"random\" is not known; write hash or maglev")
)]
#[case::empty(
    "",
    None,
    Some("metadata.annotations[sluice.io/algorithm]: \"\" is not known; write hash or maglev")
)]
fn the_algorithm(#[case] text: &str, #[case] expected: Option<Algorithm>, #[case] problem: Option<&str>) {
    let (read, problems) = annotated("sluice.io/algorithm", text);
    assert_eq!(read.algorithm, expected);
    assert_eq!(problems, Vec::from_iter(problem));
}

#[rstest]
#[case::snat("snat", Some(Forwarding::Snat), &[])]
#[case::dsr("dsr", Some(Forwarding::Dsr), &[])]
#[case::unknown("DSR", None, &["metadata.annotations[sluice.io/forwarding]: \"DSR\" is not known; write snat or dsr"])]
fn the_forwarding(#[case] text: &str, #[case] expected: Option<Forwarding>, #[case] expected_problems: &[&str]) {
    let (read, problems) = annotated("sluice.io/forwarding", text);
    assert_eq!(read.forwarding, expected);
    assert_eq!(problems, expected_problems);
}

#[rstest]
#[case("off", true, None)]
#[case("false", true, None)]
#[case("on", false, None)]
#[case("true", false, None)]
#[case::unknown(
    "tc",
    false,
    Some("metadata.annotations[sluice.io/socket]: \"tc\" is neither on nor off")
)]
fn the_socket_tier(#[case] text: &str, #[case] expected: bool, #[case] problem: Option<&str>) {
    let (read, problems) = annotated("sluice.io/socket", text);
    assert_eq!(read.no_sockets, expected);
    assert_eq!(problems, Vec::from_iter(problem));
}

#[rstest]
#[case::pods_and_addresses("web-0=3, 10.0.1.7=2,fd00::7 = 100", &["10.0.1.7=2", "fd00::7=100", "web-0=3"], &[])]
#[case::nothing("", &[], &[])]
#[case::a_word("web-0=3,web-1", &["web-0=3"], &["\"web-1\" is no weight; write the pod's name or the endpoint's address, =, and the weight"])]
#[case::zero("web-0=0", &[], &["\"web-0=0\" has no weight; write a number from 1 to 100"])]
#[case::too_much("web-0=101,web-1=1", &["web-1=1"], &["\"web-0=101\" has no weight; write a number from 1 to 100"])]
#[case::no_number("web-0=much", &[], &["\"web-0=much\" has no weight; write a number from 1 to 100"])]
#[case::no_name("=3,a b=2,10.0.0.256/32=1", &[], &[
    "\"=3\" names neither an address nor a pod",
    "\"a b=2\" names neither an address nor a pod",
    "\"10.0.0.256/32=1\" names neither an address nor a pod",
])]
#[case::twice("web-0=3,web-0=4", &["web-0=4"], &["\"web-0\" occurs twice; the last one counts"])]
fn weights(#[case] text: &str, #[case] expected: &[&str], #[case] problems: &[&str]) {
    let (read, found) = annotated("sluice.io/weights", text);
    let weights = read.weights.map(|weights| *weights).unwrap_or_default();
    let by_address = weights
        .by_address
        .iter()
        .map(|(address, weight)| format!("{address}={weight}"));
    let by_pod = weights.by_pod.iter().map(|(pod, weight)| format!("{pod}={weight}"));
    assert_eq!(by_address.chain(by_pod).collect::<Vec<_>>(), expected);
    let problems: Vec<_> = problems
        .iter()
        .map(|reason| format!("metadata.annotations[sluice.io/weights]: {reason}"))
        .collect();
    assert_eq!(found, problems);
}

#[rstest]
#[case::a_pod(json!({"kind": "Pod", "name": "web-0"}), Some("web-0"))]
#[case::something_else(json!({"kind": "Node", "name": "n1"}), None)]
#[case::nothing(json!(null), None)]
fn the_pod_behind_an_endpoint(#[case] target: serde_json::Value, #[case] expected: Option<&str>) {
    let object = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": target}]});
    let object: discovery::EndpointSlice = serde_json::from_value(object).unwrap();
    let (read, _) = super::endpoint_slice(SliceKey::new("default", "web-1"), &object);
    assert_eq!(read.endpoints[0].pod.as_deref(), expected);
}
