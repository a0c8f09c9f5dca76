//! Random stories, played by the core on the host and by the loaded programs: every packet, and all that is left behind,
//! must be the same on both sides.
//!
//! A failure says the seed of its story; `SLUICE_SEED=<seed> cargo test -p tests --test packet_random` plays that story
//! alone, and compares everything after every packet.

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    datapath::{Hook, Verdict},
    layout::{V4, V6},
};
use tests::packet::{
    decode::{dump, read, show},
    encode::Link,
    host::HostFamily,
    kernel::{KernelFamily, KernelWorld, in_kernel},
    side::{Side, State},
    story::{Scrap, Stage},
    tape::{Tape, recorded},
};

/// How long stories are played.
const TIME: Duration = Duration::from_secs(10);

/// A story that took longer has seen the kernel's clock go on, which the host's does not: it is played again.
const STORY_TIME_MAX: Duration = Duration::from_millis(350);

const PACKETS: usize = 150;

/// What became of packets, by verdict.
type Tally = BTreeMap<&'static str, usize>;

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
    ] {
        let count = total.get(what).copied().unwrap_or(0);
        assert!(
            count * every > all,
            "only {count} of {all} packets were {what}: {total:?}"
        );
    }
}

/// Plays the story of a seed, in the family that it says.
fn play(kernel: &mut KernelWorld, seed: u64, state_every: usize) -> Result<Tally> {
    let octets = recorded(seed, PACKETS * 40);
    for _ in 0..20 {
        let started = Instant::now();
        let mut tape = Tape::new(&octets);
        let result = if tape.once_in(2) {
            tell::<V6>(kernel, &mut tape, state_every)
        } else {
            tell::<V4>(kernel, &mut tape, state_every)
        };
        if started.elapsed() < STORY_TIME_MAX {
            return result.with_context(|| format!("the story of seed {seed}"));
        }
        kernel.reset()?;
    }
    anyhow::bail!("this machine is too busy to play a story within {STORY_TIME_MAX:?}")
}

fn tell<F: HostFamily + KernelFamily>(
    kernel: &mut KernelWorld,
    tape: &mut Tape<'_>,
    state_every: usize,
) -> Result<Tally> {
    let now_ns = KernelWorld::now_ns();
    let mut stage = Stage::<F>::set(tape, Some(kernel))?;
    stage.host.now_ns.set(now_ns);
    let mut tally = Tally::new();
    for number in 1..=PACKETS {
        let scrap = stage.next_packet(tape)?;
        if !KernelWorld::runs(scrap.shot()) {
            continue;
        }
        let what = compare(&mut stage, &scrap).with_context(|| describe(number, &scrap))?;
        *tally.entry(what).or_default() += 1;
        if number % state_every == 0 || number == PACKETS {
            compare_states(&mut stage).with_context(|| describe(number, &scrap))?;
        }
    }
    Ok(tally)
}

fn describe(number: usize, scrap: &Scrap) -> String {
    let Scrap { hook, link, frame, .. } = scrap;
    format!(
        "packet {number} at {hook:?} ({link:?}): {}\n{}",
        show(frame, *link),
        dump(frame, frame)
    )
}

fn compare<F: HostFamily + KernelFamily>(stage: &mut Stage<'_, F>, scrap: &Scrap) -> Result<&'static str> {
    let host = stage.host.shoot_plain(scrap.shot());
    let kernel = stage.other.as_deref_mut().context("no kernel")?.run(scrap.shot())?;
    let what = match host.verdict {
        Verdict::Pass if host.outcome.frame == scrap.frame => "untouched",
        Verdict::Pass if read(&scrap.frame, scrap.link).is_some_and(|seen| seen.proto == 132) => "translated, SCTP",
        Verdict::Pass => "translated",
        Verdict::Route => "rerouted",
        Verdict::Deliver => "delivered",
        Verdict::Refuse if scrap.hook != Hook::Xdp => "answered",
        Verdict::Reset if scrap.hook != Hook::Xdp => "reset",
        Verdict::Refuse | Verdict::Reset | Verdict::Drop(_) => "dropped",
    };
    // A test run always has a link header, so an answer without one can't be made there.
    if ["answered", "reset"].contains(&what) && scrap.link == Link::Bare {
        return Ok(what);
    }
    ensure!(
        host.outcome == kernel,
        "host ({:?}): told {}, {}\n{}kernel: told {}, {}\n{}",
        host.verdict,
        host.outcome.code,
        show(&host.outcome.frame, scrap.link),
        dump(&host.outcome.frame, &kernel.frame),
        kernel.code,
        show(&kernel.frame, scrap.link),
        dump(&kernel.frame, &host.outcome.frame)
    );
    Ok(what)
}

fn compare_states<F: HostFamily + KernelFamily>(stage: &mut Stage<'_, F>) -> Result<()> {
    let host: State<F> = stage.host.state()?;
    let kernel = stage.other.as_deref_mut().context("no kernel")?.state()?;
    ensure!(
        host == kernel,
        "host (-) and kernel (+) are left differently:\n{}",
        host.difference(&kernel)
    );
    Ok(())
}
