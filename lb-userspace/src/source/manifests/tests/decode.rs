//! Which objects a file declares, and what is reported about it: file, line, object, field and reason.

use std::path::Path;
use std::sync::Arc;

use rstest::rstest;

use super::{node, service, service_cidr, slice};
use crate::model::Severity;
use crate::source::manifests::decode::{Contents, Declared, decode};

fn read(name: &str, text: &str) -> Contents {
    decode(&Arc::from(Path::new(name)), text, &|_| None).unwrap()
}

/// Objects in order; broken ones with `!`.
fn objects(contents: &Contents) -> Vec<String> {
    let show = |object: &crate::source::manifests::decode::FileObject| {
        format!("{}{}", object.object, if object.declared.is_none() { "!" } else { "" })
    };
    contents.objects.iter().map(show).collect()
}

fn complaints(contents: &Contents) -> Vec<String> {
    contents.problems.iter().map(ToString::to_string).collect()
}

#[rstest]
#[case::a_service(service("web", "10.96.0.1"), &["Service default/web"])]
#[case::a_slice(slice("web-1", "web", "10.0.0.1"), &["EndpointSlice default/web-1"])]
#[case::a_node(node("n1", "a"), &["Node n1"])]
#[case::service_ranges(service_cidr("kubernetes", "10.96.0.0/16"), &["ServiceCIDR kubernetes"])]
#[case::node_list_without_kinds("{apiVersion: v1, items: [{metadata: {name: n1}}], kind: NodeList}".to_owned(), &["Node n1"])]
#[case::service_cidr_list_without_kinds("{apiVersion: networking.k8s.io/v1, items: [{metadata: {name: a}}], kind: ServiceCIDRList}".to_owned(),
    &["ServiceCIDR a"])]
#[case::several_documents(format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2")),
    &["Service default/a", "Service default/b"])]
#[case::namespace("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}".to_owned(), &["Service shop/web"])]
#[case::empty_namespace("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: ''}}".to_owned(), &["Service default/web"])]
#[case::list(format!("apiVersion: v1\nkind: List\nitems:\n- {}- {}", service("a", "10.96.0.1"), slice("b", "a", "10.0.0.1")),
    &["Service default/a", "EndpointSlice default/b"])]
#[case::list_with_its_kind_at_the_end(format!("items: [{}]\nkind: List\napiVersion: v1", service("a", "10.96.0.1").trim()),
    &["Service default/a"])]
#[case::service_list_without_kinds("{apiVersion: v1, items: [{metadata: {name: a}}], kind: ServiceList}".to_owned(), &["Service default/a"])]
#[case::slice_list_without_kinds(
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList, items: [{addressType: IPv4, metadata: {name: a, \
     labels: {kubernetes.io/service-name: b}}}]}".to_owned(), &["EndpointSlice default/a"])]
#[case::empty_document("---\n---\n# nothing\n".to_owned(), &[])]
#[case::byte_order_mark(format!("\u{feff}{}", service("web", "10.96.0.1")), &["Service default/web"])]
#[case::nulls_as_tools_write_them(
    "{apiVersion: v1, kind: Service, metadata: {name: a, creationTimestamp: null, labels: null, namespace: null}, \
     spec: {clusterIP: 10.96.0.1, ports: null, externalIPs: ~}, status: {loadBalancer: {}}}".to_owned(),
    &["Service default/a"])]
#[case::unknown_fields("{apiVersion: v1, kind: Service, metadata: {name: a, x: 1}, spec: {clusterIP: 10.96.0.1, new: {deep: [1]}}, y: 2}".to_owned(),
    &["Service default/a"])]
fn declared(#[case] text: String, #[case] expected: &[&str]) {
    let contents = read("m.yaml", &text);
    assert_eq!(objects(&contents), expected);
    assert!(!contents.incomplete);
}

/// The rows a person writes by mistake. `!` marks the object that is refused.
#[rstest]
#[case::port_too_big("kind: Service\napiVersion: v1\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - port: 70000\n",
    &["Service default/web!"], "m.yaml:7: Service default/web: spec.ports[0].port: 70000 is not a port")]
#[case::port_zero("kind: Service\napiVersion: v1\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - name: a\n    port: 0\n",
    &["Service default/web!"], "m.yaml:8: Service default/web: spec.ports[0].port: 0 is not a port")]
