//! What netfilter has on this node: connections that it translates, and kube-proxy's rules. For a takeover from kube-proxy and the way
//! back; nothing here decides what becomes of a connection.

mod ipset;
mod ipvs;
mod keeper;
mod kube_proxy;
mod legacy;
mod nftables;
mod socket;
mod tracked;

pub use ipvs::{IPVS_DEVICE, Staying};
pub use keeper::{keep_translating, let_go};
pub use kube_proxy::{Found, Removed, Waiting, find, go_on_removing, remove};
pub use socket::is_absent;
pub use tracked::{Tracked, Tuple, tracked};
