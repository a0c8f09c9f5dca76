//! The word that says whether new flows are left to netfilter: before a takeover from kube-proxy, and on the way back to it.

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::layout::{NEW_FLOWS_ARE_OURS, names};

use super::{TableError, kernel::error};

/// Whose new flows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Deferral {
    /// Netfilter's: no agent has got as far as deciding.
    #[default]
    Undecided = 0,
    /// Ours.
    No = NEW_FLOWS_ARE_OURS,
    /// Netfilter's: this node has not been taken over yet.
    Shadow = 2,
    /// Netfilter's again: this node was given back.
    Retired = 3,
}

/// The one word of `DEFERS`. It is written by `sluice takeover` and `sluice retire`, and by an agent that starts on a node without a
/// datapath or takes one over; it outlives them all.
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

    /// Whose new flows are.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn get(&self) -> Result<Deferral, TableError> {
        let word = self.map.get(&0, 0).map_err(error("read the word", names::DEFERS))?;
        Ok(match word {
            0 => Deferral::Undecided,
            NEW_FLOWS_ARE_OURS => Deferral::No,
            3 => Deferral::Retired,
            _ => Deferral::Shadow,
        })
    }

    /// Whose they are from now on. One store: a packet sees the one or the other.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn put(&mut self, deferral: Deferral) -> Result<(), TableError> {
        self.map
            .set(0, deferral as u32, 0)
            .map_err(error("write the word", names::DEFERS))
    }
}
