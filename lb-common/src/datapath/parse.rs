//! From a frame to a 5-tuple. What is not TCP, UDP or SCTP over IP, and what is malformed, is not ours.

use super::{
    header::{Ethernet, Ipv4, Ipv6, Ipv6Extension, Ipv6Fragment, Ports, Sctp, Tcp, Udp},
    packet::Packet,
    world::Tables,
};
use crate::layout::{
    Address, Family, FlowKey, FragmentKey, FragmentPorts, Ip4, Ip6, Port, Proto, Stage, TcpSeen, V4, V6,
};

/// A packet that may be ours.
#[derive(Clone, Copy)]
pub struct Parsed<A: Address> {
    /// Its 5-tuple.
    pub key: FlowKey<A>,
    /// Offset of the TCP, UDP or SCTP header; of no use in a later fragment.
    pub l4: usize,
    /// TCP flags, or what an SCTP chunk says in their words; none for UDP and for later fragments.
    pub tcp: TcpSeen,
    /// Length of what follows the IP headers, as the IP header says.
    pub l4_len: usize,
    /// False for fragments but the first: they have no header of the transport.
    pub has_l4: bool,
    /// Identification, if it is part of a datagram in fragments.
    pub fragment: Option<u32>,
}

/// The network protocol of a frame.
pub(super) enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Anything else, VLAN tags included: the hook of the VLAN device sees the packet without them.
    Other,
}

/// Octets from which headers are read: a transport header that doesn't end within them is not ours.
const HEADERS_MAX: usize = 128;

/// IPv6 extension headers that are walked over.
const EXTENSIONS_MAX: usize = 6;

/// The protocols that are balanced.
#[inline(always)]
pub(super) const fn has_ports(proto: Proto) -> bool {
    proto.0 == Proto::TCP.0 || proto.0 == Proto::UDP.0 || proto.0 == Proto::SCTP.0
}

/// How many octets of the frame its headers take, as far as what lies in place tells. Data of TCP's own send queue lies
/// outside: asking for more than the headers would copy some of it for every packet.
#[inline(always)]
fn headers_len<P: Packet>(packet: &P) -> usize {
    let at = P::LINK_LEN;
    let most = at + HEADERS_MAX;
    let Some(first) = packet.header::<[u8; 2]>(at) else {
        return most;
    };
    if first[0] >> 4 == 4 {
        let Some(ip) = packet.header::<Ipv4>(at) else {
            return most;
        };
        if has_ports(Proto(ip.proto[0])) {
            return at + usize::from(ip.version_ihl[0] & 0x0f) * 4 + size_of::<Tcp>();
        }
    } else if let Some(ip) = packet.header::<Ipv6>(at)
        && has_ports(Proto(ip.next[0]))
    {
        return at + size_of::<Ipv6>() + size_of::<Tcp>();
    }
    most
}

/// Makes what can be headers readable in place. False if the kernel refused.
#[inline(always)]
pub(super) fn pull_headers<P: Packet>(packet: &mut P) -> bool {
    let want = P::LINK_LEN + HEADERS_MAX;
    let linear = packet.linear_len();
    if linear >= want {
        return true;
    }
    let len = packet.len();
    linear >= len || packet.pull(if len < want { len } else { want })
}

/// Which network protocol the frame carries. Makes the headers readable in place first.
#[inline(always)]
pub(super) fn network<P: Packet>(packet: &mut P) -> Network {
    let want = P::LINK_LEN + HEADERS_MAX;
    let linear = packet.linear_len();
    if linear < want {
        let len = packet.len();
        if linear < len && linear < headers_len(packet) && !packet.pull(if len < want { len } else { want }) {
            return Network::Other;
        }
    }
    network_in_place(packet)
}

/// The same of a frame whose headers are where they can be read, or nowhere.
#[inline(always)]
pub(super) fn network_in_place<P: Packet>(packet: &P) -> Network {
    if P::LINK_LEN == 0 {
        // The shortest IP header; an IPv6 header is longer and begins with its version, too.
        return match packet.header::<Ipv4>(0).map(|ip| ip.version_ihl[0] >> 4) {
            Some(4) => Network::V4,
            Some(6) => Network::V6,
            _ => Network::Other,
        };
    }
    match packet.header::<Ethernet>(0) {
        Some(ethernet) if ethernet.ethertype == Ethernet::IPV4 => Network::V4,
        Some(ethernet) if ethernet.ethertype == Ethernet::IPV6 => Network::V6,
        _ => Network::Other,
    }
}

/// What each family parses in its own way.
pub trait ParseFamily: Family {
    /// The 5-tuple of a packet of this family that is seen at a stage, or nothing if the packet isn't ours.
    fn parse<P: Packet, T: Tables<Self>>(packet: &P, tables: &T, stage: Stage) -> Option<Parsed<Self::Addr>>
    where
        Self: Sized;

