//! SCTP's checksum (CRC32c, RFC 9260 §6.8 and appendix A) after a change of the packet's first four octets, its ports.
//!
//! A CRC is linear: what a change does to it depends on the change and on how many octets follow, not on what they are. So
//! the packet's data isn't read, wherever it lies. Moving a change over `n` octets of zero multiplies it by x to the 8n-th
//! modulo the polynomial; that is done for each bit of `n`.

/// Castagnoli's polynomial, its lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x to the power of 0.
const ONE: u32 = 1 << 31;

/// The product of two polynomials, modulo the polynomial.
#[inline(always)]
const fn product(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut index = 0;
    // Without branches, each of which would double the paths that the verifier walks.
    while index < 32 {
        product ^= b & 0_u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        index += 1;
    }
    product
}

/// x to the power of 8 * 2^n.
const fn power(n: u32) -> u32 {
    let mut power = ONE >> 8;
    let mut index = 0;
    while index < n {
        power = product(power, power);
        index += 1;
    }
    power
}

/// What a checksum field must be XORed with when the first four octets of a packet change by XOR with `change`, and
/// `following` octets come behind them. All words as they lie in memory.
#[must_use]
#[inline(always)]
pub const fn of_change(change: u32, following: u32) -> u32 {
    // The four octets themselves: 32 bits further.
    let mut state = product(u32::from_le(change), const { power(2) });
    macro_rules! over {
        ($($bit:literal)*) => {$(
            if following >> $bit & 1 != 0 {
                state = product(state, const { power($bit) });
            }
        )*};
    }
    over!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    state.to_le()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the RFC has it.
    fn crc32c(octets: &[u8]) -> u32 {
        let mut state = u32::MAX;
        for octet in octets {
            state ^= u32::from(*octet);
            for _ in 0..8 {
                state = (state >> 1) ^ if state & 1 == 1 { POLYNOMIAL } else { 0 };
            }
        }
        !state
    }

    #[test]
    fn known_answer_of_rfc_3720() {
        // RFC 3720 appendix B.4: 32 octets of zero, aa 36 91 8a on the wire.
        assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn a_change_of_the_ports_equals_a_full_computation() {
        for len in [12_usize, 13, 16, 28, 100, 1_452, 9_000, 65_535 - 20] {
            let mut packet: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
            let before = crc32c(&packet).to_le_bytes();
            let old = u32::from_ne_bytes([packet[0], packet[1], packet[2], packet[3]]);
            packet[..4].copy_from_slice(&[0x9c, 0x40, 0x1f, 0x90]);
            let new = u32::from_ne_bytes([0x9c, 0x40, 0x1f, 0x90]);
            let expected = crc32c(&packet).to_le_bytes();
            let got = u32::from_ne_bytes(before) ^ of_change(old ^ new, len as u32 - 4);
            assert_eq!(got.to_ne_bytes(), expected, "{len} octets");
        }
    }

    extern crate std;
    use std::vec::Vec;
}
