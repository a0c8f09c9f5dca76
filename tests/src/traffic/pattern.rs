//! Bytes that can be checked anywhere in a stream: every position of every stream has its own value, so that lost, repeated, swapped
//! and foreign bytes all show.

const WORD: u64 = 8;

/// An endless stream of bytes, given by a seed.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Writes the bytes that start at a position.
    pub fn fill(self, position: u64, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let at = position + done as u64;
            let word = self.word(at / WORD).to_le_bytes();
            let skip = usize::try_from(at % WORD).expect("less than eight");
            let count = (word.len() - skip).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&word[skip..skip + count]);
            done += count;
        }
    }

    /// The position of the first byte that is not what the stream has there.
    pub fn first_wrong(self, position: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = vec![0; bytes.len()];
        self.fill(position, &mut expected);
        let wrong = expected.iter().zip(bytes).position(|(want, got)| want != got)?;
        Some(position + wrong as u64)
    }

    /// The mixing step of SplitMix64: neighbours have nothing in common.
    fn word(self, index: u64) -> u64 {
        let mut mixed = (self.seed ^ index.rotate_left(32)).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn parts_of_a_stream_fit_together() {
        let (mut whole, mut parts) = ([0; 100], [0; 100]);
        Pattern::new(7).fill(3, &mut whole);
        let (first, second) = parts.split_at_mut(41);
        Pattern::new(7).fill(3, first);
        Pattern::new(7).fill(44, second);
        assert_eq!(whole, parts);
        assert_eq!(Pattern::new(7).first_wrong(3, &whole), None);
    }

    #[test]
    fn wrong_bytes_are_found_where_they_are() {
        let mut bytes = [0; 64];
        Pattern::new(1).fill(1000, &mut bytes);
        bytes[10] ^= 1;
        assert_eq!(Pattern::new(1).first_wrong(1000, &bytes), Some(1010));
        assert!(Pattern::new(2).first_wrong(1000, &bytes).is_some(), "another stream");
        assert!(Pattern::new(1).first_wrong(1008, &bytes).is_some(), "another place");
    }
}
