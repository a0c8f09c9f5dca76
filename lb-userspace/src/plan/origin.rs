//! How connections of pods are told from others: the local detector (behaviour reference §4.2).

use crate::model::{Cidr, Family, NodeView};

/// `detectLocalMode`, with what each mode needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detector {
    /// By source address in the cluster's pod ranges; the first of each family counts. Without one, the family has no detector.
    ClusterCidr(Vec<Cidr>),
    /// By source address in the node's own pod ranges.
    NodeCidr,
    /// By the bridge that they come over.
    BridgeInterface(String),
    /// By the name of the device that they come from.
    InterfaceNamePrefix(String),
}

impl Default for Detector {
    fn default() -> Self {
        Self::ClusterCidr(Vec::new())
    }
}

impl Detector {
    /// The addresses of pods, if pods are known by them.
    #[must_use]
    pub fn pods(&self, family: Family, node: &NodeView) -> Option<Cidr> {
        match self {
            Self::ClusterCidr(ranges) => ranges.iter().copied().find(|range| range.family() == family),
            Self::NodeCidr => node.facts.as_ref()?.pod_cidr(family),
            Self::BridgeInterface(_) | Self::InterfaceNamePrefix(_) => None,
        }
    }

    /// Whether pods are known by the devices that their packets come from.
    #[must_use]
    pub fn is_by_device(&self) -> bool {
        matches!(self, Self::BridgeInterface(_) | Self::InterfaceNamePrefix(_))
    }

    /// Whether packets of pods come from a device of this name, a port of the device `controller`.
    #[must_use]
    pub fn is_pod_device(&self, name: &str, controller: Option<&str>) -> bool {
        match self {
            // A hook sees packets before the bridge does: on its ports.
            Self::BridgeInterface(bridge) => name == bridge || controller == Some(bridge),
            Self::InterfaceNamePrefix(prefix) => name.starts_with(prefix.as_str()),
            Self::ClusterCidr(_) | Self::NodeCidr => false,
        }
    }
}
