//! Counting: reads what test binaries print, sums it up over all of them, and says it in one closing line.
//!
//! libtest knows no "skipped". A test that cannot run on this machine prints a line that starts with `SKIP ` and
//! returns; libtest counts it as passed, and here it is moved to the skipped ones, with its reason.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// What a test prints, as the beginning of a line, when it cannot run.
const SKIP: &str = "SKIP ";

/// The sum over all suites.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// `suite: test: SKIP why`, in the order they were seen.
    reasons: Vec<String>,
    failures: Vec<String>,
}

impl Tally {
    /// The line that ends every run of tests.
    pub(crate) fn closing_line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }

    /// Skips and failures by name; empty when there are none.
    pub(crate) fn details(&self) -> String {
        let mut text = String::new();
        for (title, lines) in [("skipped", &self.reasons), ("failed", &self.failures)] {
            if !lines.is_empty() {
                text.push_str(&format!("{title}:\n"));
                lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
            }
        }
        text
    }

    /// A run is good when something ran and nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.passed + self.skipped > 0
    }

    /// No test at all is an error of its own: a wrong filter, or suites that were not found.
    pub(crate) fn refuse_nothing(&self, filter: Option<&str>) -> Result<()> {
        if self.passed + self.failed + self.skipped > 0 {
            return Ok(());
        }
        match filter {
            Some(filter) => bail!("no test ran: none of the chosen suites has a test whose name contains {filter:?}"),
            None => bail!("no test ran: none of the chosen suites has a test"),
        }
    }

    /// A suite that ended badly without a failed test to show for it: it crashed, or was killed.
    pub(crate) fn broke(&mut self, suite: &str, why: &str) {
        self.failed += 1;
        self.failures.push(format!("{suite}: {why}"));
    }
}

/// Where in a suite's output the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Running,
    /// What passed tests printed: shown by libtest because of `--show-output`, hidden here.
    Successes,
    /// What failed tests printed.
    Failures,
    FailedNames,
}

