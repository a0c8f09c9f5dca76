//! What the kernel programs must know about the node and its devices.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use lb_common::layout::{Device, Node, Range, VlanKey};

use super::{
    Drift, TableError,
    kernel::{TableFamily, error},
    sorted_differences,
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

    /// Reads the record.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn get(&self) -> Result<Node<F::Addr>, TableError> {
        self.node.get(&0, 0).map_err(error("read the node record", F::NODE))
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

    /// Puts the record right if it isn't this.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn check(&mut self, wanted: &Node<F::Addr>) -> Result<Option<Drift>, TableError> {
        let found = self.get()?;
        Ok((found != *wanted).then(|| {
            let what = format!("is {found:?}, and should be {wanted:?}");
            Drift::new(F::NODE, what, self.put(*wanted))
        }))
    }
}

/// Devices by index.
pub type DeviceTable = Mirror<u32, Device>;
/// VLAN devices by card and tags.
pub type VlanTable = Mirror<VlanKey, u32>;

/// A table with a copy of what it holds.
pub struct Mirror<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    written: BTreeMap<K, V>,
}

impl<K: Pod + Ord, V: Pod + PartialEq> Mirror<K, V> {
    /// Opens the table of this name.
    ///
    /// # Errors
    /// If the map is of another kind, or can't be read.
    pub fn open(name: &'static str, map: Map) -> Result<Self> {
        let map: HashMap<MapData, K, V> = HashMap::try_from(map).context(name)?;
        let written = map.iter().collect::<Result<_, _>>().context(name)?;
        Ok(Self { name, map, written })
    }

    /// Puts right what is otherwise than it was written.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn check(&mut self) -> Result<Vec<Drift>, TableError>
    where
        K: Debug,
        V: Debug,
    {
        let found: Result<Vec<_>, _> = self.map.iter().collect();
        let found = found.map_err(error("read the devices", self.name))?;
        let all = self.written.iter().map(|(key, value)| (*key, *value));
        let differences = sorted_differences(found, all);
        let drifts = differences.into_iter().map(|it| {
            let what = format!("{:?} has {:?}, and should have {:?}", it.key, it.found, it.wanted);
            let repaired = match it.wanted {
                Some(value) => self
                    .map
                    .insert(it.key, value, 0)
                    .map_err(error("write a device", self.name)),
                None => self.map.remove(&it.key).map_err(error("remove a device", self.name)),
            };
            Drift::new(self.name, what, repaired)
        });
        Ok(drifts.collect())
    }

    /// Brings the table to these entries, and no other; whether it was otherwise.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn put_all(&mut self, entries: &BTreeMap<K, V>) -> Result<bool, TableError> {
        let mut is_changed = false;
        for (key, value) in entries {
            if self.written.get(key) != Some(value) {
                self.map
                    .insert(key, value, 0)
                    .map_err(error("write a device", self.name))?;
                self.written.insert(*key, *value);
                is_changed = true;
            }
        }
        let gone: Vec<K> = self
            .written
            .keys()
            .copied()
            .filter(|key| !entries.contains_key(key))
            .collect();
        for key in gone {
            self.map.remove(&key).map_err(error("remove a device", self.name))?;
            self.written.remove(&key);
            is_changed = true;
        }
        Ok(is_changed)
    }
}
