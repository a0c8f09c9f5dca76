//! One's complement arithmetic (RFC 1071, RFC 1624) on sums of 16-bit words as they lie in memory.
//!
//! A sum is a `u32` whose halves still have to be added. Because the words are taken as they lie in memory, a result
//! can be stored as it is, on machines of either byte order (RFC 1071 §2 B).

/// Adds two sums with end-around carry.
#[must_use]
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The sum that takes `sum` away again.
#[must_use]
#[inline(always)]
pub const fn negate(sum: u32) -> u32 {
    !sum
}

/// Folds a sum into the 16 bits of a checksum field, before complementing.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// A checksum field after the words under it changed by `delta` (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub(super) const fn updated(field: u16, delta: u32) -> u16 {
    !fold(add(!field as u32, delta))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(words: &[u16]) -> u32 {
        words.iter().fold(0, |sum, &word| add(sum, u32::from(word)))
    }

    #[test]
    fn example_of_rfc_1624() {
        // HC = 0xDD2F, m = 0x5555 becomes m' = 0x3285: HC' = 0x0000 (RFC 1624 §4).
        let delta = add(negate(0x5555), 0x3285);
        assert_eq!(updated(0xdd2f, delta), 0x0000);
    }

    #[test]
    fn an_update_and_its_opposite_cancel() {
        for (old, new) in [(0_u32, 0xffff_ffff), (0x0a60_0001, 0x0af4_0001), (7, 7), (0xffff, 0)] {
            let delta = add(negate(old), new);
            let field = 0x1c46;
            assert_eq!(updated(updated(field, delta), negate(delta)), field);
        }
    }

    #[test]
    fn an_update_equals_a_full_computation() {
        let before = [0x4500, 0x0034, 0x1c46, 0x4000, 0x4006, 0xac10, 0x0a63];
        let mut after = before;
        after[5] = 0x0a00;
        let delta = add(negate(sum_of(&before[5..6])), sum_of(&after[5..6]));
        assert_eq!(updated(!fold(sum_of(&before)), delta), !fold(sum_of(&after)));
    }
}
