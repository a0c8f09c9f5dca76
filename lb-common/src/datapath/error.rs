//! ICMP errors about translated packets (RFC 792, RFC 4443 §3; RFC 5508 §4 for address translators): what they quote,
//! and where they go, is translated back, so that the sender of the quoted packet knows its own packet again.
//!
//! ```text
//! the quoted packet travelled          client:p   -> backend:8080      as translated at ingress
//! its replies travel                   backend:8080 -> client:p        reply entry: source := frontend:80
//! the error travels as they do         router     -> client            quoting client:p -> backend:8080
//! it leaves towards the client as      router     -> client            quoting client:p -> frontend:80
//! ```
//!
//! One rule serves both directions and every hook: the entry for packets that travel the error's way says it all.
//! Checksums need no helper: the sum over an ICMP message is the same before and after, and ICMP is never partial.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    checksum::{self, negate, updated},
    follow::done,
    header::{IcmpHead, Ipv4, Ipv6, Ipv6Fragment, Ports, Tcp, Udp},
    packet::Packet,
    parse::{ParseFamily, has_ports},
    rewrite::{RewriteFamily, sum_of},
    verdict::{Hook, Verdict},
    world::{Tables, World},
};
use crate::layout::{Counter, FlowFlags, Ip4, Ip6, Proto, V4, V6};

/// What an ICMP message is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quoted {
    /// Nothing of ours.
    Stranger,
    /// A flow that is whole: with the desk's `old` tuple, which is to be split first.
    Whole,
    /// A flow: it is translated back, and this becomes of it.
    Known(Verdict),
}

/// Where things stand in an error.
pub struct Quote {
    /// The ICMP header.
    icmp: usize,
    /// The quoted IP header.
    ip: usize,
    /// The quoted ports.
    l4: usize,
    /// TCP, UDP or SCTP.
    proto: Proto,
    /// Behind the last octet of the packet.
    end: usize,
}

/// What each family's errors look like.
pub trait ErrorFamily: ParseFamily + RewriteFamily {
    /// Whether the packet is an ICMP message of this family.
    fn is_icmp<P: Packet>(packet: &P) -> bool;
    /// Whether an ICMP message of this family is an error, about which no error is ever sent (RFC 1122 §3.2.2, RFC 4443 §2.4);
    /// one that is cut off counts as one.
    fn is_error<P: Packet>(packet: &P) -> bool;
    /// Copies source and destination out of the IP header at `at`.
    fn copy_addresses<P: Packet>(packet: &P, at: usize, src: &mut Self::Addr, dst: &mut Self::Addr) -> Option<()>;
    /// Where things stand, if it is an error about a whole or first fragment of TCP, UDP or SCTP.
    fn quote<P: Packet>(packet: &P) -> Option<Quote>;
}

impl ErrorFamily for V4 {
    #[inline(always)]
    fn copy_addresses<P: Packet>(packet: &P, at: usize, src: &mut Ip4, dst: &mut Ip4) -> Option<()> {
        let ip = packet.header::<Ipv4>(at)?;
        *src = Ip4::from_wire(&ip.src);
        *dst = Ip4::from_wire(&ip.dst);
        Some(())
    }

    #[inline(always)]
    fn is_icmp<P: Packet>(packet: &P) -> bool {
        packet
            .header::<Ipv4>(P::LINK_LEN)
            .is_some_and(|ip| ip.proto[0] == Proto::ICMP.0)
    }

    #[inline(always)]
    fn is_error<P: Packet>(packet: &P) -> bool {
        let Some(ip) = packet.header::<Ipv4>(P::LINK_LEN) else {
            return false;
        };
        let ihl = usize::from(ip.version_ihl[0] & 0x0f) * 4;
        if usize::from(u16::from_be_bytes(ip.total_len)) < ihl + size_of::<IcmpHead>() {
            return true;
        }
        let icmp = P::LINK_LEN + ihl;
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        packet
            .header::<IcmpHead>(icmp)
            .is_none_or(|icmp| matches!(icmp.kind[0], 3 | 4 | 5 | 11 | 12))
    }

