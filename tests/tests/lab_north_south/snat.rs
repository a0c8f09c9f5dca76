//! The usual way: the node that is dialled sends on with its own address, and the answers come back by it. With
//! `externalTrafficPolicy: Local` a node answers by its own pods, which see the client.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;

use tests::lab::Lab;
use tests::traffic::{Cluster, Over};

use crate::scene::{CLUSTER, COMBINATIONS, Frontend, LOCAL, PATIENCE, SILENCE, ask, node};

use Expect::{Everyone, Nobody, OwnPod};
use Frontend::{NodePort, Vip};

/// One flow more than one, so that no row passes by a lucky first.
const TIMES_MIN: usize = 3;
/// So many connections miss one of three pods once in 10^17 times.
const TIMES_MAX: usize = 100;

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// All pods answer in turn, and see the node that was dialled.
    Everyone,
    /// The pod of the node that was dialled answers, and sees the client.
    OwnPod,
    /// Nothing comes back.
    Nobody,
}

/// By which node, by which frontend of which Service; what comes of it.
const ROWS: &[(u8, Frontend, u16, Expect)] = &[
    // The balancers, which have no pods.
    (1, NodePort, CLUSTER, Everyone),
    (1, Vip, CLUSTER, Everyone),
    (2, NodePort, CLUSTER, Everyone),
    (2, Vip, CLUSTER, Everyone),
    (1, NodePort, LOCAL, Nobody),
    (2, Vip, LOCAL, Nobody),
    // A node with a pod that balances, too.
    (3, NodePort, CLUSTER, Everyone),
    (3, Vip, CLUSTER, Everyone),
    (3, NodePort, LOCAL, OwnPod),
    (3, Vip, LOCAL, OwnPod),
    (5, NodePort, LOCAL, OwnPod),
    (5, Vip, LOCAL, OwnPod),
];

pub(crate) fn answers_by_any_node(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
    let mut wrong = Vec::new();
    for &(entry, frontend, service, expect) in ROWS {
        lab.lead_services_to(entry).expect("the router has other routes");
        for (over, v6) in COMBINATIONS {
            let target = frontend.of(service, node(lab, entry), over, v6);
            if let Err(why) = play(lab, entry, target, over, expect) {
                wrong.push(format!("{frontend:?} {target} by node {entry}, {over:?}: {why}"));
            }
        }
    }
    lab.lead_services_to(1).expect("the router has other routes");
    wrong
}

/// Asks from outside until all have answered that should. An answer counts only if it comes from the address that was asked.
fn play(lab: &Lab, entry: u8, target: SocketAddr, over: Over, expect: Expect) -> Result<(), String> {
    let expected: BTreeSet<&str> = match expect {
        Everyone => lab.backends().iter().map(|pod| pod.name.as_str()).collect(),
        OwnPod => lab.backends_of(entry).map(|pod| pod.name.as_str()).collect(),
        Nobody => {
            return match ask(lab, over, target, SILENCE) {
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Ok(()),
                other => Err(format!("nobody should answer: {other:?}")),
            };
        }
    };
    let mut answered = BTreeSet::new();
    for times in 1..=TIMES_MAX {
        let answer = ask(lab, over, target, PATIENCE);
        let answer = answer.map_err(|error| format!("{error} (answered: {answered:?})"))?;
        let right = match expect {
            Everyone => node(lab, entry).addresses().contains(&answer.seen.ip()),
            OwnPod | Nobody => answer.seen == answer.own,
        };
        if !right || !expected.contains(answer.backend.as_str()) {
            return Err(format!("{answer:?}, expected {expect:?}"));
        }
        answered.insert(answer.backend);
        if times >= TIMES_MIN && answered.len() == expected.len() {
            return Ok(());
        }
    }
    Err(format!("only {answered:?} answered {TIMES_MAX} times"))
}
