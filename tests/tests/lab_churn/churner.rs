//! The hand that changes files: one endpoint of one slice at a time, at a steady rate, with a log of what was written when.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tests::traffic::manifests::ManifestFolder;

use crate::scene::{BACKENDS, SLICES, Slice};

/// What was written, for each slice: when, and how many backends serve from then on.
#[derive(Debug)]
pub(crate) struct Log {
    slices: Vec<Mutex<Vec<(Instant, u8)>>>,
}

impl Log {
    /// All backends of all slices serve.
    pub(crate) fn new() -> Self {
        let first = Instant::now();
        let slices = (0..SLICES).map(|_| Mutex::new(vec![(first, BACKENDS)])).collect();
        Self { slices }
    }

    fn of(&self, slice: usize) -> MutexGuard<'_, Vec<(Instant, u8)>> {
        self.slices[slice].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is about to be written.
    pub(crate) fn say(&self, slice: usize, serving: u8) {
        self.of(slice).push((Instant::now(), serving));
    }

    /// How many backends serve as the file says now.
    pub(crate) fn now(&self, slice: usize) -> u8 {
        self.of(slice).last().expect("there is a first entry").1
    }

    /// Since when the file has said so, or when it last did, before that time.
    pub(crate) fn said(&self, slice: usize, serving: u8, before: Instant) -> Option<Instant> {
        let log = self.of(slice);
        let mut entries = log.iter().rev().filter(|(at, _)| *at <= before);
        entries.find(|(_, said)| *said == serving).map(|(at, _)| *at)
    }

    /// Whether the file has left a backend out for the whole time.
    pub(crate) fn leaves_out(&self, slice: usize, backend: u8, from: Instant, to: Instant) -> bool {
        let log = self.of(slice);
        let before = log.partition_point(|(at, _)| *at <= from).max(1) - 1;
        let during = log[before..].iter().take_while(|(at, _)| *at <= to);
        during.into_iter().all(|(_, serving)| backend > *serving)
    }
}

/// Makes so many changes at so many a second, over all slices in turn. Each slice loses one backend after the other until one is
/// left, then gets one after the other back. All lose the same one within 200 ms, so that its record goes, too, and comes back: the
/// hardest for the agent.
pub(crate) fn churn(folder: &ManifestFolder, slices: &[Slice], log: &Log, changes: u32, per_second: u32) {
    let begin = Instant::now();
    let mut falling = vec![true; slices.len()];
    for number in 0..changes {
        let due = begin + Duration::from_secs(1) * number / per_second;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let place = number as usize % slices.len();
        let serving = log.now(place);
        falling[place] = match serving {
            1 => false,
            BACKENDS => true,
            _ => falling[place],
        };
        let next = if falling[place] { serving - 1 } else { serving + 1 };
        // Said before it is true: the watch must not see it first. Judgements allow for more.
        log.say(place, next);
        folder
            .write(&slices[place].file, slices[place].text(next))
            .expect("the folder can be written to");
    }
}
