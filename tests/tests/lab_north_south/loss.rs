//! A node with pods is lost: its cable is dead, and its pods leave the manifests. Who talks to others notices nothing, and nobody new
//! is sent there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tests::lab::Host;
use tests::traffic::{
    Cluster, Entry, LongLived, LongLivedPlan, LongLivedReport, Over, UdpPlan, UdpReport, UdpSessions,
};

use crate::scene::{CHANGE_MAX, CLUSTER, COMBINATIONS, DIRECT, PATIENCE, ip, node, pod_of, vip};

const LOST_NODE: u8 = 4;
/// Connections, and as many sessions: of three pods, one has none of them once in 10^10 times.
const MANY: u16 = 60;
/// New connections afterwards: chance misses a pod that is still there once in 10^9 times.
const NEW: usize = 30;
/// How long traffic goes on before.
const BEFORE: Duration = Duration::from_millis(500);
/// How long a session waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// Without a loss, no message is away for so long.
const PAUSE_MAX: Duration = Duration::from_millis(400);

pub(crate) fn of_a_node(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
    // Of each family, through the balancer and past it.
    let places = [(CLUSTER, false), (CLUSTER, true), (DIRECT, false), (DIRECT, true)];
    let [tcp, udp] = Over::BOTH.map(|over| places.map(|(service, v6)| vip(service, lab, over, v6)));
    let plan = LongLivedPlan {
        connections: usize::from(MANY),
        patience: PATIENCE,
        ..LongLivedPlan::to(tcp, Entry::Raw)
    };
    let connections = LongLived::start(lab.client(), plan).expect("they can be started");
    connections.wait_open().expect("all are connected");
    let plan = UdpPlan {
        sessions: MANY,
        answer_within: ANSWER_WITHIN,
        ..UdpPlan::to(udp)
    };
    let sessions = UdpSessions::start(lab.client(), plan).expect("they can be started");
    std::thread::sleep(BEFORE);
    let before = (connections.report(), sessions.report());
    let lost = pod_of(lab, LOST_NODE);
    lose(cluster, lost);
    let mut wrong = new_connections(cluster, lost);
    std::thread::sleep(PATIENCE);
    let after = (connections.finish(), sessions.finish());
    wrong.extend(of_connections(&lost.name, &before.0, &after.0));
    wrong.extend(of_sessions(&lost.name, &before.1, &after.1));
    wrong
}

/// Takes the node off its network and its pod out of the manifests, and waits until the balancer knows.
fn lose(cluster: &Cluster, pod: &Host) {
    ip(node(&cluster.lab, LOST_NODE), "link set eth0 down");
    let gone = pod.addresses();
    for file in ["cluster.yaml", "local.yaml", "shaken.yaml", "direct.yaml"] {
        let edited = cluster
            .manifests
            .keep_endpoints(file, |address| !gone.contains(&address));
        edited.expect("the file can be edited");
    }
    let start = Instant::now();
    let knows = || {
        let said = cluster.agent.cli(["get", "backends"]).expect("a healthy agent");
        gone.iter().any(|address| said.contains(&address.to_string()))
    };
    while knows() {
        assert!(start.elapsed() < CHANGE_MAX, "{} is still in the tables", pod.name);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All new connections go to the others.
fn new_connections(cluster: &Cluster, lost: &Host) -> Vec<String> {
    let lab = &cluster.lab;
    let mut wrong = Vec::new();
    for (service, (over, v6)) in [CLUSTER, DIRECT]
        .into_iter()
        .flat_map(|service| COMBINATIONS.map(|one| (service, one)))
    {
        let target = vip(service, lab, over, v6);
        let ask = |_| over.ask(target, PATIENCE).map(|answer| answer.backend);
        let answered = lab
            .client()
            .run(|| (0..NEW).map(ask).collect::<Result<BTreeSet<_>, _>>());
        let others = |pods: &BTreeSet<String>| pods.len() == 2 && !pods.contains(&lost.name);
        if !answered.as_ref().is_ok_and(others) {
            wrong.push(format!("new connections to {target} by {over:?}: {answered:?}"));
        }
    }
    wrong
}

/// Connections end if they were with the lost pod; no other waits.
fn of_connections(lost: &str, before: &LongLivedReport, after: &LongLivedReport) -> Vec<String> {
    let mut wrong = Vec::new();
    let there = before.backends.get(lost).copied().unwrap_or(0);
    if before.lost != 0 || there == 0 {
        wrong.push(format!(
            "connections before the loss: {:?}, {:?}",
            before.backends, before.failures
        ));
    }
    if after.open != before.open - there {
        wrong.push(format!(
            "{} of {} connections are left, {there} were with {lost}",
            after.open, before.open
        ));
    }
    let strange = after.failures.iter().filter(|failure| !failure.contains(lost));
    wrong.extend(strange.cloned());
    if after.longest_pause > PAUSE_MAX {
        wrong.push(format!("a connection was silent for {:?}", after.longest_pause));
    }
    wrong
}

/// Sessions go on with another pod if they were with the lost one; all others stay, and miss no answer.
fn of_sessions(lost: &str, before: &UdpReport, after: &UdpReport) -> Vec<String> {
    let mut wrong = before.failures.clone();
    let was_there = |port: u16| before.sessions.get(&port).is_some_and(|backend| backend == lost);
    for (port, backend) in &after.sessions {
        let moves = after.moves.iter().any(|step| step.port == *port);
        if backend == lost || moves != was_there(*port) {
            let was = before.sessions.get(port);
            wrong.push(format!("session {port} was with {was:?} and is with {backend}"));
        }
    }
    let strange = after.failures.iter().filter(|failure| {
        let port = failure.split(' ').nth(1).and_then(|port| port.parse().ok());
        !port.is_some_and(was_there)
    });
    wrong.extend(strange.cloned());
    if after.wrong + after.refused > 0 {
        wrong.push(format!(
            "{} answers are wrong, {} questions were refused",
            after.wrong, after.refused
        ));
    }
    wrong
}
