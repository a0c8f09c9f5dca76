//! Random stories, played by the core on the host and by the loaded programs: every packet, and all that is left behind,
//! must be the same on both sides. `cargo xtask fuzz` plays them for longer.
//!
//! A failure says the seed of its story; `SLUICE_SEED=<seed> cargo test -p tests --test packet_random` plays that story
//! alone, and compares everything after every packet.

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use tests::packet::{
    duel::{self, PACKETS, Tally},
    kernel::{KernelWorld, in_kernel},
    tape::recorded,
};

/// How long stories are played.
const TIME: Duration = Duration::from_secs(10);

#[test]
fn host_and_kernel_agree_on_random_stories() {
    if let Ok(seed) = env::var("SLUICE_SEED") {
        let seed = seed.parse().expect("SLUICE_SEED is a number");
        let tally = in_kernel(move |kernel| play(kernel, seed, 1)).unwrap_or_else(|why| panic!("{why:#}"));
        println!("seed {seed}: {tally:?}");
        return;
    }
    let first = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_nanos() as u64;
    let (started, mut stories, mut total) = (Instant::now(), 0, Tally::new());
    while started.elapsed() < TIME {
        let seed = first.wrapping_add(stories);
        let tally = in_kernel(move |kernel| play(kernel, seed, 16))
            .unwrap_or_else(|why| panic!("{why:#}\nplay it again with SLUICE_SEED={seed}"));
        for (what, count) in tally {
            *total.entry(what).or_default() += count;
        }
        stories += 1;
    }
    println!("{stories} stories from seed {first}: {total:?}");
    // A generator that no longer makes interesting packets would agree on everything, too.
    let all: usize = total.values().sum();
    for (what, every) in [
        ("translated", 200),
        ("translated, SCTP", 2_000),
        ("rerouted", 200),
        ("delivered", 400),
        ("answered", 200),
        ("reset", 2_000),
        ("dropped", 200),
        ("untouched", 200),
        ("tunnelled", 8_000),
    ] {
        let count = total.get(what).copied().unwrap_or(0);
        assert!(
            count * every > all,
            "only {count} of {all} packets were {what}: {total:?}"
        );
    }
}

/// Plays the story of a seed.
fn play(kernel: &mut KernelWorld, seed: u64, state_every: usize) -> Result<Tally> {
    let octets = recorded(seed, PACKETS * 40);
    duel::play(kernel, &octets, state_every, &mut |_, _, _| {})
        .with_context(|| format!("the story of seed {seed}"))?
        .context("this machine is too busy to play a story in time")
}