#[case::port_as_text("kind: Service\napiVersion: v1\nmetadata: {name: web}\nspec:\n  ports:\n  - port: \"80\"\n",
    &["Service default/web!"], "m.yaml:6: Service default/web: spec.ports[0].port: invalid type: string \"80\", expected i32")]
#[case::number_as_text("kind: Service\napiVersion: v1\nmetadata:\n  name: web\n  labels:\n    tier: 1\n",
    &["Service default/web!"], "m.yaml:6: Service default/web: metadata.labels.tier: text is expected here; put the value in quotes")]
#[case::list_expected("kind: Service\napiVersion: v1\nmetadata: {name: web}\nspec:\n  ports: 80\n",
    &["Service default/web!"], "m.yaml:5: Service default/web: spec.ports: invalid type: integer `80`")]
#[case::bad_address("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv4\nmetadata: {name: a, labels: {kubernetes.io/service-name: web}}\nendpoints:\n- addresses:\n  - 10.0.0.300\n",
    &["EndpointSlice default/a!"], "m.yaml:7: EndpointSlice default/a: endpoints[0].addresses[0]: \"10.0.0.300\" is not an IP address")]
#[case::wrong_family("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv6\nmetadata: {name: a, labels: {kubernetes.io/service-name: web}}\nendpoints:\n- addresses: [10.0.0.3]\n",
    &["EndpointSlice default/a!"], "m.yaml:6: EndpointSlice default/a: endpoints[0].addresses[0]: 10.0.0.3 does not fit the slice's addressType IPv6")]
#[case::unknown_protocol("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv4\nmetadata: {name: a, labels: {kubernetes.io/service-name: web}}\nports:\n- {port: 1, protocol: ICMP}\n",
    &["EndpointSlice default/a!"], "m.yaml:6: EndpointSlice default/a: ports[0].protocol: \"ICMP\" is not a protocol")]
#[case::missing_owner("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv4\nmetadata:\n  name: a\n  labels:\n    app: web\n",
    &["EndpointSlice default/a!"], "m.yaml:7: EndpointSlice default/a: metadata.labels: the label kubernetes.io/service-name is missing")]
#[case::no_cluster_ip("kind: Service\napiVersion: v1\nmetadata: {name: web}\nspec:\n  type: ClusterIP\n",
    &["Service default/web"], "m.yaml:5: Service default/web: spec.clusterIP: it is missing")]
#[case::bad_node_address("kind: Node\napiVersion: v1\nmetadata: {name: n1}\nstatus:\n  addresses:\n  - type: InternalIP\n    address: n1\n",
    &["Node n1!"], "m.yaml:7: Node n1: status.addresses[0].address: \"n1\" is not an IP address")]
#[case::bad_service_range("kind: ServiceCIDR\napiVersion: networking.k8s.io/v1\nmetadata: {name: a}\nspec:\n  cidrs:\n  - 10.96.0.0\n",
    &["ServiceCIDR a!"], "m.yaml:6: ServiceCIDR a: spec.cidrs[0]: \"10.96.0.0\" is not an address range")]
#[case::old_service_range("kind: ServiceCIDR\napiVersion: networking.k8s.io/v1beta1\n", &[], "m.yaml:1: a ServiceCIDR has apiVersion networking.k8s.io/v1")]
#[case::node_of_another_version("kind: Node\napiVersion: v2\n", &[], "m.yaml:1: a Node has apiVersion v1")]
#[case::other_kind("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}\n", &[], "m.yaml:1: apps/v1 Deployment is ignored: ")]
#[case::no_kind("# a comment\napiVersion: v1\nmetadata: {name: web}\n", &[], "m.yaml:2: kind is missing")]
#[case::no_version("kind: Service\nmetadata: {name: web}\n", &[], "m.yaml:1: apiVersion is missing")]
#[case::old_version("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1beta1\n", &[], "m.yaml:1: an EndpointSlice has apiVersion discovery.k8s.io/v1")]
#[case::no_name("kind: Service\napiVersion: v1\nmetadata:\n  labels: {}\n", &[], "m.yaml:4: metadata.name: it is missing")]
#[case::name_is_a_number("kind: Service\napiVersion: v1\nmetadata:\n  name: 7\n", &[], "m.yaml:4: metadata.name: it must be text")]
#[case::name_with_a_slash("kind: Service\napiVersion: v1\nmetadata:\n  name: a/b\n", &[], "m.yaml:4: metadata.name: a name has 1 to 253")]
#[case::namespace_with_a_line_break("kind: Service\napiVersion: v1\nmetadata:\n  name: a\n  namespace: \"a\\nb\"\n", &[], "m.yaml:5: metadata.namespace: a name has")]
#[case::a_number("42\n", &[], "m.yaml:1: kind is missing")]
#[case::a_list_in_a_list("kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: List, items: []}\n", &[], "m.yaml:4: a list inside a list")]
fn one_complaint(#[case] text: &str, #[case] expected: &[&str], #[case] complaint: &str) {
    let contents = read("m.yaml", text);
    assert_eq!(objects(&contents), expected);
    assert_eq!(contents.problems.len(), 1, "{:?}", contents.problems);
    assert!(
        complaints(&contents)[0].starts_with(complaint),
        "{}",
        contents.problems[0]
    );
}

