//! `--config`, `--print-config` and `sluice config check`: a file in place of flags.
//!
//! A file is a list of settings, each a flag of `sluice run` with its value. It is read whole, each of its values is parsed as
//! the flag would be, and everything that is wrong is told together, before anything is touched. A flag on the command line
//! comes before an environment variable, that before the file, that before the default. Here: the order, the commands. Not here:
//! our own format (`own`), kube-proxy's (`kube_proxy`), printing (`print`), what flags mean (`run`).

mod kube_proxy;
mod own;
mod print;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Subcommand};

use super::{Cli, Output, text::print_table};
use crate::source::manifests::{Located, Value, document};

pub(super) use print::print;

/// The most that a file may have: one that is longer is none of ours.
const LENGTH_MAX: u64 = 1 << 20;

/// Arguments of `sluice config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what of a configuration file is taken over, what means nothing here, and what is wrong
    ///
    /// Reads Sluice's own format, a KubeProxyConfiguration, or the ConfigMap that holds one:
    /// kubectl -n kube-system get configmap kube-proxy -o yaml | sluice config check -
    Check {
        /// The file; `-` for standard input
        file: PathBuf,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// A flag of `sluice run` and its value, as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Without the dashes.
    flag: String,
    value: String,
    /// Where the file says so.
    field: String,
    line: u32,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It is a flag of ours.
    TakenOver,
    /// It sets up something that isn't here.
    Meaningless,
    /// What it asks for is otherwise here.
    Different,
    /// Nobody has heard of it.
    Unknown,
    /// It can't be so.
    Wrong,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::TakenOver => "taken over",
            Self::Meaningless => "meaningless here",
            Self::Different => "DIFFERENT",
            Self::Unknown => "UNKNOWN",
            Self::Wrong => "WRONG",
        }
    }
}

/// What is said about a field.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
struct Finding {
    field: String,
    line: u32,
    verdict: Verdict,
    /// What it becomes, or why not.
    says: String,
}

/// A file as it was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Understood {
    /// What it is, for people.
    kind: &'static str,
    settings: Vec<Setting>,
    findings: Vec<Finding>,
}

impl Understood {
    fn say(&mut self, field: &str, line: u32, verdict: Verdict, says: impl Into<String>) {
        self.findings.push(Finding {
            field: field.to_owned(),
            line,
            verdict,
            says: says.into(),
        });
    }

    /// A field becomes a flag.
    fn take(&mut self, flag: &str, value: String, field: &str, line: u32) {
        let shown = if value == "true" {
            format!("--{flag}")
        } else {
            format!("--{flag}={value}")
        };
        self.say(field, line, Verdict::TakenOver, shown);
        self.settings.push(Setting {
            flag: flag.to_owned(),
            value,
            field: field.to_owned(),
            line,
        });
    }

    fn wrong(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Wrong)
    }
}

/// The flags that a file may set.
fn flags(run: &Command) -> impl Iterator<Item = (&Arg, &str)> {
    const NOT_IN_FILES: [&str; 4] = ["config", "print-config", "help", "version"];
    run.get_arguments()
        .filter_map(|arg| Some((arg, arg.get_long()?)))
        .filter(|(_, long)| !NOT_IN_FILES.contains(long))
}

/// What `sluice run` takes.
static RUN: LazyLock<Command> = LazyLock::new(|| {
    let mut cli = Cli::command();
    // Global arguments become known to the subcommands.
    cli.build();
    cli.find_subcommand("run").cloned().unwrap_or_default()
});

fn load(file: &Path) -> Result<Understood> {
    understand(&read(file)?).map_err(|reason| anyhow::anyhow!("the configuration {}: {reason}", file.display()))
}

/// Reads a file, or standard input for `-`.
fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("open the configuration {}", file.display()))?)
    };
    source
        .take(LENGTH_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("read the configuration {}", file.display()))?;
    if text.len() as u64 > LENGTH_MAX {
        bail!("the configuration {} has more than {LENGTH_MAX} octets", file.display());
    }
    Ok(text)
}

/// Understands a text, whatever of the three it is.
///
/// # Errors
/// If it is none of them.
fn understand(text: &str) -> Result<Understood, String> {
    let tree = document(text).map_err(|error| format!("line {}: {}", error.line, error.reason))?;
    let kind = tree.get("kind").and_then(Located::text).unwrap_or_default();
    let group = tree.get("apiVersion").and_then(Located::text).unwrap_or_default();
    let mut understood = match (group, kind) {
        (own::API_VERSION, own::KIND) => own::understand(&tree, &RUN),
        (group, "KubeProxyConfiguration") if group.starts_with("kubeproxy.config.k8s.io/") => {
            kube_proxy::understand(&tree)
        }
        ("v1", "ConfigMap") => {
            let inner = tree.get("data").and_then(|data| match &data.value {
                Value::Mapping(entries) => {
                    let is_one = |text: &str| text.contains("KubeProxyConfiguration") || text.contains(own::KIND);
                    entries.iter().find(|(_, text)| text.text().is_some_and(is_one))
                }
                _ => None,
            });
            let (key, inner) =
                inner.ok_or("this ConfigMap has no data that is a configuration of kube-proxy or Sluice")?;
            let text = inner.text().ok_or_else(|| format!("data[{key}] is no text"))?;
            return understand(text).map_err(|reason| format!("data[{key}]: {reason}"));
        }
        _ => {
            return Err(format!(
                "it is neither {} {} nor kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration, but apiVersion \"{group}\", \
                 kind \"{kind}\"",
                own::API_VERSION,
                own::KIND
            ));
        }
    };
    check_values(&mut understood);
    Ok(understood)
}

