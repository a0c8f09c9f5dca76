//! What netfilter has on this node: connections that it translates, and kube-proxy's rules. For a takeover from kube-proxy and the way
//! back; nothing here decides what becomes of a connection.

mod kube_proxy;
mod socket;
mod tracked;

pub use kube_proxy::{Found, find, keep_translating, let_go, remove};
pub use tracked::{Tracked, Tuple, tracked};
