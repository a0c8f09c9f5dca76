//! The node as the rules see it: which addresses are its own, which sources are local pods, where NodePorts are.
//!
//! Here: questions about the node alone (§2.2, §4.2, §6.8). Not here: what follows from the answers (`decide`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_userspace::model::{Cidr, Family, NodeView};

use super::outcome::{NewFlow, Origin};

/// The node on which everything happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name and zone.
    pub view: NodeView,
    /// The addresses in the Node object, at most one of each family.
    pub node_ips: Vec<IpAddr>,
    /// Every address on a device of the host, but for loopback, which it always has.
    pub local_addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<Cidr>,
    /// How local pods are told.
    pub detector: Detector,
    /// Every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// `nodePortAddresses`; nothing means everywhere.
    pub node_port_addresses: Vec<NodePortAddress>,
    /// The ranges that ClusterIPs come from, as far as they are known.
    pub service_cidrs: Vec<Cidr>,
}

/// `detectLocalMode` (§4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detector {
    /// Nobody is told to be local.
    None,
    /// The source is in the first of these ranges that is of its family.
    ClusterCidr(Vec<Cidr>),
    /// The source is in the node's first pod range of its family.
    NodeCidr,
    /// The packet arrives from one of these devices: `BridgeInterface` (one) and `InterfaceNamePrefix` (those it fits).
    Devices(BTreeSet<String>),
}

/// An entry of `nodePortAddresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// A range.
    Cidr(Cidr),
    /// The Node object's addresses.
    Primary,
    /// 127.0.0.0/8 and ::1.
    Localhost,
    /// Every address.
    All,
}

/// Is the address in the range? Ranges hold addresses of their own family only.
#[must_use]
pub fn contains(range: &Cidr, address: IpAddr) -> bool {
    let bits = u32::from(range.prefix_len());
    match (range.base(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            bits == 0 || (base.to_bits() ^ address.to_bits()) >> (32 - bits) == 0
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            bits == 0 || (base.to_bits() ^ address.to_bits()) >> (128 - bits) == 0
        }
        _ => false,
    }
}

/// The loopback address that stands in for an unknown node address (§6.8).
fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

fn first_of(ranges: &[Cidr], family: Family) -> Option<&Cidr> {
    ranges.iter().find(|range| range.family() == family)
}

impl Node {
    /// Is this one of the host's own addresses?
    #[must_use]
    pub fn is_host(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local_addresses.contains(&address)
    }

    /// The node's address in a family, as far as it is known; else loopback.
    #[must_use]
    pub fn node_ip(&self, family: Family) -> IpAddr {
        let known = self.node_ips.iter().find(|address| Family::of(**address) == family);
        known.copied().unwrap_or_else(|| loopback(family))
    }

    /// Can local pods be told at all, in this family?
    #[must_use]
    pub fn detects(&self, family: Family) -> bool {
        match &self.detector {
            Detector::None => false,
            Detector::ClusterCidr(ranges) => first_of(ranges, family).is_some(),
            Detector::NodeCidr => first_of(&self.pod_cidrs, family).is_some(),
            Detector::Devices(_) => true,
        }
    }

    /// Does the flow come from a local pod, as far as can be told?
    #[must_use]
    pub fn is_local_pod(&self, flow: &NewFlow) -> bool {
        let source = flow.source.ip();
        let in_first_of =
            |ranges: &[Cidr]| first_of(ranges, flow.family()).is_some_and(|range| contains(range, source));
        match &self.detector {
            Detector::None => false,
            Detector::ClusterCidr(ranges) => in_first_of(ranges),
            Detector::NodeCidr => in_first_of(&self.pod_cidrs),
            // What a process of the host sends has come by no device.
            Detector::Devices(devices) => match &flow.origin {
                Origin::Device(device) => devices.contains(device),
                Origin::Host => false,
            },
        }
    }

    /// Are NodePorts served on the address that this flow dials?
    #[must_use]
    pub fn has_node_ports_for(&self, flow: &NewFlow) -> bool {
        let dialled = flow.dialled.ip();
        if dialled.is_loopback() {
            // Only processes of the host get there; nothing that arrives may.
            return flow.origin == Origin::Host && self.lists(dialled);
        }
        self.is_host(dialled) && self.lists(dialled)
    }

    /// Is the address in what `nodePortAddresses` leaves of its family?
    fn lists(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        let ranges: Vec<Cidr> = self
            .node_port_addresses
            .iter()
            .flat_map(|entry| self.ranges_of(*entry))
            .filter(|range| range.family() == family)
            .collect();
        // A family of which nothing is said is everywhere, also if something is said of the other (§2.2 rule 1).
        let is_in = |range: &Cidr| {
            // Loopback is served as a whole, by whichever part of it is listed (§2.2 rule 5).
            contains(range, address) || address.is_loopback() && range.base().is_loopback()
        };
        ranges.is_empty() || ranges.iter().any(is_in)
    }

    fn ranges_of(&self, entry: NodePortAddress) -> Vec<Cidr> {
        let read = |text: &str| Cidr::parse_leniently(text).unwrap_or_else(|| panic!("{text} is no range"));
        match entry {
            NodePortAddress::Cidr(range) => vec![range],
            NodePortAddress::All => vec![read("0.0.0.0/0"), read("::/0")],
            NodePortAddress::Localhost => vec![read("127.0.0.0/8"), read("::1/128")],
            NodePortAddress::Primary => {
                let known = self.node_ips.iter().filter(|address| !address.is_loopback());
                let alone = known.map(|address| match address {
                    IpAddr::V4(_) => read(&format!("{address}/32")),
                    IpAddr::V6(_) => read(&format!("{address}/128")),
                });
                alone.collect()
            }
        }
    }
}
