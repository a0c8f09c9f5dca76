//! Answers to whoever pings a service address (RFC 792, RFC 4443 §4): the request, turned round. An address that connections are taken
//! for is there, as far as its clients, routers and monitors can see; without this, nobody has it.

use super::{
    checksum,
    header::{IcmpHead, Ipv4, Ipv6},
    packet::{ChecksumChange, Packet},
    reject::turn_link_around,
};
use crate::layout::{Family, Proto, V4, V6};

/// Hops that an answer may take.
const TTL: u8 = 64;

/// Echo requests of a family.
pub trait EchoFamily: Family {
    /// Type of a request.
    const REQUEST: u8;
    /// Type of an answer.
    const REPLY: u8;
    /// Where the ICMP header of a whole message without IP options or extension headers stands.
    fn icmp_at<P: Packet>(packet: &P) -> Option<usize>;
    /// Exchanges source and destination, and gives the packet its hops anew.
    fn turn_round<P: Packet>(packet: &mut P) -> bool;
}

/// Whether a packet is an echo request.
#[inline(always)]
pub(super) fn is_request<F: EchoFamily, P: Packet>(packet: &P) -> bool {
    let Some(at) = F::icmp_at(packet) else { return false };
    packet
        .header::<IcmpHead>(at)
        .is_some_and(|icmp| icmp.kind[0] == F::REQUEST && icmp.code[0] == 0)
}

/// Turns an echo request into its answer. False if the kernel refused; the packet is then not fit to be sent.
#[inline(always)]
pub(super) fn turn_into_reply<F: EchoFamily, P: Packet>(packet: &mut P) -> bool {
    let Some(at) = F::icmp_at(packet) else { return false };
    // Source and destination count alike in the pseudo header.
    let change = ChecksumChange {
        address_delta: 0,
        port_delta: checksum::difference(
            u64::from(u16::from_ne_bytes([F::REQUEST, 0])),
            u64::from(u16::from_ne_bytes([F::REPLY, 0])),
        ),
        zero_is_none: false,
        ipv6: false,
    };
    packet.store(at, &[F::REPLY, 0])
        && packet.update_checksum(at + 2, change)
        && F::turn_round(packet)
        && turn_link_around(packet)
}

impl EchoFamily for V4 {
    const REQUEST: u8 = 8;
    const REPLY: u8 = 0;

    #[inline(always)]
    fn icmp_at<P: Packet>(packet: &P) -> Option<usize> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        let len = usize::from(u16::from_be_bytes(ip.total_len));
        let is_whole = u16::from_be_bytes(ip.fragment) & 0x3fff == 0;
        let sound = ip.version_ihl[0] == 0x45
            && is_whole
            && len >= size_of::<Ipv4>() + size_of::<IcmpHead>()
            && P::LINK_LEN + len <= packet.len();
        (sound && ip.proto[0] == Proto::ICMP.0).then_some(P::LINK_LEN + size_of::<Ipv4>())
    }

    #[inline(always)]
    fn turn_round<P: Packet>(packet: &mut P) -> bool {
        let Some(ip) = packet.header_mut::<Ipv4>(P::LINK_LEN) else {
            return false;
        };
        (ip.src, ip.dst) = (ip.dst, ip.src);
        let word = |hops: u8| u64::from(u16::from_ne_bytes([hops, Proto::ICMP.0]));
        let change = checksum::difference(word(ip.ttl[0]), word(TTL));
        ip.ttl[0] = TTL;
        ip.checksum = checksum::updated(u16::from_ne_bytes(ip.checksum), change.into()).to_ne_bytes();
        true
    }
}

impl EchoFamily for V6 {
    const REQUEST: u8 = 128;
    const REPLY: u8 = 129;

    #[inline(always)]
    fn icmp_at<P: Packet>(packet: &P) -> Option<usize> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        let len = usize::from(u16::from_be_bytes(ip.payload_len));
        let sound = ip.version_class_flow[0] >> 4 == 6
            && len >= size_of::<IcmpHead>()
            && P::LINK_LEN + size_of::<Ipv6>() + len <= packet.len();
        (sound && ip.next[0] == Proto::ICMPV6.0).then_some(P::LINK_LEN + size_of::<Ipv6>())
    }

    #[inline(always)]
    fn turn_round<P: Packet>(packet: &mut P) -> bool {
        let Some(ip) = packet.header_mut::<Ipv6>(P::LINK_LEN) else {
            return false;
        };
        (ip.src, ip.dst) = (ip.dst, ip.src);
        ip.hop_limit[0] = TTL;
        true
    }
}
