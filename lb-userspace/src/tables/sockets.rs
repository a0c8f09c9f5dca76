//! What the socket programs must know of the node, and which cgroups they leave to the tc tier.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::layout::{SocketTier, names};

use super::{TableError, kernel::error};

/// The one record of `SOCKET_TIER`, and `LEFT_CGROUPS`; and which map is the sockets' storage.
pub struct SocketTable {
    tier: Array<MapData, SocketTier>,
    left: HashMap<MapData, u64, u32>,
    peers: MapData,
}

impl SocketTable {
    /// Opens the tables.
    ///
    /// # Errors
    /// If a map is of another kind, or is not there.
    pub fn open(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let Map::SkStorage(peers) = take(names::SK_PEER)? else {
            bail!("{} is no socket storage", names::SK_PEER);
        };
        Ok(Self {
            peers,
            tier: Array::try_from(take(names::SOCKET_TIER)?).context(names::SOCKET_TIER)?,
            left: HashMap::try_from(take(names::LEFT_CGROUPS)?).context(names::LEFT_CGROUPS)?,
        })
    }

    /// The storage of TCP sockets, for `sock_diag` to name.
    ///
    /// # Errors
    /// If the process has too many files open.
    pub fn storage(&self) -> Result<OwnedFd> {
        let storage = self.peers.fd().as_fd().try_clone_to_owned();
        storage.context("keep the sockets' storage open")
    }

    /// Writes both, the cgroups first.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn put(&mut self, tier: SocketTier, cgroups: &BTreeSet<u64>) -> Result<(), TableError> {
        let there: Vec<u64> = self
            .left
            .keys()
            .collect::<Result<_, _>>()
            .map_err(error("read the cgroups", names::LEFT_CGROUPS))?;
        for cgroup in cgroups {
            self.left
                .insert(cgroup, 0, 0)
                .map_err(error("write a cgroup", names::LEFT_CGROUPS))?;
        }
        for cgroup in there.iter().filter(|cgroup| !cgroups.contains(cgroup)) {
            self.left
                .remove(cgroup)
                .map_err(error("remove a cgroup", names::LEFT_CGROUPS))?;
        }
        self.tier
            .set(0, tier, 0)
            .map_err(error("write the record", names::SOCKET_TIER))
    }
}
