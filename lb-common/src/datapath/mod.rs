//! The decisions: what happens to a packet. Pure code, generic over a [`Packet`], the [`Tables`] and a [`World`] with
//! a clock; no unsafe, no aya, no allocation. The kernel programs, the host tests and the fuzzer all run it.
//!
//! ```text
//!            ingress: destinations are rewritten        egress: sources are rewritten
//!           +------------------------------------+     +---------------------------+
//!  client ->| parse -> flow? -> rewrite          |--+->| parse -> flow? -> rewrite |-> backend
//!           |            no -> frontend? -> pick |  |  +---------------------------+
//!           +------------------------------------+  |
//!                                        routing, netfilter, CNI policy see client and backend addresses
//! ```
//!
//! A client in the host's own namespace has no ingress: its packets are translated where they leave, and the replies
//! where they arrive.

mod checksum;
mod error;
pub mod header;
mod packet;
mod parse;
mod path;
mod reject;
mod rewrite;
mod select;
mod track;
mod world;

pub use checksum::{fold, updated};
pub use header::{Ethernet, Header, IcmpHead, Ipv4, Ipv6, Tcp, Udp};
pub use packet::{ChecksumChange, Packet};
pub use parse::Parsed;
pub use path::{Errors, Hook, Opened, Opens, Verdict, error, open, refuse, tc, xdp};
pub use select::{flow_hash, pick};
pub use track::{counterpart, idle_limit_ns, is_over, open_pair};
pub use world::{Bucket, Insert, Refused, Tables, World};
