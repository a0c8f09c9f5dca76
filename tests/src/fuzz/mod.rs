//! `cargo xtask fuzz`: random stories for as long as one likes, on the host against the rules of `packet::rules`, then in
//! the kernel against the host.
//!
//! A story is what a tape of octets tells (`packet::random`). Half of the tapes are new; the others are made from tapes that
//! have led somewhere new ([`corpus`]): to a verdict, a drop reason, a set of counters, a kind of packet or a fill of tables
//! that no packet before has had ([`coverage`]). A tape that fails is cut down ([`shrink`]) and printed; `--replay` plays it
//! again. With the same seed the same stories are told in the same order.

mod corpus;
mod coverage;
mod host;
mod kernel;
mod shrink;

use std::{
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Play random stories on the host and in the kernel (as root), and look for one that breaks a rule.
///
/// Exit code 0: none did. 1: one did, and is printed. 2: it could not run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask fuzz --")]
pub struct Options {
    /// How long stories are played on the host
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// How many packets go through the loaded programs
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    kernel_packets: u64,
    /// What stories are told; another one each time unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Play one tape that was printed, and nothing else
    #[arg(long, value_name = "host:OCTETS|kernel:OCTETS")]
    replay: Option<String>,
}

/// A story that breaks a rule.
struct Finding {
    side: &'static str,
    story: u64,
    tape: Vec<u8>,
    why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets: String = self.tape.iter().map(|octet| format!("{octet:02x}")).collect();
        let Self { side, story, why, .. } = self;
        write!(
            f,
            "story {story} on the {side} breaks a rule: {why}\nplay it again: cargo xtask fuzz -- --replay {side}:{octets}"
        )
    }
}

/// What was played on one side.
#[derive(Default)]
struct Played {
    stories: u64,
    packets: u64,
    /// Ways that packets went, see [`coverage`].
    ways: usize,
    /// Tapes that are kept.
    tapes: usize,
    finding: Option<Finding>,
}

impl Played {
    fn say(&self, side: &str, took: Duration) {
        let Self {
            stories,
            packets,
            ways,
            tapes,
            ..
        } = self;
        let per_second = *packets as f64 / took.as_secs_f64().max(0.001);
        println!(
            "{side}: {packets} packets in {stories} stories, {:.0} s, {per_second:.0} packets per second; {ways} ways, {tapes} tapes kept",
            took.as_secs_f64()
        );
    }
}

/// Runs what is asked for. True if no rule was broken.
///
/// # Errors
/// If programs can't be loaded.
pub fn run(options: &Options) -> Result<bool> {
    if let Some(tape) = &options.replay {
        return replay(tape);
    }
    let seed = match options.seed {
        Some(seed) => seed,
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("this machine's clock is before 1970")?
            .as_nanos() as u64,
    };
    println!("seed {seed}");
    let mut good = true;
    for side in ["host", "kernel"] {
        let started = Instant::now();
        let played = if side == "host" {
            host::play(seed, Duration::from_secs_f64(options.minutes.max(0.0) * 60.0))
        } else {
            kernel::play(seed, options.kernel_packets)?
        };
        played.say(side, started.elapsed());
        if let Some(finding) = &played.finding {
            println!("seed {seed}, {finding}");
            good = false;
        }
    }
    Ok(good)
}

fn replay(text: &str) -> Result<bool> {
    let (side, octets) = text.split_once(':').context("it begins with `host:` or `kernel:`")?;
    let octet = |at| octets.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let tape: Vec<u8> = (0..octets.len())
        .step_by(2)
        .map(octet)
        .collect::<Option<_>>()
        .context("a tape is hexadecimal digits, two for each octet")?;
    let broken = match side {
        "host" => host::broken(&tape),
        "kernel" => kernel::broken(&tape),
        _ => bail!("a tape is played on the `host` or in the `kernel`, not in {side}"),
    };
    match &broken {
        Some(why) => println!("{why}"),
        None => println!("it keeps all rules"),
    }
    Ok(broken.is_none())
}