/// Parses each value as its flag, and all of them together.
fn check_values(understood: &mut Understood) {
    let parse = |words: Vec<String>| {
        let all = ["sluice".to_owned(), "run".to_owned()].into_iter().chain(words);
        let matches = Cli::command().try_get_matches_from(all)?;
        Cli::from_arg_matches(&matches)
    };
    let reason = |error: clap::Error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.trim_start_matches("error: ").to_owned()
    };
    let mut wrong = Vec::new();
    for setting in &understood.settings {
        if let Err(error) = parse(word(setting).into_iter().collect()) {
            wrong.push((setting.clone(), reason(error)));
        }
    }
    for (Setting { flag, field, line, .. }, why) in &wrong {
        understood.settings.retain(|setting| setting.flag != *flag);
        understood.findings.retain(|finding| finding.field != *field);
        understood.say(field, *line, Verdict::Wrong, why);
    }
    let together = parse(understood.settings.iter().filter_map(word).collect())
        .map_err(reason)
        .and_then(|cli| cli.check().map_err(|error| format!("{error:#}")));
    if let Err(why) = together {
        understood.say("", 1, Verdict::Wrong, why);
    }
    understood.findings.sort_by_key(|finding| finding.line);
}

/// A setting as it would be typed. What is switched off is not said.
fn word(setting: &Setting) -> Option<String> {
    let Setting { flag, value, .. } = setting;
    let is_switch = flags(&RUN).any(|(arg, long)| long == *flag && matches!(arg.get_action(), ArgAction::SetTrue));
    match (is_switch, value.as_str()) {
        (true, "true") => Some(format!("--{flag}")),
        (true, "false") => None,
        _ => Some(format!("--{flag}={value}")),
    }
}

/// A command line with what the file that it names adds.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) words: Vec<OsString>,
    /// Flags that come from the file.
    pub(super) from_file: BTreeSet<String>,
}

/// Adds the settings of a file to a command line, those that neither it nor the environment says.
///
/// # Errors
/// If there is anything wrong with the file: all of it, told together.
pub(super) fn merge(file: &Path, words: Vec<OsString>, run: &ArgMatches) -> Result<Merged> {
    let understood = load(file)?;
    let wrong: Vec<String> = understood
        .wrong()
        .map(|finding| {
            format!(
                "  line {}: {}{}{}",
                finding.line,
                finding.field,
                if finding.field.is_empty() { "" } else { ": " },
                finding.says
            )
        })
        .collect();
    if !wrong.is_empty() {
        bail!(
            "the configuration {} can't be used, and nothing was touched:\n{}",
            file.display(),
            wrong.join("\n")
        );
    }
    let mut merged = Merged {
        words,
        from_file: BTreeSet::new(),
    };
    let said = |flag: &str| {
        let source = run.value_source(&flag.replace('-', "_"));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    for setting in understood.settings.iter().filter(|setting| !said(&setting.flag)) {
        merged.from_file.insert(setting.flag.clone());
        merged.words.extend(word(setting).map(OsString::from));
    }
    Ok(merged)
}

/// `sluice config …`.
pub(super) fn config(args: &ConfigArgs) -> Result<ExitCode> {
    let Verb::Check { file, output } = &args.verb;
    let understood = load(file)?;
    let is_good = understood.wrong().next().is_none();
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&understood.findings)?),
        Output::Table => {
            let rows: Vec<Vec<String>> = understood.findings.iter().map(row).collect();
            print_table(&["LINE", "FIELD", "VERDICT", "WHAT"], &rows);
            let words: Vec<String> = understood.settings.iter().filter_map(word).collect();
            println!(
                "\n{}: {}",
                understood.kind,
                if is_good { "good" } else { "can't be used" }
            );
            println!("as flags: sluice run {}", words.join(" "));
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(finding: &Finding) -> Vec<String> {
    let Finding {
        field,
        line,
        verdict,
        says,
    } = finding;
    vec![
        line.to_string(),
        field.clone(),
        verdict.words().to_owned(),
        says.clone(),
    ]
}
