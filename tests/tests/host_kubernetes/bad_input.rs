//! Objects that an API server would refuse and a watch could carry nevertheless: each a row. Whatever is wrong with one costs that
//! much of it and nothing of the others, in a list as in a watch, and is named in the status.

use lb_userspace::model::{AddressType, Change, EndpointSlice, Service};
use rstest::rstest;
use serde_json::{Value, json};
use tests::api_server::Resource;

use crate::scene::{Source, server, service, slice};

/// What a Service is read as: type, addresses, ports.
fn service_text(service: &Service) -> String {
    let ports = service
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.protocol, port.port));
    let addresses = service.cluster_ips.iter().map(ToString::to_string);
    format!("{:?} {} {}", service.service_type, words(addresses), words(ports))
}

/// What a slice is read as: owner, family, number of ports, endpoints.
fn slice_text(slice: &EndpointSlice) -> String {
    let owner = slice
        .service
        .as_ref()
        .map_or("nobody's".to_owned(), ToString::to_string);
    let family = match slice.address_type {
        AddressType::Ipv4 => "IPv4",
        AddressType::Ipv6 => "IPv6",
        AddressType::Fqdn => "no addresses",
    };
    let endpoints = match slice.endpoints.len() {
        few @ 0..=3 => words(
            slice.endpoints[..few]
                .iter()
                .map(|endpoint| endpoint.address.to_string()),
        ),
        many => format!("{many} endpoints"),
    };
    format!("{owner} {family} {} ports, {endpoints}", slice.ports.len())
}

fn words(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join("+")
    }
}

/// The object `bad` with a member replaced.
fn bad_service(member: &str, value: Value) -> Value {
    let mut object = service("bad");
    *object
        .pointer_mut(member)
        .unwrap_or_else(|| panic!("{member} is in the pattern")) = value;
    object
}

fn bad_spec(member: &str, value: Value) -> Value {
    let mut object = service("bad");
    object["spec"][member] = value;
    object
}

fn bad_slice(member: &str, value: Value) -> Value {
    let mut object = slice("bad", &["10.0.0.1"]);
    object[member] = value;
    object
}

fn many_endpoints(count: u32) -> Value {
    let endpoints: Vec<Value> = (0..count)
        .map(|at| json!({"addresses": [format!("10.1.{}.{}", at / 256, at % 256)]}))
        .collect();
    bad_slice("endpoints", endpoints.into())
}

fn many_addresses(count: u32) -> Value {
    let addresses: Vec<Value> = (0..count)
        .map(|at| format!("10.1.{}.{}", at / 256, at % 256).into())
        .collect();
    bad_slice("endpoints", json!([{"addresses": addresses}]))
}

fn port(port: Value) -> Value {
    bad_slice("ports", json!([{"name": "", "port": port, "protocol": "TCP"}]))
}

/// Ports of a Service, each with all that the API server fills in.
fn ports(ports: &[(&str, i64, &str)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}))
        .collect();
    bad_spec("ports", ports.into())
}

const UNREADABLE: &str = "it can't be read: ";

