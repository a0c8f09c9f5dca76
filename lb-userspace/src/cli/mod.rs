//! The command line of `sluice`: what a person types, and which room answers.

mod cleanup;
mod config;
mod devices;
mod doctor;
mod dsr;
mod get;
mod open;
mod prepare;
mod retire;
mod run;
mod status;
mod takeover;
mod text;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

/// The L4 load balancer in the kernel: Kubernetes Services on eBPF, in place of kube-proxy.
///
/// The agent (`sluice run`) watches Services and EndpointSlices, in a cluster or in a directory of YAML, and keeps
/// tables that programs in the kernel translate packets by. All other commands read the same tables, whether an agent
/// is running or not.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

/// Where the datapath of this node is.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Folder on a BPF file system in which tables and links are pinned
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/sluice",
        env = "SLUICE_PIN_DIR"
    )]
    pin_dir: PathBuf,
    /// Folder in which the agent writes its state
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/sluice",
        env = "SLUICE_RUN_DIR"
    )]
    run_dir: PathBuf,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve this node: load the datapath and keep its tables up to date
    Run(Box<run::RunArgs>),
    /// Configuration files
    Config(config::ConfigArgs),
    /// How it goes: agent, devices, tables, drops
    Status(status::StatusArgs),
    /// Show what is in the kernel's tables, with Service names
    Get(get::GetArgs),
    /// Mount the BPF file system and set what processes on the host need, so that the agent needs fewer rights
    ///
    /// For an init container: the agent does it itself where it may. sluice cleanup puts the settings back.
    Prepare,
    /// Serve new connections from now on, on a node that kube-proxy has served, and take kube-proxy's rules away
    ///
    /// Connections that netfilter translates go on with it until they end. Stop kube-proxy on this node, or it writes its rules again.
    Takeover(takeover::TakeoverArgs),
    /// Leave new connections to kube-proxy's rules from now on: the way back
    ///
    /// Connections that Sluice translates go on until they end; sluice cleanup ends the datapath.
    Retire(retire::RetireArgs),
    /// What this machine lacks, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// End the datapath: detach all programs, remove all tables and the state
    ///
    /// Connections through Services break. Fails while an agent is running.
    Cleanup,
    /// Print a completion script for a shell
    ///
    /// For instance: sluice completions bash > /etc/bash_completion.d/sluice
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line. Errors go to standard error; the exit code is 1 for them and 2 for wrong arguments.
#[must_use]
pub fn main() -> ExitCode {
    answer(std::env::args_os().collect()).unwrap_or_else(|error| {
        eprintln!("sluice: {error:#}");
        ExitCode::FAILURE
    })
}

fn answer(words: Vec<OsString>) -> Result<ExitCode> {
    let mut matches = Cli::command().get_matches_from(&words);
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::Run(args) = &cli.command {
        let (file, prints) = (args.config.clone(), args.print_config);
        let mut merged = None;
        if let Some(file) = file {
            let run = matches.subcommand_matches("run").context("the arguments of run")?;
            let whole = config::merge(&file, words, run)?;
            matches = Cli::command().get_matches_from(&whole.words);
            cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
            merged = Some(whole);
        }
        if prints {
            cli.check()?;
            let run = matches.subcommand_matches("run").context("the arguments of run")?;
            print!("{}", config::print(run, merged.as_ref()));
            return Ok(ExitCode::SUCCESS);
        }
    }
    match cli.command {
        Command::Run(args) => run::run(&cli.place, *args).map(|()| ExitCode::SUCCESS),
        Command::Config(args) => config::config(&args),
        Command::Status(args) => status::status(&cli.place, &args),
        Command::Get(args) => get::get(&cli.place, &args).map(|()| ExitCode::SUCCESS),
        Command::Takeover(args) => takeover::takeover(&cli.place, &args).map(|()| ExitCode::SUCCESS),
        Command::Retire(args) => retire::retire(&cli.place, &args).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => doctor::doctor(&cli.place, &args),
        Command::Prepare => prepare::prepare(&cli.place).map(|()| ExitCode::SUCCESS),
        Command::Cleanup => cleanup::cleanup(&cli.place).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Cli {
    /// Whether the arguments of `run` make sense together, on whatever machine.
    fn check(&self) -> Result<()> {
        match &self.command {
            Command::Run(args) => args.check(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_help() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut() {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
        }
    }
}
