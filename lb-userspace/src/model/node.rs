//! What the agent knows of the node it runs on.
//!
//! Here: the name and zone that decide which endpoints are local and which topology hints count (§3.1). Not here: the
//! node's addresses and devices (`source::devices`). Called by `store`, which keeps it, and by `plan`.

/// The own node as planning sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The Node object's name; endpoints with this `nodeName` are local.
    pub name: Box<str>,
    /// Label `topology.kubernetes.io/zone`. Without it zone hints are not followed.
    pub zone: Option<Box<str>>,
}

impl NodeView {
    /// A node of this name, its zone not known yet.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            zone: None,
        }
    }
}
