//! The model: Services and EndpointSlices as immutable values in Kubernetes' words, and the fold that keeps them.
//!
//! Second room of the pipe `source → model → plan → reconcile → tables → kernel`. Everything here is pure, synchronous
//! and compact (10 000 Services with 5 endpoints each cost about 10 MB): no `kube`, no `k8s_openapi`, no I/O, no clock.
//! Not here: reading objects (`source`), choosing endpoints and laying out tables (`plan`).

pub mod address;
mod change;
mod endpoint_slice;
mod key;
pub mod merge;
mod node;
mod problem;
mod protocol;
mod service;
mod store;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use address::Cidr;
pub use change::{Change, SyncedKind};
pub use endpoint_slice::{AddressType, Endpoint, EndpointSlice, SlicePort};
pub use key::{ServiceKey, SliceKey};
pub use merge::PortEndpoint;
pub use node::{NodeFacts, NodeView, OtherNodes, reachable, reachable_in};
pub use problem::{ObjectRef, Problem, Severity};
pub use protocol::{Family, Protocol};
pub use service::{
    Algorithm, Exclusion, Forwarding, OptOut, Service, ServicePort, ServiceType, TrafficPolicy, Weights,
};
pub use store::{Dirty, Store};