/// Reads the output of one suite, line by line, into the tally.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    tally: &'a mut Tally,
    suite: &'a str,
    part: Part,
    /// Whose output the current lines are.
    test: Option<String>,
    /// Passed tests that said they were skipped.
    skipped: BTreeSet<String>,
    pub(crate) saw_result: bool,
    pub(crate) saw_failure: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(tally: &'a mut Tally, suite: &'a str) -> Self {
        let (test, skipped) = (None, BTreeSet::new());
        Self {
            tally,
            suite,
            part: Part::Running,
            test,
            skipped,
            saw_result: false,
            saw_failure: false,
        }
    }

    /// Takes one line; returns whether a person wants to see it.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        let line = line.trim_end();
        if let Some(result) = line.strip_prefix("test result: ") {
            self.result(result);
            return true;
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.test = Some(name.to_owned());
            return self.part != Part::Successes;
        }
        match line {
            "successes:" => self.enter(Part::Successes),
            "failures:" if self.part == Part::Failures => self.enter(Part::FailedNames),
            "failures:" => self.enter(Part::Failures),
            _ if line.trim_start().starts_with(SKIP) => self.skip(line.trim_start()),
            _ if self.part == Part::FailedNames => self.failed_name(line),
            _ => {}
        }
        self.part != Part::Successes
    }

    fn enter(&mut self, part: Part) {
        self.part = part;
        self.test = None;
    }

    fn skip(&mut self, line: &str) {
        let suite = self.suite;
        match (&self.test, self.part) {
            (Some(test), part) => {
                self.tally.reasons.push(format!("{suite}: {test}: {line}"));
                if part == Part::Successes {
                    self.skipped.insert(test.clone());
                }
            }
            // Printed past libtest, by a child process for example: nobody knows by which test.
            (None, _) => {
                self.tally.reasons.push(format!("{suite}: {line}"));
                self.tally.skipped += 1;
            }
        }
    }

    fn failed_name(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("    ") {
            self.tally.failures.push(format!("{}: {name}", self.suite));
        }
    }

    /// `ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s`
    fn result(&mut self, result: &str) {
        let count = |of: &str| {
            let mut parts = result.split(['.', ';']).map(str::trim);
            let number = parts.find_map(|part| part.strip_suffix(of)?.trim().parse::<usize>().ok());
            number.unwrap_or(0)
        };
        let (passed, skipped) = (count("passed"), self.skipped.len());
        self.tally.passed += passed.saturating_sub(skipped);
        self.tally.skipped += skipped + count("ignored");
        self.tally.failed += count("failed");
        self.saw_failure |= count("failed") > 0;
        self.saw_result = true;
        self.enter(Part::Running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tally: &mut Tally, suite: &str, output: &str) -> String {
        let mut reader = Reader::new(tally, suite);
        let shown = output.lines().filter(|line| reader.line(line));
        shown.collect::<Vec<_>>().join("\n")
    }

    const GOOD: &str = "
running 3 tests
test adds ... ok
test sctp ... ok
test quiet ... ok

successes:

---- adds stdout ----
chatter of a test

---- sctp stdout ----
SKIP sctp: this kernel has no SCTP sockets

successes:
    adds
    quiet
    sctp

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s
";

    const BAD: &str = "
running 2 tests
test breaks ... FAILED
test works ... ok

successes:

successes:
    works

failures:

---- breaks stdout ----
thread 'breaks' panicked at src/lib.rs:1:1:
    deep and indented

failures:
    breaks

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_skip_is_not_a_pass_and_keeps_its_reason() {
        let mut tally = Tally::default();
        let shown = read(&mut tally, "labs", GOOD);
        assert_eq!(tally.closing_line(), "2 passed, 0 failed, 2 skipped");
        assert_eq!(
            tally.details(),
            "skipped:\n  labs: sctp: SKIP sctp: this kernel has no SCTP sockets\n"
        );
        assert!(
            !shown.contains("chatter"),
            "what passed tests print is not shown:\n{shown}"
        );
        assert!(
            shown.contains("test adds ... ok") && shown.contains("test result: ok."),
            "{shown}"
        );
        assert!(tally.is_good());
    }

    #[test]
    fn a_failure_is_named_and_its_output_shown() {
        let mut tally = Tally::default();
        let shown = read(&mut tally, "lib", BAD);
        assert_eq!(tally.closing_line(), "1 passed, 1 failed, 0 skipped");
        assert_eq!(tally.details(), "failed:\n  lib: breaks\n");
        assert!(shown.contains("panicked at") && !tally.is_good());
    }

    #[test]
    fn suites_add_up() {
        let mut tally = Tally::default();
        read(&mut tally, "a", GOOD);
        read(&mut tally, "b", GOOD);
        read(&mut tally, "c", BAD);
        assert_eq!(tally.closing_line(), "5 passed, 1 failed, 4 skipped");
    }

    #[test]
    fn several_skips_in_one_test_are_one_skipped_test() {
        let output = "successes:\n---- t stdout ----\nSKIP row a\nSKIP row b\n\nsuccesses:\n    t\n\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let mut tally = Tally::default();
        read(&mut tally, "s", output);
        assert_eq!(tally.closing_line(), "0 passed, 0 failed, 1 skipped");
        assert_eq!(tally.details().lines().count(), 3);
    }

    #[test]
    fn a_skip_printed_past_libtest_counts() {
        let mut tally = Tally::default();
        read(
            &mut tally,
            "s",
            "SKIP no bpffs\ntest result: ok. 1 passed; 0 failed; 0 ignored;",
        );
        assert_eq!(tally.closing_line(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_suite_that_crashed_is_a_failure() {
        let mut tally = Tally::default();
        read(&mut tally, "s", "running 2 tests\n");
        tally.broke("s", "was ended by signal 11");
        assert_eq!(tally.closing_line(), "0 passed, 1 failed, 0 skipped");
        assert!(tally.details().contains("s: was ended by signal 11"));
    }

    #[test]
    fn nothing_is_not_good() {
        let tally = Tally::default();
        assert!(!tally.is_good());
        let why = tally.refuse_nothing(Some("typo")).unwrap_err().to_string();
        assert!(why.contains("\"typo\""), "{why}");
        assert!(tally.refuse_nothing(None).is_err());
    }
}
