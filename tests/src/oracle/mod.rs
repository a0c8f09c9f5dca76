//! What a new flow has to become, by the book: a second reading of the behaviour reference (§1.5 and §2 to §4), written
//! from its text alone, plain and slow.
//!
//! ```text
//! World (node, Services, slices) + NewFlow ──decide──► Outcome      what may happen
//!          │                          └─────subject──► Seen         what Sluice did
//!          └── random: worlds and flows nobody has thought of, from a seed
//! ```
//!
//! Nothing here knows how Sluice does it, but for [`subject`], which asks Sluice. Of the agent only the plain values of
//! `model` are used, as input. Where kube-proxy's modes disagree (§10) this is the nftables one, with two differences:
//! NodePorts are on all addresses unless told otherwise, and on loopback for the host's own processes, all of it or nothing.
//! Where the text has two rules and no order, what a process of the host sends is the host's, whatever its address is.
//!
//! Start reading at [`decide`]. [`notation`] says worlds and flows in lines of text, which failures print and tests read.

pub mod affinity;
pub mod cast;
pub mod categorise;
pub mod contest;
pub mod decide;
pub mod frontend;
pub mod node;
pub mod notation;
pub mod outcome;
pub mod random;
pub mod shrink;
pub mod subject;
pub mod world;

#[cfg(test)]
mod tests;

pub use affinity::{Affinity, Memory};
pub use node::{Detector, Node, NodePortAddress};
pub use outcome::{DropWhy, NewFlow, Origin, Outcome};
pub use world::{PortId, World};
