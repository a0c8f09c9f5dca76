//! Choosing a backend: always by hash of the 5-tuple, never by a random number, so that a lost flow entry is made
//! anew with the same choice as long as the range is unchanged, and every node chooses the same.

use crate::layout::{Address, FlowKey};

/// Odd constants with well spread bits: the fractional parts of the golden ratio and of the square root of 3.
const MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// A hash of a 5-tuple, the same on every node and after every restart.
#[must_use]
#[inline(always)]
pub fn flow_hash<A: Address>(key: &FlowKey<A>) -> u32 {
    let ports = u64::from(key.sport.get()) << 16 | u64::from(key.dport.get()) | u64::from(key.proto.0) << 32;
    let mut hash = ports.wrapping_mul(MULTIPLIERS[0]);
    let mut index = 0;
    while index < A::WORDS {
        let words = u64::from(u32::from_be(key.src.word(index))) << 32 | u64::from(u32::from_be(key.dst.word(index)));
        hash = (hash ^ hash >> 32 ^ words).wrapping_mul(MULTIPLIERS[1]);
        index += 1;
    }
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(MULTIPLIERS[0]);
    (hash >> 32) as u32
}

/// Maps a hash evenly to `0..len`, by multiplication instead of division.
#[must_use]
#[inline(always)]
pub const fn pick(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Ip4, Port, Proto};

    #[test]
    fn consecutive_source_ports_spread_evenly() {
        let client = Ip4 {
            octets: [10, 244, 1, 7],
        };
        let frontend = Ip4 {
            octets: [10, 96, 0, 10],
        };
        for len in [2_u32, 3, 5, 100] {
            let mut hits = [0_u32; 100];
            let flows = 20_000;
            for port in 32_768..32_768 + flows as u16 {
                let key = FlowKey::new(client, Port::new(port), frontend, Port::new(80), Proto::TCP);
                hits[pick(flow_hash(&key), len) as usize] += 1;
            }
            let expected = flows / len;
            for (slot, &count) in hits[..len as usize].iter().enumerate() {
                let tolerance = expected / 3;
                assert!(
                    count.abs_diff(expected) <= tolerance,
                    "slot {slot} of {len}: {count}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn a_pick_is_always_inside_the_range() {
        for hash in [0, 1, 0x7fff_ffff, u32::MAX] {
            for len in [1, 2, 7, 1 << 24] {
                assert!(pick(hash, len) < len);
            }
        }
    }
}
