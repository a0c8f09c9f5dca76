//! Telling a sender by ICMP or ICMPv6 what became of its packet, which is turned into the answer (RFC 792, RFC 4443 §3),
//! from the address that it was sent to: a client that a Service has no endpoint (kube-proxy-behaviour §3.3), a process of
//! the host that its packet does not fit on the way to the endpoint.

use super::{
    checksum,
    header::{Ethernet, IcmpHead, Ipv4, Ipv6},
    packet::Packet,
    rewrite::address_sum,
};
use crate::layout::{Address, Family, Ip4, Ip6, Proto, V4, V6};

/// Octets of the offending packet that are quoted at most, beyond which a sender needs nothing to find its socket:
/// the longest IP header and 64 octets. A multiple of 4.
const QUOTE_MAX: usize = 124;

/// What each family's answer looks like.
pub(super) trait RejectFamily: Family {
    /// Length of the new IP header and the ICMP header.
    const ANSWER_LEN: usize;
    /// Addresses of the offending packet and its length as the IP header says.
    fn offender<P: Packet>(packet: &P) -> Option<Offender<Self::Addr>>;
    /// Type and code of an error, and the octets that follow its checksum.
    fn told(error: Told) -> (u8, u8, u32);
    /// Writes IP and ICMP header in front of a quote whose one's complement sum is `quote_sum`.
    fn write_answer<P: Packet>(
        packet: &mut P,
        offender: &Offender<Self::Addr>,
        error: Told,
        quote: usize,
        quote_sum: u64,
    ) -> bool;
}

/// What a sender is told.
#[derive(Clone, Copy)]
pub(super) enum Told {
    /// Nobody listens.
    PortUnreachable,
    /// Only so many octets fit.
    TooBig(u16),
}

/// What the answer needs to know of the packet.
pub(super) struct Offender<A> {
    src: A,
    dst: A,
    len: usize,
}

/// Turns the packet into the answer. False if the kernel refused; the packet is then not fit to be sent.
#[inline(always)]
pub(super) fn turn_into_error<F: RejectFamily, P: Packet>(packet: &mut P, error: Told) -> bool {
    let Some(offender) = F::offender(packet) else {
        return false;
    };
    let quote = (if offender.len < QUOTE_MAX {
        offender.len
    } else {
        QUOTE_MAX
    }) & !3;
    if !packet.shrink_to(P::LINK_LEN + quote) || !packet.pull(P::LINK_LEN + quote) {
        return false;
    }
    let mut sum: u64 = 0;
    let mut at = 0;
    while at < QUOTE_MAX {
        if at >= quote {
            break;
        }
        let Some(word) = packet.header::<[u8; 4]>(P::LINK_LEN + at) else {
            return false;
        };
        sum += u64::from(u32::from_ne_bytes(*word));
        at += 4;
    }
    packet.insert_after_link(F::ANSWER_LEN)
        && F::write_answer(packet, &offender, error, quote, sum)
        && turn_link_around(packet)
}

#[inline(always)]
pub(super) fn turn_link_around<P: Packet>(packet: &mut P) -> bool {
    if P::LINK_LEN == 0 {
        return true;
    }
    let Some(&ethernet) = packet.header::<Ethernet>(0) else {
        return false;
    };
    packet.store(0, &ethernet.src) && packet.store(size_of_val(&ethernet.dst), &ethernet.dst)
}

/// Writes a header word by word: on the stack the kernel allows aligned access only, which a whole header under
/// construction does not get.
#[inline(always)]
pub(super) fn store_words<P: Packet, const N: usize>(packet: &mut P, at: usize, words: [u32; N]) -> bool {
    let mut index = 0;
    while index < N {
        if !packet.store(at + index * 4, &words[index].to_ne_bytes()) {
            return false;
        }
        index += 1;
    }
    true
}

