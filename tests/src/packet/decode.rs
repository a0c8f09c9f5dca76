//! From octets back to words: a strict reader of frames, the check of all their checksums, and their look in a
//! message. Shares nothing with the datapath's parser, and is its oracle: what this reader does not accept as TCP or
//! UDP must be left alone.

use std::{fmt::Write as _, net::IpAddr};

use super::{
    encode::Link,
    names::{Tuple, Version, name_of},
    sums::{crc32c, fold, is_sound, pseudo, sum},
};

/// A well-formed IP packet.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Its family.
    pub version: Version,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// What is inside IP.
    pub proto: u8,
    /// The IPv4 header; for IPv6 empty, since there is no checksum to check.
    pub checked_header: &'a [u8],
    /// What is inside IP, without padding behind the packet.
    pub layer4: &'a [u8],
    /// IPv6 extension headers in front of that.
    pub extensions: usize,
    /// Identification, offset in octets and "more fragments", if it is a part of a datagram.
    pub fragment: Option<(u32, usize, bool)>,
}

fn octets<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at + N)?.try_into().ok()
}

fn word(from: &[u8], at: usize) -> Option<u16> {
    octets(from, at).map(u16::from_be_bytes)
}

/// Reads a frame; nothing if it is no well-formed IP packet.
#[must_use]
pub fn read(frame: &[u8], link: Link) -> Option<Seen<'_>> {
    let packet = frame.get(link.len()..)?;
    let version = match (link, packet.first()? >> 4) {
        (Link::Bare, 4) => Version::V4,
        (Link::Bare, 6) => Version::V6,
        (Link::Ethernet, nibble) => match (word(frame, 12)?, nibble) {
            (0x0800, 4) => Version::V4,
            (0x86dd, 6) => Version::V6,
            _ => return None,
        },
        _ => return None,
    };
    match version {
        Version::V4 => read_ipv4(packet),
        Version::V6 => read_ipv6(packet),
    }
}

fn read_ipv4(packet: &[u8]) -> Option<Seen<'_>> {
    let header_len = usize::from(packet.first()? & 15) * 4;
    let total_len = usize::from(word(packet, 2)?);
    if header_len < 20 || total_len < header_len {
        return None;
    }
    let packet = packet.get(..total_len)?;
    let offset = word(packet, 6)?;
    let (from, more) = (usize::from(offset & 0x1fff) * 8, offset & 0x2000 != 0);
    let id = u32::from(word(packet, 4)?);
    Some(Seen {
        version: Version::V4,
        src: IpAddr::from(octets::<4>(packet, 12)?),
        dst: IpAddr::from(octets::<4>(packet, 16)?),
        proto: packet[9],
        checked_header: &packet[..header_len],
        layer4: &packet[header_len..],
        extensions: 0,
        fragment: (from != 0 || more).then_some((id, from, more)),
    })
}

fn read_ipv6(packet: &[u8]) -> Option<Seen<'_>> {
    let payload_len = usize::from(word(packet, 4)?);
    let packet = packet.get(..40 + payload_len)?;
    let mut rest = &packet[40..];
    let (mut proto, mut extensions, mut fragment) = (packet[6], 0, None);
    while matches!(proto, 0 | 43 | 60 | 44) {
        let len = if proto == 44 {
            8
        } else {
            (usize::from(*rest.get(1)?) + 1) * 8
        };
        let header = rest.get(..len)?;
        if proto == 44 {
            let offset = word(header, 2)?;
            let (from, more) = (usize::from(offset & !7), offset & 1 != 0);
            if from != 0 || more {
                fragment = Some((u32::from_be_bytes(octets(header, 4)?), from, more));
            }
        }
        (proto, rest, extensions) = (header[0], &rest[len..], extensions + 1);
        if fragment.is_some_and(|(_, from, _)| from != 0) {
            break;
        }
    }
    Some(Seen {
        version: Version::V6,
        src: IpAddr::from(octets::<16>(packet, 8)?),
        dst: IpAddr::from(octets::<16>(packet, 24)?),
        proto,
        checked_header: &[],
        layer4: rest,
        extensions,
        fragment,
    })
}

