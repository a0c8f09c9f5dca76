//! Random worlds and flows: what Sluice does with each must be what the behaviour reference says, as the oracle reads it.
//!
//! A failure says the seed of its case; `SLUICE_SEED=<seed> cargo test -p tests --test host_differential` plays that case
//! alone and prints it.

use std::collections::BTreeSet;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tests::oracle::contest::{Tally, play};
use tests::oracle::random::{Case, Step};
use tests::oracle::shrink::shrunk;
use tests::oracle::{Memory, NewFlow, Outcome, World};

/// How many cases are played.
const CASES: u64 = 100_000;

/// The same cases each time: a failure is somebody's change, not luck.
const FIRST_SEED: u64 = 1;

/// What is kept of a client that was at several endpoints: where it was last. Where several endpoints remember it the text
/// takes the first in the order of their names (§3.4), which takes a client away from where it is.
const KEPT: Memory = Memory::Latest;

#[test]
fn sluice_does_what_the_oracle_says() {
    if let Ok(seed) = env::var("SLUICE_SEED") {
        let case = Case::of(seed.parse().expect("SLUICE_SEED is a number"));
        println!("{case}");
        let tally = play(&case, KEPT).unwrap_or_else(|why| panic!("{}", explained(&case, &why)));
        println!("{tally:?}");
        return;
    }
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let failed = AtomicBool::new(false);
    let parts: Vec<Result<Tally, String>> = thread::scope(|scope| {
        let play_part = |part| {
            let seeds = (FIRST_SEED + part..FIRST_SEED + CASES).step_by(threads as usize);
            play_all(seeds, &failed)
        };
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || play_part(part))).collect();
        parts.into_iter().map(|part| part.join().expect("no panic")).collect()
    });
    let mut total = Tally::new();
    for part in parts {
        add(&mut total, part.unwrap_or_else(|why| panic!("{why}")));
    }
    println!("{CASES} cases: {total:?}");
    for (what, every) in [
        ("translated", 10),
        ("translated and masqueraded", 10),
        ("rejected", 10),
        ("not handled", 10),
        ("dropped, no local endpoint", 20),
        ("dropped, source not allowed", 20),
        ("dropped, unallocated", 50),
        ("spread over all", 100),
        ("spread over all, forgotten", 100),
    ] {
        let count = total.get(what).copied().unwrap_or(0) as u64;
        assert!(count * every > CASES, "only {count} flows were {what}: {total:?}");
    }
}

/// Plays cases until one fails, here or in another thread.
fn play_all(seeds: impl Iterator<Item = u64>, failed: &AtomicBool) -> Result<Tally, String> {
    let mut total = Tally::new();
    for seed in seeds.take_while(|_| !failed.load(Ordering::Relaxed)) {
        let case = Case::of(seed);
        match play(&case, KEPT) {
            Ok(tally) => add(&mut total, tally),
            Err(why) => {
                failed.store(true, Ordering::Relaxed);
                return Err(explained(&case, &why));
            }
        }
    }
    Ok(total)
}

/// What is wrong with a case, without what does not matter.
fn explained(case: &Case, why: &str) -> String {
    let small = shrunk(case, |smaller| play(smaller, KEPT).is_err());
    let seed = case.seed;
    match play(&small, KEPT) {
        Err(small) => format!("{small}play it again with SLUICE_SEED={seed}"),
        Ok(_) => format!("{why}play it again with SLUICE_SEED={seed}"),
    }
}

fn add(total: &mut Tally, part: Tally) {
    for (what, count) in part {
        *total.entry(what).or_default() += count;
    }
}

/// Random worlds seldom come to this: a client's endpoint goes, others take the places of all that went, and it is back.
#[test]
fn a_client_finds_its_endpoint_again_when_that_comes_back() {
    let world = |endpoints: &str| {
        World::read(&format!(
            "node here local 192.168.3.4 fd00:192:168:3::4
             service web cluster 10.96.0.10 affinity 30 ports http/TCP/80
             slice web-1 of web ports http/TCP/8080 endpoints {endpoints}"
        ))
    };
    let dials = |clients: std::ops::Range<u16>| {
        clients.map(|number| Step::Dial {
            after: Duration::ZERO,
            flow: NewFlow::read(&format!(
                "TCP eth0 10.244.2.{}:{} > 10.96.0.10:80",
                number % 100,
                40_000 + number
            )),
        })
    };
    let becomes = |endpoints| Step::Becomes(Box::new(world(endpoints)));
    let mut steps: Vec<Step> = dials(1..20).collect();
    steps.push(becomes("10.244.1.3 10.244.1.4"));
    steps.push(becomes("10.244.1.0 10.244.1.1 10.244.1.2"));
    steps.extend(dials(101..120));
    let case = Case {
        seed: 1,
        world: world("10.244.1.1 10.244.1.2"),
        steps,
    };
    let tally = play(&case, KEPT).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(tally.get("translated"), Some(&38), "{tally:?}");
}

#[test]
fn random_cases_say_what_they_are_and_are_the_same_each_time() {
    for seed in 0..500 {
        let case = Case::of(seed);
        assert_eq!(World::read(&case.world.to_string()), case.world, "seed {seed}");
        assert_eq!(case.to_string(), Case::of(seed).to_string());
    }
}

/// A generator that no longer makes interesting flows would agree with everything.
#[test]
fn random_cases_are_of_all_kinds() {
    let mut kinds: std::collections::BTreeMap<String, usize> = Default::default();
    let mut flows = 0;
    for seed in 0..2_000 {
        let case = Case::of(seed);
        let mut world = case.world;
        for step in case.steps {
            let flow = match step {
                Step::Becomes(other) => {
                    world = *other;
                    continue;
                }
                Step::Dial { flow, .. } => flow,
            };
            flows += 1;
            let kind = match world.decide(&flow) {
                Outcome::Translate(to) => {
                    let marks: BTreeSet<bool> = to.values().copied().collect();
                    format!("translated, masquerade {marks:?}")
                }
                other => other.to_string(),
            };
            *kinds.entry(kind).or_default() += 1;
        }
    }
    println!("{flows} flows: {kinds:#?}");
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    for (kind, count) in &kinds {
        assert!(count * 200 > flows, "only {count} of {flows} flows were {kind}");
    }
}
