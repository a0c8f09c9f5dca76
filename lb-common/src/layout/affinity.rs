//! Session affinity: which backend a client got last (kube-proxy-behaviour §3.4).

use super::Address;

pod! {
    /// A client of a service port. Neither its port nor the frontend counts: one client keeps its endpoint across
    /// ClusterIP, NodePort and load-balancer addresses.
    #[derive(Hash, PartialOrd, Ord, Default)]
    pub struct AffinityKey<A> {
        /// The client's address before any masquerade.
        pub client: A,
        /// [`Service::affinity`](super::Service::affinity): the service port, and which of its affinities this is.
        pub affinity: u32,
        /// Always zero.
        pub rest: A::Rest,
    }
    sizes: 8, 24;
}

impl<A: Address> AffinityKey<A> {
    /// A word that depends on all of the key. [`Affinity::check`] carries it.
    #[must_use]
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let sum = A::mixed(&self.client, &self.client) ^ u64::from(self.affinity).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (sum >> 32) as u32
    }
}

pod! {
    /// What a client got last.
    #[derive(Default)]
    pub struct Affinity {
        /// [`AffinityKey::check`] of the entry's own key. Comes first and is read last.
        pub check: u32,
        /// Backend number.
        pub backend: u32,
        /// The slot in which that backend was found last: while it has the backend and is in the range, the backend is.
        pub place: u32,
        /// Always zero.
        pub pad: u32,
        /// When the client's newest connection began, in monotonic nanoseconds.
        pub seen_ns: u64,
    }
    size: 24;
}
