//! How large the segments may be that a client of TCP sends: where they come in a tunnel, the endpoint's answer to its SYN says less, so
//! that they fit (RFC 9293 §3.7.1; RFC 4821 §2 on why telling afterwards is not enough).

use core::hint::black_box;

use super::{TunnelFamily, overhead};
use crate::{
    datapath::{
        checksum,
        header::Tcp,
        packet::{ChecksumChange, Packet},
        tunnel::GUE_PORT,
    },
    layout::Family,
};

/// Octets of options in the longest TCP header.
const OPTIONS_MAX: usize = 40;
/// The option that says it, and its length.
const MSS: [u8; 2] = [2, 4];

/// Lowers what the SYN with its TCP header at `l4` says, if packets of that size would not fit into a tunnel through a link of this MTU.
/// False if the kernel refused.
#[inline(always)]
pub(in crate::datapath) fn clamp<F: TunnelFamily + Family, P: Packet>(packet: &mut P, l4: usize, mtu: u32) -> bool {
    // Of the two kinds of tunnels the larger: the other node says which it is.
    let headers = overhead::<F>(GUE_PORT) + F::HEADER_LEN + size_of::<Tcp>();
    let most = if mtu as usize > headers {
        mtu as usize - headers
    } else {
        return true;
    };
    let Some(tcp) = packet.header::<Tcp>(l4) else {
        return true;
    };
    let end = usize::from(tcp.offset[0] >> 4) * 4;
    let mut at = size_of::<Tcp>();
    let mut tries = 0;
    while tries < OPTIONS_MAX {
        tries += 1;
        // No header has more, and so the verifier finds that one round is like the other.
        at &= 0x3f;
        if at + 4 > end {
            return true;
        }
        // Hidden from the compiler: the kernel wants to see the comparison.
        let here = black_box(l4 + at);
        let Some(&[kind, len, high, low]) = packet.header::<[u8; 4]>(here) else {
            return true;
        };
        if [kind, len] == MSS {
            let said = usize::from(u16::from_be_bytes([high, low]));
            if said <= most {
                return true;
            }
            return put(packet, l4, here + 2, [high, low], (most as u16).to_be_bytes());
        }
        let is_alone = kind == 1;
        if kind == 0 || !is_alone && len < 2 || len > 0x3f {
            return true;
        }
        at += if is_alone { 1 } else { usize::from(len) };
    }
    true
}

/// Writes two octets, and brings the checksum up to date.
#[inline(always)]
fn put<P: Packet>(packet: &mut P, l4: usize, at: usize, old: [u8; 2], new: [u8; 2]) -> bool {
    // Where they stand at an odd offset, each counts in the other half of a word.
    let is_odd = (at - l4) & 1 == 1;
    let sum = |[a, b]: [u8; 2]| u64::from(u16::from_ne_bytes(if is_odd { [b, a] } else { [a, b] }));
    let change = ChecksumChange {
        address_delta: 0,
        port_delta: checksum::difference(sum(old), sum(new)),
        zero_is_none: false,
        ipv6: false,
    };
    packet.store(at, &new) && packet.update_checksum(l4 + size_of::<Tcp>() - 4, change)
}
