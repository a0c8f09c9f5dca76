//! `cargo xtask chaos`: a node under load, and everything done to it at random that must not cost a connection. With the same seed the same
//! things are done in the same order.
//!
//! What is done is in `action`, to what in `stage`, and whether it was good in `verdict`. The program itself is `src/bin/chaos.rs`. Not done
//! here: upgrades between layouts and resizing, which Sluice does not have yet; floods, which do evict flows; steps of the wall clock, which
//! network namespaces share with the machine;
//! taking XDP off a device, whose driver then throws away what is in its rings.

mod action;
mod stage;
mod verdict;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;

use action::{Action, Dice};
use stage::Stage;
pub use verdict::Verdict;

/// Do everything to a node under load, at random, that must not cost a connection (as root).
///
/// Exit code 0: nothing was lost. 1: something was, and the seed is printed. 2: it could not run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos --")]
pub struct Options {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    pub minutes: f64,
    /// What is done, and in which order; another one each time unless given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Between two actions.
const PAUSE_MS: std::ops::Range<u64> = 100..900;

/// Runs it, telling each action. `true` if nothing was lost.
///
/// # Errors
/// If it can't be run.
pub fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(random_seed);
    println!(
        "chaos: seed {seed}, {} minutes; again: cargo xtask chaos -- --seed {seed} --minutes {}",
        options.minutes, options.minutes
    );
    let verdict = play(seed, Duration::from_secs_f64(options.minutes * 60.0))?;
    print!("{verdict}");
    Ok(verdict.is_good())
}

/// Plays the actions of a seed for a time, telling each.
///
/// # Errors
/// If the lab, its servers or its clients can't be had, or the agent doesn't come back.
pub fn play(seed: u64, length: Duration) -> Result<Verdict> {
    let mut dice = Dice::new(seed);
    let mut stage = Stage::set(length)?;
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < length {
        number += 1;
        let action = Action::draw(&mut dice);
        println!("{:7.1} s  {number:3}  {action}", begin.elapsed().as_secs_f32());
        stage.act(number, &action)?;
        std::thread::sleep(Duration::from_millis(dice.draw(PAUSE_MS)));
    }
    println!(
        "{:7.1} s       the end: everything is to be as it should",
        begin.elapsed().as_secs_f32()
    );
    stage.settle()?;
    stage.finish(seed, number)
}

fn random_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Few enough digits to be typed.
    u64::from(now.subsec_nanos()) ^ now.as_secs() & 0xffff
}
