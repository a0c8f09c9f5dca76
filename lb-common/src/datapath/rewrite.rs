//! Changing a packet as a flow entry says: addresses, ports, checksums, and nothing else.

use super::{
    checksum,
    header::{Ipv4, Ipv6, Ports, Sctp, Tcp, Udp},
    packet::{ChecksumChange, Packet},
    parse::Parsed,
};
use crate::layout::{Address, Family, FlowKey, Ip4, Ip6, Proto, Rewrite, V4, V6};

/// What a family's header needs.
pub trait RewriteFamily: Family {
    /// Writes the addresses into the IP header at `at`, and brings IPv4's header checksum up to date with what they
    /// add to a sum.
    fn put_addresses<P: Packet>(packet: &mut P, at: usize, src: &Self::Addr, dst: &Self::Addr, delta: u16) -> bool;
    /// Whether it is IPv6.
    const IPV6: bool;
}

impl RewriteFamily for V4 {
    const IPV6: bool = false;

    #[inline(always)]
    fn put_addresses<P: Packet>(packet: &mut P, at: usize, src: &Ip4, dst: &Ip4, delta: u16) -> bool {
        let Some(ip) = packet.header_mut::<Ipv4>(at) else {
            return false;
        };
        let sum = checksum::updated(u16::from_ne_bytes(ip.checksum), delta.into());
        ip.checksum = sum.to_ne_bytes();
        src.write_to(&mut ip.src);
        dst.write_to(&mut ip.dst);
        true
    }
}

impl RewriteFamily for V6 {
    const IPV6: bool = true;

    #[inline(always)]
    fn put_addresses<P: Packet>(packet: &mut P, at: usize, src: &Ip6, dst: &Ip6, _delta: u16) -> bool {
        let Some(ip) = packet.header_mut::<Ipv6>(at) else {
            return false;
        };
        src.write_to(&mut ip.src);
        dst.write_to(&mut ip.dst);
        true
    }
}

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = size_of::<Tcp>() - 4;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: usize = size_of::<Udp>() - 2;

/// Writes the new tuple. False if the kernel refused; the packet is then not fit to be sent.
#[inline(always)]
pub(super) fn apply<F: RewriteFamily, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<F::Addr>,
    rewrite: &Rewrite<F::Addr>,
) -> bool {
    if !F::put_addresses(packet, P::LINK_LEN, &rewrite.src, &rewrite.dst, rewrite.address_delta) {
        return false;
    }
    if !parsed.has_l4 {
        return true;
    }
    let ports = Ports {
        src: rewrite.sport.octets,
        dst: rewrite.dport.octets,
    };
    if !packet.store(parsed.l4, &ports) {
        return false;
    }
    if parsed.key.proto == Proto::SCTP {
        return follow_sctp_checksum::<F, P>(packet, parsed, &ports);
    }
    let udp = parsed.key.proto == Proto::UDP;
    let change = ChecksumChange {
        address_delta: rewrite.address_delta,
        port_delta: rewrite.port_delta,
        zero_is_none: udp,
        ipv6: F::IPV6,
    };
    packet.update_checksum(parsed.l4 + if udp { UDP_CHECKSUM } else { TCP_CHECKSUM }, change)
}

/// Brings an SCTP checksum up to date. It doesn't cover the addresses. Zero stands there as long as the checksum is still
/// to be made, by the card or when the packet leaves (`CHECKSUM_PARTIAL`, `skb_crc32c_csum_help`); then it stays.
#[inline(always)]
fn follow_sctp_checksum<F: RewriteFamily, P: Packet>(packet: &mut P, parsed: &Parsed<F::Addr>, new: &Ports) -> bool {
    let [a, b] = parsed.key.sport.octets;
    let [c, d] = parsed.key.dport.octets;
    let [e, f] = new.src;
    let [g, h] = new.dst;
    let change = u32::from_ne_bytes([a, b, c, d]) ^ u32::from_ne_bytes([e, f, g, h]);
    if change == 0 {
        return true;
    }
    let following = (parsed.l4_len - size_of::<Ports>()) as u32;
    let added = packet.crc32c_change(change, following);
    let Some(sctp) = packet.header_mut::<Sctp>(parsed.l4) else {
        return false;
    };
    let old = u32::from_ne_bytes(sctp.checksum);
    if old != 0 {
        sctp.checksum = (old ^ added).to_ne_bytes();
    }
    true
}

/// Sum over an address.
#[inline(always)]
pub(super) fn sum_of<A: Address>(address: &A) -> u64 {
    let mut sum = 0;
    let mut index = 0;
    while index < A::WORDS {
        sum += u64::from(address.word(index));
        index += 1;
    }
    sum
}

/// Sum over the two addresses of a tuple.
#[inline(always)]
pub(super) fn address_sum<A: Address>(src: &A, dst: &A) -> u64 {
    sum_of(src) + sum_of(dst)
}

/// What turning packets of `old` into packets of `new` does to the sums over addresses and over ports.
#[inline(always)]
pub(super) fn deltas<A: Address>(old: &FlowKey<A>, new: &FlowKey<A>) -> (u16, u16) {
    let ports = |key: &FlowKey<A>| u64::from(key.sport.raw()) + u64::from(key.dport.raw());
    (
        checksum::difference(address_sum(&old.src, &old.dst), address_sum(&new.src, &new.dst)),
        checksum::difference(ports(old), ports(new)),
    )
}
