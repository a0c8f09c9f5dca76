//! One's complement arithmetic (RFC 1071, RFC 1624) on 16-bit words as they lie in memory.
//!
//! Sums are collected in 64 bits, where 32-bit words can be added without a carry, and folded once. Because the words
//! are taken as they lie in memory, a result can be stored as it is, on machines of either byte order (RFC 1071 §2 B).
//! Everything is free of branches: each would double the paths that the verifier walks.

/// Folds a sum of 16-bit or 32-bit words into 16 bits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
    let twice = (once & 0xffff) + (once >> 16);
    ((twice & 0xffff) + (twice >> 16)) as u16
}

/// What replacing words that sum to `old` by words that sum to `new` adds to a sum.
#[must_use]
#[inline(always)]
pub(super) const fn difference(old: u64, new: u64) -> u16 {
    fold(!fold(old) as u64 + new)
}

/// The difference that takes `difference` back.
#[must_use]
#[inline(always)]
pub(super) const fn negate(difference: u16) -> u16 {
    !difference
}

/// A checksum field after the words under it changed by `difference` (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub const fn updated(field: u16, difference: u64) -> u16 {
    !fold(!field as u64 + difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(words: &[u16]) -> u64 {
        words.iter().map(|&word| u64::from(word)).sum()
    }

    #[test]
    fn example_of_rfc_1624() {
        // HC = 0xDD2F, m = 0x5555 becomes m' = 0x3285: HC' = 0x0000 (RFC 1624 §4).
        assert_eq!(updated(0xdd2f, difference(0x5555, 0x3285).into()), 0x0000);
    }

    #[test]
    fn an_update_and_its_opposite_cancel() {
        for (old, new) in [(0_u64, 0xffff_ffff), (0x0a60_0001, 0x0af4_0001), (7, 7), (0xffff, 0)] {
            let change = difference(old, new);
            let field = 0x1c46;
            assert_eq!(updated(updated(field, change.into()), negate(change).into()), field);
        }
    }

    #[test]
    fn an_update_equals_a_full_computation() {
        let before = [0x4500, 0x0034, 0x1c46, 0x4000, 0x4006, 0xac10, 0x0a63];
        let mut after = before;
        after[5] = 0x0a00;
        let change = difference(sum_of(&before[5..6]), sum_of(&after[5..6]));
        assert_eq!(updated(!fold(sum_of(&before)), change.into()), !fold(sum_of(&after)));
    }

    #[test]
    fn wide_sums_fold_like_narrow_ones() {
        let wide = 0x0123_4567_u64 + 0x89ab_cdef;
        assert_eq!(fold(wide), fold(sum_of(&[0x0123, 0x4567, 0x89ab, 0xcdef])));
        assert_eq!(fold(u64::MAX), 0xffff);
    }
}
