//! Header structures and nothing else: byte arrays in wire order, readable at any alignment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What can be read from and written to a packet.
pub trait Header: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy> Header for T {}

macro_rules! header {
    ($(#[$attr:meta])* $name:ident { $($(#[$field_attr:meta])* $field:ident: $len:literal,)* }) => {
        $(#[$attr])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        pub struct $name { $($(#[$field_attr])* pub $field: [u8; $len],)* }
    };
}

header! {
    /// Ethernet II (IEEE 802.3).
    Ethernet {
        /// Destination MAC address.
        dst: 6,
        /// Source MAC address.
        src: 6,
        /// EtherType.
        ethertype: 2,
    }
}

impl Ethernet {
    /// IPv4.
    pub const IPV4: [u8; 2] = [0x08, 0x00];
    /// IPv6.
    pub const IPV6: [u8; 2] = [0x86, 0xdd];
}

header! {
    /// IPv4 without options (RFC 791 §3.1).
    Ipv4 {
        /// Version and header length in 32-bit words.
        version_ihl: 1,
        /// Type of service.
        tos: 1,
        /// Length of the packet in octets.
        total_len: 2,
        /// Identification.
        id: 2,
        /// Flags and fragment offset in units of 8 octets.
        fragment: 2,
        /// Time to live.
        ttl: 1,
        /// Protocol.
        proto: 1,
        /// Header checksum.
        checksum: 2,
        /// Source address.
        src: 4,
        /// Destination address.
        dst: 4,
    }
}

header! {
    /// IPv6 (RFC 8200 §3).
    Ipv6 {
        /// Version, traffic class, flow label.
        version_class_flow: 4,
        /// Length of what follows this header.
        payload_len: 2,
        /// Type of the next header.
        next: 1,
        /// Hop limit.
        hop_limit: 1,
        /// Source address.
        src: 16,
        /// Destination address.
        dst: 16,
    }
}

header! {
    /// The start of every IPv6 extension header that is walked over (RFC 8200 §4.3, §4.4, §4.6; RFC 4302 §2).
    Ipv6Extension {
        /// Type of the next header.
        next: 1,
        /// Length; its unit depends on the type.
        len: 1,
    }
}

header! {
    /// IPv6 fragment header (RFC 8200 §4.5).
    Ipv6Fragment {
        /// Type of the next header.
        next: 1,
        /// Zero.
        reserved: 1,
        /// Offset in units of 8 octets, two bits of zero, more-fragments bit.
        offset: 2,
        /// Identification.
        id: 4,
    }
}

impl Ipv6Fragment {
    /// Its number as a next header.
    pub const NUMBER: u8 = 44;
}

header! {
    /// The ports, which TCP, UDP and SCTP have in the same place.
    Ports {
        /// Source port.
        src: 2,
        /// Destination port.
        dst: 2,
    }
}

header! {
    /// TCP without options (RFC 9293 §3.1).
    Tcp {
        /// Source port.
        src: 2,
        /// Destination port.
        dst: 2,
        /// Sequence number.
        seq: 4,
        /// Acknowledgement number.
        ack: 4,
        /// Data offset.
        offset: 1,
        /// Flags.
        flags: 1,
        /// Window.
        window: 2,
        /// Checksum.
        checksum: 2,
        /// Urgent pointer.
        urgent: 2,
    }
}

header! {
    /// UDP (RFC 768).
    Udp {
        /// Source port.
        src: 2,
        /// Destination port.
        dst: 2,
        /// Length of header and data.
        len: 2,
        /// Checksum; zero means none (IPv4).
        checksum: 2,
    }
}

header! {
    /// SCTP's common header (RFC 9260 §3.1).
    Sctp {
        /// Source port.
        src: 2,
        /// Destination port.
        dst: 2,
        /// Verification tag.
        tag: 4,
        /// CRC32c over the whole packet; zero while it is still to be made.
        checksum: 4,
    }
}

header! {
    /// The first eight octets of an ICMP or ICMPv6 error (RFC 792, RFC 4443 §3.1).
    IcmpHead {
        /// Type.
        kind: 1,
        /// Code.
        code: 1,
        /// Checksum.
        checksum: 2,
        /// Unused.
        rest: 4,
    }
}
