//! The datapath without a kernel: packets are vectors, tables are `BTreeMap`s, and time is turned by hand.

mod packet;
mod side;
mod socket;
mod world;

pub use packet::{Carrier, HostPacket};
pub use side::{HostFamily, HostOutcome};
pub use socket::HostSocket;
pub use world::{Cabinet, HostWorld};
