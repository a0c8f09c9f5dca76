//! Tapes: new ones, and those that led somewhere new with something changed.

use std::collections::HashSet;

use crate::packet::tape::recorded;

/// More tapes are not kept: an old one goes for each.
const TAPES_MAX: usize = 4_096;

/// Tapes that are worth changing.
pub(super) struct Corpus {
    tapes: Vec<Vec<u8>>,
    ways: HashSet<u64>,
    dice: Dice,
    len_max: usize,
}

impl Corpus {
    /// New tapes are of at most so many octets.
    pub(super) fn new(seed: u64, len_max: usize) -> Self {
        Self {
            tapes: Vec::new(),
            ways: HashSet::new(),
            dice: Dice(seed),
            len_max,
        }
    }

    /// The next tape to be played.
    pub(super) fn next_tape(&mut self) -> Vec<u8> {
        if self.tapes.is_empty() || self.dice.below(2) == 0 {
            let len = self.dice.below(self.len_max + 1);
            return recorded(self.dice.roll(), len);
        }
        let mut tape = self.any();
        for _ in 0..=self.dice.below(4) {
            self.change(&mut tape);
        }
        tape.truncate(self.len_max);
        tape
    }

    /// A tape has led its packets these ways: it is kept if one of them is new.
    pub(super) fn learn(&mut self, tape: &[u8], ways: &[u64]) {
        let known = self.ways.len();
        self.ways.extend(ways);
        if self.ways.len() == known {
            return;
        }
        if self.tapes.len() < TAPES_MAX {
            self.tapes.push(tape.to_vec());
        } else {
            let at = self.dice.below(self.tapes.len());
            self.tapes[at] = tape.to_vec();
        }
    }

    /// How many ways are known, and how many tapes are kept.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.ways.len(), self.tapes.len())
    }

    fn any(&mut self) -> Vec<u8> {
        let at = self.dice.below(self.tapes.len());
        self.tapes[at].clone()
    }

    fn change(&mut self, tape: &mut Vec<u8>) {
        let at = self.dice.below(tape.len() + 1);
        let to = (at + 1 + self.dice.below(16)).min(tape.len());
        match self.dice.below(8) {
            // What comes first stays, and something else follows.
            0 => {
                tape.truncate(at);
                let len = self.dice.below(200);
                tape.extend(recorded(self.dice.roll(), len));
            }
            1 => {
                let other = self.any();
                tape.truncate(at);
                tape.extend(other.get(at..).unwrap_or_default());
            }
            2 => {
                let len = self.dice.below(16);
                tape.splice(at..at, recorded(self.dice.roll(), len));
            }
            3 => drop(tape.drain(at..to)),
            // The same again.
            4 => {
                let from = self.dice.below(at + 1).max(at.saturating_sub(64));
                let again = tape[from..at].to_vec();
                tape.splice(at..at, again);
            }
            5 => {
                let octets = recorded(self.dice.roll(), to.saturating_sub(at));
                tape.splice(at..to, octets);
            }
            _ if at == tape.len() => tape.push(self.dice.roll() as u8),
            6 => tape[at] ^= 1 << self.dice.below(8),
            _ => tape[at] = self.dice.roll() as u8,
        }
    }
}

/// Chance that can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        let octets = recorded(self.0, 8);
        octets.iter().fold(0, |word, octet| word << 8 | u64::from(*octet))
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_tells_the_same_stories() {
        let tell = || {
            let mut corpus = Corpus::new(7, 300);
            let tapes: Vec<_> = (0..500)
                .map(|number| {
                    let tape = corpus.next_tape();
                    corpus.learn(&tape, &[number % 40]);
                    tape
                })
                .collect();
            assert_eq!(corpus.size(), (40, 40));
            tapes
        };
        let tapes = tell();
        assert_eq!(tapes, tell());
        assert!(tapes.iter().all(|tape| tape.len() <= 300));
    }
}
