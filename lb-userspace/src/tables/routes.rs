//! The number that tells when a next hop that a kernel program remembers may be another one.

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::layout::names;

use super::{TableError, kernel::error};

/// The one number of `ROUTES`; it goes on where an earlier agent has left it.
pub struct RoutesTable {
    map: Array<MapData, u32>,
    number: u32,
}

impl RoutesTable {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind, or can't be read.
    pub fn open(map: Map) -> Result<Self> {
        let map = Array::try_from(map).context(names::ROUTES)?;
        let number = map.get(&0, 0).context(names::ROUTES)?;
        Ok(Self { map, number })
    }

    /// Writes the next number.
    ///
    /// # Errors
    /// If the kernel refuses; the next call writes a number that nobody has seen, too.
    pub fn advance(&mut self) -> Result<(), TableError> {
        self.number = self.number.wrapping_add(1);
        self.map
            .set(0, self.number, 0)
            .map_err(error("write the number", names::ROUTES))
    }
}