    /// Source and destination.
    fn addresses<P: Packet>(packet: &P) -> Option<(Self::Addr, Self::Addr)>;

    /// The protocol of a whole packet whose IP header says that none follows which is balanced: ICMP and the like. Nothing for
    /// packets that are malformed, and where IPv6's extension headers or fragments leave it open.
    fn other_proto<P: Packet>(packet: &P) -> Option<Proto>;
}

impl ParseFamily for V4 {
    #[inline(always)]
    fn other_proto<P: Packet>(packet: &P) -> Option<Proto> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        let ihl = usize::from(ip.version_ihl[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes(ip.total_len));
        let sound = ip.version_ihl[0] >> 4 == 4
            && ihl >= size_of::<Ipv4>()
            && total_len >= ihl
            && P::LINK_LEN + total_len <= packet.len();
        let proto = Proto(ip.proto[0]);
        (sound && !has_ports(proto)).then_some(proto)
    }

    #[inline(always)]
    fn addresses<P: Packet>(packet: &P) -> Option<(Ip4, Ip4)> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        Some((Ip4::from_wire(&ip.src), Ip4::from_wire(&ip.dst)))
    }

    #[inline(always)]
    fn parse<P: Packet, T: Tables<Self>>(packet: &P, tables: &T, stage: Stage) -> Option<Parsed<Ip4>> {
        let at = P::LINK_LEN;
        let ip = packet.header::<Ipv4>(at)?;
        let ihl = usize::from(ip.version_ihl[0] & 0x0f) * 4;
        if ip.version_ihl[0] >> 4 != 4 || ihl < size_of::<Ipv4>() {
            return None;
        }
        let total_len = usize::from(u16::from_be_bytes(ip.total_len));
        if total_len < ihl || !packet.reaches(at + total_len) {
            return None;
        }
        let proto = Proto(ip.proto[0]);
        let fragment = u16::from_be_bytes(ip.fragment);
        let (offset, more) = (fragment & 0x1fff, fragment & 0x2000 != 0);
        let id = u32::from(u16::from_ne_bytes(ip.id));
        let datagram = Datagram {
            id,
            is_part: offset != 0 || more,
            is_first: offset == 0,
        };
        let l4 = Layer4 {
            at: at + ihl,
            len: total_len - ihl,
        };
        transport::<Self, P, T>(packet, tables, proto, stage, l4, datagram)
    }
}

impl ParseFamily for V6 {
    #[inline(always)]
    fn other_proto<P: Packet>(packet: &P) -> Option<Proto> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        let end = P::LINK_LEN + size_of::<Ipv6>() + usize::from(u16::from_be_bytes(ip.payload_len));
        let sound = ip.version_class_flow[0] >> 4 == 6 && end <= packet.len();
        let is_extension = matches!(ip.next[0], 0 | 43 | Ipv6Fragment::NUMBER | 51 | 60 | 135 | 139 | 140);
        let proto = Proto(ip.next[0]);
        (sound && !is_extension && !has_ports(proto)).then_some(proto)
    }

    #[inline(always)]
    fn addresses<P: Packet>(packet: &P) -> Option<(Ip6, Ip6)> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        Some((Ip6::from_wire(&ip.src), Ip6::from_wire(&ip.dst)))
    }

    #[inline(always)]
    fn parse<P: Packet, T: Tables<Self>>(packet: &P, tables: &T, stage: Stage) -> Option<Parsed<Ip6>> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        if ip.version_class_flow[0] >> 4 != 6 {
            return None;
        }
        let mut at = P::LINK_LEN + size_of::<Ipv6>();
        let end = at + usize::from(u16::from_be_bytes(ip.payload_len));
        if !packet.reaches(end) {
            return None;
        }
        let mut next = ip.next[0];
        let mut datagram = Datagram {
            id: 0,
            is_part: false,
            is_first: true,
        };
        for _ in 0..EXTENSIONS_MAX {
            match next {
                // Hop-by-hop options, routing, destination options: length in units of 8 octets without the first.
                0 | 43 | 60 => {
                    let extension = packet.header::<Ipv6Extension>(at)?;
                    next = extension.next[0];
                    at += (usize::from(extension.len[0]) + 1) * 8;
                }
                Ipv6Fragment::NUMBER => {
                    let fragment = packet.header::<Ipv6Fragment>(at)?;
                    let offset = u16::from_be_bytes(fragment.offset);
                    next = fragment.next[0];
                    at += size_of::<Ipv6Fragment>();
                    // An "atomic" fragment (RFC 6946) is a whole datagram.
                    if offset & 0xfff9 != 0 {
                        datagram = Datagram {
                            id: u32::from_ne_bytes(fragment.id),
                            is_part: true,
                            is_first: offset & 0xfff8 == 0,
                        };
                        if !datagram.is_first {
                            break;
                        }
                    }
                }
                _ => break,
            }
            if at > P::LINK_LEN + HEADERS_MAX - size_of::<Tcp>() {
                return None;
            }
        }
        let l4 = Layer4 {
            at,
            len: end.checked_sub(at)?,
        };
        transport::<Self, P, T>(packet, tables, Proto(next), stage, l4, datagram)
    }
}

