//! The cast of the rows: names instead of addresses, so that one row reads the same for IPv4 and IPv6.
//!
//! | name | who |
//! |---|---|
//! | `client`, `client2` | pods or machines that dial a Service |
//! | `web`, `api` | frontends |
//! | `pod`, `pod2`, `pod3` | backends |
//! | `node`, `node2` | addresses of this node |
//! | `peer`, `peer2` | other nodes of the cluster |
//! | `stranger` | a machine beside them that is none |
//! | `far`, `far2`, `mute` | backends on other machines; the last never answers |
//! | `far-v`, `far-q`, `far-w` | backends in VLANs: see `hops` |
//! | `lo` | its loopback address |
//! | `vip`, `eip` | a load-balancer address and an ExternalIP |
//! | `unused` | a service address that nobody has |
//! | `world` | somebody who has nothing to do with Services |

use std::{net::IpAddr, sync::LazyLock};

use lb_common::layout::{FlowKey, Ip4, Ip6, Port, Proto, V4, V6};
use lb_userspace::{model::Cidr, tables::TableFamily};

const CAST: [(&str, &str, &str); 24] = [
    ("client", "10.1.0.9", "fd00:1::9"),
    ("client2", "10.1.255.254", "fd00:1:ffff::fffe"),
    ("web", "10.96.0.10", "fd00:96::a"),
    ("api", "10.96.128.11", "fd00:96:0:0:8000::b"),
    ("pod", "10.244.1.7", "fd00:244:1::7"),
    ("pod2", "10.244.2.8", "fd00:244:2::8"),
    ("pod3", "10.244.255.255", "fd00:244:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("node", "192.168.3.4", "fd00:192:168:3::4"),
    ("world", "203.0.113.80", "2001:db8::80"),
    ("vip", "192.0.2.20", "2001:db8:192::20"),
    ("eip", "192.0.2.30", "2001:db8:192::30"),
    ("node2", "192.168.4.5", "fd00:192:168:4::5"),
    ("far", "10.245.0.1", "fd00:245::1"),
    ("far2", "10.245.0.2", "fd00:245::2"),
    ("mute", "10.245.0.3", "fd00:245::3"),
    ("peer", "192.168.3.9", "fd00:192:168:3::9"),
    ("peer2", "192.168.3.10", "fd00:192:168:3::a"),
    ("stranger", "192.168.3.66", "fd00:192:168:3::66"),
    ("far-v", "10.245.1.1", "fd00:245:1::1"),
    ("far-q", "10.245.2.1", "fd00:245:2::1"),
    ("far-w", "10.245.3.1", "fd00:245:3::1"),
    ("outside", "198.51.100.7", "2001:db8:51::7"),
    ("lo", "127.0.0.1", "::1"),
    ("unused", "10.96.200.200", "fd00:96::c8c8"),
];

/// Ranges with names, IPv4 and IPv6.
const RANGES: [(&str, &str, &str); 5] = [
    ("pods", "10.244.0.0/16", "fd00:244::/32"),
    ("clients", "10.1.0.0/16", "fd00:1::/32"),
    ("services", "10.96.0.0/16", "fd00:96::/32"),
    ("nodes", "192.168.0.0/16", "fd00:192:168::/48"),
    ("vips", "192.0.2.0/24", "2001:db8:192::/64"),
];

/// The range of a name, or a literal range.
///
/// # Panics
/// If it is neither.
#[must_use]
pub fn range(name: &str, version: Version) -> Cidr {
    let text = match RANGES.iter().find(|(who, _, _)| *who == name) {
        Some((_, v4, _)) if version == Version::V4 => v4,
        Some((_, _, v6)) => v6,
        None => name,
    };
    Cidr::parse_leniently(text).unwrap_or_else(|| panic!("{text} is no range"))
}

/// The cast with its addresses, IPv4 and IPv6.
static ADDRESSES: LazyLock<[(&str, IpAddr, IpAddr); CAST.len()]> = LazyLock::new(|| {
    let parse = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no address"));
    CAST.map(|(name, v4, v6)| (name, parse(v4), parse(v6)))
});

/// IPv4 or IPv6, where it is chosen at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A family as these tests know it.
pub trait Named: TableFamily {
    /// The same as a value.
    const VERSION: Version;

    /// The address behind a name of the cast, or a literal address.
    ///
    /// # Panics
    /// If nobody has this name: the row is wrong then.
    fn named(name: &str) -> Self::Addr {
        Self::from_ip(address(name, Self::VERSION))
            .unwrap_or_else(|| panic!("{name} is no address of {:?}", Self::VERSION))
    }

    /// `client:40000 > web:80` as a key.
    fn key(tuple: &str, proto: Proto) -> FlowKey<Self::Addr> {
        let Tuple { src, sport, dst, dport } = Tuple::read(tuple, Self::VERSION);
        let [src, dst] = [src, dst].map(|ip| Self::from_ip(ip).expect("an address of this family"));
        FlowKey::new(src, Port::new(sport), dst, Port::new(dport), proto)
    }

    /// A key as `client:40000 > web:80`.
    fn tuple(key: &FlowKey<Self::Addr>) -> Tuple {
        let [src, dst] = [key.src, key.dst].map(Self::to_ip);
        Tuple {
            src,
            sport: key.sport.get(),
            dst,
            dport: key.dport.get(),
        }
    }
}

impl Named for V4 {
    const VERSION: Version = Version::V4;
}

impl Named for V6 {
    const VERSION: Version = Version::V6;
}

/// The address behind a name of the cast, or a literal address.
///
/// # Panics
/// If nobody has this name.
#[must_use]
pub fn address(name: &str, version: Version) -> IpAddr {
    match ADDRESSES.iter().find(|(who, _, _)| *who == name) {
        Some((_, v4, _)) if version == Version::V4 => *v4,
        Some((_, _, v6)) => *v6,
        None => name
            .trim_matches(['[', ']'])
            .parse()
            .unwrap_or_else(|_| panic!("nobody is called {name}")),
    }
}

/// The name behind an address, or the address itself.
#[must_use]
pub fn name_of(address: IpAddr) -> String {
    let of_cast = ADDRESSES.iter().find(|(_, v4, v6)| [*v4, *v6].contains(&address));
    match (of_cast, address) {
        (Some((name, _, _)), _) => (*name).to_owned(),
        (None, IpAddr::V4(_)) => address.to_string(),
        (None, IpAddr::V6(_)) => format!("[{address}]"),
    }
}

/// Address and port, `web:80`; the port may be left out.
///
/// # Panics
/// If nobody has this name, or the port is none.
#[must_use]
pub fn endpoint(text: &str, version: Version) -> (IpAddr, u16) {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            let port = port.parse().unwrap_or_else(|_| panic!("{text} has no port"));
            (address(name, version), port)
        }
        _ => (address(text, version), 0),
    }
}

