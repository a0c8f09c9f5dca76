//! Answers to packets of a TCP connection whose endpoint is gone for good: a reset that looks as if the endpoint had sent
//! it (RFC 9293 §3.10.7.1), so that the client connects anew instead of waiting for a timeout.

use super::{
    checksum,
    header::{Ipv4, Ipv6, Tcp},
    packet::Packet,
    reject::{RejectFamily, store_words, turn_link_around, word},
    rewrite::address_sum,
};
use crate::layout::{Address, Ip4, Ip6, Proto, V4, V6};

const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;

/// What an answer is made from.
struct Segment {
    ports: u32,
    seq: u32,
    ack: u32,
    flags: u8,
}

/// Turns the packet into the answer. False if the kernel refused, or where options or extension headers stand between IP and
/// TCP; the packet is then not fit to be sent.
#[inline(always)]
pub(super) fn turn_into_reset<F: ResetFamily, P: Packet>(packet: &mut P) -> bool {
    let Some((src, dst, payload_len)) = F::plain_tcp(packet) else {
        return false;
    };
    let at = P::LINK_LEN + F::HEADER_LEN;
    let Some(tcp) = packet.header::<Tcp>(at) else {
        return false;
    };
    let [a, b, c, d] = [tcp.dst[0], tcp.dst[1], tcp.src[0], tcp.src[1]];
    let header_len = u32::from(tcp.offset[0] >> 4) * 4;
    let data_len = (payload_len as u32).saturating_sub(header_len);
    let occupied = u32::from(tcp.flags[0] & SYN != 0) + u32::from(tcp.flags[0] & FIN != 0);
    let segment = if tcp.flags[0] & ACK != 0 {
        Segment {
            ports: u32::from_ne_bytes([a, b, c, d]),
            seq: u32::from_ne_bytes(tcp.ack),
            ack: 0,
            flags: RST,
        }
    } else {
        let end = u32::from_be_bytes(tcp.seq)
            .wrapping_add(data_len)
            .wrapping_add(occupied);
        Segment {
            ports: u32::from_ne_bytes([a, b, c, d]),
            seq: 0,
            ack: end.to_be(),
            flags: RST | ACK,
        }
    };
    let len = at + size_of::<Tcp>();
    packet.shrink_to(len)
        && packet.pull(len)
        && F::write_header(packet, &src, &dst)
        && write_segment(packet, at, &segment, address_sum(&src, &dst))
        && turn_link_around(packet)
}

#[inline(always)]
fn write_segment<P: Packet>(packet: &mut P, at: usize, segment: &Segment, addresses: u64) -> bool {
    let offset_and_flags = word((size_of::<Tcp>() as u8 / 4) << 4, segment.flags, 0);
    let pseudo = u64::from((size_of::<Tcp>() as u16).to_be()) + u64::from(u16::from(Proto::TCP.0).to_be());
    let words = [segment.ports, segment.seq, segment.ack, offset_and_flags];
    let sum = words.into_iter().map(u64::from).sum::<u64>() + addresses + pseudo;
    let checksum = word_of_checksum(!checksum::fold(sum));
    let [ports, seq, ack, offset_and_flags] = words;
    store_words(packet, at, [ports, seq, ack, offset_and_flags, checksum])
}

/// Checksum and urgent pointer.
#[inline(always)]
const fn word_of_checksum(checksum: u16) -> u32 {
    let [a, b] = checksum.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

/// Hops that an answer may take.
const TTL: u8 = 64;

/// What each family's answer looks like.
pub(super) trait ResetFamily: RejectFamily {
    /// Octets of the IP header.
    const HEADER_LEN: usize;

    /// Source, destination and length of the TCP segment, if it follows the IP header at once.
    fn plain_tcp<P: Packet>(packet: &P) -> Option<(Self::Addr, Self::Addr, usize)>;

    /// Writes the header of the answer to a packet from `src` to `dst`.
    fn write_header<P: Packet>(packet: &mut P, src: &Self::Addr, dst: &Self::Addr) -> bool;
}

impl ResetFamily for V4 {
    const HEADER_LEN: usize = size_of::<Ipv4>();

    #[inline(always)]
    fn plain_tcp<P: Packet>(packet: &P) -> Option<(Ip4, Ip4, usize)> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        if ip.version_ihl[0] != 0x45 {
            return None;
        }
        let len = usize::from(u16::from_be_bytes(ip.total_len)).checked_sub(Self::HEADER_LEN)?;
        Some((Ip4::from_wire(&ip.src), Ip4::from_wire(&ip.dst), len))
    }

    #[inline(always)]
    fn write_header<P: Packet>(packet: &mut P, src: &Ip4, dst: &Ip4) -> bool {
        let total_len = (Self::HEADER_LEN + size_of::<Tcp>()) as u16;
        let first = word(0x45, 0, total_len.to_be());
        // Not to be fragmented; identification is of no use then (RFC 6864 §4.1).
        let second = word(0, 0, 0x4000_u16.to_be());
        let third = word(TTL, Proto::TCP.0, 0);
        let sum = [first, second, third, src.word(0), dst.word(0)]
            .into_iter()
            .map(u64::from)
            .sum();
        let third = word(TTL, Proto::TCP.0, !checksum::fold(sum));
        store_words(packet, P::LINK_LEN, [first, second, third, dst.word(0), src.word(0)])
    }
}

impl ResetFamily for V6 {
    const HEADER_LEN: usize = size_of::<Ipv6>();

    #[inline(always)]
    fn plain_tcp<P: Packet>(packet: &P) -> Option<(Ip6, Ip6, usize)> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        if ip.next[0] != Proto::TCP.0 {
            return None;
        }
        let len = usize::from(u16::from_be_bytes(ip.payload_len));
        Some((Ip6::from_wire(&ip.src), Ip6::from_wire(&ip.dst), len))
    }

    #[inline(always)]
    fn write_header<P: Packet>(packet: &mut P, src: &Ip6, dst: &Ip6) -> bool {
        let [a, b] = (size_of::<Tcp>() as u16).to_be_bytes();
        store_words(
            packet,
            P::LINK_LEN,
            [word(0x60, 0, 0), u32::from_ne_bytes([a, b, Proto::TCP.0, TTL])],
        ) && packet.store(P::LINK_LEN + 8, &dst.octets)
            && packet.store(P::LINK_LEN + 24, &src.octets)
    }
}
