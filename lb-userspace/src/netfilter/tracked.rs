//! The connections that netfilter translates, as its connection tracking has them (`nf_conntrack`).

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use lb_common::layout::Proto;
use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status,
        Tuple as TupleAttribute,
    },
};

use super::socket::Socket;

/// A 5-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Where packets come from.
    pub src: SocketAddr,
    /// Where they go.
    pub dst: SocketAddr,
    /// The protocol.
    pub proto: Proto,
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} {}", self.src, self.dst, self.proto)
    }
}

/// A connection whose destination netfilter has translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// What the client sends.
    pub original: Tuple,
    /// What the endpoint answers.
    pub reply: Tuple,
    /// An answer was seen.
    pub answered: bool,
    /// Both sides have closed it (TCP).
    pub closed: bool,
}

impl Tracked {
    /// Whether the endpoint sees another address than the client's.
    #[must_use]
    pub fn is_masqueraded(&self) -> bool {
        self.reply.dst.ip() != self.original.src.ip()
    }
}

/// TCP states of `enum tcp_conntrack` in the kernel's `nf_conntrack_tcp.h`: both sides have closed.
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

/// How often conntrack is read when it changes its size meanwhile.
const TRIES_MAX: u32 = 5;

/// All connections whose destination netfilter has translated, in the network namespace of this thread.
///
/// # Errors
/// What the kernel says: `EPROTONOSUPPORT` or nothing but errors without `nf_conntrack_netlink`, `EPERM` without `CAP_NET_ADMIN`.
pub fn tracked() -> io::Result<Vec<Tracked>> {
    let mut tries = 1;
    loop {
        match read_all() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < TRIES_MAX => tries += 1,
            other => return other,
        }
    }
}

fn read_all() -> io::Result<Vec<Tracked>> {
    let mut socket = Socket::open()?;
    let mut found = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        socket.dump(family, ConntrackMessage::Get(Vec::new()), |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message {
                found.extend(read(&attributes));
            }
        })?;
    }
    Ok(found)
}

/// A connection from its attributes; nothing if its destination isn't translated, or it has no ports.
fn read(attributes: &[ConntrackAttribute]) -> Option<Tracked> {
    let (mut original, mut reply, mut status, mut state) = (None, None, Status::empty(), None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            ConntrackAttribute::CtaProtoInfo(infos) => {
                state = infos.iter().find_map(|info| match info {
                    ProtoInfo::TCP(parts) => parts.iter().find_map(|part| match part {
                        ProtoInfoTCP::State(state) => Some(*state),
                        _ => None,
                    }),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let (original, reply): (Tuple, Tuple) = (original?, reply?);
    (reply.src != original.dst).then_some(Tracked {
        original,
        reply,
        answered: status.contains(Status::SeenReply),
        closed: matches!(state, Some(TIME_WAIT | CLOSE)),
    })
}

fn tuple(parts: &[TupleAttribute]) -> Option<Tuple> {
    let (mut src, mut dst) = (None::<IpAddr>, None::<IpAddr>);
    let (mut sport, mut dport, mut proto) = (None, None, None);
    for part in parts {
        match part {
            TupleAttribute::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => src = Some(*address),
                        IPTuple::DestinationAddress(address) => dst = Some(*address),
                        _ => {}
                    }
                }
            }
            TupleAttribute::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => proto = Some(Proto(u8::from(*number))),
                        ProtoTuple::SourcePort(port) => sport = Some(*port),
                        ProtoTuple::DestinationPort(port) => dport = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Tuple {
        src: SocketAddr::new(src?, sport?),
        dst: SocketAddr::new(dst?, dport?),
        proto: proto?,
    })
}
