//! `/metrics` of an agent that serves.

use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::json;
use tests::lab::plan;
use tests::traffic::manifests::Service;
use tests::traffic::{Serve, Server};

use crate::scene::{METRICS, PATIENCE, Scene, endpoint, get, web};

const API: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 81)), 80);

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|found| found == line)
}

#[test]
fn rows_118_and_119_a_scrape_says_what_is_and_what_happened() {
    let scene = Scene::start(&[]);
    let _servers = Server::start_on(scene.lab.backends(), &Serve::default()).expect("servers start");
    let mut web = web(vec![endpoint(plan::backend_v4(1), false)]);
    web.spec["internalTrafficPolicy"] = json!("Local");
    scene.apply(&web);
    scene.apply(
        &Service::new("api", [API.ip()])
            .port("TCP", API.port(), 7000)
            .backends(scene.lab.backends()),
    );

    let node = scene.lab.node();
    let answer = scene.wait_for(node, METRICS, "/metrics", |answer| {
        let text = answer.as_ref().map_or("", |answer| &answer.body);
        has(text, "sluice_table_entries{table=\"LB4_SERVICES\"} 3")
    });
    let answer = answer.expect("an answer");
    assert!(
        answer
            .headers
            .iter()
            .any(|line| line.starts_with("content-type: text/plain; version=0.0.4")),
        "{answer:?}"
    );
    for policy in ["internal", "external"] {
        let line = format!(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"IPv4\",traffic_policy=\"{policy}\"}} 2"
        );
        assert!(has(&answer.body, &line), "{line}\n{}", answer.body);
    }
    for line in [
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
    ] {
        assert!(has(&answer.body, line), "{line}\n{}", answer.body);
    }
    assert_eq!(get(node, METRICS, "/proxyMode").expect("an answer").body, "sluice");

    let backend = plan::backend_v4(1);
    for _ in 0..3 {
        let dial = || TcpStream::connect_timeout(&API, PATIENCE).map(drop);
        scene.lab.client().run(dial).expect("the Service is there");
    }
    let port = "namespace=\"default\",service=\"api\",port=\"\",protocol=\"TCP\",ip_family=\"IPv4\"";
    let lines = [
        format!("sluice_service_connections_total{{{port}}} 3"),
        format!("sluice_backend_connections_total{{{port},backend=\"{backend}:7000\"}} 3"),
    ];
    // Flows are counted by the sweep, every 10 s.
    let flows = |text: &str| {
        let prefix = format!("sluice_backend_flows{{{port},backend=\"{backend}:7000\"}} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix)?.parse::<u64>().ok())
    };
    scene.wait_for(node, METRICS, "/metrics", |answer| {
        let text = answer.as_ref().map_or("", |answer| &answer.body);
        lines.iter().all(|line| has(text, line)) && flows(text).is_some_and(|flows| (1..=3).contains(&flows))
    });
    assert_eq!(
        get(
            scene.lab.client(),
            SocketAddr::new(plan::NODE_V4.into(), METRICS.port()),
            "/metrics"
        ),
        None
    );
}
