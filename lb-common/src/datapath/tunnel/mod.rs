//! Tunnels between nodes, for clients that are answered directly: the packet goes unchanged from the node that has chosen a
//! backend to the backend's node, inside another packet, and the endpoint's answer goes from there to the client.
//!
//! ```text
//! IP in IP (RFC 2003, RFC 2473)      | IP: node -> node |                       client:p -> frontend:80 …
//! GUE variant 1                      | IP: node -> node | UDP: hash -> 6080 |   client:p -> frontend:80 …
//! (draft-ietf-intarea-gue-09 §4: IP directly in UDP; its version is in the first four bits)
//! ```
//!
//! Both are of one family inside and outside. [`send`] puts packets in, [`receive`] takes them out, [`xdp`] does
//! both for flows that are known, [`mss`] tells clients of TCP
//! how much fits. A packet is put into a tunnel once at most, so that none goes round.

pub(super) mod mss;
pub(super) mod receive;
pub(super) mod send;
pub(super) mod xdp;

use super::{
    checksum,
    header::{Ethernet, IcmpHead, Ipv4, Ipv6, Udp},
    packet::Packet,
    reject::{store_words, word},
};
use crate::layout::{Address, Family, Ip4, Ip6, Port, Proto, Rewrite, V4, V6};

/// Destination port of GUE (IANA "Service Name and Transport Protocol Port Number Registry").
pub const GUE_PORT: Port = Port::new(6080);

/// Hops that a tunnel's packet may take.
const TTL: u8 = 64;

/// What each family's tunnels look like.
pub trait TunnelFamily: Family {
    /// Its EtherType.
    const ETHERTYPE: [u8; 2];
    /// Number of this family as a protocol inside IP.
    const INSIDE: Proto;
    /// Length of an IP header without options.
    const HEADER_LEN: usize;
    /// Lowest path MTU that a router is believed: what every link takes (RFC 791 §3.1 asks for less, which nobody has; RFC 8200 §5).
    const MTU_MIN: u32;

    /// Length of the IP packet at `at`, its header included, if that begins like one of this family.
    fn ip_len<P: Packet>(packet: &P, at: usize) -> Option<usize>;
    /// Its protocol, if its header has no options, and no extension header follows, and it is no fragment.
    fn plain_proto<P: Packet>(packet: &P, at: usize) -> Option<Proto>;
    /// The protocol that the IP header at `at` names, whatever follows.
    fn proto<P: Packet>(packet: &P, at: usize) -> Option<Proto>;
    /// The path MTU that an ICMP error tells, if that is what it is about.
    fn told_mtu(error: &IcmpHead) -> Option<u32>;
    /// Whether routers may cut the packet into fragments.
    fn may_be_cut<P: Packet>(packet: &P) -> bool;
    /// The header's first four octets, of which a tunnel's packet takes over service class and congestion bits (RFC 6040 §4.1).
    #[inline(always)]
    fn first_word<P: Packet>(packet: &P) -> Option<[u8; 4]> {
        packet.header::<[u8; 4]>(P::LINK_LEN).copied()
    }
    /// Whether the packet has met congestion.
    fn is_congested<P: Packet>(packet: &P) -> bool;
    /// Marks the packet at `inside` if the one around it was marked by a router that is congested (RFC 6040 §4.2). False if that
    /// can't be, as the sender has said that it doesn't understand it.
    fn take_congestion<P: Packet>(packet: &mut P, inside: usize) -> bool;
    /// Writes the outer IP header at the packet's beginning: in front of so many octets, of this protocol.
    fn write_outer<P: Packet>(
        packet: &mut P,
        outer: &Rewrite<Self::Addr>,
        inner: [u8; 4],
        payload_len: usize,
        proto: Proto,
    ) -> bool;
}

/// Congestion experienced, as the two lower bits of the service class (RFC 3168 §5).
const CONGESTED: u8 = 3;
/// The same where IPv6 has them.
const MARK: u8 = CONGESTED << 4;

impl TunnelFamily for V4 {
    const ETHERTYPE: [u8; 2] = Ethernet::IPV4;
    const INSIDE: Proto = Proto(4);
    const HEADER_LEN: usize = size_of::<Ipv4>();
    const MTU_MIN: u32 = 576;

