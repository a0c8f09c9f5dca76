//! What an ICMP or ICMPv6 port unreachable has to look like (RFC 792, RFC 4443 §3.1), made without the datapath.

use std::net::IpAddr;

use super::{
    encode::{Link, Variant},
    names::{Tuple, Version},
    sums::{checksum, pseudo, sum},
};

/// Octets of the offending packet that an answer carries at most.
const QUOTE_MAX: usize = 124;

/// The answer to a frame that was sent to an address and port where nobody listens.
///
/// # Panics
/// If the tuple is of the other family than the variant.
#[must_use]
pub fn port_unreachable(frame: &[u8], tuple: &Tuple, variant: Variant) -> Vec<u8> {
    let (link, packet) = frame.split_at(variant.link.len());
    let said_len = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let mut answer = Vec::new();
    if variant.link == Link::Ethernet {
        // Back to the sender, from the one it was sent to.
        answer.extend(&link[6..12]);
        answer.extend(&link[..6]);
        answer.extend(&link[12..]);
    }
    let len = if variant.version == Version::V4 {
        said_len(2)
    } else {
        40 + said_len(4)
    };
    let quote = &packet[..len.min(QUOTE_MAX) / 4 * 4];
    match (tuple.dst, tuple.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0];
            header.extend((28 + quote.len() as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            let right = checksum(sum(&header));
            header[10..12].copy_from_slice(&right.to_be_bytes());
            answer.extend(header);
            answer.extend(with_quote([3, 3], quote, 0));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let payload_len = 8 + quote.len();
            answer.extend([0x60, 0, 0, 0]);
            answer.extend((payload_len as u16).to_be_bytes());
            answer.extend([58, 64]);
            answer.extend(src.octets());
            answer.extend(dst.octets());
            answer.extend(with_quote(
                [1, 4],
                quote,
                pseudo(src.into(), dst.into(), 58, payload_len),
            ));
        }
        _ => panic!("{tuple} mixes families"),
    }
    answer
}

fn with_quote(kind_and_code: [u8; 2], quote: &[u8], head: u64) -> Vec<u8> {
    let mut message = kind_and_code.to_vec();
    message.extend([0; 6]);
    message.extend(quote);
    let right = checksum(head + sum(&message));
    message[2..4].copy_from_slice(&right.to_be_bytes());
    message
}