impl Seen<'_> {
    /// Addresses and ports of a TCP segment or UDP datagram whose header is whole.
    #[must_use]
    pub fn tuple(&self) -> Option<Tuple> {
        let header_len = match self.proto {
            6 => 20,
            17 => 8,
            132 => 12,
            _ => return None,
        };
        if self.layer4.len() < header_len || self.is_later_fragment() {
            return None;
        }
        let (sport, dport) = (word(self.layer4, 0)?, word(self.layer4, 2)?);
        Some(Tuple {
            src: self.src,
            sport,
            dst: self.dst,
            dport,
        })
    }

    /// A fragment but the first.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|(_, from, _)| from != 0)
    }

    /// Whether the checksum over an SCTP packet is right, or still to be made.
    #[must_use]
    pub fn sctp_is_sound(&self) -> bool {
        self.sctp_error().is_none_or(|error| error == 0)
    }

    /// By which bits the checksum over an SCTP packet is wrong; nothing if it is still to be made.
    #[must_use]
    pub fn sctp_error(&self) -> Option<u32> {
        let mut octets = self.layer4.to_vec();
        let field = octets.get_mut(8..12)?;
        let found: [u8; 4] = std::array::from_fn(|at| std::mem::take(&mut field[at]));
        (found != [0; 4]).then(|| u32::from_le_bytes(found) ^ crc32c(&octets))
    }

    /// Folded sum over TCP or UDP and its pseudo header: 0xffff if the checksum is right. Nothing where there is no
    /// checksum, or only part of what it covers.
    #[must_use]
    pub fn layer4_sum(&self) -> Option<u16> {
        let at = match self.proto {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return None,
        };
        let field = word(self.layer4, at)?;
        if self.fragment.is_some() || self.proto == 17 && field == 0 {
            return None;
        }
        let head = if self.proto == 1 {
            0
        } else {
            pseudo(self.src, self.dst, self.proto, self.layer4.len())
        };
        Some(fold(head + sum(self.layer4)))
    }
}

/// Checks every checksum of a frame, also that of the packet quoted inside an ICMP error.
///
/// # Errors
/// Which checksum is wrong.
pub fn verify(frame: &[u8], link: Link) -> Result<(), String> {
    let seen = read(frame, link).ok_or("no well-formed IP packet")?;
    if seen.version == Version::V4 && !is_sound(sum(seen.checked_header)) {
        return Err("the checksum of the IPv4 header is wrong".to_owned());
    }
    if seen.layer4_sum().is_some_and(|sum| sum != 0xffff) {
        return Err(format!("the checksum of protocol {} is wrong", seen.proto));
    }
    if seen.proto == 132 && seen.fragment.is_none() && !seen.sctp_is_sound() {
        return Err("the checksum of SCTP is wrong".to_owned());
    }
    if seen.version == Version::V6 && seen.proto == 17 && seen.fragment.is_none() && seen.layer4_sum().is_none() {
        return Err("a UDP datagram over IPv6 has no checksum".to_owned());
    }
    Ok(())
}

/// A frame as a line for people.
#[must_use]
pub fn show(frame: &[u8], link: Link) -> String {
    let mut text = format!("{} octets: ", frame.len());
    let Some(seen) = read(frame, link) else {
        return text + "no well-formed IP packet";
    };
    let _ = match seen.tuple() {
        Some(tuple) => write!(text, "{tuple}"),
        None => write!(text, "{} > {}", name_of(seen.src), name_of(seen.dst)),
    };
    let _ = match (seen.proto, seen.layer4.get(13)) {
        (6, Some(flags)) if seen.tuple().is_some() => write!(text, ", TCP flags {flags:#04x}"),
        (17, _) => write!(text, ", UDP"),
        (1 | 58, _) => write!(
            text,
            ", ICMP type and code {:?}",
            &seen.layer4[..seen.layer4.len().min(2)]
        ),
        (proto, _) => write!(text, ", protocol {proto}"),
    };
    if seen.extensions > 0 {
        let _ = write!(text, ", {} extension headers", seen.extensions);
    }
    if let Some((id, from, more)) = seen.fragment {
        let _ = write!(
            text,
            ", fragment {id:#x} from {from}{}",
            if more { ", more to come" } else { "" }
        );
    }
    match verify(frame, link) {
        Ok(()) => text + ", checksums right",
        Err(why) => text + ", but " + &why,
    }
}

