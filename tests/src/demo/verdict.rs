//! Judges each step and the whole: what was promised, what was seen, and by how much they differ.

use std::time::Duration;

use super::script::{Action, EFFECT_WITHIN, Effect, REFUSED_WITHIN, Step};
use crate::traffic::{LongLivedReport, Move, PhaseReport, UdpReport};

/// What the other clients lived through in one step.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside {
    /// Long-lived connections lost.
    pub(super) lost: usize,
    /// Their longest pause.
    pub(super) pause: Duration,
    /// UDP questions without a right answer.
    pub(super) unanswered: u64,
    /// UDP sessions that changed their backend.
    pub(super) moves: Vec<Move>,
    /// UDP sessions that are still answered by a backend that has left.
    pub(super) stale: usize,
    /// The first failures of these clients, word for word.
    pub(super) failures: Vec<String>,
    /// How long the agent took to be ready, in a step that starts it.
    pub(super) ready_after: Option<Duration>,
}

impl Aside {
    /// What happened between two looks at the clients.
    pub(super) fn between(before: (&LongLivedReport, &UdpReport), now: (&LongLivedReport, &UdpReport)) -> Self {
        let unanswered = |udp: &UdpReport| udp.missing + udp.refused + udp.wrong;
        let new = |all: &[String], known: usize| all.get(known..).unwrap_or_default().to_vec();
        let mut failures = new(&now.0.failures, before.0.failures.len());
        failures.extend(new(&now.1.failures, before.1.failures.len()));
        Self {
            lost: now.0.lost - before.0.lost,
            pause: Duration::ZERO,
            unanswered: unanswered(now.1) - unanswered(before.1),
            moves: now.1.moves.get(before.1.moves.len()..).unwrap_or_default().to_vec(),
            stale: 0,
            failures,
            ready_after: None,
        }
    }
}

/// Everything that is wrong with a step; nothing if all promises were kept.
pub(super) fn complaints(step: &Step, report: &PhaseReport, aside: &Aside) -> Vec<String> {
    let mut found = Vec::new();
    if report.connections == 0 {
        found.push("no connection was made at all: the clients don't run".to_owned());
    }
    if report.lost > 0 {
        found.push(format!(
            "{} of {} new connections lost",
            report.lost, report.connections
        ));
    }
    if report.surprises > 0 {
        found.push(format!(
            "{} connections answered where nobody was to answer",
            report.surprises
        ));
    }
    // Of a thousand refusals by ICMPv6 the client's kernel itself misses one now and then, and asks again a second later.
    let refusal = report.refusal.quantile(0.99);
    if step.action == Action::ScaleToZero && refusal > REFUSED_WITHIN {
        found.push(format!("refusals took up to {refusal:?}, more than {REFUSED_WITHIN:?}"));
    }
    match step.effect(report) {
        Effect::Never => found.push("the change could not be seen by any client".to_owned()),
        Effect::After(time) if time > EFFECT_WITHIN => {
            found.push(format!(
                "the change took {time:?} to be seen, more than {EFFECT_WITHIN:?}"
            ));
        }
        Effect::After(_) | Effect::None => {}
    }
    if aside.lost > 0 {
        found.push(format!("{} long-lived connections lost", aside.lost));
    }
    if aside.unanswered > 0 {
        found.push(format!("{} UDP questions without an answer", aside.unanswered));
    }
    let moved = aside.moves.iter().filter(|change| !step.has_left(&change.from)).count();
    if moved > 0 {
        found.push(format!(
            "{moved} UDP sessions moved although their backend is still there"
        ));
    }
    if aside.stale > 0 {
        found.push(format!(
            "{} UDP sessions stay with a backend that has left",
            aside.stale
        ));
    }
    if !found.is_empty() {
        found.extend(
            report
                .failures
                .iter()
                .chain(&aside.failures)
                .take(6)
                .map(|text| format!("  {text}")),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::script::STEPS;
    use super::{Aside, complaints};
    use crate::traffic::{Latency, PhaseReport, Sightings};
    use std::time::Duration;

    fn report(step: usize) -> PhaseReport {
        let sight = |name: &str| {
            let seen = Sightings {
                count: 250,
                first: Duration::from_millis(5),
                last: Duration::from_millis(900),
            };
            (name.to_owned(), seen)
        };
        PhaseReport {
            phase: STEPS[step].phase(),
            length: Duration::from_secs(4),
            connections: 1000,
            answered: 1000,
            refused: 0,
            unheard: 0,
            lost: 0,
            surprises: 0,
            backends: ["backend-1", "backend-2", "backend-3", "backend-4"].map(sight).into(),
            first_refusal: None,
            connect: Latency::default(),
            whole: Latency::default(),
            refusal: Latency::default(),
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_good_run_has_no_complaints_and_one_lost_connection_is_one() {
        let (steady, aside) = (&STEPS[0], Aside::default());
        assert_eq!(complaints(steady, &report(0), &aside), Vec::<String>::new());
        assert_eq!(
            complaints(steady, &PhaseReport { lost: 1, ..report(0) }, &aside).len(),
            1
        );
        assert_eq!(
            complaints(
                steady,
                &report(0),
                &Aside {
                    lost: 1,
                    ..aside.clone()
                }
            )
            .len(),
            1
        );
        assert_eq!(
            complaints(
                steady,
                &PhaseReport {
                    connections: 0,
                    ..report(0)
                },
                &aside
            )
            .len(),
            1
        );
    }

    #[test]
    fn a_change_must_be_seen_in_time() {
        let (down, aside) = (&STEPS[1], Aside::default());
        assert_eq!(complaints(down, &report(1), &aside), Vec::<String>::new());
        let mut late = report(1);
        late.backends.get_mut("backend-3").expect("it is there").last = Duration::from_millis(1100);
        assert_eq!(complaints(down, &late, &aside).len(), 1);
        let mut never = report(2);
        never.backends.remove("backend-4");
        assert_eq!(complaints(&STEPS[2], &never, &aside).len(), 1);
        assert_eq!(
            complaints(&STEPS[3], &report(3), &aside).len(),
            1,
            "nothing was refused"
        );
    }

    #[test]
    fn sessions_may_leave_only_a_backend_that_left() {
        let change = |from: &str| crate::traffic::Move {
            at: std::time::Instant::now(),
            port: 5000,
            from: from.to_owned(),
            to: "backend-1".to_owned(),
        };
        let aside = Aside {
            moves: vec![change("backend-4"), change("backend-2")],
            ..Aside::default()
        };
        assert_eq!(complaints(&STEPS[1], &report(1), &aside).len(), 1, "backend-2 stays");
        assert_eq!(
            complaints(&STEPS[2], &report(2), &aside).len(),
            1,
            "nobody leaves when it scales up"
        );
    }
}
