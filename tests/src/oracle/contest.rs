//! The comparison: a case is told to Sluice step by step, and every answer is held against the oracle's.
//!
//! Here: what counts as the same. Not here: how Sluice is asked (`subject`), how many cases there are (the test).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::affinity::{Affinity, Memory};
use super::outcome::{DropWhy, NewFlow, Outcome};
use super::random::{Case, Step};
use super::subject::Sluice;
use super::world::{PortId, World};
use lb_userspace::model::Service;

/// What Sluice did with a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Untouched,
    /// It told the client that nobody listens.
    Refused,
    /// It dropped it, for a reason that the oracle knows, too, or for another of this name.
    Dropped(Option<DropWhy>, &'static str),
    /// It goes there.
    Translated {
        /// The endpoint.
        to: SocketAddr,
        /// Whether it is masqueraded, where that can be seen.
        masquerade: Option<bool>,
    },
}

/// Is what Sluice did among what may happen?
#[must_use]
pub fn agrees(allowed: &Outcome, seen: &Seen) -> bool {
    match (allowed, seen) {
        (Outcome::NotHandled, Seen::Untouched) | (Outcome::Reject, Seen::Refused) => true,
        (Outcome::Drop(why), Seen::Dropped(seen, _)) => Some(*why) == *seen,
        (Outcome::Translate(all), Seen::Translated { to, masquerade }) => all
            .get(to)
            .is_some_and(|wanted| masquerade.is_none_or(|masquerade| masquerade == *wanted)),
        _ => false,
    }
}

/// What became of flows, by outcome.
pub type Tally = BTreeMap<&'static str, usize>;

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::NotHandled => "not handled",
        Outcome::Reject => "rejected",
        Outcome::Drop(DropWhy::NoLocalEndpoint) => "dropped, no local endpoint",
        Outcome::Drop(DropWhy::SourceRange) => "dropped, source not allowed",
        Outcome::Drop(DropWhy::Unallocated) => "dropped, unallocated",
        Outcome::Translate(to) if to.values().any(|masquerade| *masquerade) => "translated and masqueraded",
        Outcome::Translate(_) => "translated",
    }
}

/// Whether everything that the list allows is really used is asked of one flow in so many cases.
const SPREAD_EVERY: u64 = 16;

/// So many new flows for each endpoint: that one is never chosen happens once in 10¹⁷.
const FLOWS_PER_ENDPOINT: usize = 40;

/// Plays a case.
///
/// # Errors
/// The first step at which Sluice does what it may not, with the whole case.
pub fn play(case: &Case, kept: Memory) -> Result<Tally, String> {
    let mut world = case.world.clone();
    let mut sluice = Sluice::on(&world);
    let mut memory = Affinity::keeping(kept);
    let (mut now, mut tally) = (Duration::ZERO, Tally::new());
    for step in &case.steps {
        match step {
            Step::Becomes(other) => {
                world = (**other).clone();
                sluice.becomes(&world);
                memory.only_of(|port| world.has_affinity(port));
            }
            Step::Dial { after, flow } => {
                now += *after;
                sluice.later(*after);
                let decision = world.decide_at(flow, &memory, now);
                let seen = sluice.meets(flow);
                if !agrees(&decision.outcome, &seen) {
                    return Err(format!(
                        "{flow}\nmay become {}\nbecame {seen:?}\nin this case:\n{case}",
                        decision.outcome
                    ));
                }
                *tally.entry(kind(&decision.outcome)).or_default() += 1;
                if let (Some((port, _)), Seen::Translated { to, .. }) = (&decision.sticks, &seen) {
                    memory.went(port, flow.source.ip(), *to, now);
                }
            }
        }
    }
    if case.seed.is_multiple_of(SPREAD_EVERY) {
        spread(case, &world, &mut sluice, &mut tally)?;
    }
    Ok(tally)
}

/// How a client that is remembered is forgotten.
#[derive(Clone, Copy)]
enum Forgets {
    /// It is away for too long.
    InTime,
    /// The Service loses its affinity and gets it again.
    WithItsAffinity,
}

impl Forgets {
    fn client(self, world: &World, sluice: &mut Sluice, port: &PortId, timeout: Duration) {
        match self {
            Self::InTime => sluice.later(timeout + Duration::from_secs(7)),
            Self::WithItsAffinity => {
                let mut without = world.clone();
                let of_port = |service: &&mut Service| service.key == port.service;
                for service in without.services.iter_mut().filter(of_port) {
                    service.affinity_timeout_s = None;
                }
                sluice.becomes(&without);
                sluice.becomes(world);
            }
        }
    }
}

/// Dials the last thing that is translated until every endpoint has been chosen.
fn spread(case: &Case, world: &World, sluice: &mut Sluice, tally: &mut Tally) -> Result<(), String> {
    let mut dialled = case.steps.iter().rev().filter_map(|step| match step {
        Step::Dial { flow, .. } => Some((flow, world.decide_at(flow, &Affinity::default(), Duration::ZERO))),
        Step::Becomes(_) => None,
    });
    let translated = dialled.find_map(|(flow, decision)| match &decision.outcome {
        Outcome::Translate(to) => Some((flow, to.clone(), decision)),
        _ => None,
    });
    let Some((flow, to, decision)) = translated else {
        return Ok(());
    };
    let forgets = if (case.seed / SPREAD_EVERY).is_multiple_of(2) {
        Forgets::InTime
    } else {
        Forgets::WithItsAffinity
    };
    let mut missing: BTreeSet<SocketAddr> = to.keys().copied().collect();
    for number in 0..FLOWS_PER_ENDPOINT * to.len() {
        if let Some((port, timeout)) = &decision.sticks {
            forgets.client(world, sluice, port, *timeout);
        }
        let mut flow: NewFlow = flow.clone();
        flow.source.set_port(50_000 + number as u16);
        let seen = sluice.meets(&flow);
        if !agrees(&decision.outcome, &seen) {
            return Err(format!(
                "{flow}\nmay become {}\nbecame {seen:?}\nin this case:\n{case}",
                decision.outcome
            ));
        }
        if let Seen::Translated { to, .. } = seen {
            missing.remove(&to);
        }
        if missing.is_empty() {
            let what = if decision.sticks.is_some() {
                "spread over all, forgotten"
            } else {
                "spread over all"
            };
            *tally.entry(what).or_default() += 1;
            return Ok(());
        }
    }
    Err(format!("{flow}\nnever goes to {missing:?}\nin this case:\n{case}"))
}
