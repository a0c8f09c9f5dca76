//! An EndpointSlice, as far as proxying needs it (behaviour reference §1.5).
//!
//! Here: the value, and whether it takes part at all. Not here: how it is read (`source::convert`), how the slices of a
//! Service become one list (`merge`). Called by `store`, `merge` and `plan`.

use std::net::IpAddr;
use std::time::SystemTime;

use super::{Family, OptOut, Protocol, ServiceKey, SliceKey};

/// An immutable EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: SliceKey,
    /// The owner: label `kubernetes.io/service-name` in the slice's namespace. Without it the slice is ignored.
    pub service: Option<ServiceKey>,
    /// `addressType`.
    pub address_type: AddressType,
    /// `ports`.
    pub ports: Box<[SlicePort]>,
    /// `endpoints`, in the order of the object, without those that have no readable address.
    pub endpoints: Box<[Endpoint]>,
    /// Labels that hand the slice to somebody else; the controller copies them from the Service.
    pub opt_out: OptOut,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`: when the pod or Service changed that made the
    /// controller write this slice. Only measured against the clock, never part of what is served.
    pub triggered: Option<SystemTime>,
}

/// `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressType {
    /// `IPv4`.
    Ipv4,
    /// `IPv6`.
    Ipv6,
    /// `FQDN`, deprecated: names are not proxied.
    Fqdn,
}

impl AddressType {
    /// The family of the addresses; `None` if they are names.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Ipv4 => Some(Family::V4),
            Self::Ipv6 => Some(Family::V6),
            Self::Fqdn => None,
        }
    }
}

/// One entry of `ports`. Its number is already the target port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name. `None` matches nothing; the empty name matches an unnamed Service port.
    pub name: Option<Box<str>>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number. `None` would mean all ports, which no proxy implements; such an entry is skipped.
    pub port: Option<u16>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`, the only one that is used.
    pub address: IpAddr,
    /// `conditions.ready`; unset means ready.
    pub ready: bool,
    /// `conditions.serving`; unset means serving.
    pub serving: bool,
    /// `conditions.terminating`; unset means not.
    pub terminating: bool,
    /// `nodeName`. An endpoint without one is remote to every node.
    pub node_name: Option<Box<str>>,
    /// `targetRef.name`, if it is a pod: weights may be given by it.
    pub pod: Option<Box<str>>,
    /// `hints.forZones[].name` (KEP-2433).
    pub zone_hints: Box<[Box<str>]>,
    /// `hints.forNodes[].name` (KEP-3015).
    pub node_hints: Box<[Box<str>]>,
}

impl Endpoint {
    /// May it get new connections when no ready endpoint is left (KEP-1669)?
    pub fn can_fall_back(&self) -> bool {
        self.serving && self.terminating
    }

    /// Does it run on the node of this name?
    pub fn is_on(&self, node: &str) -> bool {
        self.node_name.as_deref() == Some(node)
    }
}

impl EndpointSlice {
    /// Does the other slice say the same about endpoints? What triggered it does not count.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let Self {
            key,
            service,
            address_type,
            ports,
            endpoints,
            opt_out,
            triggered: _,
        } = self;
        *endpoints == other.endpoints
            && (key, service, address_type, ports, opt_out)
                == (
                    &other.key,
                    &other.service,
                    &other.address_type,
                    &other.ports,
                    &other.opt_out,
                )
    }

    /// The Service and family that this slice gives endpoints to; `None` if it is to be ignored (§1.5).
    pub fn serves(&self) -> Option<(&ServiceKey, Family)> {
        if self.opt_out.any() {
            return None;
        }
        Some((self.service.as_ref()?, self.address_type.family()?))
    }
}
