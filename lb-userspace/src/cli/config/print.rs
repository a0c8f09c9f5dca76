//! `--print-config`: what a command line comes to, as a file that says the same.

use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};

use super::own::{API_VERSION, KIND, field_of};
use super::{Merged, RUN, flags};

/// The configuration of `sluice run`, each line with where it comes from.
pub(in crate::cli) fn print(run: &ArgMatches, merged: Option<&Merged>) -> String {
    let mut text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
    for (arg, flag) in flags(&RUN) {
        let id = arg.get_id().as_str();
        let values: Vec<String> = if matches!(arg.get_action(), ArgAction::SetTrue) {
            vec![run.get_flag(id).to_string()]
        } else {
            let raw = run.get_raw(id).into_iter().flatten();
            raw.map(|value| value.to_string_lossy().into_owned()).collect()
        };
        if values.is_empty() {
            continue;
        }
        let from = match run.value_source(id) {
            _ if merged.is_some_and(|merged| merged.from_file.contains(flag)) => "file",
            Some(ValueSource::CommandLine) => "command line",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        };
        let written = if arg.get_value_delimiter().is_some() {
            let values: Vec<String> = values.iter().map(|value| scalar(value)).collect();
            format!("[{}]", values.join(", "))
        } else {
            scalar(&values.join(","))
        };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}: {written} # {from}", field_of(flag));
    }
    text
}

/// Text in quotes, unless it is a number or a switch.
fn scalar(text: &str) -> String {
    let is_plain =
        text == "true" || text == "false" || text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    if is_plain {
        text.to_owned()
    } else {
        // A string of JSON is one of YAML.
        serde_json::Value::from(text).to_string()
    }
}
