//! `loadBalancerSourceRanges`: who may dial a service port's load-balancer addresses (kube-proxy-behaviour §4.4).

use super::{Ip4, Ip6};

/// Octets of a set's number in a key.
pub const SET_LEN: usize = 4;

/// A family's addresses behind the number of a set, as the prefix tree takes them: octets in the order in which they are
/// compared. A prefix length counts from the first bit of the set's number.
pub trait SourceKeys {
    /// Set and address.
    type SourceKey: Copy + Eq + Ord + core::fmt::Debug + 'static;
    /// The key of an address in a set.
    fn source_key(&self, set: u32) -> Self::SourceKey;
}

impl SourceKeys for Ip4 {
    type SourceKey = [u8; SET_LEN + 4];

    #[inline(always)]
    fn source_key(&self, set: u32) -> Self::SourceKey {
        let [a, b, c, d] = set.to_be_bytes();
        let [e, f, g, h] = self.octets;
        [a, b, c, d, e, f, g, h]
    }
}

impl SourceKeys for Ip6 {
    type SourceKey = [u8; SET_LEN + 16];

    #[inline(always)]
    fn source_key(&self, set: u32) -> Self::SourceKey {
        let mut key = [0; SET_LEN + 16];
        let set = set.to_be_bytes();
        let mut index = 0;
        while index < SET_LEN {
            key[index] = set[index];
            index += 1;
        }
        index = 0;
        while index < 16 {
            key[SET_LEN + index] = self.octets[index];
            index += 1;
        }
        key
    }
}
