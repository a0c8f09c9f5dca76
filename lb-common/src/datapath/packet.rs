//! What the decisions need of a packet. The kernel programs implement it on packet memory, the host on a byte vector.

use super::{crc32c, header::Header};

/// How a TCP or UDP checksum has to follow a rewrite.
#[derive(Clone, Copy, Debug)]
pub struct ChecksumChange {
    /// Change of the sum over the addresses, which are part of the pseudo header. A partial checksum (one that the
    /// device or the receiver's stack completes) covers these words only.
    pub address_delta: u16,
    /// Change of the sum over the ports.
    pub port_delta: u16,
    /// UDP: a field of zero says that there is no checksum, and a result of zero is sent as 0xffff (RFC 768).
    pub zero_is_none: bool,
    /// The pseudo header is IPv6's: the IP header has no checksum of its own that would cancel the change out of a
    /// sum that hardware took over the whole packet.
    pub ipv6: bool,
}

/// A frame in memory. Offsets count from its first octet.
///
/// Every `&mut` method may move the packet: no reference into it survives, which the borrow checker sees to.
pub trait Packet {
    /// Length of the link header: 14 for Ethernet, 0 for devices without one.
    const LINK_LEN: usize;

    /// Length of the frame.
    fn len(&self) -> usize;

    /// Whether the frame has no octets.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many octets of it can be read in place.
    fn linear_len(&self) -> usize;

    /// Whether the frame has so many octets: what asking for its length is for, where that costs more.
    #[inline(always)]
    fn reaches(&self, len: usize) -> bool {
        len <= self.len()
    }

    /// Whether so many octets of the frame can be read in place.
    #[inline(always)]
    fn has_in_place(&self, len: usize) -> bool {
        len <= self.linear_len()
    }

    /// Makes the first `len` octets readable in place, if it can.
    fn pull(&mut self, len: usize) -> bool;

    /// The header at `at`, if the packet reaches that far.
    fn header<H: Header>(&self, at: usize) -> Option<&H>;

    /// The same to be written to.
    fn header_mut<H: Header>(&mut self, at: usize) -> Option<&mut H>;

    /// Writes a header at `at`. False if the packet doesn't reach that far.
    #[inline(always)]
    fn store<H: Header>(&mut self, at: usize, header: &H) -> bool {
        match self.header_mut(at) {
            Some(place) => {
                *place = *header;
                true
            }
            None => false,
        }
    }

    /// Brings the TCP or UDP checksum at `at` up to date.
    fn update_checksum(&mut self, at: usize, change: ChecksumChange) -> bool;

    /// What a change of four octets, with so many following, does to an SCTP checksum. The kernel programs put it into a
    /// function of its own.
    #[inline(always)]
    fn crc32c_change(&self, change: u32, following: u32) -> u32 {
        crc32c::of_change(change, following)
    }

    /// Octets of payload in each of the packets to which the device or the stack cuts this one (GSO); 0 if it is one.
    fn segment_payload(&self) -> usize;

    /// Makes room for so many octets of headers of a tunnel in front of the IP header, for [`wrap`](super::tunnel) to write them.
    fn wrap(&mut self, len: usize) -> bool;

    /// Takes so many octets of headers of a tunnel away from in front of the inner IP header.
    fn unwrap(&mut self, len: usize) -> bool;

    /// Cuts the frame to `len` octets.
    fn shrink_to(&mut self, len: usize) -> bool;

    /// Inserts `len` octets between link header and IP header; what they hold is undefined.
    fn insert_after_link(&mut self, len: usize) -> bool;
}
