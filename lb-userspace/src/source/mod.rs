//! Where Services and EndpointSlices come from.
//!
//! First room of the pipe `source → model → plan → reconcile → tables → kernel`. Two sources tell the same words,
//! [`Change`], over the same kind of channel; the rest of the agent cannot tell them apart. What they have to complain
//! about goes into a [`SourceStatus`], which `status` shows. Not here: keeping objects (`model`), deciding anything
//! about them (`plan`). The network devices of the host (`devices`, `cards`, `vlan_features`) and its routing (`routes`) are told apart from this:
//! they are no API objects.

pub mod cards;
pub mod convert;
pub mod devices;
pub mod kubernetes;
pub mod manifests;
mod netdev;
mod problem;
pub mod routes;
pub mod vlan_features;

pub use crate::model::{Change, SyncedKind};
pub use problem::{Closed, FilePlace, SourceProblem, SourceStatus};
