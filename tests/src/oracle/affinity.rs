//! `sessionAffinity: ClientIP`: which endpoint a client got before (§3.4).
//!
//! Here: the memory. Not here: which endpoints a flow may go to at all, which policy and topology settle first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::world::PortId;

/// What is kept of a client that has been at several endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Every endpoint keeps its own record of it: the text.
    #[default]
    EachEndpoint,
    /// Only where it has been last.
    Latest,
}

/// Who has been where, and when its last new flow was. One for each family.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    kept: Memory,
    seen: BTreeMap<(PortId, IpAddr), BTreeMap<SocketAddr, Duration>>,
}

impl Affinity {
    /// Nobody has been anywhere.
    #[must_use]
    pub fn keeping(kept: Memory) -> Self {
        Self {
            kept,
            ..Self::default()
        }
    }

    /// The endpoint among `allowed` that a new flow of this client has to go to, or nothing if it may go to any.
    ///
    /// At exactly the time limit the text says neither; no test asks.
    pub fn sticks_to<'e>(
        &self,
        port: &PortId,
        client: IpAddr,
        allowed: impl Iterator<Item = &'e SocketAddr>,
        timeout: Duration,
        now: Duration,
    ) -> Option<SocketAddr> {
        let seen = self.seen.get(&(port.clone(), client))?;
        let valid = |endpoint: &&SocketAddr| seen.get(*endpoint).is_some_and(|last| now < *last + timeout);
        // If several remember it, the first in the order of their texts.
        allowed.filter(valid).copied().min_by_key(ToString::to_string)
    }

    /// A new flow of this client went to this endpoint.
    pub fn went(&mut self, port: &PortId, client: IpAddr, endpoint: SocketAddr, now: Duration) {
        let seen = self.seen.entry((port.clone(), client)).or_default();
        if self.kept == Memory::Latest {
            seen.clear();
        }
        seen.insert(endpoint, now);
    }

    /// Only these Service ports have affinity from now on; what was kept for others is gone.
    pub fn only_of(&mut self, have: impl Fn(&PortId) -> bool) {
        self.seen.retain(|(port, _), _| have(port));
    }
}
