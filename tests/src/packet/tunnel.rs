//! Packets of tunnels between nodes, made without the datapath: IP in IP (RFC 2003, RFC 2473) and GUE variant 1
//! (draft-ietf-intarea-gue-09 §4).

use std::net::IpAddr;

use super::{
    names::{Tuple, Version},
    sums::{checksum, sum},
};

/// A tunnel: who sends, who takes out, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// `peer > node`.
    pub tuple: String,
    /// In UDP rather than in IP alone.
    pub gue: bool,
    /// The number that stands for the flow inside: UDP's source port, or the lower half of IPv6's flow label.
    pub entropy: u16,
    /// Congestion bits in place of the inner packet's.
    pub congestion: Option<u8>,
}

/// IP in IP between these.
#[must_use]
pub fn ipip(tuple: &str) -> Tunnel {
    Tunnel {
        tuple: tuple.to_owned(),
        gue: false,
        entropy: 0xc0de,
        congestion: None,
    }
}

/// IP in UDP between these.
#[must_use]
pub fn gue(tuple: &str) -> Tunnel {
    Tunnel {
        gue: true,
        ..ipip(tuple)
    }
}

impl Tunnel {
    /// The same for a flow of this hash.
    #[must_use]
    pub fn of_hash(mut self, hash: u32) -> Self {
        self.entropy = 0xc000 | (hash >> 18) as u16;
        self
    }

    /// The same, marked by a router that is congested.
    #[must_use]
    pub fn congested(mut self) -> Self {
        self.congestion = Some(3);
        self
    }

    /// A packet around this one.
    ///
    /// # Panics
    /// If the families differ.
    #[must_use]
    pub fn around(&self, inner: &[u8], version: Version) -> Vec<u8> {
        let mut payload = Vec::new();
        if self.gue {
            payload.extend(self.entropy.to_be_bytes());
            payload.extend(6080_u16.to_be_bytes());
            payload.extend((8 + inner.len() as u16).to_be_bytes());
            payload.extend([0, 0]);
        }
        payload.extend(inner);
        let tuple = Tuple::read(&self.tuple, version);
        match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let tos = self.congestion.map_or(inner[1], |bits| inner[1] & !3 | bits);
                let mut header = vec![0x45, tos];
                header.extend((20 + payload.len() as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, if self.gue { 17 } else { 4 }, 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                let right = checksum(sum(&header));
                header[10..12].copy_from_slice(&right.to_be_bytes());
                [header, payload].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let class_flow = self.congestion.map_or(inner[1], |bits| inner[1] & 0xc0 | bits << 4);
                let mut header = vec![inner[0], class_flow & 0xf0];
                header.extend(self.entropy.to_be_bytes());
                header.extend((payload.len() as u16).to_be_bytes());
                header.extend([if self.gue { 17 } else { 41 }, 64]);
                header.extend(src.octets());
                header.extend(dst.octets());
                [header, payload].concat()
            }
            _ => panic!("{tuple} mixes families"),
        }
    }
}
