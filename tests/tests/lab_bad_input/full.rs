//! More Services than there are places: what fits is served, the rest is told, and what worked is kept.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lb_common::layout::limits::SERVICES_MAX;

use crate::scene::{Scene, texts, web};

const MANY: u32 = 70_000;
/// Reading 70 000 Services takes a second or two.
const WITHIN: Duration = Duration::from_secs(30);

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + number)
}

fn many(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let address = address(number);
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: many-{number:05}}}\n\
             spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}"
        )
        .expect("a String takes everything");
    }
    text
}

/// A Service without endpoints is refused at once; one that is not in the tables is nobody's, and nobody answers.
fn is_refused(scene: &Scene, number: u32) -> bool {
    let target = SocketAddr::new(address(number).into(), 80);
    let dialled = scene
        .lab
        .client()
        .run(|| TcpStream::connect_timeout(&target, Duration::from_millis(500)));
    dialled.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn what_fits_is_served_and_the_rest_is_told() {
    let mut scene = Scene::start();
    scene
        .manifests
        .write("many.yaml", &many(MANY))
        .expect("the folder can be written to");
    let too_many = (MANY + 1 - SERVICES_MAX) as usize;
    scene.wait_for("full tables", WITHIN, |state| {
        state["services"] == MANY + 1 && texts(&state["port_problems"]).len() == too_many
    });
    scene.check_served();
    assert!(
        is_refused(&scene, 0) && is_refused(&scene, 65_000),
        "what fits is in the tables"
    );
    let reason = "no place for 1 more service ports (of 65536)";
    let rest = format!("and {} more; all of them: sluice status -o json", too_many - 20);
    let status = scene.sluice(&["status"]);
    status.expect_failure(&[reason, "remove Services or endpoints", &rest, "100.0 %"]);
    let last = format!("default/many-69999/TCP v4: {reason}");
    scene.sluice(&["status", "-o", "json"]).expect_failure(&[&last]);

    // Full tables still take changes of what is in them.
    let mut service = web(&scene.lab);
    let endpoints = std::mem::take(&mut service.endpoints);
    scene.manifests.apply(&service).expect("the folder can be written to");
    scene.wait_for_frontend("reject");
    service.endpoints = endpoints;
    scene.manifests.apply(&service).expect("the folder can be written to");
    scene.wait_for_frontend("10.244.1.11:7000");
    scene.check_served();

    // Nor does a new agent take anything away that is there.
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
    assert!(
        is_refused(&scene, 0) && is_refused(&scene, 65_000),
        "what was there is kept"
    );
    scene.wait_for("full tables again", WITHIN, |state| {
        texts(&state["port_problems"]).len() == too_many
    });
    scene.check_served();

    // Whoever leaves makes place for one that waits.
    scene
        .manifests
        .write("many.yaml", &many(MANY - 1_000))
        .expect("the folder can be written to");
    scene.wait_for("fewer complaints", WITHIN, |state| {
        texts(&state["port_problems"]).len() == too_many - 1_000
    });
    scene.check_served();
    scene
        .manifests
        .write("many.yaml", &many(10))
        .expect("the folder can be written to");
    scene.wait_for_peace();
    assert!(is_refused(&scene, 9));
    scene.check_served();
    assert_eq!(scene.sluice(&["status"]).code, Some(0));
}
