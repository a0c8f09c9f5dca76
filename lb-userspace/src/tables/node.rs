//! What the kernel programs must know about the node and its devices.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::layout::{Device, Node, Range, names};

use super::{
    TableError,
    kernel::{TableFamily, error},
};
use crate::model::Cidr;

/// A range as the kernel programs compare it; nothing if it is of the other family.
#[must_use]
pub fn node_range<F: TableFamily>(range: Cidr) -> Option<Range<F::Addr>> {
    let prefix_len = u32::from(range.prefix_len());
    let free = match range.base() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::MAX.checked_shr(prefix_len).unwrap_or(0))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX.checked_shr(prefix_len).unwrap_or(0))),
    };
    Some(Range {
        base: F::from_ip(range.base())?,
        free: F::from_ip(free)?,
    })
}

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
        self.node
            .set(0, node, 0)
            .map_err(error("write the node record", F::NODE))
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

    /// Brings the table to these devices, and no other; whether it was otherwise.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn put_all(&mut self, devices: &BTreeMap<u32, Device>) -> Result<bool, TableError> {
        let mut is_changed = false;
        for (ifindex, device) in devices {
            if self.written.get(ifindex) != Some(device) {
                self.map
                    .insert(ifindex, device, 0)
                    .map_err(error("write a device", names::DEVICES))?;
                self.written.insert(*ifindex, *device);
                is_changed = true;
            }
        }
        let gone: Vec<u32> = self
            .written
            .keys()
            .copied()
            .filter(|ifindex| !devices.contains_key(ifindex))
            .collect();
        for ifindex in gone {
            self.map
                .remove(&ifindex)
                .map_err(error("remove a device", names::DEVICES))?;
            self.written.remove(&ifindex);
            is_changed = true;
        }
        Ok(is_changed)
    }
}
