//! `sessionAffinity: ClientIP`: a client stays with its backend, whichever frontend it dials, for as long as it comes back in time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lab::{Host, Lab};
use tests::traffic::{Cluster, Over};

use crate::rows::{Who, client};
use crate::scene::{CHANGE_MAX, Frontend, PATIENCE, cluster_cidr, combinations, service, start};

const STICKY: u16 = 81;
const SHORT: u16 = 82;
const LOCAL: u16 = 83;
const FREE: u16 = 84;

/// Connections by each frontend. Chance sends so many to one backend of four once in 10^6 times.
const TIMES: usize = 10;
/// The timeout of Service `short`.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

fn affinity(seconds: u64) -> Value {
    json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
    })
}

fn begin() -> Cluster {
    start(Lab::two_nodes(), cluster_cidr(), |lab| {
        let mut local = affinity(10_800);
        local["externalTrafficPolicy"] = "Local".into();
        let services = [
            ("sticky", STICKY, affinity(10_800)),
            ("short", SHORT, affinity(SHORT_TIMEOUT.as_secs())),
            ("sticky-local", LOCAL, local),
            ("free", FREE, json!({})),
        ];
        let services = services.map(|(name, number, spec)| service(lab, name, number, spec).backends(lab.backends()));
        services.into()
    })
}

/// Who answers, when a client dials each of the frontends several times.
fn answering(lab: &Lab, from: &Host, service: u16, frontends: &[Frontend], over: Over, v6: bool) -> BTreeSet<String> {
    let targets = frontends
        .iter()
        .map(|frontend| frontend.of(service, lab.node(), over, v6));
    let targets: Vec<_> = targets.collect();
    from.run(|| {
        let dialled = targets.iter().cycle().take(TIMES * targets.len());
        let answer = |target| {
            over.ask(target, PATIENCE)
                .unwrap_or_else(|error| panic!("{} -> {target}, {over:?}: {error}", from.name))
        };
        dialled.map(|target| answer(*target).backend).collect()
    })
}

#[test]
fn a_client_keeps_its_backend_across_frontends() {
    let cluster = begin();
    let lab = &cluster.lab;
    for who in [Who::Outside, Who::Pod, Who::Node] {
        let from = client(lab, who, 1);
        for (over, v6) in combinations() {
            let answered = answering(lab, from, STICKY, &Frontend::ALL, over, v6);
            assert_eq!(answered.len(), 1, "{who:?}, {over:?}, IPv6 {v6}: {answered:?}");
            let answered = answering(lab, from, FREE, &Frontend::ALL, over, v6);
            assert!(
                answered.len() > 1,
                "{who:?}, {over:?}, IPv6 {v6}: without affinity all are asked"
            );
        }
    }
}

/// The backends that a policy allows come first, and then the one that the client had.
#[test]
fn a_client_keeps_a_backend_that_the_policy_allows() {
    let cluster = begin();
    let lab = &cluster.lab;
    let local: BTreeSet<_> = lab.backends_of(1).map(|pod| pod.name.clone()).collect();
    for (over, v6) in combinations() {
        let answered = answering(lab, lab.client(), LOCAL, &Frontend::EXTERNAL, over, v6);
        assert!(
            answered.len() == 1 && answered.is_subset(&local),
            "{over:?}, IPv6 {v6}: {answered:?}"
        );
    }
}

#[test]
fn a_client_whose_backend_leaves_gets_another_and_keeps_that() {
    let cluster = begin();
    let lab = &cluster.lab;
    for v6 in [false, true] {
        let asked = || answering(lab, lab.client(), STICKY, &Frontend::ALL, Over::Tcp, v6);
        let first = asked();
        let first = first.first().expect("somebody answers");
        let left = lab.hosts().find(|host| host.name == *first).expect("a pod").addresses();
        let stays = |address| !left.contains(&address);
        cluster
            .manifests
            .keep_endpoints("sticky.yaml", stays)
            .expect("the file can be edited");
        let since = Instant::now();
        let next = loop {
            let next = asked();
            if !next.contains(first) {
                break next;
            }
            assert!(since.elapsed() < CHANGE_MAX, "{first} has left and still answers");
        };
        assert_eq!(next.len(), 1, "{next:?}");
        assert_eq!(asked(), next);
    }
}

/// Idle longer than the timeout, a client is given any backend; each new connection counts, and each time in between it is kept.
#[test]
fn a_client_that_comes_back_late_may_get_another() {
    let cluster = begin();
    let lab = &cluster.lab;
    let target = Frontend::NodePort.of(SHORT, lab.node(), Over::Tcp, false);
    let ask = || {
        let answer = lab.client().run(|| Over::Tcp.ask(target, PATIENCE));
        answer.expect("an answer").backend
    };
    let first = ask();
    for _ in 0..4 {
        std::thread::sleep(SHORT_TIMEOUT / 2);
        assert_eq!(ask(), first, "it came back in time");
    }
    // Chance gives it the same one of four so often once in 10^7 times.
    let another = (0..12).any(|_| {
        std::thread::sleep(SHORT_TIMEOUT * 6 / 5);
        ask() != first
    });
    assert!(another, "{first} is kept for ever");
}