#[test]
fn json_complaints_have_the_line_of_the_field() {
    let text = "{\"kind\": \"Service\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"web\"},\n\
                \"spec\": {\"clusterIP\": \"10.96.0.1\",\n\"ports\": [\n{\"port\": 0}]}}";
    assert!(
        complaints(&read("m.json", text))[0].starts_with("m.json:4: Service default/web: spec.ports[0].port: 0 is")
    );
}

#[test]
fn a_broken_object_leaves_its_neighbours_alone() {
    let broken = "- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: x}]}}\n";
    let text = format!(
        "kind: List\napiVersion: v1\nitems:\n- {}{broken}- {}",
        service("a", "10.96.0.1"),
        service("c", "10.96.0.3")
    );
    let contents = read("m.yaml", &text);
    assert_eq!(
        objects(&contents),
        ["Service default/a", "Service default/b!", "Service default/c"]
    );
    assert!(!contents.incomplete, "everybody knows which object is broken");
}

#[rstest]
#[case::no_name("{kind: Service, apiVersion: v1}")]
#[case::no_kind("{apiVersion: v1, metadata: {name: a}}")]
#[case::not_an_object("just text")]
fn what_cannot_be_told_makes_the_file_incomplete(#[case] text: &str) {
    assert!(read("m.yaml", &format!("{}---\n{text}\n", service("a", "10.96.0.1"))).incomplete);
}

#[test]
fn other_kinds_are_reported_once_each() {
    let text =
        "{kind: Pod, apiVersion: v1}\n---\n{kind: Pod, apiVersion: v1}\n---\n{kind: Endpoints, apiVersion: v1}\n";
    let contents = read("m.yaml", text);
    let complaints = complaints(&contents);
    assert!(
        complaints[0].starts_with("m.yaml:5: v1 Endpoints is ignored: only"),
        "{complaints:?}"
    );
    assert!(
        complaints[1].starts_with("m.yaml:1: v1 Pod is ignored (2 times): only"),
        "{complaints:?}"
    );
    assert!(
        contents
            .problems
            .iter()
            .all(|problem| problem.severity == Severity::Info)
            && !contents.incomplete
    );
}

#[test]
fn an_object_twice_in_one_file_counts_once() {
    let text = format!("{}---\n{}", service("a", "10.96.0.1"), service("a", "10.96.0.2"));
    let contents = read("m.yaml", &text);
    assert_eq!(objects(&contents), ["Service default/a"]);
    let Some(Declared::Service(first)) = &contents.objects[0].declared else {
        panic!()
    };
    assert_eq!(first.cluster_ips[0].to_string(), "10.96.0.1");
    assert_eq!(
        complaints(&contents),
        ["m.yaml:3: Service default/a: it is declared in line 1 already; that one counts"]
    );
}

/// The API server defaults the name of a slice's port to the empty one (so that it fits an unnamed Service port).
#[test]
fn an_unnamed_slice_port_gets_the_empty_name() {
    let contents = read("m.yaml", &slice("a", "web", "10.0.0.1"));
    let Some(Declared::EndpointSlice(read)) = &contents.objects[0].declared else {
        panic!()
    };
    assert_eq!(read.ports[0].name.as_deref(), Some(""));
}
