//! From the plan to the tables: the books of what is published, the order of writes, and the retry of what failed.
//!
//! Pure but for the tables behind [`Publisher`] and the grace periods; `agent` drives it.

mod adopt;
mod frontends;
pub mod grace;
mod lists;
mod maglev;
mod numbers;
mod places;
mod publish;
mod ranges;
mod reconciler;
mod retire;
mod shared;
mod siblings;
mod sources;
#[cfg(test)]
mod tests;
mod truth;

pub use publish::{Fill, Gone, PublishError, Publisher};
pub use reconciler::{PortProblem, Reconciler};
pub use retire::Retired;
pub use siblings::Siblings;
pub use truth::STEPS;
