//! The frames that are sent, whole and with right checksums, and what has to have become of them when they come back.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use lb_common::layout::Proto;

use crate::{
    lab::plan,
    packet::{
        decode::{read, show, verify},
        encode::{Link, Variant, encode},
        names::{Tuple, Version},
        sketch::{ACK, SYN, any},
    },
};

/// Length of a frame: IPv6 and TCP with some octets of payload.
pub(super) const FRAME_LEN: usize = 80;
/// A frame, as `Frame` of the object `forward`.
pub(super) type Frame = [u8; FRAME_LEN];

/// What clients dial.
pub(super) const VIPS: [&str; 2] = ["192.0.2.80", "2001:db8:192::80"];
/// The port of a protocol there, and where backends listen.
pub(super) const PORT: u16 = 80;
pub(super) const TARGET_PORT: u16 = 8080;
/// The backends are on a node that the lab doesn't have: the way there is the client's, who counts what arrives.
pub(super) const BACKENDS: [&str; 4] = ["10.244.9.11", "10.244.9.12", "fd00:10:244:9::11", "fd00:10:244:9::12"];
/// Routers that a frame may pass, as `encode` writes it.
const HOPS: u8 = 61;
/// The client's first port.
const FIRST_PORT: u16 = 10_000;

/// A family and a protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) version: Version,
    pub(super) proto: Proto,
}

/// A direction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leg {
    /// From the client to a backend.
    Request,
    /// From a backend to the client.
    Reply,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [
        Self::new(Version::V4, Proto::UDP),
        Self::new(Version::V4, Proto::TCP),
        Self::new(Version::V6, Proto::UDP),
        Self::new(Version::V6, Proto::TCP),
    ];

    const fn new(version: Version, proto: Proto) -> Self {
        Self { version, proto }
    }

    /// The TCP flags of the packets that open a connection, client and server in turn; for UDP they say nothing.
    pub(super) fn handshake(self) -> &'static [(u8, u8)] {
        if self.proto == Proto::TCP {
            &[(SYN, SYN | ACK), (ACK, ACK)]
        } else {
            &[(ACK, ACK)]
        }
    }

    /// The frames of so many clients, in the middle of their connections.
    pub(super) fn requests(self, flows: u16) -> Result<Vec<Frame>> {
        self.requests_with(flows, ACK)
    }

    /// The same with other TCP flags.
    pub(super) fn requests_with(self, flows: u16, flags: u8) -> Result<Vec<Frame>> {
        let v6 = self.version == Version::V6;
        let client = plan::of_family(plan::CLIENT_V4, plan::CLIENT_V6, v6);
        let vip = VIPS[usize::from(v6)].parse().context("an address")?;
        let frame = |number| {
            let tuple = Tuple {
                src: client,
                sport: FIRST_PORT + number,
                dst: vip,
                dport: PORT,
            };
            self.frame(&tuple, flags, number)
        };
        (0..flows).map(frame).collect()
    }

    /// A frame from the client's device to the node's, which carries the number of its flow.
    fn frame(self, tuple: &Tuple, flags: u8, number: u16) -> Result<Frame> {
        let Self { version, proto } = self;
        let variant = Variant {
            version,
            proto,
            link: Link::Ethernet,
        };
        let sketch = |payload: &[u8]| any(&tuple.to_string()).flags(flags).says(payload);
        let mut payload = vec![0x5a; FRAME_LEN - encode(&sketch(&[]), variant).len()];
        let end = payload.len();
        payload[end - 2..].copy_from_slice(&number.to_be_bytes());
        let mut frame: Frame = encode(&sketch(&payload), variant)
            .try_into()
            .ok()
            .context("a frame of the length that all have")?;
        frame[..6].copy_from_slice(&mac(plan::NODE_MAC)?);
        frame[6..12].copy_from_slice(&mac(plan::CLIENT_MAC)?);
        Ok(frame)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{:?}/{}", self.version, self.proto);
        f.write_str(&name.to_lowercase())
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Reply => "reply",
        })
    }
}

impl Leg {
    /// Where such frames go in the end.
    pub(super) fn toward(self, version: Version) -> Result<IpAddr> {
        let v6 = version == Version::V6;
        match self {
            Self::Request => BACKENDS[usize::from(v6) * 2].parse().context("an address"),
            Self::Reply => Ok(plan::of_family(plan::CLIENT_V4, plan::CLIENT_V6, v6)),
        }
    }

    /// Checks what Sluice has made of a frame of the flow with this number.
    pub(super) fn check(self, frame: &Frame) -> Result<()> {
        let wrong = || format!("a {self} came back as {}", show(frame, Link::Ethernet));
        verify(frame, Link::Ethernet)
            .map_err(anyhow::Error::msg)
            .with_context(wrong)?;
        let Tuple { src, sport, dst, dport } = tuple(frame)?;
        let client = FIRST_PORT + number(frame);
        let ours = |addresses: &[&str], address: IpAddr| addresses.iter().any(|text| text.parse() == Ok(address));
        let v6 = src.is_ipv6();
        let between = match self {
            Self::Request => {
                src == plan::of_family(plan::NODE_V4, plan::NODE_V6, v6) && ours(&BACKENDS, dst) && dport == TARGET_PORT
            }
            Self::Reply => {
                let to = plan::of_family(plan::CLIENT_V4, plan::CLIENT_V6, v6);
                ours(&VIPS, src) && sport == PORT && dst == to && dport == client
            }
        };
        let hops_left = frame[if v6 { 21 } else { 22 }];
        let macs = [mac(plan::CLIENT_MAC)?, mac(plan::NODE_MAC)?].concat();
        ensure!(between, "{}: addresses or ports are wrong", wrong());
        ensure!(
            frame.starts_with(&macs),
            "{}: MAC addresses {:02x?}",
            wrong(),
            &frame[..12]
        );
        ensure!(hops_left == HOPS - 1, "{}: {hops_left} hops are left", wrong());
        Ok(())
    }
}

/// The answers of backends to what has been sent on to them.
pub(super) fn replies(kind: Kind, forwarded: &[Frame], flags: u8) -> Result<Vec<Frame>> {
    let reply = |frame: &Frame| -> Result<Frame> {
        let Tuple { src, sport, dst, dport } = tuple(frame)?;
        let back = Tuple {
            src: dst,
            sport: dport,
            dst: src,
            dport: sport,
        };
        kind.frame(&back, flags, number(frame))
    };
    forwarded.iter().map(reply).collect()
}

/// The same with its MAC addresses exchanged.
pub(super) fn swapped(frame: &Frame) -> Frame {
    let mut swapped = *frame;
    swapped[..12].rotate_left(6);
    swapped
}

/// The number of a frame's flow.
pub(super) fn number(frame: &Frame) -> u16 {
    u16::from_be_bytes([frame[FRAME_LEN - 2], frame[FRAME_LEN - 1]])
}

/// Addresses and ports of a frame.
pub(super) fn tuple(frame: &Frame) -> Result<Tuple> {
    let seen = read(frame, Link::Ethernet).context("no IP packet")?;
    seen.tuple().with_context(|| show(frame, Link::Ethernet))
}

/// What `count` compares of a destination address.
pub(super) fn net(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [a, b, c, 0]
        }
        IpAddr::V6(v6) => {
            let [_, _, [a, b], [c, d], ..] = v6.segments().map(u16::to_be_bytes);
            [a, b, c, d]
        }
    }
}

/// A MAC address.
pub(super) fn mac(text: &str) -> Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    octets?
        .try_into()
        .ok()
        .with_context(|| format!("{text} is no MAC address"))
}
