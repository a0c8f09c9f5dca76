//! The books of a load: what became of every connection, per phase of a test and per backend.
//!
//! A connection belongs to the phase in which it was started. Nothing here opens a socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::latency::Latency;

/// Failures kept word for word in each phase; the rest is only counted.
const FAILURES_KEPT: usize = 10;

/// What connections of a phase are to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Every one is answered; anything else is a lost connection.
    Answers,
    /// Every one is refused at once; an answer is a surprise, silence is a lost connection.
    Refusal,
    /// Nobody is there to answer, nor to say so: an answer is a surprise, all else is as it should be.
    Nobody,
}

/// A phase of a test.
#[derive(Clone, Debug)]
pub struct Phase {
    /// For reports.
    pub name: String,
    /// What is to happen.
    pub expect: Expect,
    /// Connections started this soon after the beginning may still meet the opposite.
    pub settle: Duration,
}

impl Phase {
    /// Every connection is answered, from the first on.
    pub fn served(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            expect: Expect::Answers,
            settle: Duration::ZERO,
        }
    }

    /// Connections are refused, at the latest after a while.
    pub fn refused(name: &str, settle: Duration) -> Self {
        Self {
            name: name.to_owned(),
            expect: Expect::Refusal,
            settle,
        }
    }

    /// Nobody answers, at the latest after a while.
    pub fn gone(name: &str, settle: Duration) -> Self {
        Self {
            name: name.to_owned(),
            expect: Expect::Nobody,
            settle,
        }
    }

    /// As many as before may still be refused or not be heard for a while, then all are answered.
    pub fn settling(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }
}

/// Answers of one backend in one phase. Times are those at which the connections were started, from the start of the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sightings {
    /// How many.
    pub count: u64,
    /// The first.
    pub first: Duration,
    /// The last.
    pub last: Duration,
}

/// What became of the connections of a phase.
#[derive(Clone, Debug)]
pub struct PhaseReport {
    /// The phase.
    pub phase: Phase,
    /// How long it was.
    pub length: Duration,
    /// Connections started in the phase whose fate is known.
    pub connections: u64,
    /// Connections that were answered in full and with the right bytes.
    pub answered: u64,
    /// Connections that were refused (by RST or ICMP).
    pub refused: u64,
    /// Connections that met neither where nobody was to answer.
    pub unheard: u64,
    /// Connections that were neither, or met a refusal where an answer was due.
    pub lost: u64,
    /// Connections that were answered where no answer was due.
    pub surprises: u64,
    /// Who answered.
    pub backends: BTreeMap<String, Sightings>,
    /// When the first connection that was refused had been started.
    pub first_refusal: Option<Duration>,
    /// Time to be connected.
    pub connect: Latency,
    /// Time from the start to the last byte of the answer.
    pub whole: Latency,
    /// Time to be refused.
    pub refusal: Latency,
    /// The first failures, word for word.
    pub failures: Vec<String>,
}

/// What happened since somebody last looked.
#[derive(Clone, Debug)]
pub struct Window {
    /// How long ago that was.
    pub length: Duration,
    /// Answers per backend.
    pub backends: BTreeMap<String, u64>,
    /// Refused.
    pub refused: u64,
    /// Lost.
    pub lost: u64,
    /// Time to be connected.
    pub connect: Latency,
}

/// What became of one connection.
pub(super) enum Outcome {
    Answered {
        backend: String,
        connect: Duration,
        whole: Duration,
    },
    Refused {
        after: Duration,
    },
    Failed {
        why: String,
    },
}

/// All phases so far.
pub(super) struct Books {
    phases: Vec<(Instant, PhaseReport)>,
    window: Window,
    window_start: Instant,
}

impl Books {
    pub(super) fn new(phase: Phase) -> Self {
        let mut books = Self {
            phases: Vec::new(),
            window: empty_window(),
            window_start: Instant::now(),
        };
        books.begin(phase);
        books
    }

    /// Starts another phase; connections on their way still belong to the one they started in.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.end_phase();
        let report = PhaseReport {
            phase,
            length: Duration::ZERO,
            connections: 0,
            answered: 0,
            refused: 0,
            unheard: 0,
            lost: 0,
            surprises: 0,
            backends: BTreeMap::new(),
            first_refusal: None,
            connect: Latency::default(),
            whole: Latency::default(),
            refusal: Latency::default(),
            failures: Vec::new(),
        };
        self.phases.push((Instant::now(), report));
    }

    /// The number of the phase that a connection started now belongs to.
    pub(super) fn current(&self) -> usize {
        self.phases.len() - 1
    }

    pub(super) fn record(&mut self, phase: usize, started: Instant, outcome: Outcome) {
        let over = phase != self.current();
        let (began, report) = &mut self.phases[phase];
        let at = started.saturating_duration_since(*began);
        let settled = at >= report.phase.settle;
        report.connections += 1;
        match outcome {
            Outcome::Answered {
                backend,
                connect,
                whole,
            } => {
                report.answered += 1;
                *self.window.backends.entry(backend.clone()).or_default() += 1;
                let due = report.phase.expect == Expect::Answers;
                if !due && over {
                    // A client that heard nothing and asked again: the answer belongs to what is expected now.
                    return;
                }
                report.connect.record(connect);
                report.whole.record(whole);
                self.window.connect.record(connect);
                if !due && settled {
                    report.surprises += 1;
                    report.note(at, &format!("answered by {backend} where no answer was due"));
                }
                let seen = report.backends.entry(backend).or_insert(Sightings {
                    count: 0,
                    first: at,
                    last: at,
                });
                seen.count += 1;
                seen.first = seen.first.min(at);
                seen.last = seen.last.max(at);
            }
            Outcome::Refused { after } => {
                report.refused += 1;
                report.refusal.record(after);
                report.first_refusal = Some(report.first_refusal.map_or(at, |first| first.min(at)));
                self.window.refused += 1;
                if report.phase.expect == Expect::Answers && settled {
                    report.lost += 1;
                    self.window.lost += 1;
                    report.note(at, "refused");
                }
            }
            Outcome::Failed { .. }
                if report.phase.expect == Expect::Nobody || report.phase.expect == Expect::Answers && !settled =>
            {
                report.unheard += 1;
            }
            Outcome::Failed { why } => {
                report.lost += 1;
                self.window.lost += 1;
                report.note(at, &why);
            }
        }
    }

    /// What happened since the last call.
    pub(super) fn window(&mut self) -> Window {
        let mut window = std::mem::replace(&mut self.window, empty_window());
        window.length = self.window_start.elapsed();
        self.window_start = Instant::now();
        window
    }

    /// A copy of the current phase's report.
    pub(super) fn report(&self) -> PhaseReport {
        let (began, report) = self.phases.last().expect("there is always a phase");
        PhaseReport {
            length: began.elapsed(),
            ..report.clone()
        }
    }

    pub(super) fn finish(&mut self) -> Vec<PhaseReport> {
        self.end_phase();
        std::mem::take(&mut self.phases)
            .into_iter()
            .map(|(_, report)| report)
            .collect()
    }

    fn end_phase(&mut self) {
        if let Some((began, report)) = self.phases.last_mut() {
            report.length = began.elapsed();
        }
    }
}

impl PhaseReport {
    fn note(&mut self, at: Duration, what: &str) {
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(format!(
                "{:.3} s into \"{}\": {what}",
                at.as_secs_f64(),
                self.phase.name
            ));
        }
    }
}

fn empty_window() -> Window {
    Window {
        length: Duration::ZERO,
        backends: BTreeMap::new(),
        refused: 0,
        lost: 0,
        connect: Latency::default(),
    }
}
