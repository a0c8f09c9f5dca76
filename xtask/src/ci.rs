//! `cargo xtask ci`: what a change has to pass, in the order that fails soonest, with the time each step took.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::TestArgs;
use crate::lint;
use crate::setup::Session;
use crate::test::{self, Tally};

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) lint_is_good: bool,
    pub(crate) tally: Tally,
}

/// Lint that fails does not keep the tests from running: one round shows both.
pub(crate) fn run(session: &mut Session<'_>) -> Result<Outcome> {
    let mut times = Vec::new();
    timed("setup", &mut times, || session.everything())?;
    let lint = timed("lint", &mut times, || lint::run(session));
    if let Err(why) = &lint {
        eprintln!("ci: {why:#}; the tests run all the same");
    }
    let tally = timed("test", &mut times, || test::run(session, &TestArgs::default()));
    let shown: Vec<_> = times
        .iter()
        .map(|(step, time)| format!("{step} {}", minutes(*time)))
        .collect();
    println!("ci: {}", shown.join(", "));
    if let Err(why) = &lint {
        println!("ci: {why:#}");
    }
    Ok(Outcome {
        lint_is_good: lint.is_ok(),
        tally: tally?,
    })
}

fn timed<T>(step: &'static str, times: &mut Vec<(&'static str, Duration)>, work: impl FnOnce() -> T) -> T {
    println!("\nci: {step}");
    let start = Instant::now();
    let outcome = work();
    times.push((step, start.elapsed()));
    outcome
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_minutes() {
        assert_eq!(minutes(Duration::from_millis(65_900)), "1:05 min");
        assert_eq!(minutes(Duration::from_secs(7)), "0:07 min");
    }
}
