//! Where a flow is laid out while it is opened: per CPU, since a program's stack of 512 octets is too small for the
//! keys and entries of an IPv6 flow. Of no meaning between packets.

use super::{Flow, FlowFlags, FlowKey, TcpSeen};

pod! {
    /// What all entries of a new flow have in common.
    #[derive(Default)]
    pub struct Opening {
        /// Now, in monotonic nanoseconds.
        pub now_ns: u64,
        /// Backend number.
        pub backend: u32,
        /// Service number.
        pub service: u32,
        /// Flags of the entry in the client's direction.
        pub flags: FlowFlags,
        /// TCP flags of the packet that opens it.
        pub tcp: TcpSeen,
        /// Always zero.
        pub pad: [u8; 5],
    }
    size: 24;
}

pod! {
    /// The desk of one CPU and family.
    #[derive(Default)]
    pub struct Desk<A> {
        /// The tuple that packets have before translation.
        pub old: FlowKey<A>,
        /// The tuple that they get.
        pub new: FlowKey<A>,
        /// The tuple that the packet under way gets at this hook.
        pub translated: FlowKey<A>,
        /// Key of the entry that is being written.
        pub key: FlowKey<A>,
        /// The entry that is being written.
        pub flow: Flow<A>,
        /// What all entries have in common.
        pub opening: Opening,
    }
    sizes: 128, 248;
}
