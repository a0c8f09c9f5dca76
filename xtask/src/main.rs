//! `cargo xtask`: the verbs by which Sluice is set up, built, shown, tested, measured and checked.
//!
//! This file only hands each verb to the module of its name. What a verb needs and is not there, `setup` installs.

mod build;
mod ci;
mod cli;
mod image;
mod lab_program;
mod lint;
mod object;
mod privilege;
mod process;
mod repository;
mod setup;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::cli::{Cli, Verb};
use crate::repository::Repository;
use crate::setup::Session;
use crate::test::Tally;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let repository = Repository::locate()?;
    let mut session = Session::new(&repository, cli.no_install);
    match &cli.verb {
        Verb::Setup => session.everything().map(drop)?,
        Verb::BuildEbpf => build::kernel_programs(&mut session).map(drop)?,
        Verb::Build => {
            let built = build::everything(&mut session, &[])?;
            println!("build: {}", built.agent.display());
        }
        Verb::Demo(passed_on) => lab_program::become_program(&mut session, "demo", &passed_on.args)?,
        Verb::Bench(passed_on) => lab_program::become_program(&mut session, "bench", &passed_on.args)?,
        Verb::Chaos(passed_on) => lab_program::become_program(&mut session, "chaos", &passed_on.args)?,
        Verb::Fuzz(passed_on) => lab_program::become_program(&mut session, "fuzz", &passed_on.args)?,
        Verb::Test(args) => return Ok(close(&test::run(&mut session, args)?)),
        Verb::Image(args) => image::run(&mut session, args)?,
        Verb::Lint => lint::run(&mut session)?,
        Verb::Tidy => {
            tidy::run(&repository)?;
            println!("tidy: good");
        }
        Verb::Ci => return ci(&mut session),
    }
    Ok(ExitCode::SUCCESS)
}

fn ci(session: &mut Session<'_>) -> Result<ExitCode> {
    let outcome = ci::run(session)?;
    let code = close(&outcome.tally);
    Ok(if outcome.lint_is_good { code } else { ExitCode::FAILURE })
}

/// The last line of a run of tests, and its exit code.
fn close(tally: &Tally) -> ExitCode {
    println!("\n{}", tally.closing_line());
    if tally.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