    #[inline(always)]
    fn quote<P: Packet>(packet: &P) -> Option<Quote> {
        let ip = packet.header::<Ipv4>(P::LINK_LEN)?;
        let ihl = usize::from(ip.version_ihl[0] & 0x0f) * 4;
        let end = P::LINK_LEN + usize::from(u16::from_be_bytes(ip.total_len));
        // Neither more fragments nor a fragment offset.
        let whole = u16::from_be_bytes(ip.fragment) & 0x3fff == 0;
        if ip.version_ihl[0] >> 4 != 4 || ihl < size_of::<Ipv4>() || !whole || end > packet.len() {
            return None;
        }
        let icmp = P::LINK_LEN + ihl;
        let kind = packet.header::<IcmpHead>(icmp)?.kind[0];
        // Destination unreachable, time exceeded, parameter problem.
        if kind != 3 && kind != 11 && kind != 12 {
            return None;
        }
        let inner_at = icmp + size_of::<IcmpHead>();
        let inner = packet.header::<Ipv4>(inner_at)?;
        let inner_ihl = usize::from(inner.version_ihl[0] & 0x0f) * 4;
        let proto = Proto(inner.proto[0]);
        let has_ports = has_ports(proto) && u16::from_be_bytes(inner.fragment) & 0x1fff == 0;
        if inner.version_ihl[0] >> 4 != 4 || inner_ihl < size_of::<Ipv4>() || !has_ports {
            return None;
        }
        Some(Quote {
            icmp,
            ip: inner_at,
            l4: inner_at + inner_ihl,
            proto,
            end,
        })
    }
}

impl ErrorFamily for V6 {
    #[inline(always)]
    fn copy_addresses<P: Packet>(packet: &P, at: usize, src: &mut Ip6, dst: &mut Ip6) -> Option<()> {
        let ip = packet.header::<Ipv6>(at)?;
        *src = Ip6::from_wire(&ip.src);
        *dst = Ip6::from_wire(&ip.dst);
        Some(())
    }

    #[inline(always)]
    fn is_icmp<P: Packet>(packet: &P) -> bool {
        packet
            .header::<Ipv6>(P::LINK_LEN)
            .is_some_and(|ip| ip.next[0] == Proto::ICMPV6.0)
    }

    #[inline(always)]
    fn is_error<P: Packet>(packet: &P) -> bool {
        let is_cut_off = packet
            .header::<Ipv6>(P::LINK_LEN)
            .is_none_or(|ip| usize::from(u16::from_be_bytes(ip.payload_len)) < size_of::<IcmpHead>());
        let icmp = P::LINK_LEN + size_of::<Ipv6>();
        is_cut_off || packet.header::<IcmpHead>(icmp).is_none_or(|icmp| icmp.kind[0] < 128)
    }

    #[inline(always)]
    fn quote<P: Packet>(packet: &P) -> Option<Quote> {
        let ip = packet.header::<Ipv6>(P::LINK_LEN)?;
        let icmp = P::LINK_LEN + size_of::<Ipv6>();
        let end = icmp + usize::from(u16::from_be_bytes(ip.payload_len));
        if ip.version_class_flow[0] >> 4 != 6 || end > packet.len() {
            return None;
        }
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        let kind = packet.header::<IcmpHead>(icmp)?.kind[0];
        if kind == 0 || kind > 4 {
            return None;
        }
        let inner_at = icmp + size_of::<IcmpHead>();
        let inner = packet.header::<Ipv6>(inner_at)?;
        let (mut proto, mut l4) = (Proto(inner.next[0]), inner_at + size_of::<Ipv6>());
        if inner.version_class_flow[0] >> 4 != 6 {
            return None;
        }
        // A datagram that was too big in one piece may be too big in pieces, too.
        if proto.0 == Ipv6Fragment::NUMBER {
            let fragment = packet.header::<Ipv6Fragment>(l4)?;
            if u16::from_be_bytes(fragment.offset) & 0xfff8 != 0 {
                return None;
            }
            proto = Proto(fragment.next[0]);
            l4 += size_of::<Ipv6Fragment>();
        }
        if !has_ports(proto) {
            return None;
        }
        Some(Quote {
            icmp,
            ip: inner_at,
            l4,
            proto,
            end,
        })
    }
}

