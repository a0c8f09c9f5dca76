//! A new flow, and what may become of it.
//!
//! Here: the two values, and how they look to people. Not here: how one leads to the other (`decide`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use lb_userspace::model::{Family, Protocol};

/// Where the first packet of a flow comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It arrives from the device of this name.
    Device(String),
    /// A process in the host's own namespace sends it.
    Host,
}

/// The first packet of a flow. Source and destination are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// From where.
    pub origin: Origin,
    /// The protocol.
    pub protocol: Protocol,
    /// The client's address and port, before anybody has touched them.
    pub source: SocketAddr,
    /// The address and port that it dials.
    pub dialled: SocketAddr,
}

impl NewFlow {
    /// The family of the addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.dialled.ip())
    }
}

/// Why a flow is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropWhy {
    /// The load balancer's address is not for this source.
    SourceRange,
    /// The policy wants an endpoint on this node, and those there are run elsewhere.
    NoLocalEndpoint,
    /// The address is one that a Service could have, but none has.
    Unallocated,
}

/// What has to become of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is none of ours: it goes where routing leads it.
    NotHandled,
    /// The client is told that nobody listens.
    Reject,
    /// It disappears.
    Drop(DropWhy),
    /// It goes to one of these endpoints; whether it is masqueraded may depend on which (a pod that meets itself is).
    Translate(BTreeMap<SocketAddr, bool>),
}

impl fmt::Display for NewFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            source,
            dialled,
            ..
        } = self;
        match &self.origin {
            Origin::Device(device) => write!(f, "{protocol} {device} {source} > {dialled}"),
            Origin::Host => write!(f, "{protocol} host {source} > {dialled}"),
        }
    }
}

impl fmt::Display for DropWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceRange => "source not allowed",
            Self::NoLocalEndpoint => "no local endpoint",
            Self::Unallocated => "unallocated address",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHandled => f.write_str("not handled"),
            Self::Reject => f.write_str("REJECT"),
            Self::Drop(why) => write!(f, "DROP, {why}"),
            Self::Translate(to) => {
                let mark = |masquerade: bool| if masquerade { "M" } else { "-" };
                let words = to.iter().map(|(endpoint, masq)| format!("{endpoint} {}", mark(*masq)));
                f.write_str(&words.collect::<Vec<_>>().join(" or "))
            }
        }
    }
}
