//! What the kernel programs must know about the node and its devices.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::layout::{Device, Node, names};

use super::{TableError, kernel::{TableFamily, error}};

/// The record about the node of one family.
pub struct NodeTable<F: TableFamily> {
    node: Array<MapData, Node<F::Addr>>,
}

impl<F: TableFamily> NodeTable<F> {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn open(map: Map) -> Result<Self> {
        Ok(Self {
            node: Array::try_from(map).context(F::NODE)?,
        })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn put(&mut self, node: Node<F::Addr>) -> Result<(), TableError> {
        self.node.set(0, node, 0).map_err(error("write the node record", F::NODE))
    }
}

/// The table of devices, with a copy of what it holds.
pub struct DeviceTable {
    map: HashMap<MapData, u32, Device>,
    written: BTreeMap<u32, Device>,
}

impl DeviceTable {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind, or can't be read.
    pub fn open(map: Map) -> Result<Self> {
        let map: HashMap<MapData, u32, Device> = HashMap::try_from(map).context(names::DEVICES)?;
        let written = map.iter().collect::<Result<_, _>>().context(names::DEVICES)?;
        Ok(Self { map, written })
    }

    /// Brings the table to these devices, and no other.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn put_all(&mut self, devices: &BTreeMap<u32, Device>) -> Result<(), TableError> {
        for (ifindex, device) in devices {
            if self.written.get(ifindex) != Some(device) {
                self.map.insert(ifindex, device, 0).map_err(error("write a device", names::DEVICES))?;
                self.written.insert(*ifindex, *device);
            }
        }
        let gone: Vec<u32> = self.written.keys().copied().filter(|ifindex| !devices.contains_key(ifindex)).collect();
        for ifindex in gone {
            self.map.remove(&ifindex).map_err(error("remove a device", names::DEVICES))?;
            self.written.remove(&ifindex);
        }
        Ok(())
    }
}
