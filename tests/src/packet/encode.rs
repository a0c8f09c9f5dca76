//! From a sketch to the octets of a frame, with checksums computed whole.

use std::net::IpAddr;

use lb_common::layout::Proto;

use super::{
    names::{Tuple, Version},
    sketch::{Checksum, Extension, Layer4, Sketch},
    sums::{checksum, crc32c, fold, pseudo, sum},
};

/// The destination MAC address of every frame.
pub const MAC_TO: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
/// The source MAC address of every frame.
pub const MAC_FROM: [u8; 6] = [0x02, 0x66, 0x77, 0x88, 0x99, 0xaa];

/// Whether frames have a link header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Ethernet.
    Ethernet,
    /// None, as on tun devices.
    Bare,
}

impl Link {
    /// Length of the link header.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Ethernet => 14,
            Self::Bare => 0,
        }
    }

    /// Whether there is no link header.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What a sketch leaves open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// The family.
    pub version: Version,
    /// TCP or UDP, where the sketch allows any.
    pub proto: Proto,
    /// The kind of device.
    pub link: Link,
}

impl Layer4 {
    /// The protocol number in this variant.
    #[must_use]
    pub fn proto(self, variant: Variant) -> u8 {
        match self {
            Self::Any(_) => variant.proto.0,
            Self::Tcp(_) => Proto::TCP.0,
            Self::Udp => Proto::UDP.0,
            Self::Sctp(_) => Proto::SCTP.0,
            Self::Icmp(..) if variant.version == Version::V4 => Proto::ICMP.0,
            Self::Icmp(..) => Proto::ICMPV6.0,
            Self::Other(proto) => proto,
        }
    }
}

/// The octets of a frame.
///
/// # Panics
/// If the sketch makes no sense, for instance a fragment that ends behind its datagram.
#[must_use]
pub fn encode(sketch: &Sketch, variant: Variant) -> Vec<u8> {
    let tuple = Tuple::read(&sketch.tuple, variant.version);
    let proto = sketch.layer4.proto(variant);
    let datagram = layer4(&quoted(sketch, variant), &tuple, proto);
    let (part, more) = match sketch.fragment {
        Some(fragment) => {
            assert!(
                fragment.from.is_multiple_of(8),
                "fragments begin at multiples of 8 octets"
            );
            (&datagram[fragment.from..fragment.to], fragment.to < datagram.len())
        }
        None => (&*datagram, false),
    };
    let mut packet = match variant.version {
        Version::V4 => ipv4(sketch, &tuple, proto, part, more),
        Version::V6 => ipv6(sketch, &tuple, proto, part, more),
    };
    if let Some(tunnel) = &sketch.tunnel {
        packet = tunnel.around(&packet, variant.version);
    }
    packet.extend((0..sketch.padding).map(|at| 0xe0 | at as u8 & 0x0f));
    for (at, octets) in &sketch.patches {
        packet[*at..*at + octets.len()].copy_from_slice(octets);
    }
    let mut frame = link_header(sketch, variant);
    frame.extend(packet);
    if let Some(len) = sketch.cut {
        frame.truncate(len);
    }
    frame
}

/// The same packet with two octets of payload that make its right checksum this one.
///
/// # Panics
/// If the packet is neither TCP nor UDP.
#[must_use]
pub fn with_checksum(sketch: &Sketch, variant: Variant, wanted: u16) -> Sketch {
    let tuple = Tuple::read(&sketch.tuple, variant.version);
    let proto = sketch.layer4.proto(variant);
    let at = if proto == Proto::TCP.0 { 16 } else { 6 };
    let plain = sketch.clone().checksum(Checksum::Right);
    let zeros = layer4(&plain.clone().says(&[0, 0]), &tuple, proto);
    let without = u16::from_be_bytes([zeros[at], zeros[at + 1]]);
    let word = fold(u64::from(!wanted) + u64::from(without));
    plain.says(&word.to_be_bytes())
}

/// With what it quotes in its payload.
fn quoted(sketch: &Sketch, variant: Variant) -> Sketch {
    let mut whole = sketch.clone();
    if let Some((quoted, octets_max)) = &sketch.quote {
        let link = Link::Bare;
        let mut octets = encode(quoted, Variant { link, ..variant });
        octets.truncate(*octets_max);
        whole.payload.splice(0..0, octets);
    }
    whole
}

fn link_header(sketch: &Sketch, variant: Variant) -> Vec<u8> {
    if variant.link == Link::Bare {
        return Vec::new();
    }
    let mut header = [sketch.to_link, MAC_FROM].concat();
    for (ethertype, control) in &sketch.tags {
        header.extend(ethertype.to_be_bytes());
        header.extend(control.to_be_bytes());
    }
    let of_family = match variant.version {
        Version::V4 => 0x0800_u16,
        Version::V6 => 0x86dd,
    };
    header.extend(sketch.ethertype.unwrap_or(of_family).to_be_bytes());
    header
}

