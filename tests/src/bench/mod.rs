//! Benches: every figure that the documents name comes from here. `packet` is the price of a packet in the kernel,
//! `forward` how many pass through a device, `connect` what a connection of a pod costs, `sync` the way from a change to the tables,
//! `api` the same from an API server on.
//!
//! What a row means and how it is judged is in `docs/bench.md`; how figures are judged and shown in [`figure`], how
//! samples become a figure in [`samples`]. The program itself is `src/bin/bench.rs`.

mod api;
mod connect;
pub mod figure;
mod forward;
mod packet;
mod population;
mod samples;
mod sync;

use std::{env, fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use figure::{Figure, Verdict};

/// Measure Sluice on this machine. Without a verb all benches run, and what falls short is said at the end.
///
/// Exit code 0: no bar was missed. 1: one was. 2: a bench could not run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --")]
pub struct Options {
    /// Which bench; all of them if none is named
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Also write the figures to a file, as a JSON list of {name, unit, value, bar, bound, holds}
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Fewer flows, Services and rounds: to see that the benches work, not to judge by
    #[arg(long, global = true)]
    quick: bool,
    /// For `connect`: rules of another balancer to compare with, as nft or iptables-save print them, plain or gzipped; may be given more
    /// than once. Its ClusterIPs are the Services that Sluice gets, too
    #[arg(long, value_name = "FILE", global = true)]
    peer_rules: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum Verb {
    /// Nanoseconds per packet of the loaded programs, by tier, flows and Services, against a floor program (about three minutes)
    Packet,
    /// Frames per second that XDP sends on to backends elsewhere, against a program that only exchanges MAC addresses (about a minute)
    Forward,
    /// Connections per second and their latency from pod to pod: direct, by sockets, by tc, through a peer's rules (about four minutes)
    Connect,
    /// From a change of an object to the kernel's tables; start with 10 000 Services; memory (about a minute)
    Sync,
    /// From an API server's write to the kernel's tables; start with 50 000 Services; memory; what an idle agent costs (about two minutes)
    Api,
}

/// Runs what is asked for. True if no bar was missed.
///
/// # Errors
/// If a bench can't run.
pub fn run(options: &Options) -> Result<bool> {
    let begin = Instant::now();
    let wants = |verb| options.verb.is_none_or(|wanted| wanted == verb);
    let mut figures = Vec::new();
    if wants(Verb::Packet) {
        figures.extend(packet::run(options.quick).context("bench packet")?);
    }
    if wants(Verb::Forward) {
        figures.extend(forward::run(options.quick).context("bench forward")?);
    }
    if wants(Verb::Connect) {
        figures.extend(connect::run(options.quick, &options.peer_rules).context("bench connect")?);
    }
    if wants(Verb::Sync) {
        figures.extend(sync::run(options.quick).context("bench sync")?);
    }
    if wants(Verb::Api) {
        figures.extend(api::run(options.quick).context("bench api")?);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        println!("\nfigures: {}", path.display());
    }
    Ok(tell_verdict(&figures, options.quick, begin.elapsed().as_secs()))
}

/// Says what falls short. True if nothing does.
fn tell_verdict(figures: &[Figure], quick: bool, took_s: u64) -> bool {
    let with = |verdict| figures.iter().filter(move |figure| figure.verdict() == verdict);
    let (held, noisy) = (with(Verdict::Holds).count(), with(Verdict::TooNoisy).count());
    let missed: Vec<_> = with(Verdict::Missed).collect();
    println!(
        "\n{} figures in {took_s} s: {held} bars hold, {} missed, {noisy} not judged (too noisy)",
        figures.len(),
        missed.len()
    );
    for figure in &missed {
        println!("  missed: {figure}");
    }
    if noisy > 0 {
        println!("  Samples of a noisy figure differ too much to judge it: give the machine some quiet and run again.");
    }
    if quick {
        println!("  --quick: too few samples to judge by.");
    }
    missed.is_empty()
}

/// An object of `lb-ebpf` beside the agent's.
fn object(name: &str) -> Result<PathBuf> {
    let object = env::var_os("SLUICE_BPF_OBJECT")
        .context("SLUICE_BPF_OBJECT is not set: start this bench by `cargo xtask bench`, which builds what it needs")?;
    Ok(PathBuf::from(object).with_file_name(format!("{name}.bpf.o")))
}

/// Something that has to be there.
fn there<T>(value: Option<T>, what: &str) -> Result<T> {
    value.with_context(|| format!("{what} is not there"))
}

/// Fisher and Yates, with numbers by Marsaglia's xorshift: the same order on every machine.
fn shuffle<T>(values: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for end in (1..values.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values.swap(end, (state % (end as u64 + 1)) as usize);
    }
}
