//! The word that says whether new flows are left to netfilter: before a takeover from kube-proxy, and on the way back to it.

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::layout::names;

use super::{TableError, kernel::error};

/// The one word of `DEFERS`. Who writes it is `sluice takeover` and `sluice retire`, and an agent that starts on a node without a
/// datapath; it outlives them all.
pub struct DefersTable {
    map: Array<MapData, u32>,
}

impl DefersTable {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn open(map: Map) -> Result<Self> {
        Ok(Self {
            map: Array::try_from(map).context(names::DEFERS)?,
        })
    }

    /// Whether new flows are left to netfilter.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn get(&self) -> Result<bool, TableError> {
        let word = self.map.get(&0, 0).map_err(error("read the word", names::DEFERS))?;
        Ok(word != 0)
    }

    /// From now on they are, or no longer. One store: a packet sees the one or the other.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn put(&mut self, defers: bool) -> Result<(), TableError> {
        self.map
            .set(0, u32::from(defers), 0)
            .map_err(error("write the word", names::DEFERS))
    }
}
