//! A row says who asks, by which frontend, who has to answer, and whom the backend has to see. Here rows are played.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use tests::lab::{Host, Lab, plan};
use tests::traffic::Over;

use crate::scene::{
    CONNECTIONS_MAX, CONNECTIONS_MIN, Frontend, PATIENCE, SILENCE, combinations, expect_none, is_silence,
};

/// How often a refusal is waited for, and how long: a second SYN comes after a second.
const REFUSALS_MAX: u32 = 4;
const REFUSED_WITHIN: Duration = Duration::from_millis(1_200);

/// Who asks. The entry node is the one that translates: the client's own where the client is in the cluster, that which the router
/// leads to or that is dialled where it is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A machine outside the cluster.
    Outside,
    /// A pod of the entry node.
    Pod,
    /// A process of the entry node.
    Node,
    /// A pod of the other node, which dials the entry node.
    OtherPod,
    /// A process of the other node, which dials the entry node.
    OtherNode,
}

/// What the backend sees as source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client's own address; in a hairpin, the entry node's.
    Kept,
    /// An address of the entry node.
    Masq,
}

/// What has to come of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// All pods of the Service answer in turn.
    All(Source),
    /// All of those that are on the entry node, and no other.
    Local(Source),
    /// Nothing comes back.
    Dropped,
    /// Nobody is there, and that is said at once.
    Refused,
}

/// A case: who asks, by which frontend, the Service with which number, whose pods are these.
pub(crate) struct Case<'a> {
    pub(crate) number: &'a str,
    pub(crate) who: Who,
    pub(crate) frontend: Frontend,
    pub(crate) service: u16,
    pub(crate) pods: &'a [&'a Host],
    pub(crate) expect: Expect,
}

impl Case<'_> {
    /// Plays it over both protocols and families, by the node with this number, and says what is wrong.
    pub(crate) fn play(&self, lab: &Lab, entry: u8) -> Vec<String> {
        let mut wrong = Vec::new();
        for (over, v6) in combinations() {
            if let Err(why) = self.play_one(lab, entry, over, v6) {
                let (number, who, service, frontend) = (self.number, self.who, self.service, self.frontend);
                let node = plan::node_name(entry);
                let family = if v6 { "IPv6" } else { "IPv4" };
                wrong.push(format!(
                    "row {number}: {who:?} -> {frontend:?} of Service {service} by {node}, {over:?}, {family}: {why}"
                ));
            }
        }
        wrong
    }

    fn play_one(&self, lab: &Lab, entry: u8, over: Over, v6: bool) -> Result<(), String> {
        let node = &lab.nodes()[usize::from(entry) - 1];
        let client = client(lab, self.who, entry);
        let target = self.frontend.of(self.service, node, over, v6);
        match self.expect {
            Expect::All(source) => {
                let expected = self.pods.iter().map(|pod| pod.name.as_str()).collect();
                client.run(|| self.check_answers((client, node, entry), (target, over), &expected, source))
            }
            Expect::Local(source) => {
                let local: Vec<_> = lab.backends_of(entry).map(|pod| &pod.name).collect();
                let pods = self.pods.iter().filter(|pod| local.contains(&&pod.name));
                let expected = pods.map(|pod| pod.name.as_str()).collect();
                client.run(|| self.check_answers((client, node, entry), (target, over), &expected, source))
            }
            Expect::Dropped => match client.run(|| over.ask(target, SILENCE)) {
                Err(error) if is_silence(&error) => Ok(()),
                other => Err(format!("should be dropped: {other:?}")),
            },
            Expect::Refused => {
                let is_refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
                // Refusals are limited in number, and between namespaces of one machine the first answer to a SYN may come too
                // early: see `lab_refusals`.
                let mut tries = (0..REFUSALS_MAX).map(|_| client.run(|| over.ask(target, REFUSED_WITHIN)));
                match tries.find(|outcome| outcome.as_ref().map_or_else(is_refused, |_| true)) {
                    Some(Err(_)) => Ok(()),
                    Some(Ok(answer)) => Err(format!("should be refused: {answer:?}")),
                    None => Err(format!("not refused in {REFUSALS_MAX} tries")),
                }
            }
        }
    }

    /// Asks until all have answered that should. Runs in the client's network.
    fn check_answers(
        &self,
        (client, node, entry): (&Host, &Host, u8),
        (target, over): (std::net::SocketAddr, Over),
        expected: &BTreeSet<&str>,
        source: Source,
    ) -> Result<(), String> {
        let mut answered = BTreeSet::new();
        for connection in 1..=CONNECTIONS_MAX {
            let answer = over
                .ask(target, PATIENCE)
                .map_err(|error| format!("{error} (answered: {answered:?})"))?;
            // A pod doesn't answer itself over the wire: a hairpin is masqueraded in any case.
            let masqueraded = source == Source::Masq || answer.backend == client.name;
            let right = if masqueraded {
                addresses(node, entry).contains(&answer.seen.ip())
            } else {
                answer.seen.ip() == answer.own.ip()
            };
            if !right {
                let wanted = if masqueraded { "Masq" } else { "Kept" };
                return Err(format!(
                    "{} asked, {} saw {}, which should be {wanted}",
                    answer.own, answer.backend, answer.seen
                ));
            }
            answered.insert(answer.backend);
            if !answered.iter().all(|name| expected.contains(name.as_str())) {
                return Err(format!("answered by {answered:?}, expected {expected:?}"));
            }
            if connection >= CONNECTIONS_MIN && answered.len() == expected.len() {
                return Ok(());
            }
        }
        Err(format!(
            "only {answered:?} answered {CONNECTIONS_MAX} times, expected {expected:?}"
        ))
    }
}

/// Who that is in the lab.
pub(crate) fn client(lab: &Lab, who: Who, entry: u8) -> &Host {
    let other = 3 - entry;
    match who {
        Who::Outside => lab.client(),
        Who::Pod => lab.backends_of(entry).next().expect("each node has pods"),
        Who::Node => &lab.nodes()[usize::from(entry) - 1],
        Who::OtherPod => lab.backends_of(other).next().expect("each node has pods"),
        Who::OtherNode => &lab.nodes()[usize::from(other) - 1],
    }
}

/// The addresses that a node may put in place of a source: on a bridge, the bridge's is the nearer one.
fn addresses(node: &Host, number: u8) -> [IpAddr; 4] {
    let [v4, v6] = node.addresses();
    [v4, v6, plan::bridge_v4(number).into(), plan::bridge_v6(number).into()]
}

/// Plays cases by one of the nodes, and says all that is wrong.
pub(crate) fn play_by(lab: &Lab, entry: u8, cases: &[Case<'_>]) -> Vec<String> {
    lab.lead_services_to(entry).expect("the router has other routes");
    cases.iter().flat_map(|case| case.play(lab, entry)).collect()
}

/// Plays cases by each of the nodes in turn, and fails with all that is wrong.
pub(crate) fn play_by_both_nodes(lab: &Lab, cases: &[Case<'_>]) {
    let wrong: Vec<_> = [1, 2]
        .into_iter()
        .flat_map(|entry| play_by(lab, entry, cases))
        .collect();
    expect_none(&wrong);
}
