//! Key of the frontend tables: what a client dials.

use super::{Address, Port, Proto};

pod! {
    /// Address, port and protocol that a client dials. The value is the service number (`u32`), an index into the
    /// services table.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct FrontendKey<A> {
        /// Destination address of the client's packet.
        pub address: A,
        /// Destination port of the client's packet.
        pub port: Port,
        /// TCP or UDP.
        pub proto: Proto,
        /// Always zero.
        pub pad: u8,
        /// Always zero.
        pub rest: A::Rest,
    }
    sizes: 8, 24;
}

impl<A: Address> FrontendKey<A> {
    /// The key for one frontend.
    #[must_use]
    #[inline(always)]
    pub fn new(address: A, port: Port, proto: Proto) -> Self {
        Self {
            address,
            port,
            proto,
            pad: 0,
            rest: A::Rest::default(),
        }
    }
}
