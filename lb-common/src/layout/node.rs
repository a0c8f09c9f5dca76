//! What the kernel programs must know about the node; one record, written by the agent.

use super::{Ip4, Ip6};

pod! {
    /// Facts about the node. All zero until the agent has written it.
    #[derive(Default)]
    pub struct Node {
        /// The node's IPv4 address for masquerading; 0.0.0.0 if it has none.
        pub ipv4: Ip4,
        /// Always zero.
        pub pad: [u8; 4],
        /// The node's IPv6 address for masquerading; `::` if it has none.
        pub ipv6: Ip6,
    }
    size: 24;
}
