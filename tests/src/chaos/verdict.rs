//! Whether anything was lost, and what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::traffic::{LongLivedReport, PhaseReport, UdpReport};

/// Failures that are told of each kind.
const TOLD: usize = 10;

/// What became of the clients of one host.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) phases: Vec<PhaseReport>,
    pub(super) long_lived: LongLivedReport,
    pub(super) udp: UdpReport,
}

/// What became of everything.
#[derive(Debug)]
pub struct Verdict {
    pub(super) seed: u64,
    pub(super) actions: u32,
    pub(super) excluded: BTreeMap<String, BTreeSet<String>>,
    pub(super) outside: Load,
    pub(super) pod: Load,
}

impl Verdict {
    /// Nothing was lost, and nobody met an endpoint that was out.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.wrongs().is_empty()
    }

    /// What was not as promised, a line each.
    #[must_use]
    pub fn wrongs(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        for (who, load) in [("outside", &self.outside), ("pod", &self.pod)] {
            let answered: u64 = load.phases.iter().map(|phase| phase.answered).sum();
            if answered == 0 || load.long_lived.open == 0 || load.udp.answered == 0 {
                wrongs.push(format!(
                    "{who}: somebody has met nobody: {answered} new connections, {} open, {} answers",
                    load.long_lived.open, load.udp.answered
                ));
            }
            for phase in &load.phases {
                let name = &phase.phase.name;
                if phase.lost > 0 {
                    wrongs.push(format!("{who}, {name}: {} lost: {:?}", phase.lost, phase.failures));
                }
                for met in phase.backends.keys().filter(|backend| self.is_out(name, backend)) {
                    wrongs.push(format!("{who}, {name}: {met} answered, which is out"));
                }
            }
            let long_lived = &load.long_lived;
            if long_lived.lost > 0 || long_lived.wrong > 0 {
                wrongs.push(format!(
                    "{who}: {} open connections lost, {} with wrong bytes: {:?}",
                    long_lived.lost, long_lived.wrong, long_lived.failures
                ));
            }
            let udp = &load.udp;
            if udp.answered != udp.asked {
                let failures: Vec<_> = udp.failures.iter().take(TOLD).collect();
                wrongs.push(format!(
                    "{who}: of {} questions {} were answered: {failures:?}",
                    udp.asked, udp.answered
                ));
            }
        }
        wrongs
    }

    fn is_out(&self, phase: &str, backend: &str) -> bool {
        self.excluded.get(phase).is_some_and(|out| out.contains(backend))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} actions", self.seed, self.actions)?;
        for (who, load) in [("outside", &self.outside), ("pod", &self.pod)] {
            let answered: u64 = load.phases.iter().map(|phase| phase.answered).sum();
            let lost: u64 = load.phases.iter().map(|phase| phase.lost).sum();
            writeln!(
                f,
                "{who:8} {answered} new connections, {lost} lost; {} open, {} lost, {} with wrong bytes, longest pause {} ms; {} of {} \
                 questions answered",
                load.long_lived.open,
                load.long_lived.lost,
                load.long_lived.wrong,
                load.long_lived.longest_pause.as_millis(),
                load.udp.answered,
                load.udp.asked
            )?;
        }
        for wrong in self.wrongs() {
            writeln!(f, "WRONG: {wrong}")?;
        }
        Ok(())
    }
}