// What it is read as (nothing if it can't be), and a part of each problem.
#[rstest]
#[case::duplicate_ports(ports(&[("a", 80, "TCP"), ("b", 80, "TCP")]), "ClusterIp 10.96.0.1 TCP/80+TCP/80", &["spec.ports[1].port: 80/TCP was used before"])]
#[case::duplicate_port_names(ports(&[("a", 80, "TCP"), ("a", 81, "TCP")]), "ClusterIp 10.96.0.1 TCP/80+TCP/81", &["spec.ports[1].name: "])]
#[case::no_ports(ports(&[]), "ClusterIp 10.96.0.1 none", &[])]
#[case::port_zero(ports(&[("a", 0, "TCP"), ("b", 81, "TCP")]), "ClusterIp 10.96.0.1 TCP/81", &["spec.ports[0].port: "])]
#[case::port_too_large(ports(&[("a", 65_536, "TCP")]), "ClusterIp 10.96.0.1 none", &["spec.ports[0].port: "])]
#[case::port_beyond_all_integers(ports(&[("a", i64::MAX, "TCP")]), "", &[UNREADABLE])]
#[case::port_that_is_text(bad_spec("ports", json!([{"port": "http"}])), "", &[UNREADABLE])]
#[case::unknown_protocol(ports(&[("a", 80, "QUIC"), ("b", 81, "UDP")]), "ClusterIp 10.96.0.1 UDP/81", &["spec.ports[0].protocol: "])]
#[case::unknown_type(bad_spec("type", "Ingress".into()), "ClusterIp 10.96.0.1 TCP/80", &["spec.type: \"Ingress\" is not a type"])]
#[case::unknown_policy(bad_spec("internalTrafficPolicy", "Nearest".into()), "ClusterIp 10.96.0.1 TCP/80", &["spec.internalTrafficPolicy: "])]
#[case::unknown_affinity(bad_spec("sessionAffinity", "Cookie".into()), "ClusterIp 10.96.0.1 TCP/80", &["spec.sessionAffinity: "])]
#[case::address_that_is_none(bad_spec("clusterIP", "10.96.0.256".into()), "ClusterIp none TCP/80", &["spec.clusterIP: "])]
#[case::two_addresses_of_a_family(bad_spec("clusterIPs", json!(["10.96.0.1", "10.96.0.2"])), "ClusterIp 10.96.0.1 TCP/80", &["spec.clusterIPs[1]: "])]
#[case::no_spec(bad_service("/spec", Value::Null), "ClusterIp none none", &[])]
#[case::spec_that_is_a_list(bad_service("/spec", json!([])), "", &[UNREADABLE])]
#[case::labels_that_are_numbers(bad_service("/metadata", json!({"name": "bad", "namespace": "shop", "labels": {"a": 1}})), "", &[UNREADABLE])]
#[tokio::test]
async fn services(#[case] object: Value, #[case] read_as: &str, #[case] problems: &[&str]) {
    plays(Resource::Services, &object, &service("good"), read_as, problems).await;
}

#[rstest]
#[case::empty(bad_slice("endpoints", json!([])), "shop/web IPv4 1 ports, none", &[])]
#[case::nothing_at_all(bad_slice("endpoints", Value::Null), "shop/web IPv4 1 ports, none", &[])]
#[case::no_ports(bad_slice("ports", Value::Null), "shop/web IPv4 0 ports, 10.0.0.1", &[])]
#[case::foreign_family(bad_slice("endpoints", json!([{"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.2"]}])), "shop/web IPv4 1 ports, 10.0.0.2", &["endpoints[0].addresses[0]: fd00::1 does not fit"])]
#[case::unknown_address_type(bad_slice("addressType", "IPv7".into()), "shop/web no addresses 1 ports, none", &["addressType: \"IPv7\" is not known"])]
#[case::endpoint_without_an_address(bad_slice("endpoints", json!([{"addresses": []}])), "shop/web IPv4 1 ports, none", &["endpoints[0].addresses: it is empty"])]
#[case::loopback(bad_slice("endpoints", json!([{"addresses": ["127.0.0.1"]}])), "shop/web IPv4 1 ports, none", &["127.0.0.1 is a loopback address"])]
#[case::no_address(bad_slice("endpoints", json!([{"addresses": ["web.example"]}])), "shop/web IPv4 1 ports, none", &["endpoints[0].addresses[0]: "])]
#[case::a_thousand_endpoints(many_endpoints(1_000), "shop/web IPv4 1 ports, 1000 endpoints", &[])]
#[case::a_thousand_addresses_of_one_endpoint(many_addresses(1_000), "shop/web IPv4 1 ports, 10.1.0.0", &[])]
#[case::port_zero(port(0.into()), "shop/web IPv4 0 ports, 10.0.0.1", &["ports[0].port: "])]
#[case::port_negative(port((-1).into()), "shop/web IPv4 0 ports, 10.0.0.1", &["ports[0].port: "])]
#[case::port_that_is_text(port("http".into()), "", &[UNREADABLE])]
#[case::unknown_protocol(bad_slice("ports", json!([{"name": "", "port": 80, "protocol": "QUIC"}])), "shop/web IPv4 0 ports, 10.0.0.1", &["ports[0].protocol: "])]
#[case::nobodys(bad_slice("metadata", json!({"name": "bad", "namespace": "shop"})), "nobody's IPv4 1 ports, 10.0.0.1", &["metadata.labels: "])]
#[case::no_address_type(bad_slice("addressType", Value::Null), "", &[UNREADABLE])]
#[case::conditions_that_are_text(bad_slice("endpoints", json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": "yes"}}])), "", &[UNREADABLE])]
#[tokio::test]
async fn slices(#[case] object: Value, #[case] read_as: &str, #[case] problems: &[&str]) {
    plays(
        Resource::EndpointSlices,
        &object,
        &slice("good", &["10.0.0.9"]),
        read_as,
        problems,
    )
    .await;
}

