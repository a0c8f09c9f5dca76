//! From the plan to the tables: the books of what is published, the order of writes, and the retry of what failed.
//!
//! Pure but for the tables behind [`Publisher`] and the grace periods; `agent` drives it.

mod adopt;
pub mod grace;
mod publish;
mod ranges;
mod reconciler;
mod siblings;

pub use publish::{Fill, PublishError, Publisher, Retired};
pub use reconciler::{PortProblem, Reconciler};
pub use siblings::Siblings;
