//! Manifests that are broken, or that say what can't be served.

use std::fs;

use tests::traffic::manifests::Service;

use crate::scene::{PATIENCE, Scene, texts, web};

const HEAD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\n";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: web-ipv4, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n";

#[test]
fn a_broken_file_is_told_with_its_line_and_the_last_good_state_goes_on() {
    let scene = Scene::start();
    let good = web(&scene.lab);
    let (documents, separator) = (good.to_yaml(), "---\n");
    let (service, endpoints) = documents.split_once(separator).expect("a Service and its slice");
    // The other object stands behind the broken one, as good as ever.
    let text = |rest: &str| format!("{HEAD}{rest}{separator}{endpoints}").into_bytes();
    let slice = |rest: &str| format!("{SLICE}{rest}{separator}{service}").into_bytes();
    let cases: [(Vec<u8>, &[&str]); 11] = [
        (
            text("spec: {ports: [\n"),
            &[
                "web.yaml:4:",
                "unclosed bracket",
                "what the file said before stays in force",
            ],
        ),
        (text("spec:\n\tports: []\n"), &["web.yaml:5:", "tab", "stays in force"]),
        (
            b"\xff\xfe\n".to_vec(),
            &["web.yaml", "line 1 is not UTF-8", "stays in force"],
        ),
        (
            Vec::new(),
            &["web.yaml", "the file is empty; delete it to withdraw its objects"],
        ),
        (b"just words\n".to_vec(), &["web.yaml:1:", "kind is missing"]),
        (
            text("spec: {clusterIP: 10.96.0.80, ports: [{port: eighty}]}\n"),
            &["web.yaml:4:", "Service default/web", "spec.ports[0].port"],
        ),
        (
            text("spec: {clusterIP: 10.96.0.999, ports: [{port: 80}]}\n"),
            &["web.yaml:4:", "10.96.0.999"],
        ),
        (
            text("spec:\n  clusterIP: 10.96.0.80\n  ports:\n    - {port: 0}\n"),
            &["web.yaml:7:", "Service default/web", "0 is not a port", "1 to 65535"],
        ),
        (
            slice("ports: [{port: 0}]\nendpoints: [{addresses: [10.244.1.11]}]\n"),
            &["web.yaml:5:", "EndpointSlice default/web-ipv4", "0 is not a port"],
        ),
        (
            slice("ports: [{port: 7000}]\nendpoints:\n  - {addresses: [\"fd00:10:244:1::11\"]}\n"),
            &[
                "web.yaml:7:",
                "EndpointSlice default/web-ipv4",
                "does not fit the slice's addressType IPv4",
            ],
        ),
        (
            text("spec: &a {b: [*a, *a]}\n"),
            &["web.yaml:4:", "an alias cannot stand inside the value that it repeats"],
        ),
    ];
    for (bytes, parts) in cases {
        let (draft, file) = (
            scene.manifests.path().join(".draft"),
            scene.manifests.path().join("web.yaml"),
        );
        fs::write(&draft, &bytes).expect("the folder can be written to");
        fs::rename(&draft, &file).expect("the folder can be written to");
        scene.wait_for_complaint(parts);
        scene.check_served();
        let status = scene.status();
        assert!(
            status.contains("object:  ") && parts[1..].iter().all(|part| status.contains(part)),
            "{status}"
        );
        // Others are heard meanwhile.
        scene.manifests.apply(&good).expect("the folder can be written to");
        scene.wait_for_peace();
    }
    let log = fs::read_to_string(scene.agent.log_file()).expect("a log");
    assert!(log.contains("ERROR") && log.contains("web.yaml:7:"), "{log}");
}

#[test]
fn other_kinds_are_reported_and_what_is_beside_them_is_served() {
    let scene = Scene::start();
    let others = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n---\n\
                  apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {}\n---\n\
                  apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\n---\n";
    let api = Service::new("api", ["10.96.0.81".parse().expect("an address")]).port("TCP", 81, 7000);
    let text = format!("{others}{}", api.to_yaml());
    scene
        .manifests
        .write("mixed.yaml", &text)
        .expect("the folder can be written to");
    for (place, kind) in [
        ("mixed.yaml:1:", "ConfigMap"),
        ("mixed.yaml:6:", "Deployment"),
        ("mixed.yaml:11:", "Gateway"),
    ] {
        scene.wait_for_complaint(&[
            place,
            kind,
            "is ignored",
            "only v1 Service, discovery.k8s.io/v1 EndpointSlice",
        ]);
    }
    let frontends = scene.sluice(&["get", "frontends"]);
    assert!(frontends.said.contains("default/api"), "{}", frontends.said);
    assert_eq!(
        scene.sluice(&["status"]).code,
        Some(0),
        "a file with other kinds is no illness"
    );
    scene.check_served();
}

#[test]
fn a_folder_that_goes_takes_nothing_with_it() {
    let scene = Scene::start();
    let (folder, aside) = (scene.manifests.path().to_owned(), scene.lab.directory().join("aside"));
    fs::rename(&folder, &aside).expect("the folder is ours");
    scene.wait_for_complaint(&[
        "manifests",
        "cannot list the directory",
        "what was read before stays in force",
    ]);
    scene.check_served();
    fs::rename(&aside, &folder).expect("the folder is ours");
    scene.wait_for_peace();
    scene.check_served();
}

#[test]
fn what_a_service_asks_for_in_vain_is_told_and_the_rest_is_served() {
    let scene = Scene::start();
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: wide, namespace: default}\nspec:\n  type: NodePort\n  \
                clusterIP: 10.96.0.82\n  sessionAffinity: ClientIP\n  ports: [{name: a, port: 82, nodePort: 30082}]\n---\n\
                apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: wide-1, \
                namespace: default, labels: {kubernetes.io/service-name: wide}}\nendpoints: [{addresses: [10.244.1.11]}]\n\
                ports: [{name: a, port: 7000}, {name: b}, {name: c, port: null}]\n";
    scene
        .manifests
        .write("wide.yaml", text)
        .expect("the folder can be written to");
    let left_out = |count: usize| move |state: &serde_json::Value| texts(&state["left_out"]).len() == count;
    scene.wait_for("two wishes left out", PATIENCE, left_out(2));
    let status = scene.status();
    for part in [
        "skipped: EndpointSlice default/wide-1: ports[1]: a port without a number (all ports) is not implemented",
        "skipped: EndpointSlice default/wide-1: ports[2]: a port without a number (all ports) is not implemented",
    ] {
        assert!(status.contains(part), "no \"{part}\" in:\n{status}");
    }
    let frontends = scene.sluice(&["get", "frontends"]).said;
    for part in ["10.96.0.82:82", "*:30082"] {
        assert!(frontends.contains(part), "no {part} in {frontends}");
    }
    scene
        .manifests
        .remove("wide.yaml")
        .expect("the folder can be written to");
    scene.wait_for("wish left out any longer", PATIENCE, left_out(0));
}
