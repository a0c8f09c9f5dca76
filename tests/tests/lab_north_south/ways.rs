//! The balancer's way to a node is lost under traffic, and comes back: a route that is gone, a route that says no, a neighbour that
//! never answers. Who talks to other nodes notices nothing, and those who did talk to this one go on when it is back.

use std::fmt::Display;
use std::thread::sleep;
use std::time::Duration;

use tests::lab::{Lab, plan};
use tests::traffic::{
    Cluster, Entry, LongLived, LongLivedPlan, LongLivedReport, Over, UdpPlan, UdpReport, UdpSessions,
};

use crate::scene::{SHAKEN, SHAKEN_NODE, STEADY, ip, vip};

/// Connections and sessions to each Service.
const CONNECTIONS: usize = 8;
const SESSIONS: u16 = 8;
/// How long a way is lost.
const GAP: Duration = Duration::from_millis(400);
/// How long traffic goes on before.
const BEFORE: Duration = Duration::from_millis(300);
/// And after: TCP asks again after 0.2, 0.6 and 1.4 s.
const AFTER: Duration = Duration::from_millis(1_200);
/// Who is not concerned waits no longer than this for a message.
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// What becomes of the balancer's route to the pods of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is gone, and the default route leads there, too.
    Gone,
    /// It says that there is no way.
    Unreachable,
    /// It leads to a neighbour that never answers.
    ToNobody,
}

impl Way {
    /// The lines for `ip`: loses the way to these pods, and brings it back.
    fn lines(self, pods: &str, gateway: &impl Display, nobody: &str) -> [String; 2] {
        let route = format!("{pods} via {gateway} dev eth0");
        match self {
            Self::Gone => [format!("route del {route}"), format!("route add {route}")],
            Self::Unreachable => [
                format!("route add unreachable {pods} metric 1"),
                format!("route del unreachable {pods} metric 1"),
            ],
            Self::ToNobody => [
                format!("route replace {pods} via {nobody} dev eth0"),
                format!("route replace {route}"),
            ],
        }
    }
}

pub(crate) fn lost_and_back(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
    let mut wrong = Vec::new();
    for (number, way) in (0..).zip([Way::Gone, Way::Unreachable, Way::ToNobody]) {
        let steady = Traffic::start(lab, STEADY, 10_000 + number * 100);
        let shaken = Traffic::start(lab, SHAKEN, 20_000 + number * 100);
        sleep(BEFORE);
        for step in [0, 1] {
            for lines in [
                way.lines(&plan::pods_v4(SHAKEN_NODE), &plan::node_v4(SHAKEN_NODE), "172.18.0.99"),
                way.lines(
                    &plan::pods_v6(SHAKEN_NODE),
                    &plan::node_v6(SHAKEN_NODE),
                    "fd00:172:18::99",
                ),
            ] {
                ip(lab.node(), &lines[step]);
            }
            sleep(if step == 0 { GAP } else { AFTER });
        }
        let resumed = shaken.sessions.report();
        sleep(BEFORE);
        let (steady, shaken) = (steady.finish(), shaken.finish());
        let mut all = steady.disturbed();
        all.extend(shaken.not_resumed(&resumed));
        if way == Way::Gone {
            all.extend(shaken.disturbed());
        }
        wrong.extend(all.into_iter().map(|why| format!("{way:?}: {why}")));
    }
    wrong
}

/// Connections and sessions to a Service, over both families.
struct Traffic {
    connections: LongLived,
    sessions: UdpSessions,
}

impl Traffic {
    fn start(lab: &Lab, service: u16, first_port: u16) -> Self {
        let [tcp, udp] = Over::BOTH.map(|over| [false, true].map(|v6| vip(service, lab, over, v6)));
        let plan = LongLivedPlan {
            connections: CONNECTIONS,
            ..LongLivedPlan::to(tcp, Entry::Raw)
        };
        let connections = LongLived::start(lab.client(), plan).expect("they can be started");
        connections.wait_open().expect("all are connected");
        let plan = UdpPlan {
            sessions: SESSIONS,
            first_port,
            answer_within: PAUSE_MAX,
            ..UdpPlan::to(udp)
        };
        let sessions = UdpSessions::start(lab.client(), plan).expect("they can be started");
        Self { connections, sessions }
    }

    fn finish(self) -> Outcome {
        Outcome {
            connections: self.connections.finish(),
            sessions: self.sessions.finish(),
        }
    }
}

/// What became of it.
struct Outcome {
    connections: LongLivedReport,
    sessions: UdpReport,
}

impl Outcome {
    /// What shows that anything was amiss.
    fn disturbed(&self) -> Vec<String> {
        let Self { connections, sessions } = self;
        let mut wrong = [&*connections.failures, &*sessions.failures].concat();
        if connections.longest_pause > PAUSE_MAX {
            wrong.push(format!("a connection was silent for {:?}", connections.longest_pause));
        }
        if sessions.answered != sessions.asked {
            wrong.push(format!(
                "{} of {} questions were answered",
                sessions.answered, sessions.asked
            ));
        }
        wrong
    }

    /// What shows that traffic does not go on: a connection is lost, a question asked after the way was back has no answer.
    fn not_resumed(&self, resumed: &UdpReport) -> Vec<String> {
        let Self { connections, sessions } = self;
        let mut wrong = connections.failures.clone();
        if connections.open != CONNECTIONS {
            wrong.push(format!("{} of {CONNECTIONS} connections are left", connections.open));
        }
        let (asked, answered) = (sessions.asked - resumed.asked, sessions.answered - resumed.answered);
        if asked < u64::from(SESSIONS) || asked != answered || sessions.wrong > 0 {
            wrong.push(format!(
                "{answered} of {asked} questions were answered: {:?}",
                sessions.failures
            ));
        }
        wrong
    }
}
