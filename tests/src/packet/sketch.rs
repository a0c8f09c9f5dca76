//! What a packet is to look like, said in few words and without an address family: `tcp("client:40000 > web:80").syn()`.
//! All that is not said has a value that is neither zero nor one, so that a row shows when something is overwritten.

use super::{encode::MAC_TO, tunnel::Tunnel};

/// A description of a packet; [`encode`](super::encode::encode) makes octets of it.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// `client:40000 > web:80`; for protocols without ports `client > web`.
    pub tuple: String,
    /// What is inside IP.
    pub layer4: Layer4,
    /// What is inside that.
    pub payload: Vec<u8>,
    /// The packet that an ICMP error quotes in front of that, and how many octets of it.
    pub quote: Option<(Box<Sketch>, usize)>,
    /// Congestion bits (RFC 3168 §5).
    pub congestion: u8,
    /// TCP options, a multiple of four octets.
    pub tcp_options: Vec<u8>,
    /// The tunnel that it is in.
    pub tunnel: Option<Tunnel>,
    /// VLAN tags between the link header's addresses and its type: EtherType and control information of each.
    pub tags: Vec<(u16, u16)>,
    /// The link address that the frame is for.
    pub to_link: [u8; 6],
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Another EtherType than the family's.
    pub ethertype: Option<u16>,
    /// 32-bit words of IPv4 options.
    pub options: usize,
    /// IPv6 extension headers, in order.
    pub extensions: Vec<Extension>,
    /// The part of the datagram that this packet carries.
    pub fragment: Option<Fragment>,
    /// How the checksum of TCP, UDP or ICMP comes about.
    pub checksum: Checksum,
    /// What the IP header says of its length, if it is not the truth.
    pub says_len: Option<u16>,
    /// Octets after the IP packet, as Ethernet adds to short frames.
    pub padding: usize,
    /// How many octets the frame is cut to.
    pub cut: Option<usize>,
    /// Octets that are overwritten in the end; offsets count from the IP header.
    pub patches: Vec<(usize, Vec<u8>)>,
}

/// What is inside IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer4 {
    /// TCP with these flags, or UDP: as the row's variant says.
    Any(u8),
    /// TCP with these flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 of this type and code.
    Icmp(u8, u8),
    /// SCTP with a chunk of this type.
    Sctp(u8),
    /// Another protocol, whose octets look like ports.
    Other(u8),
}

/// An IPv6 extension header and its length in octets, a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// Hop-by-hop options.
    HopByHop(usize),
    /// Routing, with no segments left.
    Routing(usize),
    /// Destination options.
    Destination(usize),
    /// A fragment header on a datagram that is not in fragments (RFC 6946).
    AtomicFragment,
    /// Authentication, which Sluice does not look behind.
    Authentication,
}

/// A part of a datagram; offsets count from where the datagram's own header begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset of the first octet, a multiple of 8.
    pub from: usize,
    /// Offset behind the last octet. The more-fragments bit is set when the datagram is longer.
    pub to: usize,
}

/// How a checksum comes about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// It is right.
    Right,
    /// It is right plus this: wrong, and as wrong after a translation as before.
    OffBy(u16),
    /// Zero: UDP without a checksum.
    None,
    /// The sum over the pseudo header, which somebody else completes.
    Partial,
}

/// Acknowledges the peer.
pub const ACK: u8 = 0x10;
/// Pushes data.
pub const PSH: u8 = 0x08;
/// Opens a connection.
pub const SYN: u8 = 0x02;
/// Ends this direction.
pub const FIN: u8 = 0x01;
/// Aborts the connection.
pub const RST: u8 = 0x04;

fn sketch(tuple: &str, layer4: Layer4) -> Sketch {
    Sketch {
        tuple: tuple.to_owned(),
        layer4,
        payload: b"GET /hello".to_vec(),
        quote: None,
        congestion: 0,
        tcp_options: Vec::new(),
        tunnel: None,
        tags: Vec::new(),
        to_link: MAC_TO,
        hops: 61,
        ethertype: None,
        options: 0,
        extensions: Vec::new(),
        fragment: None,
        checksum: Checksum::Right,
        says_len: None,
        padding: 0,
        cut: None,
        patches: Vec::new(),
    }
}

/// A TCP segment or a UDP datagram, as the row's variant says. TCP: with data, in the middle of a connection.
#[must_use]
pub fn any(tuple: &str) -> Sketch {
    sketch(tuple, Layer4::Any(ACK | PSH))
}

/// A TCP segment with data, in the middle of a connection.
#[must_use]
pub fn tcp(tuple: &str) -> Sketch {
    sketch(tuple, Layer4::Tcp(ACK | PSH))
}

/// A UDP datagram.
#[must_use]
pub fn udp(tuple: &str) -> Sketch {
    sketch(tuple, Layer4::Udp)
}

/// An ICMP or ICMPv6 message.
#[must_use]
pub fn icmp(tuple: &str, kind: u8, code: u8) -> Sketch {
    sketch(tuple, Layer4::Icmp(kind, code))
}

/// SCTP's data chunk.
pub const DATA: u8 = 0;
/// SCTP's chunk that opens an association.
pub const INIT: u8 = 1;
/// SCTP's chunk that aborts an association.
pub const ABORT: u8 = 6;

