//! Kubernetes Events of a running agent: what of its troubles it tells, at which object.
//!
//! How Events look and what happens where they can't be written: `host_kubernetes/events.rs`.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::api_server::{ApiServer, Resource};
use tests::lab::{Agent, AgentOptions, Lab};

use crate::scene::{HEALTH_PORT, METRICS, PATIENCE};

fn lab() -> Lab {
    let lab = Lab::one_node().backends(1).build();
    lab.expect("the lab can be built: this needs root")
}

fn server(lab: &Lab) -> ApiServer {
    let listener = lab.node().run(|| TcpListener::bind("127.0.0.1:0")).expect("a socket");
    ApiServer::start_on(listener).expect("a server")
}

fn take(lab: &Lab, at: SocketAddr) -> TcpListener {
    lab.node().run(|| TcpListener::bind(at)).expect("nobody has it")
}

fn service(name: &str, address: &str, rest: &Value) -> Value {
    let mut object = json!({"kind": "Service", "metadata": {"name": name, "namespace": "shop", "annotations": rest["annotations"]},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    for (field, value) in rest["spec"].as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

/// With a health port.
fn local() -> Value {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT});
    service("local", "10.96.0.1", &json!({"spec": spec}))
}

/// Kind and name of the object, reason, note.
fn told(server: &ApiServer) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = server.objects(Resource::Events).into_iter().map(|event| {
        let object = &event["regarding"];
        let name = format!("{} {}", text(&object["kind"]), text(&object["name"]));
        [name, text(&event["reason"]), text(&event["note"])]
    });
    events.collect()
}

#[test]
fn what_is_wrong_is_told_once_at_the_object_that_it_concerns() {
    let lab = lab();
    let server = server(&lab);
    let _taken = [
        take(&lab, METRICS),
        take(&lab, SocketAddr::new([0, 0, 0, 0].into(), HEALTH_PORT)),
    ];
    let claims = json!({"spec": {"externalIPs": ["198.51.100.7"]}});
    let mistyped = json!({"annotations": {"sluice.io/forwarding": "dsrr"}});
    let services = [
        local(),
        service("first", "10.96.0.2", &claims),
        service("mistyped", "10.96.0.3", &mistyped),
        service("fine", "10.96.0.4", &json!({})),
    ];
    server.put(services).expect("Services");
    let options = AgentOptions {
        api_server: Some(server.url()),
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(&lab, &options).expect("the agent starts");
    agent.wait_ready().expect("it is ready");
    server
        .put([service("second", "10.96.0.5", &claims)])
        .expect("a Service");

    let expected = [
        (format!("Node {}", lab.node().name), "Starting", "sluice "),
        (
            format!("Node {}", lab.node().name),
            "FailedToStartMetricServer",
            "cannot listen on 127.0.0.1:10249",
        ),
        (
            "Service local".to_owned(),
            "FailedToStartServiceHealthcheck",
            "spec.healthCheckNodePort: cannot listen on",
        ),
        (
            "Service second".to_owned(),
            "FailedToProgramServicePort",
            "198.51.100.7 port 80 belongs to shop/first",
        ),
        (
            "Service mistyped".to_owned(),
            "NotServedAsWritten",
            "metadata.annotations[sluice.io/forwarding]",
        ),
    ];
    let is_told = |told: &[[String; 3]], (object, reason, part): &(String, &str, &str)| {
        told.iter()
            .any(|[about, why, note]| about == object && why == reason && note.contains(part))
    };
    let start = Instant::now();
    while !expected.iter().all(|wanted| is_told(&told(&server), wanted)) {
        assert!(start.elapsed() < PATIENCE, "{:#?}", told(&server));
        sleep(Duration::from_millis(50));
    }
    // What lasts is looked at every second.
    sleep(Duration::from_secs(3));
    let all = told(&server);
    assert_eq!(all.len(), expected.len(), "{all:#?}");
    let once: BTreeSet<_> = all.iter().collect();
    assert_eq!(once.len(), all.len());
    let series = server
        .objects(Resource::Events)
        .into_iter()
        .filter(|event| !event["series"].is_null());
    assert_eq!(series.count(), 0, "{all:#?}");
    agent.stop().expect("it runs");
}

/// kube-proxy has the health ports while it serves: nothing is wrong with them.
#[test]
fn in_shadow_a_health_port_that_is_taken_is_not_told() {
    let lab = lab();
    let server = server(&lab);
    let _taken = take(&lab, SocketAddr::new([0, 0, 0, 0].into(), HEALTH_PORT));
    server.put([local()]).expect("a Service");
    let options = AgentOptions {
        api_server: Some(server.url()),
        extra: vec!["--shadow".to_owned()],
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(&lab, &options).expect("the agent starts");
    agent.wait_ready().expect("it is ready");
    let is_told = |reason: &str| told(&server).iter().any(|[_, told, _]| told == reason);
    sleep(Duration::from_secs(3));
    assert!(is_told("Starting") && !is_told("FailedToStartServiceHealthcheck"));
    agent.cli(["takeover"]).expect("it is taken over");
    let start = Instant::now();
    while !is_told("FailedToStartServiceHealthcheck") {
        assert!(start.elapsed() < PATIENCE, "{:#?}", told(&server));
        sleep(Duration::from_millis(50));
    }
    agent.stop().expect("it runs");
}

#[test]
fn an_agent_that_has_to_end_says_why_first() {
    let lab = lab();
    let server = server(&lab);
    let _taken = take(&lab, METRICS);
    let options = AgentOptions {
        api_server: Some(server.url()),
        extra: vec!["--bind-address-hard-fail".to_owned()],
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(&lab, &options).expect("the agent can be started");
    let start = Instant::now();
    while agent.is_ready().is_ok() {
        assert!(start.elapsed() < PATIENCE, "it still runs");
        sleep(Duration::from_millis(20));
    }
    let reasons: Vec<String> = told(&server).into_iter().map(|[_, reason, _]| reason).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    for reason in ["Starting", "FailedToStartMetricServer"] {
        assert!(reasons.iter().any(|told| told == reason), "{reasons:?}");
    }
}
