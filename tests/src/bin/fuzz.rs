//! `cargo xtask fuzz`: look for packets that break a rule. Everything it does is in the library, in `fuzz`.

use std::process::ExitCode;

use clap::Parser;
use tests::fuzz::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::from(2)
        }
    }
}
