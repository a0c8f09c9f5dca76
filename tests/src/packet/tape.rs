//! Choices read from a tape of octets. The same tape always leads to the same choices, a shorter tape to simpler ones:
//! so a generator on a tape can be replayed from a seed and can be shrunk by cutting the tape.

/// A tape and a place on it. Behind its end everything is 0.
#[derive(Clone, Debug)]
pub struct Tape<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Tape<'a> {
    /// From the beginning.
    #[must_use]
    pub const fn new(octets: &'a [u8]) -> Self {
        Self { octets, at: 0 }
    }

    /// Whether all of it has been read.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.at >= self.octets.len()
    }

    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        let octet = self.octets.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        octet
    }

    /// The next two octets.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// A number below `limit`, which is at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        let choice = if limit <= 256 {
            usize::from(self.octet())
        } else {
            usize::from(self.word())
        };
        choice % limit
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of these, the first behind the end of the tape.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// So many octets.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.octet()).collect()
    }
}

/// A tape of `len` octets that looks random, the same for the same seed (the sequence is SplitMix64).
#[must_use]
pub fn recorded(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31).to_le_bytes()
    });
    words.take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_records_the_same_tape() {
        assert_eq!(recorded(7, 1000), recorded(7, 1000));
        assert_ne!(recorded(7, 100), recorded(8, 100));
        assert_eq!(recorded(7, 1000)[..99], recorded(7, 99));
    }

    #[test]
    fn behind_its_end_a_tape_chooses_the_simplest() {
        let mut tape = Tape::new(&[255]);
        assert!(tape.once_in(4) && tape.is_over());
        assert_eq!(
            (tape.below(1000), tape.once_in(2), tape.pick(&['a', 'b'])),
            (0, false, 'a')
        );
    }
}
