//! `cargo xtask bench`: measure Sluice. Everything it does is in the library, in `bench`.

use std::process::ExitCode;

use clap::Parser;
use tests::bench::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
