//! Collects what is wrong with one object while it is converted.
//!
//! Here: the checks that Services and EndpointSlices share (port numbers, addresses, protocols), each saying what would
//! be right. Called by the two conversions next door.

use std::fmt::Display;
use std::net::IpAddr;

use crate::model::address::parse_ip_leniently;
use crate::model::{ObjectRef, Problem, Protocol, Severity};

/// The problems of one object, in the order of its fields.
pub(super) struct Findings {
    object: ObjectRef,
    pub(super) problems: Vec<Problem>,
}

impl Findings {
    pub(super) fn about(object: ObjectRef) -> Self {
        Self {
            object,
            problems: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, field: impl Display, reason: impl Display) {
        self.add(Severity::Error, field, reason);
    }

    pub(super) fn warning(&mut self, field: impl Display, reason: impl Display) {
        self.add(Severity::Warning, field, reason);
    }

    pub(super) fn info(&mut self, field: impl Display, reason: impl Display) {
        self.add(Severity::Info, field, reason);
    }

    fn add(&mut self, severity: Severity, field: impl Display, reason: impl Display) {
        self.problems.push(Problem {
            severity,
            object: self.object.clone(),
            field: field.to_string().into(),
            reason: reason.to_string().into(),
        });
    }

    pub(super) fn port(&mut self, field: impl Display, number: i32) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.error(
                field,
                format_args!("{number} is not a port; a port is a number from 1 to 65535"),
            );
        }
        port
    }

    /// A port where 0 means that there is none.
    pub(super) fn optional_port(&mut self, field: impl Display, number: Option<i32>) -> Option<u16> {
        let number = number.filter(|number| *number != 0)?;
        self.port(field, number)
    }

    pub(super) fn protocol(&mut self, field: impl Display, text: Option<&str>) -> Option<Protocol> {
        let text = text.unwrap_or("TCP");
        let protocol = Protocol::from_api(text);
        if protocol.is_none() {
            self.error(
                field,
                format_args!("\"{}\" is not a protocol; write TCP, UDP or SCTP", clip(text)),
            );
        }
        protocol
    }

    pub(super) fn address(&mut self, field: impl Display, text: &str) -> Option<IpAddr> {
        let address = parse_ip_leniently(text);
        if address.is_none() {
            self.error(field, format_args!("\"{}\" is not an IP address", clip(text)));
        }
        address
    }

    /// An address to which traffic can be sent through a network: what the API server demands of endpoints and
    /// ExternalIPs. A loopback or link-local address would mean something else on every node.
    pub(super) fn routable_address(&mut self, field: impl Display + Copy, text: &str) -> Option<IpAddr> {
        let address = self.address(field, text)?;
        let kind = match address {
            _ if address.is_unspecified() => "the unspecified address",
            _ if address.is_loopback() => "a loopback address",
            _ if address.is_multicast() => "a multicast address",
            IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
            _ => return Some(address),
        };
        self.error(field, format_args!("{address} is {kind}; no traffic can be sent there"));
        None
    }
}

/// Text from an object, shortened and without control characters, fit for a log line.
pub(super) fn clip(text: &str) -> String {
    const MOST: usize = 64;
    let mut clipped: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        clipped.push('…');
    }
    clipped
}
