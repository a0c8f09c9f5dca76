/// Services and EndpointSlices as values, and the fold that keeps them.
pub mod model;
/// What the tables should say for one Service.
pub mod plan;