    #[inline(always)]
    fn ip_len<P: Packet>(packet: &P, at: usize) -> Option<usize> {
        let ip = packet.header::<Ipv4>(at)?;
        let len = usize::from(u16::from_be_bytes(ip.total_len));
        let ihl = usize::from(ip.version_ihl[0] & 0x0f) * 4;
        (ip.version_ihl[0] >> 4 == 4 && ihl >= size_of::<Ipv4>() && len >= ihl).then_some(len)
    }

    #[inline(always)]
    fn plain_proto<P: Packet>(packet: &P, at: usize) -> Option<Proto> {
        let ip = packet.header::<Ipv4>(at)?;
        let whole = u16::from_be_bytes(ip.fragment) & 0x3fff == 0;
        (ip.version_ihl[0] == 0x45 && whole).then_some(Proto(ip.proto[0]))
    }

    #[inline(always)]
    fn proto<P: Packet>(packet: &P, at: usize) -> Option<Proto> {
        packet.header::<Ipv4>(at).map(|ip| Proto(ip.proto[0]))
    }

    #[inline(always)]
    fn told_mtu(error: &IcmpHead) -> Option<u32> {
        let [_, _, high, low] = error.rest;
        let mtu = u32::from(u16::from_be_bytes([high, low]));
        (error.kind[0] == 3 && error.code[0] == 4 && mtu != 0).then_some(mtu)
    }

    #[inline(always)]
    fn may_be_cut<P: Packet>(packet: &P) -> bool {
        packet
            .header::<Ipv4>(P::LINK_LEN)
            .is_some_and(|ip| u16::from_be_bytes(ip.fragment) & 0x4000 == 0)
    }

    #[inline(always)]
    fn is_congested<P: Packet>(packet: &P) -> bool {
        packet
            .header::<Ipv4>(P::LINK_LEN)
            .is_some_and(|ip| ip.tos[0] & CONGESTED == CONGESTED)
    }

    #[inline(always)]
    fn take_congestion<P: Packet>(packet: &mut P, inside: usize) -> bool {
        if !Self::is_congested(packet) {
            return true;
        }
        let Some(ip) = packet.header_mut::<Ipv4>(inside) else {
            return false;
        };
        let (version_ihl, tos) = (ip.version_ihl[0], ip.tos[0]);
        if tos & CONGESTED == 0 {
            return false;
        }
        let sum = |tos: u8| u64::from(u16::from_ne_bytes([version_ihl, tos]));
        let change = checksum::difference(sum(tos), sum(tos | CONGESTED));
        ip.tos[0] = tos | CONGESTED;
        ip.checksum = checksum::updated(u16::from_ne_bytes(ip.checksum), change.into()).to_ne_bytes();
        true
    }

    #[inline(always)]
    fn write_outer<P: Packet>(
        packet: &mut P,
        outer: &Rewrite<Ip4>,
        [_, tos, ..]: [u8; 4],
        payload_len: usize,
        proto: Proto,
    ) -> bool {
        let total_len = (Self::HEADER_LEN + payload_len) as u16;
        let (src, dst) = (outer.src.word(0), outer.dst.word(0));
        let first = word(0x45, tos, total_len.to_be());
        // Not to be fragmented; identification is of no use then (RFC 6864 §4.1).
        let second = word(0, 0, 0x4000_u16.to_be());
        let third = word(TTL, proto.0, 0);
        let sum = [first, second, third, src, dst].into_iter().map(u64::from).sum();
        let third = word(TTL, proto.0, !checksum::fold(sum));
        store_words(packet, P::LINK_LEN, [first, second, third, src, dst])
    }
}

impl TunnelFamily for V6 {
    const ETHERTYPE: [u8; 2] = Ethernet::IPV6;
    const INSIDE: Proto = Proto(41);
    const HEADER_LEN: usize = size_of::<Ipv6>();
    const MTU_MIN: u32 = 1280;

    #[inline(always)]
    fn ip_len<P: Packet>(packet: &P, at: usize) -> Option<usize> {
        let ip = packet.header::<Ipv6>(at)?;
        let len = size_of::<Ipv6>() + usize::from(u16::from_be_bytes(ip.payload_len));
        (ip.version_class_flow[0] >> 4 == 6).then_some(len)
    }

