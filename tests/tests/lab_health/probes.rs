//! `/healthz` and `/livez`.

use serde_json::json;

use crate::scene::{PROBES, Scene, get};

#[test]
fn row_137_a_node_that_has_started_is_healthy_for_itself_and_for_others() {
    let scene = Scene::start(&[]);
    for host in [scene.lab.node(), scene.lab.client()] {
        for path in ["/healthz", "/livez"] {
            let answer = get(host, PROBES, path).expect("somebody listens");
            assert_eq!(answer.code, 200, "{answer:?}");
            assert!(answer.has_header("content-type: application/json"), "{answer:?}");
            assert!(answer.has_header("x-content-type-options: nosniff"), "{answer:?}");
            let body = answer.json();
            assert_eq!(body["healthy"], true, "{body}");
            assert_eq!(body["status"]["IPv4"]["healthy"], true, "{body}");
            assert_eq!(body.get("nodeEligible").is_some(), path == "/healthz", "{body}");
        }
    }
    assert_eq!(get(scene.lab.node(), PROBES, "/").expect("somebody listens").code, 404);
}

#[test]
fn row_141_a_node_that_is_about_to_go_gets_no_new_connections_and_is_alive() {
    let scene = Scene::start(&[]);
    let client = scene.lab.client();
    scene.wait_for_code(client, PROBES, "/healthz", 200);
    scene.write_node(&json!({
        "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}],
    }));
    let answer = scene.wait_for_code(client, PROBES, "/healthz", 503);
    let body = answer.json();
    assert_eq!(
        (&body["healthy"], &body["nodeEligible"]),
        (&json!(true), &json!(false)),
        "{body}"
    );
    assert_eq!(get(client, PROBES, "/livez").expect("somebody listens").code, 200);

    scene.write_node(&json!({"taints": [{"key": "another", "effect": "NoSchedule"}]}));
    scene.wait_for_code(client, PROBES, "/healthz", 200);
    let metrics = get(scene.lab.node(), crate::scene::METRICS, "/metrics").expect("somebody listens");
    assert!(
        metrics.body.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1"),
        "{}",
        metrics.body
    );
}
