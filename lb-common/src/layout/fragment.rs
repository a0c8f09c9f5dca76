//! Fragment tables: the ports of a datagram whose first fragment has passed, for the fragments that follow it.

use super::{Port, Proto};

pod! {
    /// What all fragments of one datagram share (RFC 791 §3.2, RFC 8200 §4.5).
    #[derive(Hash, PartialOrd, Ord)]
    pub struct FragmentKey<A> {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// Identification, as its octets lie in memory (IPv4's 16 bits are extended).
        pub id: u32,
        /// TCP or UDP.
        pub proto: Proto,
        /// Always zero.
        pub pad: u8,
        /// Always zero.
        pub pad2: u16,
    }
    sizes: 16, 40;
}

pod! {
    /// The ports that only the first fragment carries.
    #[derive(Default)]
    pub struct FragmentPorts {
        /// Source port.
        pub sport: Port,
        /// Destination port.
        pub dport: Port,
    }
    size: 4;
}