/// Who sends to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
}

impl Tuple {
    /// From `client:40000 > web:80`.
    ///
    /// # Panics
    /// If the text is no tuple.
    #[must_use]
    pub fn read(text: &str, version: Version) -> Self {
        let (from, to) = text.split_once(" > ").unwrap_or_else(|| panic!("{text} is no tuple"));
        let ((src, sport), (dst, dport)) = (endpoint(from, version), endpoint(to, version));
        Self { src, sport, dst, dport }
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { src, sport, dst, dport } = *self;
        write!(f, "{}:{sport} > {}:{dport}", name_of(src), name_of(dst))
    }
}

/// An address of a table as one of the standard library.
#[must_use]
pub fn from_16_octets(octets: [u8; 16], family: u8) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if family == 4 {
        Ip4 { octets: [a, b, c, d] }.into()
    } else {
        Ip6 { octets }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tuples_can_be_read_back() {
        for version in [Version::V4, Version::V6] {
            let text = "client:40000 > web:80";
            assert_eq!(Tuple::read(text, version).to_string(), text);
        }
        assert_eq!(
            Tuple::read("[fe80::1]:1 > [fe80::2]:2", Version::V6).to_string(),
            "[fe80::1]:1 > [fe80::2]:2"
        );
        assert_eq!(
            Tuple::read("127.0.0.7:1 > pod", Version::V4).to_string(),
            "127.0.0.7:1 > pod:0"
        );
    }
}
