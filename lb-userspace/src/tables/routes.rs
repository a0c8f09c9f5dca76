//! The number that tells when a next hop that a kernel program remembers may be another one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::layout::names;

use super::{TableError, kernel::error};

/// The one number of `ROUTES`; it goes on where an earlier agent has left it. Two writers never write the same: what was looked up
/// before a change was counted is never remembered under a number that is written after it.
pub struct RoutesTable {
    map: Array<MapData, u32>,
    last: Arc<AtomicU32>,
}

impl RoutesTable {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind, or can't be read.
    pub fn open(map: Map) -> Result<Self> {
        let map = Array::try_from(map).context(names::ROUTES)?;
        let last = map.get(&0, 0).context(names::ROUTES)?;
        let last = Arc::new(AtomicU32::new(last));
        Ok(Self { map, last })
    }

    /// Another writer, through a map of its own, for another thread.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn another(&self, map: Map) -> Result<Self> {
        let map = Array::try_from(map).context(names::ROUTES)?;
        let last = self.last.clone();
        Ok(Self { map, last })
    }

    /// Writes a number that was not there before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn advance(&mut self) -> Result<(), TableError> {
        let next = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.map
            .set(0, next, 0)
            .map_err(error("write the number", names::ROUTES))
    }
}