/// In the first list, then by a watch.
async fn plays(resource: Resource, bad: &Value, good: &Value, read_as: &str, problems: &[&str]) {
    for in_pages in [false, true] {
        let server = server([bad.clone(), good.clone()]);
        server.fault(|faults| faults.no_streamed_lists = in_pages);
        let mut source = Source::of(&server.kubeconfig());
        let count = if read_as.is_empty() { 3 } else { 4 };
        has(&mut source, count, read_as).await;
        complaints(&mut source, problems).await;
    }
    let server = server([]);
    let mut source = Source::of(&server.kubeconfig());
    source.next(2).await;
    server.put([bad.clone(), good.clone()]).unwrap();
    let count = if read_as.is_empty() { 1 } else { 2 };
    has(&mut source, count, read_as).await;
    complaints(&mut source, problems).await;
    server.delete(resource, "shop", "bad").unwrap();
    source.well().await;
}

/// So many changes, among them the good object and the bad one as it is read.
async fn has(source: &mut Source, count: usize, read_as: &str) {
    let (mut bad_text, mut good_seen) = (String::new(), false);
    for _ in 0..count {
        let (name, text) = match source.change().await {
            Change::ServiceApply(service) => (service.key.name().to_owned(), service_text(&service)),
            Change::SliceApply(slice) => (slice.key.name().to_owned(), slice_text(&slice)),
            _ => continue,
        };
        match name.as_str() {
            "bad" => bad_text = text,
            _ => good_seen = true,
        }
    }
    assert_eq!((bad_text.as_str(), good_seen), (read_as, true));
}

async fn complaints(source: &mut Source, expected: &[&str]) {
    for part in expected {
        source.problem(part).await;
    }
    source.status("synced", |status| status.synced).await;
    let problems = source.problems();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[tokio::test]
async fn what_can_no_longer_be_read_stays_as_it_was() {
    let server = server([service("web")]);
    let mut source = Source::of(&server.kubeconfig());
    source.next(3).await;
    let mut broken = service("web");
    broken["spec"] = json!("none");
    server.put([broken]).unwrap();
    let problem = source.problem(UNREADABLE).await;
    assert!(
        problem.starts_with("Service shop/web: ") && problem.ends_with("What it said before stays in force"),
        "{problem}"
    );
    // A new list doesn't take it away either.
    server.compact();
    server.cut();
    source.nothing().await;
    server.put([service("web")]).unwrap();
    source.until("+shop/web").await;
    source.well().await;
    server.delete(Resource::Services, "shop", "web").unwrap();
    source.until("-shop/web").await;
}

#[tokio::test]
async fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let server = server([slice("web-1", &["10.0.0.1"])]);
    let mut source = Source::of(&server.kubeconfig());
    source.next(3).await;
    let mut moved = slice("web-1", &["10.0.0.1"]);
    moved["metadata"]["labels"]["kubernetes.io/service-name"] = "api".into();
    server.put([moved]).unwrap();
    let Change::SliceApply(slice) = source.change().await else {
        panic!("a slice is due")
    };
    assert_eq!(slice_text(&slice), "shop/api IPv4 1 ports, 10.0.0.1");
}

#[tokio::test]
async fn names_may_have_253_characters_and_those_without_one_are_passed_over() {
    let long = "a".repeat(253);
    let mut named = service(&long);
    named["metadata"]["namespace"] = "b".repeat(63).into();
    let mut nameless = service("x");
    nameless["metadata"]["name"] = Value::Null;
    let server = server([nameless, named, service("web")]);
    let mut source = Source::of(&server.kubeconfig());
    let name = format!("+{}/{long}", "b".repeat(63));
    let mut seen = source.until("synced Services").await;
    seen.retain(|word| word.starts_with('+'));
    seen.sort();
    assert_eq!(seen, [name, "+shop/web".to_owned()]);
    source.well().await;
}
