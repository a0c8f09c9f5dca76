//! A packet in memory, with the kernel's own semantics of the helpers that the programs use: written from the kernel's
//! sources, not from `lb-ebpf`, so that the two can be compared.

use lb_common::datapath::{ChecksumChange, Header, Packet, Tagged};

/// What carries the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// A socket buffer, whose checksum field holds a whole checksum (or none).
    Skb,
    /// A socket buffer of `CHECKSUM_PARTIAL`: the field holds the sum over the pseudo header, not complemented, and a
    /// device or nobody adds the rest.
    SkbPartial,
    /// An XDP buffer: no helpers, only memory.
    Xdp,
}

/// What drivers leave in front of a frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// A packet in memory with a link header of `LINK` octets.
#[derive(Clone, Debug)]
pub struct HostPacket<const LINK: usize> {
    /// The frame.
    pub octets: Vec<u8>,
    /// How many of them can be read in place.
    pub linear: usize,
    /// What carries it.
    pub carrier: Carrier,
    /// How many more writes by helpers the kernel will do before it has no memory left.
    pub writes_left: usize,
    /// How many octets of tags its offsets count from behind.
    pub tags_len: usize,
    /// How many octets there are in front of it.
    pub headroom: usize,
}

impl<const LINK: usize> HostPacket<LINK> {
    /// All of it readable in place, and memory without end.
    #[must_use]
    pub fn new(octets: &[u8], carrier: Carrier) -> Self {
        Self {
            octets: octets.to_vec(),
            linear: octets.len(),
            carrier,
            writes_left: usize::MAX,
            tags_len: 0,
            headroom: HEADROOM,
        }
    }

    /// Makes octets writable, which reads them into place.
    fn writable(&mut self, len: usize) -> bool {
        if self.writes_left == 0 || len > self.octets.len() {
            return false;
        }
        self.writes_left -= 1;
        self.linear = self.linear.max(len);
        true
    }

    /// `bpf_l4_csum_replace` with a difference instead of two values.
    fn replace_checksum(&mut self, at: usize, delta: u16, pseudo_header: bool, zero_is_none: bool) -> bool {
        if !self.writable(at + 2) {
            return false;
        }
        let field = &mut self.octets[at..at + 2];
        let old = u32::from(u16::from_ne_bytes([field[0], field[1]]));
        if zero_is_none && old == 0 {
            return true;
        }
        let mut new = match self.carrier {
            // The complement of the sum over the complement (RFC 1624, equation 3).
            Carrier::Skb | Carrier::Xdp => !fold(u32::from(!(old as u16)) + u32::from(delta)),
            // The field is a plain sum, and what is behind the pseudo header is not in it.
            Carrier::SkbPartial if pseudo_header => fold(old + u32::from(delta)),
            Carrier::SkbPartial => old as u16,
        };
        if zero_is_none && new == 0 {
            new = 0xffff;
        }
        field.copy_from_slice(&new.to_ne_bytes());
        true
    }
}

/// Folds a sum of a few 16-bit words.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

impl<const LINK: usize> Packet for HostPacket<LINK> {
    const LINK_LEN: usize = LINK;

    fn len(&self) -> usize {
        self.octets.len() - self.tags_len
    }

    fn linear_len(&self) -> usize {
        self.linear.saturating_sub(self.tags_len)
    }

    fn pull(&mut self, len: usize) -> bool {
        self.carrier != Carrier::Xdp && self.writable(len)
    }

    fn header<H: Header>(&self, at: usize) -> Option<&H> {
        self.front(self.tags_len + at)
    }

    fn header_mut<H: Header>(&mut self, at: usize) -> Option<&mut H> {
        let writable = &mut self.octets[..self.linear];
        H::mut_from_prefix(writable.get_mut(self.tags_len + at..)?)
            .ok()
            .map(|(header, _)| header)
    }

    fn update_checksum(&mut self, at: usize, change: ChecksumChange) -> bool {
        let at = self.tags_len + at;
        let ChecksumChange {
            address_delta,
            port_delta,
            zero_is_none,
            ..
        } = change;
        // A difference of zero is no change, in whatever form the field holds its zero.
        (address_delta == 0 || self.replace_checksum(at, address_delta, true, zero_is_none))
            && (port_delta == 0 || self.replace_checksum(at, port_delta, false, zero_is_none))
    }

