//! What the datapath's answers have to look like, made without it: ICMP and ICMPv6 port unreachable (RFC 792,
//! RFC 4443 §3.1), and TCP resets.

use std::net::IpAddr;

use super::{
    decode::read,
    encode::{Link, Variant},
    names::{Tuple, Version},
    sketch::{ACK, FIN, RST, SYN},
    sums::{checksum, pseudo, sum},
};

/// Octets of the offending packet that an answer carries at most.
const QUOTE_MAX: usize = 124;

/// The answer to an echo request without IP options or extension headers: everything as it came but for the type, the direction and
/// the hops.
#[must_use]
pub fn echo_reply(frame: &[u8], variant: Variant) -> Vec<u8> {
    let mut answer = frame.to_vec();
    let ip = variant.link.len();
    if variant.link == Link::Ethernet {
        answer[..6].copy_from_slice(&frame[6..12]);
        answer[6..12].copy_from_slice(&frame[..6]);
    }
    let put_sum = |octets: &mut [u8], at: usize, extra: u64| {
        octets[at..at + 2].fill(0);
        let right = checksum(sum(octets) + extra);
        octets[at..at + 2].copy_from_slice(&right.to_be_bytes());
    };
    if variant.version == Version::V4 {
        answer[ip + 12..ip + 16].copy_from_slice(&frame[ip + 16..ip + 20]);
        answer[ip + 16..ip + 20].copy_from_slice(&frame[ip + 12..ip + 16]);
        answer[ip + 8] = 64;
        put_sum(&mut answer[ip..ip + 20], 10, 0);
        answer[ip + 20] = 0;
        put_sum(&mut answer[ip + 20..], 2, 0);
    } else {
        answer[ip + 8..ip + 24].copy_from_slice(&frame[ip + 24..ip + 40]);
        answer[ip + 24..ip + 40].copy_from_slice(&frame[ip + 8..ip + 24]);
        answer[ip + 7] = 64;
        answer[ip + 40] = 129;
        let pseudo_sum = sum(&frame[ip + 8..ip + 40]) + 58 + (frame.len() - ip - 40) as u64;
        put_sum(&mut answer[ip + 40..], 2, pseudo_sum);
    }
    answer
}

/// The answer to a frame that was sent to an address and port where nobody listens.
///
/// # Panics
/// If the tuple is of the other family than the variant.
#[must_use]
pub fn port_unreachable(frame: &[u8], tuple: &Tuple, variant: Variant) -> Vec<u8> {
    let told = match variant.version {
        Version::V4 => [3, 3],
        Version::V6 => [1, 4],
    };
    error(frame, tuple, variant, told, 0)
}

/// The answer to a frame of which only so many octets fit (RFC 1191 §4, RFC 4443 §3.2).
///
/// # Panics
/// If the tuple is of the other family than the variant.
#[must_use]
pub fn packet_too_big(frame: &[u8], tuple: &Tuple, variant: Variant, mtu: u16) -> Vec<u8> {
    let told = match variant.version {
        Version::V4 => [3, 4],
        Version::V6 => [2, 0],
    };
    error(frame, tuple, variant, told, mtu.into())
}

fn error(frame: &[u8], tuple: &Tuple, variant: Variant, told: [u8; 2], rest: u32) -> Vec<u8> {
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
            answer.extend(with_quote(told, rest, quote, 0));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let payload_len = 8 + quote.len();
            answer.extend([0x60, 0, 0, 0]);
            answer.extend((payload_len as u16).to_be_bytes());
            answer.extend([58, 64]);
            answer.extend(src.octets());
            answer.extend(dst.octets());
            answer.extend(with_quote(
                told,
                rest,
                quote,
                pseudo(src.into(), dst.into(), 58, payload_len),
            ));
        }
        _ => panic!("{tuple} mixes families"),
    }
    answer
}

fn with_quote(kind_and_code: [u8; 2], rest: u32, quote: &[u8], head: u64) -> Vec<u8> {
    let mut message = kind_and_code.to_vec();
    message.extend([0; 2]);
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    let right = checksum(head + sum(&message));
    message[2..4].copy_from_slice(&right.to_be_bytes());
    message
}

/// The reset with which a TCP segment is answered that belongs to no connection (RFC 9293 §3.10.7.1), as if the one it was
/// sent to had made it.
///
/// # Panics
/// If the frame is no TCP segment.
#[must_use]
pub fn tcp_reset(frame: &[u8], variant: Variant) -> Vec<u8> {
    let seen = read(frame, variant.link).expect("a well-formed frame");
    let tcp = seen.layer4;
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| tcp[at + index]));
    let (flags, data_len) = (tcp[13], tcp.len() - usize::from(tcp[12] >> 4) * 4);
    let occupied = data_len as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (seq, ack, answer_flags) = if flags & ACK != 0 {
        (word(8), 0, RST)
    } else {
        (0, word(4).wrapping_add(occupied), RST | ACK)
    };
    let mut segment = [&tcp[2..4], &tcp[..2], &seq.to_be_bytes(), &ack.to_be_bytes()].concat();
    segment.extend([0x50, answer_flags, 0, 0, 0, 0, 0, 0]);
    let right = checksum(pseudo(seen.dst, seen.src, 6, segment.len()) + sum(&segment));
    segment[16..18].copy_from_slice(&right.to_be_bytes());
    let link = &frame[..variant.link.len()];
    let mut answer = match link {
        [] => Vec::new(),
        link => [&link[6..12], &link[..6], &link[12..]].concat(),
    };
    match (seen.dst, seen.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(src.octets());
            header.extend(dst.octets());
            let right = checksum(sum(&header));
            header[10..12].copy_from_slice(&right.to_be_bytes());
            answer.extend(header);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            answer.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
            answer.extend(src.octets());
            answer.extend(dst.octets());
        }
        _ => panic!("families are mixed"),
    }
    answer.extend(segment);
    answer
}
