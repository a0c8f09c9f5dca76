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
//! where they arrive. What the socket tier translates (`socket`) is no Service's any more when it gets here.

mod affinity;
mod checksum;
mod choose;
mod crc32c;
mod echo;
mod error;
mod follow;
mod forward;
pub mod header;
mod open;
mod packet;
mod parse;
mod path;
mod reject;
mod reset;
mod rewrite;
mod search;
mod select;
mod socket;
mod tagged;
mod track;
mod tunnel;
mod verdict;
mod way;
mod whole;
mod world;

pub use checksum::{fold, updated};
pub use choose::{Chosen, Origin, Policy, choose, policy};
pub use crc32c::of_change as crc32c_of_change;
pub use error::Quoted;
pub use forward::ForwardFamily;
pub use header::{Ethernet, Header, IcmpHead, Ipv4, Ipv6, Sctp, Tcp, Udp};
pub use open::{End, Opened, open};
pub use packet::{ChecksumChange, Packet};
pub use parse::Parsed;
pub use path::{
    Errors, Opens, PathFamily, clamp, echo, enter_tunnel, error, refuse, reset, stray, tc, too_big, translate,
};
pub use search::{Found, Step, find, find_at, step};
pub use select::{cell, flow_hash, pick, place, socket_hash};
pub use socket::{Dialled, Socket, SocketFamily, connect, guard, is_mapped, peer_name, received, send};
pub use tagged::{Tagged, retag};
pub use track::{Claim, Held, Side, claim, claim_tuple, counterpart, held_by, idle_limit_ns, is_over, write_entry};
pub use tunnel::{
    GUE_PORT, TunnelFamily,
    receive::{Taken, take_out},
    send::{Fit, fit},
    xdp::come_out,
};
pub use verdict::{Hook, Verdict};
pub use way::{Ways, go, xdp};
pub use whole::split;
pub use world::{Bucket, Insert, Refused, Tables, World};
