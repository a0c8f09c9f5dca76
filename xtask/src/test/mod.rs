//! `cargo xtask test`: builds all there is to test, runs the suites rung by rung, and counts.

mod suites;
mod tally;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

pub(crate) use self::suites::Rung;
use self::suites::Suite;
use self::tally::Reader;
pub(crate) use self::tally::Tally;
use crate::build::{self, Built};
use crate::cli::TestArgs;
use crate::lab_program;
use crate::privilege::Privilege;
use crate::process;
use crate::setup::Session;

/// How long a suite's output may stay open after the suite has ended. A process that a test left behind may hold it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs what the arguments choose. Prints everything but the closing line, which is the caller's to print last.
pub(crate) fn run(session: &mut Session<'_>, args: &TestArgs) -> Result<Tally> {
    let rungs = chosen(args);
    let privilege = Privilege::find();
    if rungs.iter().any(|rung| rung.needs_root()) {
        privilege
            .require("load programs into the kernel for packet and lab tests (`--host` runs those that need none)")?;
        session.tools()?;
        if privilege == Privilege::Sudo {
            println!("test: packet and lab tests need root: they run through sudo");
        }
    }
    if rungs.contains(&Rung::Host)
        && let Err(why) = session.helm()
    {
        // The tests that need it will fail, and the others need not.
        eprintln!("test: {why:#}");
    }
    let built = build::everything(session, &[])?;
    let suites = suites::build(session.repository, &rungs)?;

    let mut tally = Tally::default();
    let mut times = Vec::new();
    for rung in rungs {
        let start = Instant::now();
        for suite in suites.iter().filter(|suite| suite.rung == rung) {
            run_suite(session, suite, args.filter.as_deref(), &built, privilege, &mut tally)?;
        }
        times.push(format!("{} {:.1} s", rung.name(), start.elapsed().as_secs_f64()));
    }
    println!("\ntest: {}", times.join(", "));
    print!("{}", tally.details());
    tally.refuse_nothing(args.filter.as_deref())?;
    Ok(tally)
}

fn chosen(args: &TestArgs) -> Vec<Rung> {
    let flags = [
        (args.host, Rung::Host),
        (args.packet, Rung::Packet),
        (args.lab, Rung::Lab),
    ];
    let all = flags.iter().all(|(chosen, _)| !chosen);
    flags
        .into_iter()
        .filter(|(chosen, _)| all || *chosen)
        .map(|(_, rung)| rung)
        .collect()
}

fn run_suite(
    session: &Session<'_>,
    suite: &Suite,
    filter: Option<&str>,
    built: &Built,
    privilege: Privilege,
    tally: &mut Tally,
) -> Result<()> {
    let privilege = if suite.rung.needs_root() {
        privilege
    } else {
        Privilege::Root
    };
    let mut command = lab_program::command(session.repository, built, privilege);
    command.arg(&suite.executable).args(filter).arg("--show-output");
    if suite.rung == Rung::Lab {
        // Labs share the machine's devices, its bpffs and its two cores.
        command.arg("--test-threads=1");
    }
    command
        .current_dir(&suite.folder)
        .env("CARGO_MANIFEST_DIR", &suite.folder)
        .stdin(Stdio::null());

    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", process::shown(&command)))?;
    let stdout = child.stdout.take().context("the output was piped")?;
    let (sender, lines) = mpsc::channel();
    // Not joined: a process left behind by a test could keep it waiting for ever.
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });

    let mut reader = Reader::new(tally, &suite.name);
    let mut show = Shower::new(suite);
    let mut ended = None;
    let held_open = loop {
        match lines.recv_timeout(LAST_WORDS) {
            Ok(line) => {
                if reader.line(&line) {
                    show.line(&line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) if ended.is_some() => break true,
            Err(RecvTimeoutError::Timeout) => ended = child.try_wait().context("cannot ask how a suite is doing")?,
        }
    };
    let status = child.wait().context("cannot wait for a suite to end")?;
    let (saw_result, saw_failure) = (reader.saw_result, reader.saw_failure);
    if !status.success() && !saw_failure {
        tally.broke(&suite.name, &process::ended(status));
    } else if !saw_result {
        tally.broke(&suite.name, "ended without a result");
    } else if held_open {
        tally.broke(&suite.name, "left a process running that holds its output");
    }
    Ok(())
}

/// Prints a suite's lines under its name, and nothing at all for a suite in which no test was chosen.
struct Shower<'a> {
    suite: &'a Suite,
    begun: bool,
    empty: bool,
}

impl<'a> Shower<'a> {
    fn new(suite: &'a Suite) -> Self {
        Self {
            suite,
            begun: false,
            empty: false,
        }
    }

    fn line(&mut self, line: &str) {
        let tests = line.strip_prefix("running ");
        self.empty = tests.map_or(self.empty, |tests| tests.starts_with("0 tests"));
        if self.empty || (!self.begun && line.is_empty()) {
            return;
        }
        if !self.begun {
            println!("\ntest: {}: {}", self.suite.rung.name(), self.suite.name);
            self.begun = true;
        }
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_all_rungs_run_the_cheap_ones_first() {
        assert_eq!(chosen(&TestArgs::default()), [Rung::Host, Rung::Packet, Rung::Lab]);
        let args = TestArgs {
            lab: true,
            host: true,
            ..TestArgs::default()
        };
        assert_eq!(chosen(&args), [Rung::Host, Rung::Lab]);
    }
}
