//! What the socket programs must know of the node, and which cgroups they leave to the tc tier.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::layout::{SocketTier, names};

use super::{TableError, kernel::error};

/// The one record of `SOCKET_TIER`, and `LEFT_CGROUPS`.
pub struct SocketTable {
    tier: Array<MapData, SocketTier>,
    left: HashMap<MapData, u64, u32>,
}

impl SocketTable {
    /// Opens both tables.
    ///
    /// # Errors
    /// If a map is of another kind, or is not there.
    pub fn open(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            tier: Array::try_from(take(names::SOCKET_TIER)?).context(names::SOCKET_TIER)?,
            left: HashMap::try_from(take(names::LEFT_CGROUPS)?).context(names::LEFT_CGROUPS)?,
        })
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
