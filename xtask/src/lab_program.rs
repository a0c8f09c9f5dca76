//! `demo` and `bench`: programs of the package tests, run as root with the built agent at hand. Also how any program
//! of that package is started: the runner that cargo puts before it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Built, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::process;
use crate::repository::{Repository, TESTS_PACKAGE};
use crate::setup::Session;

/// Where tests, demo and benches find the agent.
const AGENT_VARIABLE: &str = "SLUICE_BIN";

/// Variables that sudo would drop and that the programs of the package read.
const KEPT_THROUGH_SUDO: [&str; 5] = ["PATH", "RUST_BACKTRACE", "RUST_LOG", "CI", "SLUICE_CI_RUN"];

/// Builds everything and becomes the program: it gets the terminal, the signals and the exit code.
pub(crate) fn become_program(session: &mut Session<'_>, program: &str, args: &[String]) -> Result<()> {
    let privilege = Privilege::find();
    privilege.require(&format!("load programs into the kernel for the {program}"))?;
    session.tools()?;
    let built = build::everything(session)?;
    let repository = session.repository;
    if !repository.workspace()?.targets(TESTS_PACKAGE, "bin").contains(program) {
        bail!("the package {TESTS_PACKAGE} has no binary {program} (tests/src/bin/{program}.rs)");
    }
    if privilege == Privilege::Sudo {
        println!("{program}: loading programs needs root: it runs through sudo");
    }
    let mut cargo = process::cargo(repository);
    cargo
        .arg("run")
        .arg("--config")
        .arg(runner(repository, &built, privilege));
    cargo
        .args([
            "--quiet",
            "--release",
            "--package",
            TESTS_PACKAGE,
            "--bin",
            program,
            "--",
        ])
        .args(args);
    let why = cargo.exec();
    Err(why).with_context(|| format!("cannot start {}", process::shown(&cargo)))
}

/// A cargo setting that puts the words of [`words_before`] before the program cargo runs. Variables are set there and
/// not for cargo itself: the agent's build script watches one of them, and would compile everything again.
fn runner(repository: &Repository, built: &Built, privilege: Privilege) -> String {
    let words = words_before(repository, built, privilege);
    let words: Vec<_> = words.iter().map(|word| toml_string(&word.to_string_lossy())).collect();
    format!("target.'cfg(all())'.runner=[{}]", words.join(","))
}

/// What stands before a program of the package tests: `env` with what it needs to know, and sudo where it needs root.
pub(crate) fn words_before(repository: &Repository, built: &Built, privilege: Privilege) -> Vec<OsString> {
    let mut words: Vec<OsString> = privilege.prefix().iter().map(OsString::from).collect();
    words.push("env".into());
    words.push(assignment(AGENT_VARIABLE, built.agent.as_os_str()));
    words.push(assignment(OBJECT_VARIABLE, built.object.as_os_str()));
    if privilege == Privilege::Sudo {
        words.push(assignment(
            "CARGO_MANIFEST_DIR",
            repository.root().join(TESTS_PACKAGE).as_os_str(),
        ));
        let kept = KEPT_THROUGH_SUDO
            .iter()
            .filter_map(|name| Some(assignment(name, &std::env::var_os(name)?)));
        words.extend(kept);
    }
    words
}

fn assignment(name: &str, value: &std::ffi::OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// A basic string of TOML.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn built() -> Built {
        Built {
            agent: "/r/target/release/sluice".into(),
            object: "/r/target/bpf/lb.bpf.o".into(),
        }
    }

    #[test]
    fn root_runs_programs_with_the_two_variables() {
        assert_eq!(
            runner(&Repository::at(Path::new("/r")), &built(), Privilege::Root),
            r#"target.'cfg(all())'.runner=["env","SLUICE_BIN=/r/target/release/sluice","SLUICE_BPF_OBJECT=/r/target/bpf/lb.bpf.o"]"#
        );
    }

    #[test]
    fn others_go_through_sudo() {
        let runner = runner(&Repository::at(Path::new("/r")), &built(), Privilege::Sudo);
        assert!(runner.contains(r#"["sudo","env","#), "{runner}");
        assert!(runner.contains(r#""CARGO_MANIFEST_DIR=/r/tests""#), "{runner}");
    }

    #[test]
    fn quotes_and_backslashes_survive() {
        assert_eq!(toml_string(r#"a "b" \c"#), r#""a \"b\" \\c""#);
    }
}
