//! Internet checksums computed whole (RFC 1071), in big-endian words: on purpose another way than the datapath's
//! incremental one, which is tested against it.

use std::net::IpAddr;

/// One's complement sum of the octets as 16-bit words, not folded. An odd octet at the end counts as the high one.
#[must_use]
pub fn sum(octets: &[u8]) -> u64 {
    let words = octets
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)));
    words.sum()
}

/// Folds a sum into 16 bits. Only a sum of zero folds to zero.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of octets whose own checksum field holds zero.
#[must_use]
pub fn checksum(sum: u64) -> u16 {
    !fold(sum)
}

/// Sum over the pseudo header of TCP and UDP (RFC 9293 §3.1, RFC 8200 §8.1).
#[must_use]
pub fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(src) + address(dst) + u64::from(proto) + len as u64
}

/// Whether a sum over octets and their checksum says that they are sound.
#[must_use]
pub fn is_sound(sum: u64) -> bool {
    fold(sum) == 0xffff
}

/// CRC32c, bit by bit (RFC 9260 appendix A).
#[must_use]
pub fn crc32c(octets: &[u8]) -> u32 {
    let mut state = u32::MAX;
    for octet in octets {
        state ^= u32::from(*octet);
        for _ in 0..8 {
            state = (state >> 1) ^ if state & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&octets)), 0xddf2);
        assert!(is_sound(sum(&octets) + u64::from(checksum(sum(&octets)))));
    }

    #[test]
    fn an_odd_octet_is_the_high_half_of_a_word() {
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }
}