    fn segment_payload(&self) -> usize {
        0
    }

    fn wrap(&mut self, len: usize) -> bool {
        // XDP has to write the link header anew.
        if self.carrier == Carrier::Xdp {
            return self.grow(len as i32);
        }
        if !self.writable(LINK) {
            return false;
        }
        self.octets.splice(LINK..LINK, std::iter::repeat_n(0xa5, len));
        self.linear += len;
        true
    }

    fn unwrap(&mut self, len: usize) -> bool {
        if LINK + len > self.octets.len() || self.carrier != Carrier::Xdp && !self.writable(LINK + len) {
            return false;
        }
        self.octets.drain(LINK..LINK + len);
        self.linear -= len;
        true
    }

    fn shrink_to(&mut self, len: usize) -> bool {
        if self.carrier == Carrier::Xdp || len > self.octets.len() || !self.writable(self.octets.len()) {
            return false;
        }
        self.octets.truncate(len);
        self.linear = self.linear.min(len);
        true
    }

    fn insert_after_link(&mut self, len: usize) -> bool {
        if self.carrier == Carrier::Xdp || !self.writable(LINK) {
            return false;
        }
        // What the room holds is undefined: something that is no header.
        self.octets.splice(LINK..LINK, std::iter::repeat_n(0xa5, len));
        self.linear += len;
        true
    }
}

impl<const LINK: usize> Tagged for HostPacket<LINK> {
    fn begin_at(&mut self, tags_len: usize) {
        self.tags_len = tags_len;
    }

    fn front<H: Header>(&self, at: usize) -> Option<&H> {
        let readable = &self.octets[..self.linear];
        H::ref_from_prefix(readable.get(at..)?).ok().map(|(header, _)| header)
    }

    fn put_front<H: Header>(&mut self, at: usize, header: &H) -> bool {
        let writable = &mut self.octets[..self.linear];
        let place = writable.get_mut(at..).and_then(|rest| H::mut_from_prefix(rest).ok());
        place.map(|(place, _)| *place = *header).is_some()
    }

    fn grow(&mut self, by: i32) -> bool {
        match usize::try_from(by) {
            Ok(more) if more > self.headroom => return false,
            Ok(more) => {
                self.headroom -= more;
                self.octets.splice(0..0, std::iter::repeat_n(0xa5, more));
                self.linear += more;
            }
            Err(_) => {
                let less = by.unsigned_abs() as usize;
                self.headroom += less;
                self.octets.drain(..less);
                self.linear -= less;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::datapath::Ethernet;

    const CHANGE: ChecksumChange = ChecksumChange {
        address_delta: 0x1000,
        port_delta: 0x0200,
        zero_is_none: true,
        ipv6: false,
    };

    fn changed(field: u16, carrier: Carrier) -> u16 {
        let mut packet = HostPacket::<0>::new(&field.to_ne_bytes(), carrier);
        assert!(packet.update_checksum(0, CHANGE));
        u16::from_ne_bytes([packet.octets[0], packet.octets[1]])
    }

    #[test]
    fn a_whole_checksum_follows_addresses_and_ports_a_partial_one_addresses_only() {
        assert_eq!(changed(0x2345, Carrier::Skb), 0x2345 - 0x1200);
        assert_eq!(changed(0x2345, Carrier::Xdp), 0x2345 - 0x1200);
        assert_eq!(changed(0x2345, Carrier::SkbPartial), 0x2345 + 0x1000);
    }

    #[test]
    fn no_checksum_stays_none_and_none_comes_about() {
        assert_eq!(changed(0, Carrier::Skb), 0);
        assert_eq!(changed(0x1200, Carrier::Skb), 0xffff);
    }

    #[test]
    fn what_is_not_in_place_must_be_pulled_before_it_is_read() {
        let mut packet = HostPacket::<14>::new(&[7; 20], Carrier::Skb);
        packet.linear = 13;
        assert!(packet.header::<Ethernet>(0).is_none());
        assert!(!packet.pull(21) && packet.pull(14));
        assert!(packet.header::<Ethernet>(0).is_some());
        assert!(packet.header::<Ethernet>(7).is_none());
    }
}
