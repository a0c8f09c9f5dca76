//! `demo`, `bench`, `fuzz` and `chaos`: programs of the package tests, run as root with the built agent at hand. Also what any program
//! of that package is told when it is started.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

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
    let built = build::everything(session, &[program])?;
    let repository = session.repository;
    if privilege == Privilege::Sudo {
        println!("{program}: loading programs needs root: it runs through sudo");
    }
    let mut command = command(repository, &built, privilege);
    command.arg(repository.workspace()?.release_binary(program)).args(args);
    let why = command.exec();
    Err(why).with_context(|| format!("cannot start {}", process::shown(&command)))
}

/// The beginning of a command that runs a program of the package tests: `env` with what the program needs to know, and
/// sudo where it needs root. The variables are not set for cargo: the agent's build script watches one of them, and
/// would compile everything again.
pub(crate) fn command(repository: &Repository, built: &Built, privilege: Privilege) -> Command {
    let mut command = Command::new(privilege.prefix().first().unwrap_or(&"env"));
    if privilege == Privilege::Sudo {
        command.arg("env");
    }
    command.arg(assignment(AGENT_VARIABLE, built.agent.as_os_str()));
    command.arg(assignment(OBJECT_VARIABLE, built.object.as_os_str()));
    if privilege == Privilege::Sudo {
        command.arg(assignment(
            "CARGO_MANIFEST_DIR",
            repository.root().join(TESTS_PACKAGE).as_os_str(),
        ));
        command.args(
            KEPT_THROUGH_SUDO
                .iter()
                .filter_map(|name| Some(assignment(name, &env::var_os(name)?))),
        );
    }
    command
}

fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
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
        let command = command(&Repository::at(Path::new("/r")), &built(), Privilege::Root);
        let expected = "`env SLUICE_BIN=/r/target/release/sluice SLUICE_BPF_OBJECT=/r/target/bpf/lb.bpf.o`";
        assert_eq!(process::shown(&command), expected);
    }

    #[test]
    fn others_go_through_sudo() {
        let command = process::shown(&command(&Repository::at(Path::new("/r")), &built(), Privilege::Sudo));
        assert!(command.starts_with("`sudo env SLUICE_BIN="), "{command}");
        assert!(command.contains(" CARGO_MANIFEST_DIR=/r/tests "), "{command}");
    }
}
