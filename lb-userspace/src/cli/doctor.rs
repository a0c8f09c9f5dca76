//! `sluice doctor`: what this machine lacks, and what to do about it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Output, Place, text::print_table};
use crate::kernel::{Level, preflight};

/// Arguments of `sluice doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn doctor(place: &Place, args: &DoctorArgs) -> Result<ExitCode> {
    let findings = preflight(&place.pin_dir);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Output::Table => {
            let rows: Vec<Vec<String>> = findings
                .iter()
                .map(|finding| {
                    let mark = match finding.level {
                        Level::Good => "ok",
                        Level::Limited => "limited",
                        Level::Missing => "MISSING",
                    };
                    vec![mark.to_owned(), finding.subject.clone(), finding.found.clone(), finding.remedy.clone()]
                })
                .collect();
            print_table(&["", "WHAT", "FOUND", "WHAT TO DO"], &rows);
        }
    }
    let missing = findings.iter().any(|finding| finding.level == Level::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