/// Octets for people, sixteen a line, with `>` in front of lines that differ from the other frame's.
#[must_use]
pub fn dump(frame: &[u8], other: &[u8]) -> String {
    let lines = frame.chunks(16).enumerate().map(|(row, octets)| {
        let at = row * 16;
        let same = other.get(at..at + octets.len()) == Some(octets);
        let words: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        format!("{} {at:5}  {}\n", if same { ' ' } else { '>' }, words.join(" "))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{
        encode::{Variant, encode},
        sketch::{Checksum, Extension, Sketch, icmp, tcp, udp},
    };
    use lb_common::layout::Proto;

    fn frame(sketch: &Sketch, version: Version) -> Vec<u8> {
        encode(
            sketch,
            Variant {
                version,
                proto: Proto::TCP,
                link: Link::Ethernet,
            },
        )
    }

    #[test]
    fn what_is_encoded_is_read_back_and_sound() {
        let tuple = "client:40000 > web:80";
        for version in [Version::V4, Version::V6] {
            for sketch in [tcp(tuple).syn(), udp(tuple).sized(999), udp(tuple).says(b"")] {
                let frame = frame(&sketch, version);
                let seen = read(&frame, Link::Ethernet).expect("an IP packet");
                assert_eq!(seen.tuple().expect("ports").to_string(), tuple);
                assert_eq!(verify(&frame, Link::Ethernet), Ok(()));
            }
            let frame = frame(&icmp("client > web", 128, 0), version);
            assert_eq!(verify(&frame, Link::Ethernet), Ok(()));
        }
    }

    #[test]
    fn wrong_checksums_are_found() {
        let tuple = "client:40000 > web:80";
        for sketch in [
            tcp(tuple).checksum(Checksum::OffBy(1)),
            udp(tuple).checksum(Checksum::Partial),
        ] {
            assert!(verify(&frame(&sketch, Version::V4), Link::Ethernet).is_err());
        }
        let without = udp(tuple).checksum(Checksum::None);
        assert_eq!(verify(&frame(&without, Version::V4), Link::Ethernet), Ok(()));
        assert!(verify(&frame(&without, Version::V6), Link::Ethernet).is_err());
        let header = tcp(tuple).patch(8, &[99]);
        assert!(verify(&frame(&header, Version::V4), Link::Ethernet).is_err());
    }

    #[test]
    fn fragments_and_extension_headers_are_seen() {
        let tuple = "client:40000 > web:80";
        let sketch = udp(tuple)
            .sized(100)
            .extensions(&[Extension::HopByHop(8), Extension::AtomicFragment]);
        let whole = frame(&sketch, Version::V6);
        let seen = read(&whole, Link::Ethernet).expect("an IP packet");
        assert_eq!((seen.extensions, seen.fragment), (2, None));
        for version in [Version::V4, Version::V6] {
            let first = frame(&udp(tuple).sized(100).fragment(7, 0, 64), version);
            let last = frame(&udp(tuple).sized(100).fragment(7, 64, 108), version);
            let [first, last] = [&first, &last].map(|frame| read(frame, Link::Ethernet).expect("an IP packet"));
            assert_eq!(
                (first.fragment, last.fragment),
                (Some((7, 0, true)), Some((7, 64, false)))
            );
            assert!(first.tuple().is_some() && last.tuple().is_none());
        }
    }
}
