//! Addresses that somebody else has.

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use serde_json::Value;

use tests::lab::{Agent, AgentOptions};

use crate::scene::{HEALTH_PORT, METRICS, PATIENCE, PROBES, Scene, endpoint, get, lab, web};

fn take(lab: &tests::lab::Lab, at: SocketAddr) -> TcpListener {
    lab.node().run(|| TcpListener::bind(at)).expect("nobody has it")
}

fn wait_for_problems(scene: &Scene, wanted: impl Fn(&[&str]) -> bool) {
    let began = Instant::now();
    loop {
        let state = scene.agent.state().expect("a state");
        let problems = state["health_problems"].as_array().cloned().unwrap_or_default();
        let problems: Vec<&str> = problems.iter().filter_map(Value::as_str).collect();
        if wanted(&problems) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{problems:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_address_that_is_taken_is_said_and_tried_again() {
    let (lab, manifests) = lab();
    let everywhere = SocketAddr::new([0, 0, 0, 0].into(), PROBES.port());
    let taken = [take(&lab, everywhere), take(&lab, METRICS)];
    let health_port = take(&lab, SocketAddr::new([0, 0, 0, 0].into(), HEALTH_PORT));
    let scene = Scene::start_in(lab, manifests, &[]);
    scene.apply(&web(vec![endpoint(tests::lab::plan::backend_v4(1), true)]));
    wait_for_problems(&scene, |problems| {
        let parts = [
            "for /healthz and /livez",
            "for metrics",
            "Service default/web: spec.healthCheckNodePort",
        ];
        problems.len() == 3
            && parts
                .iter()
                .all(|part| problems.iter().any(|problem| problem.contains(part)))
    });
    let status = scene.agent.cli(["status"]).expect("a node that serves is healthy");
    assert!(status.contains("  HEALTH:  cannot listen on 0.0.0.0:10256"), "{status}");

    drop((taken, health_port));
    scene.wait_for_code(scene.lab.client(), PROBES, "/healthz", 200);
    scene.wait_for_code(scene.lab.node(), METRICS, "/healthz", 200);
    scene.wait_for_code(scene.lab.client(), SocketAddr::new(PROBES.ip(), HEALTH_PORT), "/", 200);
    wait_for_problems(&scene, |problems| problems.is_empty());
}

#[test]
fn it_ends_the_agent_where_that_is_asked_for() {
    let (lab, _manifests) = lab();
    let _taken = take(&lab, METRICS);
    let options = AgentOptions {
        extra: vec!["--bind-address-hard-fail".to_owned()],
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(&lab, &options).expect("the agent can be started");
    let began = Instant::now();
    let error = loop {
        match agent.is_ready() {
            Err(error) => break format!("{error:#}"),
            Ok(_) => assert!(began.elapsed() < PATIENCE, "it still runs"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    for part in ["cannot listen on 127.0.0.1:10249", "--bind-address-hard-fail"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn empty_addresses_are_none() {
    let scene = Scene::start(&["--healthz-bind-address", "", "--metrics-bind-address", ""]);
    assert_eq!(get(scene.lab.client(), PROBES, "/healthz"), None);
    assert_eq!(get(scene.lab.node(), METRICS, "/metrics"), None);
}
