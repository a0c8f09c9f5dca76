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

/// Ready only once everything is in the tables, and the manifests are read before anybody can ask: a cluster is waited for.
#[test]
fn a_node_is_ready_after_everything_has_been_in_the_tables() {
    let lab = tests::lab::Lab::one_node()
        .backends(1)
        .build()
        .expect("the lab can be built: this needs root");
    let listener = lab
        .node()
        .run(|| std::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a socket");
    let server = tests::api_server::ApiServer::start_on(listener).expect("a server");
    server.fault(|faults| faults.stall = [tests::api_server::Resource::EndpointSlices].into());
    let options = tests::lab::AgentOptions {
        api_server: Some(server.url()),
        ..Default::default()
    };
    let mut agent = tests::lab::Agent::start(&lab, &options).expect("the agent starts");
    let code = |path: &str| {
        get(lab.node(), PROBES, path)
            .map(|answer| answer.code)
            .unwrap_or_default()
    };
    let wait = |path: &str, wanted: u16| {
        let start = std::time::Instant::now();
        while code(path) != wanted {
            assert!(
                start.elapsed() < std::time::Duration::from_secs(60),
                "{path} is {}, not {wanted}",
                code(path)
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    wait("/livez", 200);
    assert_eq!(code("/readyz"), 503, "slices are still to come");
    server.fault(|faults| faults.stall.clear());
    // It asks again half a minute later.
    server.cut();
    wait("/readyz", 200);
    server.go_away().expect("it can go");
    assert_eq!(code("/readyz"), 200, "what was read stays in force");
    let status = agent.cli_json(["status", "-o", "json"]).expect("a status");
    assert_eq!(status["healthy"], true, "{status}");
    let start = std::time::Instant::now();
    loop {
        let text = agent.cli(["status"]).expect("a status");
        if text.contains("AWAY:    not heard of for ") {
            break;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{text}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    agent.stop().expect("it runs");
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
