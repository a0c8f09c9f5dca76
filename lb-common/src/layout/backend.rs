//! A backend record: where a translated packet goes.

use super::{Address, Port};

/// Facts about a backend, as bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BackendFlags(pub u16);

bits!(BackendFlags);

impl BackendFlags {
    /// The endpoint serves: new flows may come to it, and datagrams of old ones go on (kube-proxy-behaviour §5.2). A record
    /// without this flag belongs to an endpoint that is there but doesn't serve: its connections may go on.
    pub const ACTIVE: Self = Self(1 << 0);
    /// The endpoint runs on this node.
    pub const LOCAL: Self = Self(1 << 1);
    /// The endpoint is terminating; it serves what it has, and new flows only when nothing else is ready.
    pub const TERMINATING: Self = Self(1 << 2);
}

pod! {
    /// An endpoint of one service port: address and target port. Backend number 0 is never used.
    #[derive(Default)]
    pub struct Backend<A> {
        /// Endpoint address.
        pub address: A,
        /// Target port.
        pub port: Port,
        /// Facts about it.
        pub flags: BackendFlags,
        /// Service number of the service port.
        pub service: u32,
        /// Address of the node that it runs on, to which packets go in a tunnel when clients are answered directly; unspecified if
        /// there is none of this family, or if it is this node. May change while the record is in use, word by word: whoever reads
        /// it asks the table of peers for it.
        pub node: A,
    }
    sizes: 16, 40;
}

pod! {
    /// What the table of backends has for each backend number: see [`ServiceEntry`](super::ServiceEntry).
    #[derive(Default)]
    pub struct BackendEntry<A> {
        /// The agent's.
        pub record: Backend<A>,
        /// Connections for which it was chosen, which the programs count.
        pub opened: u64,
    }
    sizes: 24, 48;
}

impl<A: Address> Backend<A> {
    /// Whether the record still stands for an endpoint of this service port, and that serves.
    #[must_use]
    #[inline(always)]
    pub const fn serves(&self, service: u32) -> bool {
        self.flags.has(BackendFlags::ACTIVE) && self.service == service
    }
}
