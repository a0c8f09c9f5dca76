//! Stories on the host, against the rules.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    time::{Duration, Instant},
};

use super::{Finding, Played, corpus::Corpus, coverage::Coverage, shrink::shrink};
use crate::packet::{
    rules::{self, Note},
    tape::Tape,
};

/// The longest tape: some forty packets.
const TAPE_MAX: usize = 1_600;
/// Packets of a story.
const PACKETS_MAX: usize = 64;
/// From one line of progress to the next.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Plays stories for so long.
pub(super) fn play(seed: u64, time: Duration) -> Played {
    let started = Instant::now();
    let mut said = started;
    let mut corpus = Corpus::new(seed, TAPE_MAX);
    let mut played = Played::default();
    while started.elapsed() < time && played.finding.is_none() {
        let tape = corpus.next_tape();
        let mut coverage = Coverage::default();
        let told = tell(&tape, &mut |scrap, got, host| coverage.note(scrap, got, host));
        played.stories += 1;
        played.packets += coverage.ways.len() as u64;
        corpus.learn(&tape, &coverage.ways);
        (played.ways, played.tapes) = corpus.size();
        if let Err(why) = told {
            let tape = smallest(tape, &why);
            played.finding = Some(Finding {
                side: "host",
                story: played.stories,
                why: broken(&tape).unwrap_or(why),
                tape,
            });
        }
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            played.say("host", started.elapsed());
        }
    }
    played
}

/// The rule that a tape breaks.
pub(super) fn broken(tape: &[u8]) -> Option<String> {
    tell(tape, &mut |_, _, _| {}).err()
}

/// One story in sixteen is a single packet without any sense. A core that panics breaks a rule, too.
fn tell(octets: &[u8], note: Note<'_>) -> Result<(), String> {
    let told = catch_unwind(AssertUnwindSafe(|| {
        let mut tape = Tape::new(octets);
        if tape.once_in(16) {
            rules::nonsense(&mut tape, note)
        } else {
            rules::play(&mut tape, PACKETS_MAX, note)
        }
    }));
    told.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    })
}

/// The smallest tape that breaks the same rule. Panics are not printed meanwhile.
fn smallest(tape: Vec<u8>, why: &str) -> Vec<u8> {
    let rule = why.lines().next().map(str::to_owned);
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let tape = shrink(tape, |tape| {
        broken(tape).is_some_and(|why| why.lines().next() == rule.as_deref())
    });
    set_hook(hook);
    tape
}
