/// Services and EndpointSlices as values, and the fold that keeps them.
pub mod model;
/// What the tables should say for one Service.
pub mod plan;
/// The door to the kernel: loading, pinning, attaching.
pub mod kernel;
/// The tables as the agent writes and reads them.
pub mod tables;
/// Where Services and EndpointSlices come from: an API server or a directory of manifests.
pub mod source;
