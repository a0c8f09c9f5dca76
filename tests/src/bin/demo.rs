//! `cargo xtask demo`: see Sluice at work. Everything it does is in the library, in `demo`.

use std::process::ExitCode;

use clap::Parser;
use tests::demo::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}