/// Where the transport's header stands, and the length of the IP payload from there on.
struct Layer4 {
    at: usize,
    len: usize,
}

/// What a packet says of the datagram of which it may be a part. No option: of what is not there the compiler makes what was never
/// written, which the kernel refuses to read.
#[derive(Clone, Copy)]
struct Datagram {
    id: u32,
    is_part: bool,
    is_first: bool,
}

/// The ports of a datagram whose first fragment was translated. A function of its own in the kernel, whose stack holds
/// no more than one key of everything at a time.
#[inline(never)]
fn recall<F: Family, T: Tables<F>>(tables: &T, key: &FlowKey<F::Addr>, id: u32) -> Option<FragmentPorts> {
    tables.fragment(&FragmentKey {
        src: key.src,
        dst: key.dst,
        id,
        proto: key.proto,
        pad: 0,
        pad2: 0,
    })
}

/// Remembers the ports of a datagram for the fragments that follow.
#[inline(never)]
pub(super) fn remember<F: Family, T: Tables<F>>(tables: &T, key: &FlowKey<F::Addr>, id: u32) {
    let FlowKey {
        src,
        dst,
        sport,
        dport,
        proto,
        ..
    } = *key;
    tables.insert_fragment(
        &FragmentKey {
            src,
            dst,
            id,
            proto,
            pad: 0,
            pad2: 0,
        },
        &FragmentPorts { sport, dport },
    );
}

/// Takes back the ports that an earlier datagram of the same identification had: those of its fragments that are still
/// to come are of this one.
#[inline(never)]
pub(super) fn renew<F: Family, T: Tables<F>>(tables: &T, key: &FlowKey<F::Addr>, id: u32) {
    if recall::<F, T>(tables, key, id).is_some() {
        remember::<F, T>(tables, key, id);
    }
}

/// What the first chunk of an SCTP packet (RFC 9260 §3.2) says of the association, in TCP's words. Chunks that open or end
/// one come first, and most of them alone.
#[inline(always)]
fn first_chunk<P: Packet>(packet: &P, at: usize) -> TcpSeen {
    const INIT: u8 = 1;
    const ABORT: u8 = 6;
    const SHUTDOWN: u8 = 7;
    const SHUTDOWN_ACK: u8 = 8;
    const SHUTDOWN_COMPLETE: u8 = 14;
    // Four octets: the verifier doesn't follow a comparison for a single one.
    match packet.header::<[u8; 4]>(at) {
        Some([INIT, ..]) => TcpSeen::SYN,
        Some([ABORT | SHUTDOWN_COMPLETE, ..]) => TcpSeen::RST,
        Some([SHUTDOWN | SHUTDOWN_ACK, ..]) => TcpSeen::FIN,
        _ => TcpSeen(0),
    }
}

/// Reads addresses, ports and flags.
#[inline(always)]
fn transport<F: ParseFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &T,
    proto: Proto,
    stage: Stage,
    l4: Layer4,
    datagram: Datagram,
) -> Option<Parsed<F::Addr>> {
    if !has_ports(proto) {
        return None;
    }
    // Straight from the packet into the key: the kernel's stack has no room for another copy.
    let (src, dst) = F::addresses(packet)?;
    let mut key = FlowKey::new(src, Port::default(), dst, Port::default(), proto).at(stage);
    let has_l4 = datagram.is_first;
    let mut tcp = TcpSeen(0);
    if !has_l4 {
        let ports = recall::<F, T>(tables, &key, datagram.id)?;
        key.sport = ports.sport;
        key.dport = ports.dport;
    } else {
        let least = if proto == Proto::TCP {
            tcp = TcpSeen(packet.header::<Tcp>(l4.at)?.flags[0]);
            size_of::<Tcp>()
        } else if proto == Proto::SCTP {
            tcp = first_chunk(packet, l4.at + size_of::<Sctp>());
            size_of::<Sctp>()
        } else {
            size_of::<Udp>()
        };
        // What lies behind the end that the IP header tells is padding, and no part of a header.
        if l4.len < least {
            return None;
        }
        let ports = packet.header::<Ports>(l4.at)?;
        key.sport = Port { octets: ports.src };
        key.dport = Port { octets: ports.dst };
    }
    Some(Parsed {
        key,
        l4: l4.at,
        l4_len: l4.len,
        tcp,
        has_l4,
        fragment: datagram.is_part.then_some(datagram.id),
    })
}
