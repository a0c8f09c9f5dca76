//! The truth check: a little of it with every other look, a whole pass in some eight seconds. What the tables hold is compared with what it should
//! be and put right; whether they still take writes is tried; programs that somebody has taken off devices are attached again within a
//! second. (Those of sockets are looked after in `sockets`.)
//!
//! Here: when which step is due, and who is told. What is compared: `crate::reconcile`, `crate::tables`, `crate::kernel`.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{Agent, unix_now_s};
use crate::{
    kernel::{Direction, XdpOutcome},
    reconcile::STEPS,
    tables::{Drift, TableError},
};

/// What was not as it should be, of which so many are told, the latest.
const TOLD_MAX: usize = 20;

/// What the truth check has come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Unix time at which the last whole pass ended, in seconds; 0 if none has.
    pub checked_s: u64,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub pass_ms: u64,
    /// Processor time that it took, in microseconds.
    #[serde(default)]
    pub pass_cpu_us: u64,
    /// Entries and programs that were not as they should be, since this agent's start.
    pub drift_total: u64,
    /// The latest of them.
    pub drift: VecDeque<Found>,
    /// What can't be put right, written or read.
    pub problems: Vec<String>,
}

/// Something that was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Unix time at which it was found, in seconds.
    pub at_s: u64,
    /// What it was.
    pub what: String,
}

/// A pass under way.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Looks so far.
    looks: u32,
    step: u32,
    began: Option<Instant>,
    /// Processor time so far.
    cpu: Duration,
    problems: Vec<String>,
    /// How many entries of each table have drifted.
    pub(super) by_table: BTreeMap<&'static str, u64>,
}

/// Programs that were taken off cost connections until they are back: they are looked after twice a second, so many looks each.
const ATTACHMENTS_EVERY: u32 = 5;
/// Looks from one step to the next.
const STEP_EVERY: u32 = 2;

/// What counts for a program that was taken off a device, among the tables.
const ATTACHMENTS: &str = "attachments";

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Truth {
    /// Share of a core that the last pass took, in percent; nothing if there was none.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        (self.pass_ms > 0).then(|| self.pass_cpu_us as f64 / self.pass_ms as f64 / 10.0)
    }
}

impl Agent {
    /// The next step.
    pub(super) fn check_truth(&mut self) {
        let before = cpu_time();
        self.next_step();
        self.pass.cpu += cpu_time().saturating_sub(before);
    }

    fn next_step(&mut self) {
        if !self.reconciler.is_ready() || !self.devices_followed {
            return;
        }
        self.pass.looks = self.pass.looks.wrapping_add(1);
        if self.pass.looks.is_multiple_of(ATTACHMENTS_EVERY) {
            self.check_attachments();
        }
        if !self.pass.looks.is_multiple_of(STEP_EVERY) {
            return;
        }
        let step = self.pass.step;
        self.pass.began.get_or_insert_with(Instant::now);
        if step < STEPS {
            let found = self.reconciler.check(step);
            self.note_drift(Ok(found));
            self.pass.step += 1;
            return;
        }
        self.check_node();
        self.pass.step = 0;
        let took = self.pass.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        self.state.truth.pass_ms = took.as_millis() as u64;
        self.state.truth.pass_cpu_us = std::mem::take(&mut self.pass.cpu).as_micros() as u64;
        let problems = std::mem::take(&mut self.pass.problems);
        if problems != self.state.truth.problems {
            for problem in &problems {
                error!(%problem, "the tables are not as they should be, and it can't be helped");
            }
        }
        // One read or write that the kernel refuses when it is short of memory is no reason to send anybody elsewhere.
        self.observer
            .tables_are(problems.is_empty() || self.state.truth.problems.is_empty());
        self.state.truth.problems = problems;
        self.state.truth.checked_s = unix_now_s();
        self.state_is_old = true;
    }

    /// The tables that say what the node is.
    fn check_node(&mut self) {
        let one = |found: Result<Option<Drift>, TableError>| found.map(|drift| drift.into_iter().collect());
        let all = [
            one(self.node4.check(&self.record4)),
            one(self.node6.check(&self.record6)),
            self.device_table.check(),
            self.vlan_table.check(),
            self.peers4.check(),
            self.peers6.check(),
        ];
        for found in all {
            self.note_drift(found);
        }
    }

    /// What is attached to devices.
    fn check_attachments(&mut self) {
        let lost = self.attachments.check(&self.datapath);
        if lost.is_empty() {
            return;
        }
        let devices = self.devices.clone();
        self.attach_all(&devices);
        for (ifindex, device, direction) in lost {
            let now = self.attachments.devices().get(&ifindex);
            let (place, is_back) = match direction {
                Direction::Ingress => ("where packets arrive (tc)", now.is_some_and(|now| now.tc)),
                Direction::Egress => ("where packets leave (tc)", now.is_some_and(|now| now.tc)),
                Direction::Xdp => (
                    "in XDP",
                    now.is_some_and(|now| matches!(now.xdp, Some(XdpOutcome::On(_)))),
                ),
            };
            let what = format!("{device} had no program of ours any more {place}");
            if is_back {
                self.note(ATTACHMENTS, format!("{what}; it is attached again"));
            } else {
                self.pass
                    .problems
                    .push(format!("{what}, and it could not be attached again"));
            }
        }
    }

    fn note_drift(&mut self, found: Result<Vec<Drift>, TableError>) {
        match found {
            Ok(drifts) => {
                for drift in drifts {
                    if drift.refused.is_some() {
                        self.pass.problems.push(drift.to_string());
                    } else {
                        self.note(drift.table, drift.to_string());
                    }
                }
            }
            Err(error) => self.pass.problems.push(error.to_string()),
        }
    }

    fn note(&mut self, table: &'static str, what: String) {
        warn!(%what, "not as it should be, and put right: is somebody else writing here?");
        *self.pass.by_table.entry(table).or_default() += 1;
        let truth = &mut self.state.truth;
        truth.drift_total += 1;
        truth.drift.push_back(Found {
            at_s: unix_now_s(),
            what,
        });
        while truth.drift.len() > TOLD_MAX {
            truth.drift.pop_front();
        }
        self.state_is_old = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_told_of_a_whole_pass_only() {
        let truth = |pass_ms, pass_cpu_us| Truth {
            pass_ms,
            pass_cpu_us,
            ..Truth::default()
        };
        assert_eq!(truth(8_000, 48_000).percent(), Some(0.6));
        assert_eq!(truth(0, 48_000).percent(), None);
    }
}
