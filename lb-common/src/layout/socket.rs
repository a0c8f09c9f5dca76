//! What the socket tier keeps: what a socket dialled and what it got instead, in the socket's own storage, and what the programs must know
//! of the node's own namespace. IPv4 addresses stand as IPv4-mapped ones (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2): a socket may use both families.

use super::{Ip6, Port};

pod! {
    /// A peer of a socket: the address that was dialled, and the backend that answers for it. All zero: none.
    #[derive(Default)]
    pub struct SocketPeer {
        /// The address that the application dialled.
        pub dialled: Ip6,
        /// The backend's address.
        pub address: Ip6,
        /// The port that the application dialled.
        pub dialled_port: Port,
        /// The backend's port.
        pub port: Port,
        /// Backend number.
        pub backend: u32,
        /// Service number.
        pub service: u32,
        /// How often this socket has been given a backend: each time another is tried.
        pub turn: u32,
        /// When a datagram came or went last, in monotonic nanoseconds, to within a second; of a connection, when it was opened.
        pub seen_ns: u64,
    }
    size: 56;
}

/// Service addresses that an unconnected socket can have at once. A resolver has three.
pub const SOCKET_PEERS_MAX: usize = 8;

pod! {
    /// The peers of an unconnected socket.
    #[derive(Default)]
    pub struct SocketPeers {
        /// In no order.
        pub of: [SocketPeer; SOCKET_PEERS_MAX],
    }
    size: 448;
}

/// Which sockets are left to the tc tier, as bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SocketFlags(pub u32);

bits!(SocketFlags);

impl SocketFlags {
    /// Those in other network namespaces than the host's: pods'.
    pub const HOST_ONLY: Self = Self(1 << 0);
    /// Those of processes in some cgroups.
    pub const CGROUPS: Self = Self(1 << 1);
}

/// How deep in the tree a cgroup is looked for, from the root on. A pod's container is in the fifth.
pub const CGROUP_LEVELS_MAX: i32 = 8;

pod! {
    /// What the socket programs must know of the node. All zero until the agent has written it: no socket is the host's then.
    #[derive(Default)]
    pub struct SocketTier {
        /// Cookie of the host's own network namespace (`SO_NETNS_COOKIE`).
        pub host: u64,
        /// Sockets whose `SO_MARK` has `mark` in these bits are left to the tc tier; none if no bit is set.
        pub mask: u32,
        /// See `mask`.
        pub mark: u32,
        /// Which sockets are left to the tc tier.
        pub flags: SocketFlags,
        /// Always zero.
        pub pad: u32,
    }
    size: 24;
}