/// The whole datagram above IP.
fn layer4(sketch: &Sketch, tuple: &Tuple, proto: u8) -> Vec<u8> {
    let ports = [tuple.sport.to_be_bytes(), tuple.dport.to_be_bytes()].concat();
    let (mut octets, checksum_at) = match (proto, sketch.layer4) {
        (6, Layer4::Tcp(flags) | Layer4::Any(flags)) => {
            let mut header = ports;
            header.extend([0x3a, 0x4b, 0x5c, 0x6d, 0x7e, 0x8f, 0x90, 0xa1]);
            let words = 5 + sketch.tcp_options.len() / 4;
            header.extend([(words as u8) << 4, flags, 0x72, 0x10, 0, 0, 0, 0]);
            header.extend(&sketch.tcp_options);
            (header, 16)
        }
        (17, _) => {
            let mut header = ports;
            header.extend((8 + sketch.payload.len() as u16).to_be_bytes());
            header.extend([0, 0]);
            (header, 6)
        }
        (132, Layer4::Sctp(chunk)) => return sctp_packet(sketch, ports, chunk),
        (_, Layer4::Icmp(kind, code)) => (vec![kind, code, 0, 0, 0x12, 0x34, 0x56, 0x78], 2),
        _ => (ports, usize::MAX),
    };
    octets.extend(&sketch.payload);
    if checksum_at == usize::MAX {
        return octets;
    }
    // ICMP for IPv4 is the one without a pseudo header.
    let head = if proto == Proto::ICMP.0 {
        0
    } else {
        pseudo(tuple.src, tuple.dst, proto, octets.len())
    };
    let right = match checksum(head + sum(&octets)) {
        0 if proto == Proto::UDP.0 => 0xffff,
        right => right,
    };
    let field = match sketch.checksum {
        Checksum::Right => right,
        Checksum::None => 0,
        Checksum::Partial => fold(head),
        Checksum::OffBy(error) => match fold(u64::from(right) + u64::from(error)) {
            0xffff if proto != Proto::UDP.0 => 0,
            field => field,
        },
    };
    octets[checksum_at..checksum_at + 2].copy_from_slice(&field.to_be_bytes());
    octets
}

/// A common header and one chunk.
fn sctp_packet(sketch: &Sketch, ports: Vec<u8>, chunk: u8) -> Vec<u8> {
    let mut octets = ports;
    octets.extend([0x3a, 0x4b, 0x5c, 0x6d, 0, 0, 0, 0, chunk, 3]);
    octets.extend((4 + sketch.payload.len() as u16).to_be_bytes());
    octets.extend(&sketch.payload);
    octets.resize(octets.len().next_multiple_of(4), 0);
    let right = crc32c(&octets).to_le_bytes();
    let field = match sketch.checksum {
        Checksum::Right => right,
        Checksum::None | Checksum::Partial => [0; 4],
        Checksum::OffBy(error) => [right[0] ^ error as u8, right[1], right[2], right[3]],
    };
    octets[8..12].copy_from_slice(&field);
    octets
}

fn ipv4(sketch: &Sketch, tuple: &Tuple, proto: u8, part: &[u8], more: bool) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (tuple.src, tuple.dst) else {
        panic!("{tuple} is not IPv4")
    };
    let header_len = 20 + 4 * sketch.options;
    let total_len = sketch.says_len.unwrap_or((header_len + part.len()) as u16);
    let (id, fragment) = match sketch.fragment {
        Some(fragment) => (fragment.id as u16, u16::from(more) << 13 | (fragment.from / 8) as u16),
        // Not to be fragmented.
        None => (0xbeef, 0x4000),
    };
    let mut header = vec![0x40 | (header_len / 4) as u8, 0x28 | sketch.congestion];
    header.extend(total_len.to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(fragment.to_be_bytes());
    header.extend([sketch.hops, proto, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    // No operation, again and again.
    header.resize(header_len, 1);
    let right = checksum(sum(&header));
    header[10..12].copy_from_slice(&right.to_be_bytes());
    header.extend(part);
    header
}

fn ipv6(sketch: &Sketch, tuple: &Tuple, proto: u8, part: &[u8], more: bool) -> Vec<u8> {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (tuple.src, tuple.dst) else {
        panic!("{tuple} is not IPv6")
    };
    let mut headers: Vec<(u8, Vec<u8>)> = sketch
        .extensions
        .iter()
        .map(|extension| extension_header(*extension))
        .collect();
    if let Some(fragment) = sketch.fragment {
        headers.push((44, fragment_header(fragment.id, fragment.from as u16 | u16::from(more))));
    }
    let kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([proto]).collect();
    let mut payload: Vec<u8> = Vec::new();
    for ((_, header), next) in headers.iter_mut().zip(&kinds[1..]) {
        header[0] = *next;
        payload.extend(&*header);
    }
    payload.extend(part);
    let mut packet = vec![0x62, 0x81 | sketch.congestion << 4, 0x23, 0x45];
    packet.extend(sketch.says_len.unwrap_or(payload.len() as u16).to_be_bytes());
    packet.extend([kinds[0], sketch.hops]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// Kind and octets of an extension header; its first octet, the next header's kind, is filled in later.
fn extension_header(extension: Extension) -> (u8, Vec<u8>) {
    let padded = |len: usize| {
        assert!(
            len >= 8 && len.is_multiple_of(8),
            "extension headers come in multiples of 8 octets"
        );
        let mut header = vec![0, (len / 8 - 1) as u8];
        // One option that fills the header.
        header.extend([1, (len - 4) as u8]);
        header.resize(len, 0);
        header
    };
    match extension {
        Extension::HopByHop(len) => (0, padded(len)),
        Extension::Routing(len) => {
            let mut header = padded(len);
            header[2..4].copy_from_slice(&[4, 0]);
            (43, header)
        }
        Extension::Destination(len) => (60, padded(len)),
        Extension::AtomicFragment => (44, fragment_header(0xabad_cafe, 0)),
        Extension::Authentication => {
            let mut header = vec![0, 4];
            header.resize(24, 0x99);
            (51, header)
        }
    }
}

fn fragment_header(id: u32, offset: u16) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend(offset.to_be_bytes());
    header.extend(id.to_be_bytes());
    header
}
