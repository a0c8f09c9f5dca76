//! The datapath without a kernel: packets are vectors, tables are `BTreeMap`s, and time is turned by hand.

mod packet;
mod side;
mod world;

pub use packet::{Carrier, HostPacket};
pub use side::{HostFamily, HostOutcome};
pub use world::{Cabinet, HostWorld};