    #[inline(always)]
    fn plain_proto<P: Packet>(packet: &P, at: usize) -> Option<Proto> {
        packet.header::<Ipv6>(at).map(|ip| Proto(ip.next[0]))
    }

    #[inline(always)]
    fn proto<P: Packet>(packet: &P, at: usize) -> Option<Proto> {
        packet.header::<Ipv6>(at).map(|ip| Proto(ip.next[0]))
    }

    #[inline(always)]
    fn told_mtu(error: &IcmpHead) -> Option<u32> {
        (error.kind[0] == 2).then_some(u32::from_be_bytes(error.rest))
    }

    #[inline(always)]
    fn may_be_cut<P: Packet>(_packet: &P) -> bool {
        false
    }

    #[inline(always)]
    fn is_congested<P: Packet>(packet: &P) -> bool {
        packet
            .header::<Ipv6>(P::LINK_LEN)
            .is_some_and(|ip| ip.version_class_flow[1] & MARK == MARK)
    }

    #[inline(always)]
    fn take_congestion<P: Packet>(packet: &mut P, inside: usize) -> bool {
        if !Self::is_congested(packet) {
            return true;
        }
        let Some(ip) = packet.header_mut::<Ipv6>(inside) else {
            return false;
        };
        let class = ip.version_class_flow[1];
        if class & MARK == 0 {
            return false;
        }
        ip.version_class_flow[1] = class | MARK;
        true
    }

    #[inline(always)]
    fn write_outer<P: Packet>(
        packet: &mut P,
        outer: &Rewrite<Ip6>,
        [version_class, class_flow, ..]: [u8; 4],
        payload_len: usize,
        proto: Proto,
    ) -> bool {
        let [a, b] = (payload_len as u16).to_be_bytes();
        // The flow label spreads tunnels over equal paths (RFC 6438 §3).
        let [c, d] = outer.sport.octets;
        let first = u32::from_ne_bytes([version_class, class_flow & 0xf0, c, d]);
        let second = u32::from_ne_bytes([a, b, proto.0, TTL]);
        let at = P::LINK_LEN;
        store_words(packet, at, [first, second])
            && packet.store(at + 8, &outer.src.octets)
            && packet.store(at + 24, &outer.dst.octets)
    }
}

/// What a tunnel adds to a packet, in octets: by the port to which it goes.
#[inline(always)]
pub(super) const fn overhead<F: TunnelFamily>(port: Port) -> usize {
    if port.raw() == 0 {
        F::HEADER_LEN
    } else {
        F::HEADER_LEN + size_of::<Udp>()
    }
}

/// Puts a packet into a tunnel between the addresses of `outer`, from and to its ports: without a port to go to, IP in IP. False if the
/// kernel refused; the packet is then not fit to be sent.
#[inline(always)]
pub(super) fn wrap<F: TunnelFamily, P: Packet>(packet: &mut P, outer: &Rewrite<F::Addr>) -> bool {
    let (Some(inner), Some(len)) = (F::first_word(packet), F::ip_len(packet, P::LINK_LEN)) else {
        return false;
    };
    packet.wrap(overhead::<F>(outer.dport)) && write_headers::<F, P>(packet, outer, inner, len)
}

/// Writes the headers in front of a packet of this length that begins so.
#[inline(always)]
fn write_headers<F: TunnelFamily, P: Packet>(
    packet: &mut P,
    outer: &Rewrite<F::Addr>,
    inner: [u8; 4],
    len: usize,
) -> bool {
    if overhead::<F>(outer.dport) == F::HEADER_LEN {
        return F::write_outer(packet, outer, inner, len, F::INSIDE);
    }
    let len = len + size_of::<Udp>();
    // Without a checksum, over IPv6, too: what is inside has its own (RFC 6935 §5, RFC 6936).
    let ([a, b], [c, d]) = (outer.sport.octets, outer.dport.octets);
    let [e, f] = (len as u16).to_be_bytes();
    let udp = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0])];
    F::write_outer(packet, outer, inner, len, Proto::UDP) && store_words(packet, P::LINK_LEN + F::HEADER_LEN, udp)
}
