//! The health ports of Services.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use tests::lab::plan;

use crate::scene::{HEALTH_PORT, Scene, endpoint, get, web};

const AT: SocketAddr = SocketAddr::new(IpAddr::V4(plan::NODE_V4), HEALTH_PORT);
const AT_V6: SocketAddr = SocketAddr::new(IpAddr::V6(plan::NODE_V6), HEALTH_PORT);

/// Local endpoints, the header with their number, and whether new connections are welcome.
fn check(scene: &Scene, at: SocketAddr, code: u16, local_endpoints: u64) {
    let weight = format!("x-load-balancing-endpoint-weight: {local_endpoints}");
    let answer = scene.wait_for(scene.lab.client(), at, "/whatever", |answer| {
        answer
            .as_ref()
            .is_some_and(|answer| answer.code == code && answer.has_header(&weight))
    });
    let body = answer.expect("an answer").json();
    let expected = json!({
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": true,
    });
    assert_eq!(body, expected);
}

#[test]
fn rows_137_142_and_143_a_health_port_follows_the_local_endpoints() {
    let scene = Scene::start(&[]);
    let client = scene.lab.client();
    assert_eq!(get(client, AT, "/"), None, "no Service, no port");
    let [first, second] = [1, 2].map(plan::backend_v4);

    scene.apply(&web(vec![endpoint(first, false)]));
    check(&scene, AT, 503, 0);
    check(&scene, AT_V6, 503, 0);
    scene.apply(&web(vec![endpoint(first, false), endpoint(second, true)]));
    check(&scene, AT, 200, 1);
    scene.apply(&web(vec![endpoint(first, true), endpoint(second, true)]));
    check(&scene, AT, 200, 2);

    let mut terminating = endpoint(second, true);
    (terminating.ready, terminating.terminating) = (false, true);
    scene.apply(&web(vec![endpoint(first, false), terminating]));
    check(&scene, AT, 503, 0);

    // The node's own way out is for /healthz.
    scene.apply(&web(vec![endpoint(first, true)]));
    scene.write_node(&json!({
        "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}],
    }));
    scene.wait_for_code(client, crate::scene::PROBES, "/healthz", 503);
    check(&scene, AT, 200, 1);

    let mut moved = web(vec![endpoint(first, true)]);
    moved.spec["healthCheckNodePort"] = json!(HEALTH_PORT + 1);
    scene.apply(&moved);
    check(&scene, SocketAddr::new(AT.ip(), HEALTH_PORT + 1), 200, 1);
    scene.wait_for(client, AT, "/", Option::is_none);
    scene.manifests.remove("web.yaml").expect("it is there");
    scene.wait_for(client, SocketAddr::new(AT.ip(), HEALTH_PORT + 1), "/", Option::is_none);
}

#[test]
fn row_122_node_ports_on_loopback_only_do_not_hide_the_health_port() {
    let scene = Scene::start(&["--nodeport-addresses", "localhost"]);
    scene.apply(&web(vec![endpoint(plan::backend_v4(1), true)]));
    check(&scene, AT, 200, 1);
    scene.manifests.remove("web.yaml").expect("it is there");
    scene.wait_for(scene.lab.client(), AT, "/", Option::is_none);
}

#[test]
fn health_ports_are_open_on_the_addresses_of_node_ports() {
    let scene = Scene::start(&["--nodeport-addresses", "172.18.0.0/16,::1/128"]);
    scene.apply(&web(vec![endpoint(plan::backend_v4(1), true)]));
    check(&scene, AT, 200, 1);
    assert_eq!(get(scene.lab.client(), AT_V6, "/"), None);
    let loopback = SocketAddr::new([127, 0, 0, 1].into(), HEALTH_PORT);
    assert_eq!(get(scene.lab.node(), loopback, "/"), None);
}
