//! `cargo xtask chaos`: everything at random that must not cost a connection. Everything it does is in the library, in `chaos`.

use std::process::ExitCode;

use clap::Parser;
use tests::chaos::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}