/// Two octets and a 16-bit field as they lie behind each other in memory.
#[inline(always)]
pub(super) const fn word(a: u8, b: u8, field: u16) -> u32 {
    let [c, d] = field.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Hops that an answer may take.
const TTL: u8 = 64;

impl RejectFamily for V4 {
    const ANSWER_LEN: usize = size_of::<Ipv4>() + size_of::<IcmpHead>();

    #[inline(always)]
    fn offender<P: Packet>(packet: &P) -> Option<Offender<Ip4>> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        let len = usize::from(u16::from_be_bytes(ip.total_len));
        Some(Offender {
            src: Ip4::from_wire(&ip.src),
            dst: Ip4::from_wire(&ip.dst),
            len,
        })
    }

    #[inline(always)]
    fn told(error: Told) -> (u8, u8, u32) {
        match error {
            // Destination unreachable: port, or fragmentation needed (RFC 1191 §4: the MTU in the last two octets).
            Told::PortUnreachable => (3, 3, 0),
            Told::TooBig(mtu) => (3, 4, u32::from(mtu).to_be()),
        }
    }

    #[inline(always)]
    fn write_answer<P: Packet>(
        packet: &mut P,
        offender: &Offender<Ip4>,
        error: Told,
        quote: usize,
        quote_sum: u64,
    ) -> bool {
        let (kind, code, rest) = Self::told(error);
        let total_len = (Self::ANSWER_LEN + quote) as u16;
        let (src, dst) = (offender.dst.word(0), offender.src.word(0));
        let first = word(0x45, 0, total_len.to_be());
        // Not to be fragmented; identification is of no use then (RFC 6864 §4.1).
        let second = word(0, 0, 0x4000_u16.to_be());
        let third = word(TTL, Proto::ICMP.0, 0);
        let sum = [first, second, third, src, dst].into_iter().map(u64::from).sum();
        let third = word(TTL, Proto::ICMP.0, !checksum::fold(sum));
        let icmp = word(
            kind,
            code,
            !checksum::fold(u64::from(word(kind, code, 0)) + u64::from(rest) + quote_sum),
        );
        store_words(packet, P::LINK_LEN, [first, second, third, src, dst, icmp, rest])
    }
}

impl RejectFamily for V6 {
    const ANSWER_LEN: usize = size_of::<Ipv6>() + size_of::<IcmpHead>();

    #[inline(always)]
    fn offender<P: Packet>(packet: &P) -> Option<Offender<Ip6>> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        let len = size_of::<Ipv6>() + usize::from(u16::from_be_bytes(ip.payload_len));
        Some(Offender {
            src: Ip6::from_wire(&ip.src),
            dst: Ip6::from_wire(&ip.dst),
            len,
        })
    }

    #[inline(always)]
    fn told(error: Told) -> (u8, u8, u32) {
        match error {
            // Destination unreachable, port; packet too big (RFC 4443 §3.2).
            Told::PortUnreachable => (1, 4, 0),
            Told::TooBig(mtu) => (2, 0, u32::from(mtu).to_be()),
        }
    }

    #[inline(always)]
    fn write_answer<P: Packet>(
        packet: &mut P,
        offender: &Offender<Ip6>,
        error: Told,
        quote: usize,
        quote_sum: u64,
    ) -> bool {
        let (kind, code, rest) = Self::told(error);
        let payload_len = (size_of::<IcmpHead>() + quote) as u16;
        let first = word(0x60, 0, 0);
        let second = {
            let [a, b] = payload_len.to_be_bytes();
            u32::from_ne_bytes([a, b, Proto::ICMPV6.0, TTL])
        };
        let pseudo = address_sum(&offender.src, &offender.dst)
            + u64::from(payload_len.to_be())
            + u64::from(u16::from(Proto::ICMPV6.0).to_be());
        let sum = u64::from(word(kind, code, 0)) + u64::from(rest) + quote_sum + pseudo;
        let icmp = word(kind, code, !checksum::fold(sum));
        store_words(packet, P::LINK_LEN, [first, second])
            && packet.store(P::LINK_LEN + 8, &offender.dst.octets)
            && packet.store(P::LINK_LEN + 24, &offender.src.octets)
            && store_words(packet, P::LINK_LEN + size_of::<Ipv6>(), [icmp, rest])
    }
}
