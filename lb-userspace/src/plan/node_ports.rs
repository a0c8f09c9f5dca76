//! On which addresses of the node NodePorts are served: `nodePortAddresses` (behaviour reference §2.2, KEP-6032).
//!
//! Not here: which addresses the node has (`source::devices`), which NodePorts there are (`plan::service`).

use std::{fmt, net::IpAddr, str::FromStr};

use crate::model::{Cidr, Family, NodeView};

/// An entry of `nodePortAddresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// All addresses, loopback included.
    All,
    /// The node's primary addresses.
    Primary,
    /// 127.0.0.0/8 and ::1.
    Localhost,
    /// Addresses in a range.
    Range(Cidr),
}

/// The whole list. Empty: all addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses {
    entries: Vec<Entry>,
}

/// An entry that is neither a keyword nor a range.
#[derive(Debug, PartialEq, Eq)]
pub struct BadEntry(String);

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is neither a range such as 192.168.0.0/16 nor one of the words primary, localhost, all",
            self.0
        )
    }
}

impl std::error::Error for BadEntry {}

impl FromStr for NodePortAddresses {
    type Err = BadEntry;

    fn from_str(text: &str) -> Result<Self, BadEntry> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entry = |entry: &str| match entry {
            "all" => Ok(Entry::All),
            "primary" => Ok(Entry::Primary),
            "localhost" => Ok(Entry::Localhost),
            range => Cidr::parse_leniently(range)
                .map(Entry::Range)
                .ok_or_else(|| BadEntry(range.to_owned())),
        };
        Ok(Self {
            entries: entries.map(entry).collect::<Result<_, _>>()?,
        })
    }
}

/// What of a family's addresses serves NodePorts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Served {
    All,
    In(Vec<Cidr>),
}

impl NodePortAddresses {
    /// An entry for a family, if it says something about it.
    fn of_family(&self, family: Family, node: &NodeView) -> Served {
        let mut ranges = Vec::new();
        for entry in &self.entries {
            let range = match entry {
                Entry::All => return Served::All,
                Entry::Primary => node
                    .address(family)
                    .filter(|address| !address.is_loopback())
                    .map(Cidr::of_one),
                Entry::Localhost => Some(loopback(family)),
                Entry::Range(range) => Some(*range).filter(|range| range.family() == family),
            };
            match range {
                Some(range) if range.prefix_len() == 0 => return Served::All,
                range => ranges.extend(range),
            }
        }
        if ranges.is_empty() {
            Served::All
        } else {
            Served::In(ranges)
        }
    }

    /// Whether NodePorts are served on this address of the node. On an address of the loopback range they are served for the
    /// node's own processes only.
    #[must_use]
    pub fn serve_on(&self, address: IpAddr, node: &NodeView) -> bool {
        match self.of_family(Family::of(address), node) {
            Served::All => true,
            Served::In(ranges) if address.is_loopback() => {
                let of_loopback = |range: &Cidr| range.contains(address) || range.base().is_loopback();
                ranges.iter().any(of_loopback)
            }
            Served::In(ranges) => ranges.iter().any(|range| range.contains(address)),
        }
    }

    /// Whether NodePorts of a family are served on every address.
    #[must_use]
    pub fn match_all(&self, family: Family, node: &NodeView) -> bool {
        self.of_family(family, node) == Served::All
    }
}

fn loopback(family: Family) -> Cidr {
    let text = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    };
    Cidr::parse_leniently(text).unwrap_or_else(|| Cidr::of_one(family.unspecified()))
}
