//! The frontend tables: what a client dials, and which service port answers there; and the table of addresses, which
//! says at once that a packet is for none of them.

use super::{Address, Port, Proto};

pod! {
    /// Address, port and protocol that a client dials. A NodePort has the unspecified address: it is served on every
    /// address that the address table names for it.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct FrontendKey<A> {
        /// Destination address of the client's packet.
        pub address: A,
        /// Destination port of the client's packet.
        pub port: Port,
        /// TCP, UDP or SCTP.
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

/// What a frontend leads to, in one word: the service number and what kind of frontend it is.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Frontend(pub u32);

impl Frontend {
    const EXTERNAL: u32 = 1 << 31;
    const FILTERED: u32 = 1 << 30;

    /// A ClusterIP of this service.
    #[must_use]
    pub const fn internal(number: u32) -> Self {
        Self(number)
    }

    /// A NodePort or ExternalIP of this service.
    #[must_use]
    pub const fn external(number: u32) -> Self {
        Self(number | Self::EXTERNAL)
    }

    /// A load-balancer address of this service: `loadBalancerSourceRanges` apply (kube-proxy-behaviour §4.4).
    #[must_use]
    pub const fn filtered(number: u32) -> Self {
        Self(number | Self::EXTERNAL | Self::FILTERED)
    }

    /// Index into the services table.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0 & !(Self::EXTERNAL | Self::FILTERED)
    }

    /// Whether `externalTrafficPolicy` rules it, and not `internalTrafficPolicy`.
    #[must_use]
    #[inline(always)]
    pub const fn is_external(self) -> bool {
        self.0 & Self::EXTERNAL != 0
    }

    /// Whether source ranges apply.
    #[must_use]
    #[inline(always)]
    pub const fn is_filtered(self) -> bool {
        self.0 & Self::FILTERED != 0
    }
}

/// What an address is to Sluice, as bits: the value of the address table. An address that is not in it is nobody's.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct AddressFlags(pub u32);

bits!(AddressFlags);

impl AddressFlags {
    /// A ClusterIP: what is sent to its other ports is refused (kube-proxy-behaviour §2.1, nftables).
    pub const CLUSTER_IP: Self = Self(1 << 0);
    /// An ExternalIP or load-balancer address.
    pub const EXTERNAL: Self = Self(1 << 1);
    /// NodePorts are served on it.
    pub const NODE_PORTS: Self = Self(1 << 2);
    /// An address of this host.
    pub const HOST: Self = Self(1 << 3);
    /// Of the loopback range: it is served for processes of this host, never for packets that a device brings
    /// (CVE-2020-8558).
    pub const LOOPBACK: Self = Self(1 << 4);
    /// An endpoint of a Service has it: who dials it directly must not be taken for a client of the Service.
    pub const ENDPOINT: Self = Self(1 << 5);
}
