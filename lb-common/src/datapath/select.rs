//! Choosing a backend: always by hash of the 5-tuple, never by a random number, so that a lost flow entry is made
//! anew with the same choice as long as the range is unchanged, and every node chooses the same.

use super::world::Tables;
use crate::layout::{Address, Cells, Choice, Family, FlowKey, Scope, TableHeader};

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

/// A hash for a socket that has no source port yet, from its cookie: the same for one socket and service, until the `turn` is another. Cookies
/// come in sequence.
#[must_use]
#[inline(always)]
pub fn socket_hash(cookie: u64, service: u32, turn: u32) -> u32 {
    let mut hash = cookie ^ u64::from(service).wrapping_mul(MULTIPLIERS[1]);
    hash = hash.wrapping_add(u64::from(turn).wrapping_add(1).wrapping_mul(MULTIPLIERS[0]));
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((hash ^ hash >> 31) >> 32) as u32
}

/// Maps a hash evenly to `0..len`, by multiplication instead of division.
#[must_use]
#[inline(always)]
pub const fn pick(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

/// The cell of a Maglev table that a hash leads to: its top bits count the parts, one bit more the halves of those that
/// are halved. Always below the number of cells.
#[must_use]
#[inline(always)]
pub const fn cell(hash: u32, cells: Cells) -> u32 {
    let (bits, split) = (cells.bits(), cells.split());
    let half = (hash as u64 >> (31 - bits)) as u32;
    if half >> 1 < split { half } else { (half >> 1) + split }
}

/// The slot of the backend that takes a flow of this hash: by the list's Maglev table, if it is to be asked and there is one,
/// or else directly. Nothing if the table leads beyond the list.
#[inline(always)]
pub fn place<F: Family, T: Tables<F>>(tables: &T, list: Scope, by_table: bool, hash: u32) -> Option<u32> {
    let Choice::Slots { base, len } = list.choice() else {
        return None;
    };
    if !by_table || !list.has_table() {
        return Some(base.wrapping_add(pick(hash, len)));
    }
    let first = base.wrapping_sub(TableHeader::SLOTS);
    // The fingerprint is for the agent.
    let (first_chunk, cells) = (tables.slot(first)?, tables.slot(first.wrapping_add(1))?);
    let ordinal = tables.ordinal(first_chunk, cell(hash, Cells::from_word(cells)))?;
    let ordinal = u32::from(ordinal);
    (ordinal < len).then_some(base.wrapping_add(ordinal))
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
    fn consecutive_sockets_and_turns_of_one_spread_evenly() {
        for (of_sockets, len) in [
            (true, 2_u32),
            (true, 3),
            (true, 100),
            (false, 2),
            (false, 3),
            (false, 100),
        ] {
            let mut hits = [0_u32; 100];
            for number in 0..20_000 {
                let hash = if of_sockets {
                    socket_hash(4_096 + u64::from(number), 7, 0)
                } else {
                    socket_hash(4_096, 7, number)
                };
                hits[pick(hash, len) as usize] += 1;
            }
            let expected = 20_000 / len;
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
    fn cells_are_in_the_order_of_their_hashes_and_each_is_a_part_or_half_of_one() {
        for count in [1, 2, 3, 5, 8, 200, 255] {
            let cells = Cells::new(count);
            let mut widths = [0_u32; 255];
            let mut last = 0;
            for hash in (0..=u16::MAX).map(|top| u32::from(top) << 16) {
                let found = cell(hash, cells);
                assert!(
                    found == last || found == last + 1,
                    "of {count}, {hash:x} is in {found} after {last}"
                );
                last = found;
                widths[found as usize] += 1;
            }
            let part = 1_u32 << (16 - cells.bits());
            let halved = 2 * cells.split() as usize;
            assert!(widths[..halved].iter().all(|width| *width == part / 2), "of {count}");
            assert!(
                widths[halved..count as usize].iter().all(|width| *width == part),
                "of {count}"
            );
            assert_eq!(cell(u32::MAX, cells), count - 1);
        }
    }

    #[test]
    fn one_cell_more_moves_only_hashes_of_the_part_that_is_halved() {
        for count in [2, 3, 200, 511] {
            let (before, after) = (Cells::new(count), Cells::new(count + 1));
            for hash in (0..=u16::MAX).map(|top| u32::from(top) << 16) {
                let (old, new) = (cell(hash, before), cell(hash, after));
                let halved = 2 * before.split();
                match old {
                    _ if old < halved => assert_eq!(new, old),
                    _ if old > halved => assert_eq!(new, old + 1),
                    _ => assert!(new == old || new == old + 1),
                }
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
