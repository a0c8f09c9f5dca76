//! What a source may tell the model: the only words that cross from `source` to `model`.
//!
//! Here: the enumeration. Not here: where changes come from (`source`), what they lead to (`store`).
//! Objects are shared, not copied: a source that must remember what it said (files, where another file may take over)
//! keeps a reference to the very value that the store holds.

use std::sync::Arc;

use super::{Cidr, EndpointSlice, Family, NodeFacts, OtherNodes, Service, ServiceKey, SliceKey};

/// One change of the world, in the order in which a source saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The Service is now so.
    ServiceApply(Arc<Service>),
    /// The Service is gone.
    ServiceDelete(ServiceKey),
    /// The EndpointSlice is now so.
    SliceApply(Arc<EndpointSlice>),
    /// The EndpointSlice is gone.
    SliceDelete(SliceKey),
    /// The own Node object is now so; `None` if it is gone.
    Node(Option<NodeFacts>),
    /// All other Nodes, together: half of a list would be a smaller cluster than there is.
    OtherNodes(Arc<OtherNodes>),
    /// All ranges from which ClusterIPs are given out: the union of all ServiceCIDR objects, sorted, each once.
    ServiceCidrs(Box<[Cidr]>),
    /// Everything of this kind that existed at the start has been told.
    Synced(SyncedKind),
}

impl Change {
    /// The families whose tables it may concern. A slice that is gone no longer says which: both.
    pub fn families(&self) -> &'static [Family] {
        match self {
            Self::SliceApply(slice) => match slice.address_type.family() {
                Some(Family::V4) => &[Family::V4],
                Some(Family::V6) => &[Family::V6],
                None => &[],
            },
            _ => &Family::BOTH,
        }
    }
}

/// A kind of object whose first list is complete. Nothing is planned before both are (§1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncedKind {
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
}
