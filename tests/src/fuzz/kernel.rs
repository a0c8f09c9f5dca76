//! Stories in the kernel: the loaded programs against the core on the host, packet by packet.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Finding, Played, corpus::Corpus, coverage::Coverage, shrink::shrink};
use crate::packet::{
    duel::{self, PACKETS},
    kernel::in_kernel,
};

/// Tables are compared after so many packets.
const STATE_EVERY: usize = 32;
/// So many stories in a row may be lost to a busy machine.
const LOST_MAX: u32 = 20;
/// From one line of progress to the next.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Plays so many packets.
pub(super) fn play(seed: u64, packets: u64) -> Result<Played> {
    let started = Instant::now();
    let (mut said, mut lost) = (started, 0);
    // Other stories than those on the host.
    let mut corpus = Corpus::new(seed ^ u64::MAX, PACKETS * 40);
    let mut played = Played::default();
    while played.packets < packets && played.finding.is_none() {
        let tape = corpus.next_tape();
        let told = tell(&tape, STATE_EVERY);
        match told {
            Ok(Some((packets, ways))) => {
                lost = 0;
                played.stories += 1;
                played.packets += packets;
                corpus.learn(&tape, &ways);
                (played.ways, played.tapes) = corpus.size();
            }
            Ok(None) => {
                lost += 1;
                ensure!(lost < LOST_MAX, "this machine is too busy to play a story in time");
            }
            Err(why) => {
                // Programs that can't be loaded are no finding.
                ensure!(played.stories > 0, "{why}");
                let tape = shrink(tape, |tape| broken(tape).is_some());
                played.finding = Some(Finding {
                    side: "kernel",
                    story: played.stories + 1,
                    why: broken(&tape).unwrap_or(why),
                    tape,
                });
            }
        }
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            played.say("kernel", started.elapsed());
        }
    }
    Ok(played)
}

/// Where host and kernel differ.
pub(super) fn broken(tape: &[u8]) -> Option<String> {
    tell(tape, 1).err()
}

/// How many packets a story had, and the ways they went; nothing if the machine was too busy.
fn tell(tape: &[u8], state_every: usize) -> Result<Option<(u64, Vec<u64>)>, String> {
    let tape = tape.to_vec();
    in_kernel(move |kernel| {
        let mut coverage = Coverage::default();
        let tally = duel::play(kernel, &tape, state_every, &mut |scrap, got, host| {
            coverage.note(scrap, got, host);
        })?;
        Ok(tally.map(|tally| (tally.values().sum::<usize>() as u64, coverage.ways)))
    })
    .map_err(|why| format!("{why:#}"))
}
