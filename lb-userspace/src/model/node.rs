//! What the agent knows of the node it runs on, and where the others are.
//!
//! Here: the name and zone that decide which endpoints are local and which topology hints count (§3.1), and what the Node
//! object says besides: addresses, pod ranges, whether the node is on its way out. Not here: how it is read
//! (`source::convert`), the devices and addresses that the host really has (`source::devices`). Called by `store`, which
//! keeps it, by `plan` and by `health`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Cidr, Family, Protocol};

/// The Nodes but the own one, by name, with what their objects say in `status.addresses`: each address once, InternalIPs in
/// their order, then ExternalIPs.
pub type OtherNodes = BTreeMap<Box<str>, Box<[IpAddr]>>;

/// The addresses among these at which another node can be reached. Any Node object may say anything.
pub fn reachable(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let may_be_sent_to = |address: &IpAddr| {
        let is_of_one_link = match address {
            IpAddr::V4(address) => address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_of_one_link)
    };
    addresses.iter().copied().filter(may_be_sent_to)
}

/// The first of them of a family.
pub fn reachable_in(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    reachable(addresses).find(|address| Family::of(*address) == family)
}

/// What the own Node object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Label `topology.kubernetes.io/zone`; an empty label is `None`.
    pub zone: Option<Box<str>>,
    /// `status.addresses`, each once: InternalIPs in their order, then ExternalIPs. Names are left out.
    pub addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`, or `spec.podCIDR` where only that is written.
    pub pod_cidrs: Box<[Cidr]>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The cluster autoscaler is about to remove the node (taint `ToBeDeletedByClusterAutoscaler`, any effect).
    pub leaving: bool,
}

impl NodeFacts {
    /// The node's address of a family. The first address of all decides the primary family (§6.8).
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| Family::of(*address) == family)
    }

    /// The node's pod range of a family.
    pub fn pod_cidr(&self, family: Family) -> Option<Cidr> {
        self.pod_cidrs.iter().copied().find(|cidr| cidr.family() == family)
    }

    /// Should load balancers send new connections here (§6.1)?
    pub fn eligible(&self) -> bool {
        !self.deleting && !self.leaving
    }
}

/// The own node as planning sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The Node object's name; endpoints with this `nodeName` are local.
    pub name: Box<str>,
    /// The zone last heard of. It outlives the Node object: a machine does not move when its object is deleted.
    pub zone: Option<Box<str>>,
    /// What the Node object says; `None` while it is unknown or deleted.
    pub facts: Option<NodeFacts>,
    /// The host's own addresses as its devices say, at most one of each family: stand in while no Node object says any.
    pub detected: Box<[IpAddr]>,
    /// `--bind-address`: stands for the Node object's address of its family (§6.8).
    pub bind_address: Option<IpAddr>,
    /// `--reset-removed`: what holds for Services that don't say it themselves.
    pub resets_removed: bool,
    /// `--dsr`: the protocols of which endpoints answer clients outside directly, where the Service doesn't say it itself.
    pub dsr_protocols: Box<[Protocol]>,
}

impl NodeView {
    /// A node of this name, nothing else known yet.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The same node, in this zone.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        Self {
            zone: Some(zone.into()),
            ..self
        }
    }

    /// The zone whose hints count. Without one, zone hints are not followed.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref().filter(|zone| !zone.is_empty())
    }

    /// The node's address of a family: as it was told, else as its object says, else as its devices say.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let told = self
            .bind_address
            .filter(|told| Family::of(*told) == family && !told.is_unspecified());
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        told.or_else(|| self.facts.as_ref()?.address(family))
            .or_else(|| self.detected.iter().find(of_family).copied())
    }

    /// The same, and loopback while it is unknown (§6.8).
    pub fn ip(&self, family: Family) -> IpAddr {
        self.address(family).unwrap_or(match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        })
    }

    /// The address by which other nodes know this one: what its object says, else as it was told, else as its devices say.
    pub fn tunnel_address(&self, family: Family) -> Option<IpAddr> {
        let facts = self.facts.as_ref();
        let known = facts.and_then(|facts| reachable_in(&facts.addresses, family));
        known.or_else(|| self.address(family))
    }
}
