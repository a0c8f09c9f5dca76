//! What a family's header must be for XDP to forward a packet, and what forwarding does to it.

use super::{
    checksum,
    header::{Ipv4, Ipv6},
    packet::Packet,
};
use crate::layout::{Family, Ip4, Ip6, Proto, V4, V6};

/// What a family's header must be for a packet to be forwarded by XDP, and what forwarding does to it.
pub trait ForwardFamily: Family {
    /// Whether it has no options or extension headers, has hops left, and fits.
    fn may_forward<P: Packet>(packet: &P, mtu: u16) -> bool;
    /// Whether packets from this address may be forwarded at all: not from loopback, nobody, a group or one link only (RFC 1122 §3.2.1.3,
    /// RFC 4291 §2.5 and §2.7). The stack drops what comes from these, or knows better.
    fn may_come_from(address: &Self::Addr) -> bool;
    /// One hop less.
    fn take_hop<P: Packet>(packet: &mut P) -> bool;
}

impl ForwardFamily for V4 {
    #[inline(always)]
    fn may_come_from(address: &Ip4) -> bool {
        let [first, ..] = address.octets;
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn may_forward<P: Packet>(packet: &P, mtu: u16) -> bool {
        packet
            .header::<Ipv4>(P::LINK_LEN)
            .is_some_and(|ip| ip.version_ihl[0] == 0x45 && ip.ttl[0] > 1 && u16::from_be_bytes(ip.total_len) <= mtu)
    }

    #[inline(always)]
    fn take_hop<P: Packet>(packet: &mut P) -> bool {
        let Some(ip) = packet.header_mut::<Ipv4>(P::LINK_LEN) else {
            return false;
        };
        ip.ttl[0] = ip.ttl[0].wrapping_sub(1);
        // The word of time to live and protocol is less by one in its high octet.
        let less = u64::from(!u16::from_ne_bytes([1, 0]));
        ip.checksum = checksum::updated(u16::from_ne_bytes(ip.checksum), less).to_ne_bytes();
        true
    }
}

impl ForwardFamily for V6 {
    #[inline(always)]
    fn may_come_from(address: &Ip6) -> bool {
        let [first, second, ..] = address.octets;
        let is_of_a_link = first == 0xfe && second & 0xc0 == 0x80;
        // 0::/8 has the unspecified address, loopback and mapped ones.
        first != 0 && first != 0xff && !is_of_a_link
    }

    #[inline(always)]
    fn may_forward<P: Packet>(packet: &P, mtu: u16) -> bool {
        packet.header::<Ipv6>(P::LINK_LEN).is_some_and(|ip| {
            let next = ip.next[0];
            (next == Proto::TCP.0 || next == Proto::UDP.0 || next == Proto::SCTP.0)
                && ip.hop_limit[0] > 1
                && u32::from(u16::from_be_bytes(ip.payload_len)) + size_of::<Ipv6>() as u32 <= u32::from(mtu)
        })
    }

    #[inline(always)]
    fn take_hop<P: Packet>(packet: &mut P) -> bool {
        let Some(ip) = packet.header_mut::<Ipv6>(P::LINK_LEN) else {
            return false;
        };
        ip.hop_limit[0] = ip.hop_limit[0].wrapping_sub(1);
        true
    }
}