/// Translates an error back, if it is about a packet that was translated and whose replies are translated at this hook.
#[inline(always)]
pub(super) fn translate_back<F: ErrorFamily, P: Packet, W: World + Tables<F>>(
    packet: &mut P,
    world: &W,
    hook: Hook,
) -> Option<Quoted> {
    let quote = F::quote(packet)?;
    if quote.l4 + size_of::<Ports>() > quote.end {
        return None;
    }
    // All on the desk: the kernel's stack has no room for six IPv6 addresses.
    let mut desk = world.desk()?;
    let desk = &mut *desk;
    let (outer, inner, rewrite) = (&mut desk.new, &mut desk.old, &mut desk.rewrite);
    F::copy_addresses(packet, P::LINK_LEN, &mut outer.src, &mut outer.dst)?;
    // The tuple of packets that travel as the error does.
    F::copy_addresses(packet, quote.ip, &mut inner.dst, &mut inner.src)?;
    // An error goes to the sender of what it quotes.
    if outer.dst != inner.dst {
        return None;
    }
    let ports = packet.header::<Ports>(quote.l4)?;
    inner.sport.octets = ports.dst;
    inner.dport.octets = ports.src;
    inner.proto = quote.proto;
    (inner.stage, inner.pad) = (hook.stage(), 0);
    forget();
    let flags = {
        let flow = world.flow(inner)?;
        *rewrite = flow.rewrite();
        let flags = flow.flags;
        // As for every other packet: what was recycled meanwhile is noticed.
        compiler_fence(Ordering::SeqCst);
        let is_unchanged = flags.has(FlowFlags::DIRECT) && rewrite.sport == inner.sport && rewrite.dport == inner.dport;
        if flow.check != inner.check() || is_unchanged {
            return None;
        }
        flags
    };
    forget();
    if flags.has(FlowFlags::WHOLE) {
        return Some(Quoted::Whole);
    }
    if flags.has(FlowFlags::TUNNELS) {
        // The other node translates it back; it goes there as its flow does.
        return Some(Quoted::Known(Verdict::Tunnel));
    }
    // The peer itself says it, or somebody on the way. Where packets of the flow get another source, that goes for errors about them,
    // too, whoever sends them, as it does in netfilter: a router that is on the client's side as well would drop what has its own
    // address.
    let from_peer = outer.src == inner.src;
    let outer_delta = if from_peer {
        outer.src = rewrite.src;
        rewrite.address_delta
    } else {
        let before = checksum::fold(sum_of(&outer.src) + sum_of(&outer.dst));
        if rewrite.src != inner.src && !flags.has(FlowFlags::HOST_CLIENT) {
            outer.src = rewrite.src;
        }
        forget();
        checksum::difference(before.into(), sum_of(&outer.src) + sum_of(&rewrite.dst))
    };
    forget();
    if !F::put_addresses(packet, P::LINK_LEN, &outer.src, &rewrite.dst, outer_delta)
        || !F::put_addresses(packet, quote.ip, &rewrite.dst, &rewrite.src, rewrite.address_delta)
    {
        return None;
    }
    let ports = packet.header_mut::<Ports>(quote.l4)?;
    ports.src = rewrite.dport.octets;
    ports.dst = rewrite.sport.octets;
    let added = u64::from(rewrite.address_delta) + u64::from(rewrite.port_delta);
    let followed = follow_quoted_checksum(packet, &quote, added);
    let icmp = packet.header_mut::<IcmpHead>(quote.icmp)?;
    // A quoted header checksum (IPv4) and a quoted transport checksum take back what addresses and ports add.
    // IPv6's pseudo header has the error's own addresses.
    let addresses = if F::IPV6 {
        outer_delta
    } else {
        negate(rewrite.address_delta)
    };
    let mut delta = added + u64::from(addresses);
    if followed {
        delta += u64::from(negate(checksum::fold(added)));
    }
    icmp.checksum = updated(u16::from_ne_bytes(icmp.checksum), delta).to_ne_bytes();
    world.count(Counter::ErrorsTranslated);
    Some(Quoted::Known(match done(flags) {
        Verdict::Deliver if !from_peer => Verdict::Pass,
        done => done,
    }))
}

/// What lies on the desk is read again behind this, instead of being kept on the stack.
#[inline(always)]
fn forget() {
    compiler_fence(Ordering::SeqCst);
}

/// Brings the quoted TCP or UDP checksum up to date, if so much is quoted and there is one.
#[inline(always)]
fn follow_quoted_checksum<P: Packet>(packet: &mut P, quote: &Quote, delta: u64) -> bool {
    if quote.proto == Proto::UDP {
        if quote.l4 + size_of::<Udp>() > quote.end {
            return false;
        }
        let Some(udp) = packet.header_mut::<Udp>(quote.l4) else {
            return false;
        };
        let old = u16::from_ne_bytes(udp.checksum);
        if old == 0 {
            return false;
        }
        udp.checksum = match updated(old, delta) {
            0 => [0xff, 0xff],
            new => new.to_ne_bytes(),
        };
        return true;
    }
    // SCTP's covers what isn't quoted.
    if quote.proto != Proto::TCP || quote.l4 + size_of::<Tcp>() > quote.end {
        return false;
    }
    let Some(tcp) = packet.header_mut::<Tcp>(quote.l4) else {
        return false;
    };
    tcp.checksum = updated(u16::from_ne_bytes(tcp.checksum), delta).to_ne_bytes();
    true
}