/// An SCTP packet with a chunk of this type.
#[must_use]
pub fn sctp(tuple: &str, chunk: u8) -> Sketch {
    sketch(tuple, Layer4::Sctp(chunk))
}

/// Another protocol than TCP, UDP, SCTP and ICMP.
#[must_use]
pub fn other(tuple: &str, proto: u8) -> Sketch {
    sketch(tuple, Layer4::Other(proto))
}

impl Sketch {
    /// TCP flags; nothing for UDP. A segment that opens, ends or aborts carries no data.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        match &mut self.layer4 {
            Layer4::Any(old) | Layer4::Tcp(old) => *old = flags,
            Layer4::Udp | Layer4::Sctp(_) | Layer4::Icmp(..) | Layer4::Other(_) => {}
        }
        self
    }

    /// Opens a connection.
    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(SYN)
    }

    /// Accepts a connection.
    #[must_use]
    pub fn syn_ack(self) -> Self {
        self.flags(SYN | ACK)
    }

    /// Ends a direction.
    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(FIN | ACK)
    }

    /// Aborts.
    #[must_use]
    pub fn rst(self) -> Self {
        self.flags(RST)
    }

    /// With this payload.
    #[must_use]
    pub fn says(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With so many hops left.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// In a frame to this link address.
    #[must_use]
    pub fn framed_to(mut self, link: [u8; 6]) -> Self {
        self.to_link = link;
        self
    }

    /// With so many octets of payload, none like its neighbour.
    #[must_use]
    pub fn sized(mut self, len: usize) -> Self {
        self.payload = (0..len).map(|at| (at % 251) as u8 ^ (at >> 8) as u8).collect();
        self
    }

    /// An ICMP error that quotes this packet, or the first octets of it.
    #[must_use]
    pub fn quoting(mut self, quoted: Self, octets_max: usize) -> Self {
        self.payload.clear();
        self.quote = Some((Box::new(quoted), octets_max));
        self
    }

    /// The same error about the same packet between others.
    #[must_use]
    pub fn quoted_between(mut self, tuple: &str) -> Self {
        if let Some((quoted, _)) = &mut self.quote {
            **quoted = quoted.between(tuple);
        }
        self
    }

    /// With these congestion bits.
    #[must_use]
    pub fn congestion(mut self, bits: u8) -> Self {
        self.congestion = bits;
        self
    }

    /// A SYN that says how large segments may be, behind so many options without meaning.
    #[must_use]
    pub fn mss(mut self, octets: u16, behind: usize) -> Self {
        let [high, low] = octets.to_be_bytes();
        self.tcp_options = vec![1; behind];
        self.tcp_options.extend([2, 4, high, low]);
        self.tcp_options.resize(self.tcp_options.len().next_multiple_of(4), 0);
        self
    }

    /// In a tunnel.
    #[must_use]
    pub fn inside(mut self, tunnel: Tunnel) -> Self {
        self.tunnel = Some(tunnel);
        self
    }

    /// With one more VLAN tag, inside of those that it has: priority and identifier.
    #[must_use]
    pub fn vlan(mut self, control: u16) -> Self {
        self.tags.push((0x8100, control));
        self
    }

    /// The same with a service provider's tag (802.1ad).
    #[must_use]
    pub fn service_vlan(mut self, control: u16) -> Self {
        self.tags.push((0x88a8, control));
        self
    }

    /// With these VLAN tags and no other.
    #[must_use]
    pub fn tagged(mut self, tags: &[(u16, u16)]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// With another EtherType.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// With so many 32-bit words of IPv4 options.
    #[must_use]
    pub fn options(mut self, words: usize) -> Self {
        self.options = words;
        self
    }

    /// With these IPv6 extension headers.
    #[must_use]
    pub fn extensions(mut self, extensions: &[Extension]) -> Self {
        self.extensions = extensions.to_vec();
        self
    }

    /// Only this part of the datagram.
    #[must_use]
    pub fn fragment(mut self, id: u32, from: usize, to: usize) -> Self {
        self.fragment = Some(Fragment { id, from, to });
        self
    }

    /// With another checksum than the right one.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// The IP header says that the packet (IPv4) or what follows the header (IPv6) is so long.
    #[must_use]
    pub fn says_len(mut self, len: u16) -> Self {
        self.says_len = Some(len);
        self
    }

    /// With octets behind the IP packet.
    #[must_use]
    pub fn padded(mut self, len: usize) -> Self {
        self.padding = len;
        self
    }

    /// Cut to this length, link header included if there is one.
    #[must_use]
    pub fn cut(mut self, len: usize) -> Self {
        self.cut = Some(len);
        self
    }

    /// With these octets instead, counted from the IP header; checksums stay as they were.
    #[must_use]
    pub fn patch(mut self, at: usize, octets: &[u8]) -> Self {
        self.patches.push((at, octets.to_vec()));
        self
    }

    /// The same packet between others.
    #[must_use]
    pub fn between(&self, tuple: &str) -> Self {
        Self {
            tuple: tuple.to_owned(),
            ..self.clone()
        }
    }
}
