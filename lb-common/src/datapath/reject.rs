//! Telling a client that a Service has no endpoint: the packet is turned into an ICMP or ICMPv6 port unreachable
//! back to its sender (kube-proxy-behaviour §3.3; RFC 792, RFC 4443 §3.1), from the address that it was sent to.

use super::{
    checksum,
    header::{Ethernet, Header, IcmpHead, Ipv4, Ipv6},
    packet::Packet,
    rewrite::address_sum,
};
use crate::layout::{Family, Ip4, Ip6, Proto, V4, V6};

/// Octets of the offending packet that are quoted at most, beyond which a sender needs nothing to find its socket:
/// the longest IP header and 64 octets. A multiple of 4.
const QUOTE_MAX: usize = 124;

/// What each family's answer looks like.
pub trait RejectFamily: Family {
    /// Length of the new IP header and the ICMP header.
    const ANSWER_LEN: usize;
    /// Addresses of the offending packet and its length as the IP header says.
    fn offender<P: Packet>(packet: &P) -> Option<Offender<Self::Addr>>;
    /// Writes IP and ICMP header in front of a quote whose one's complement sum is `quote_sum`.
    fn write_answer<P: Packet>(packet: &mut P, offender: &Offender<Self::Addr>, quote: usize, quote_sum: u32) -> bool;
}

/// What the answer needs to know of the packet.
pub struct Offender<A> {
    src: A,
    dst: A,
    len: usize,
}

/// Turns the packet into the answer. False if the kernel refused; the packet is then not fit to be sent.
#[inline(always)]
pub fn turn_into_port_unreachable<F: RejectFamily, P: Packet>(packet: &mut P) -> bool {
    let Some(offender) = F::offender(packet) else { return false };
    let quote = (if offender.len < QUOTE_MAX { offender.len } else { QUOTE_MAX }) & !3;
    if !packet.shrink_to(P::LINK_LEN + quote) || !packet.pull(P::LINK_LEN + quote) {
        return false;
    }
    let mut sum = 0;
    let mut at = 0;
    while at < QUOTE_MAX {
        if at >= quote {
            break;
        }
        let Some(word) = packet.header::<[u8; 4]>(P::LINK_LEN + at) else { return false };
        sum = checksum::add(sum, u32::from_ne_bytes(*word));
        at += 4;
    }
    packet.insert_after_link(F::ANSWER_LEN)
        && F::write_answer(packet, &offender, quote, sum)
        && turn_link_around(packet)
}

#[inline(always)]
fn turn_link_around<P: Packet>(packet: &mut P) -> bool {
    if P::LINK_LEN == 0 {
        return true;
    }
    let Some(&ethernet) = packet.header::<Ethernet>(0) else { return false };
    packet.store(0, &Ethernet { dst: ethernet.src, src: ethernet.dst, ethertype: ethernet.ethertype })
}

/// Sum over a header's 16-bit words as they lie in memory.
#[inline(always)]
fn header_sum<H: Header>(header: &H) -> u32 {
    let mut sum = 0;
    for pair in header.as_bytes().chunks_exact(2) {
        if let [a, b] = *pair {
            sum = checksum::add(sum, u32::from(u16::from_ne_bytes([a, b])));
        }
    }
    sum
}

impl RejectFamily for V4 {
    const ANSWER_LEN: usize = size_of::<Ipv4>() + size_of::<IcmpHead>();

    #[inline(always)]
    fn offender<P: Packet>(packet: &P) -> Option<Offender<Ip4>> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        let len = usize::from(u16::from_be_bytes(ip.total_len));
        Some(Offender { src: Ip4 { octets: ip.src }, dst: Ip4 { octets: ip.dst }, len })
    }

    #[inline(always)]
    fn write_answer<P: Packet>(packet: &mut P, offender: &Offender<Ip4>, quote: usize, quote_sum: u32) -> bool {
        let mut ip = Ipv4 {
            version_ihl: [0x45],
            tos: [0],
            total_len: ((Self::ANSWER_LEN + quote) as u16).to_be_bytes(),
            id: [0; 2],
            fragment: [0x40, 0],
            ttl: [64],
            proto: [Proto::ICMP.0],
            checksum: [0; 2],
            src: offender.dst.octets,
            dst: offender.src.octets,
        };
        ip.checksum = (!checksum::fold(header_sum(&ip))).to_ne_bytes();
        // Type 3, destination unreachable; code 3, port unreachable.
        let mut icmp = IcmpHead { kind: [3], code: [3], checksum: [0; 2], rest: [0; 4] };
        let sum = checksum::add(header_sum(&icmp), quote_sum);
        icmp.checksum = (!checksum::fold(sum)).to_ne_bytes();
        packet.store(P::LINK_LEN, &ip) && packet.store(P::LINK_LEN + size_of::<Ipv4>(), &icmp)
    }
}

impl RejectFamily for V6 {
    const ANSWER_LEN: usize = size_of::<Ipv6>() + size_of::<IcmpHead>();

    #[inline(always)]
    fn offender<P: Packet>(packet: &P) -> Option<Offender<Ip6>> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        let len = size_of::<Ipv6>() + usize::from(u16::from_be_bytes(ip.payload_len));
        Some(Offender { src: Ip6 { octets: ip.src }, dst: Ip6 { octets: ip.dst }, len })
    }

    #[inline(always)]
    fn write_answer<P: Packet>(packet: &mut P, offender: &Offender<Ip6>, quote: usize, quote_sum: u32) -> bool {
        let payload_len = (size_of::<IcmpHead>() + quote) as u16;
        let ip = Ipv6 {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: payload_len.to_be_bytes(),
            next: [Proto::ICMPV6.0],
            hop_limit: [64],
            src: offender.dst.octets,
            dst: offender.src.octets,
        };
        // Type 1, destination unreachable; code 4, port unreachable.
        let mut icmp = IcmpHead { kind: [1], code: [4], checksum: [0; 2], rest: [0; 4] };
        let pseudo = checksum::add(
            address_sum(&offender.src, &offender.dst),
            u32::from(payload_len.to_be()) + u32::from(u16::from(Proto::ICMPV6.0).to_be()),
        );
        let sum = checksum::add(checksum::add(header_sum(&icmp), quote_sum), pseudo);
        icmp.checksum = (!checksum::fold(sum)).to_ne_bytes();
        packet.store(P::LINK_LEN, &ip) && packet.store(P::LINK_LEN + size_of::<Ipv6>(), &icmp)
    }
}
