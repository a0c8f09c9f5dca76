//! Two balancers for one address: the router leads everything to the other one in the middle of connections, as ECMP does when a
//! balancer is lost or added, and nobody notices. With direct server return neither has anything to remember that the other doesn't
//! find out.

use std::thread::sleep;
use std::time::Duration;

use tests::traffic::{Cluster, Entry, LongLived, LongLivedPlan, Over, UdpPlan, UdpSessions};

use crate::scene::{DIRECT, vip};

/// Connections, and as many sessions.
const MANY: u16 = 50;
/// How long each of the balancers has them.
const WHILE: Duration = Duration::from_millis(700);
/// The balancers, in turn.
const TURNS: [u8; 4] = [1, 2, 1, 2];
/// What waits longer has lost a packet: Linux sends again after 200 ms at the earliest (TCP_RTO_MIN).
const PAUSE_MAX: Duration = Duration::from_millis(190);

pub(crate) fn between_balancers(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
    let [tcp, udp] = Over::BOTH.map(|over| [false, true].map(|v6| vip(DIRECT, lab, over, v6)));
    let plan = LongLivedPlan {
        connections: usize::from(MANY),
        ..LongLivedPlan::to(tcp, Entry::Raw)
    };
    lab.lead_services_to(TURNS[0]).expect("the router has other routes");
    let connections = LongLived::start(lab.client(), plan).expect("they can be started");
    connections.wait_open().expect("all are connected");
    let plan = UdpPlan {
        sessions: MANY,
        ..UdpPlan::to(udp)
    };
    let sessions = UdpSessions::start(lab.client(), plan).expect("they can be started");
    for turn in TURNS {
        lab.lead_services_to(turn).expect("the router has other routes");
        sleep(WHILE);
    }
    let (connections, sessions) = (connections.finish(), sessions.finish());
    lab.lead_services_to(1).expect("the router has other routes");
    let mut wrong = [connections.failures, sessions.failures].concat();
    if connections.open != usize::from(MANY) {
        wrong.push(format!("{} of {MANY} connections are left", connections.open));
    }
    if connections.longest_pause > PAUSE_MAX {
        wrong.push(format!("a connection was silent for {:?}", connections.longest_pause));
    }
    if sessions.answered != sessions.asked {
        wrong.push(format!(
            "{} of {} questions were answered",
            sessions.answered, sessions.asked
        ));
    }
    wrong.extend(
        sessions
            .moves
            .iter()
            .map(|step| format!("a session has moved: {step:?}")),
    );
    wrong
}
