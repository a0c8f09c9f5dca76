//! The tables in the kernel's maps.

use std::{borrow::Borrow, collections::HashSet};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::layout::{
    Backend, BackendFlags, FrontendKey, Ip4, Ip6, Label, Node, Port, Scope, Service, V4, V6, names,
};

use super::{Capacity, TableError, Tables, mapped::MappedArray};

/// A family as the agent knows it: which maps are its own, and how its backend records lie in memory.
pub trait TableFamily: lb_common::layout::Family {
    /// Name of the frontend map.
    const FRONTENDS: &'static str;
    /// Name of the service map.
    const SERVICES: &'static str;
    /// Name of the slot map.
    const SLOTS: &'static str;
    /// Name of the backend map.
    const BACKENDS: &'static str;
    /// Name of the label map.
    const LABELS: &'static str;
    /// Name of the flow map.
    const FLOWS: &'static str;
    /// An address of this family, or nothing if it is of the other.
    fn from_ip(address: std::net::IpAddr) -> Option<Self::Addr>;
    /// The address for people.
    fn to_ip(address: Self::Addr) -> std::net::IpAddr;
    /// A backend record as words.
    fn backend_to_words(backend: &Backend<Self::Addr>) -> [u64; 3];
    /// A backend record from words.
    fn backend_from_words(words: [u64; 3]) -> Backend<Self::Addr>;
}

impl TableFamily for V4 {
    const FRONTENDS: &'static str = names::LB4_FRONTENDS;
    const SERVICES: &'static str = names::LB4_SERVICES;
    const SLOTS: &'static str = names::LB4_SLOTS;
    const BACKENDS: &'static str = names::LB4_BACKENDS;
    const LABELS: &'static str = names::LB4_LABELS;
    const FLOWS: &'static str = names::CT4_FLOWS;

    fn from_ip(address: std::net::IpAddr) -> Option<Ip4> {
        match address {
            std::net::IpAddr::V4(address) => Some(address.into()),
            std::net::IpAddr::V6(_) => None,
        }
    }

    fn to_ip(address: Ip4) -> std::net::IpAddr {
        address.into()
    }

    fn backend_to_words(backend: &Backend<Ip4>) -> [u64; 3] {
        let [a, b, c, d] = backend.address.octets;
        [tail_word([a, b, c, d], backend.port, backend.flags), 0, 0]
    }

    fn backend_from_words([word, _, _]: [u64; 3]) -> Backend<Ip4> {
        let ([a, b, c, d], port, flags) = from_tail_word(word);
        Backend {
            address: Ip4 { octets: [a, b, c, d] },
            port,
            flags,
            rest: [],
        }
    }
}

impl TableFamily for V6 {
    const FRONTENDS: &'static str = names::LB6_FRONTENDS;
    const SERVICES: &'static str = names::LB6_SERVICES;
    const SLOTS: &'static str = names::LB6_SLOTS;
    const BACKENDS: &'static str = names::LB6_BACKENDS;
    const LABELS: &'static str = names::LB6_LABELS;
    const FLOWS: &'static str = names::CT6_FLOWS;

    fn from_ip(address: std::net::IpAddr) -> Option<Ip6> {
        match address {
            std::net::IpAddr::V4(_) => None,
            std::net::IpAddr::V6(address) => Some(address.into()),
        }
    }

    fn to_ip(address: Ip6) -> std::net::IpAddr {
        address.into()
    }

    fn backend_to_words(backend: &Backend<Ip6>) -> [u64; 3] {
        let (high, low) = backend.address.octets.split_at(8);
        let word = |octets: &[u8]| u64::from_ne_bytes(octets.try_into().unwrap_or_default());
        // Port and flags begin the third word.
        let [p, q] = backend.port.octets;
        let [f, g] = backend.flags.0.to_ne_bytes();
        [word(high), word(low), u64::from_ne_bytes([p, q, f, g, 0, 0, 0, 0])]
    }

    fn backend_from_words([high, low, rest]: [u64; 3]) -> Backend<Ip6> {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&high.to_ne_bytes());
        octets[8..].copy_from_slice(&low.to_ne_bytes());
        let [p, q, f, g, ..] = rest.to_ne_bytes();
        Backend {
            address: Ip6 { octets },
            port: Port { octets: [p, q] },
            flags: BackendFlags(u16::from_ne_bytes([f, g])),
            rest: [0; 4],
        }
    }
}

/// Four octets, port and flags as they lie behind each other in memory.
fn tail_word([a, b, c, d]: [u8; 4], port: Port, flags: BackendFlags) -> u64 {
    let [p, q] = port.octets;
    let [f, g] = flags.0.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, p, q, f, g])
}

fn from_tail_word(word: u64) -> ([u8; 4], Port, BackendFlags) {
    let [a, b, c, d, p, q, f, g] = word.to_ne_bytes();
    (
        [a, b, c, d],
        Port { octets: [p, q] },
        BackendFlags(u16::from_ne_bytes([f, g])),
    )
}

/// The tables of one family, in the kernel.
pub struct KernelTables<F: TableFamily> {
    frontends: HashMap<MapData, FrontendKey<F::Addr>, u32>,
    labels: HashMap<MapData, u32, Label>,
    services: MappedArray,
    slots: MappedArray,
    backends: MappedArray,
    capacity: Capacity,
}

impl<F: TableFamily> KernelTables<F> {
    /// Opens the tables through `take`, which finds a map by its name: in the loaded object, or among the pins.
    ///
    /// # Errors
    /// If a map is missing, of another kind, or can't be mapped into memory.
    pub fn open(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let mut array = |name: &'static str, element_len: usize| -> Result<(MappedArray, u32)> {
            let map = take(name)?;
            let Map::Array(data) = &map else {
                return Err(anyhow!("{name} is no array"));
            };
            let entries = data.info()?.max_entries();
            let mapped = MappedArray::new(data.fd(), entries, element_len)
                .with_context(|| format!("map the table {name} into memory"))?;
            Ok((mapped, entries))
        };
        let (services, service_count) = array(F::SERVICES, size_of::<Service>())?;
        let (slots, slot_count) = array(F::SLOTS, size_of::<u32>())?;
        let (backends, backend_count) = array(F::BACKENDS, size_of::<Backend<F::Addr>>())?;
        let capacity = Capacity {
            services: service_count,
            slots: slot_count,
            backends: backend_count,
        };
        Ok(Self {
            frontends: HashMap::try_from(take(F::FRONTENDS)?).with_context(|| F::FRONTENDS)?,
            labels: HashMap::try_from(take(F::LABELS)?).with_context(|| F::LABELS)?,
            services,
            slots,
            backends,
            capacity,
        })
    }
}

const INTERNAL_WORD: usize = 0;
const EXTERNAL_WORD: usize = 1;

impl<F: TableFamily> Tables<F::Addr> for KernelTables<F> {
    fn put_frontend(&mut self, key: &FrontendKey<F::Addr>, number: u32) -> Result<(), TableError> {
        self.frontends
            .insert(key, number, 0)
            .map_err(error("write a frontend", F::FRONTENDS))
    }

    fn remove_frontend(&mut self, key: &FrontendKey<F::Addr>) -> Result<(), TableError> {
        accept_absence(self.frontends.remove(key)).map_err(error("remove a frontend", F::FRONTENDS))
    }

    fn put_label(&mut self, number: u32, label: &Label) -> Result<(), TableError> {
        self.labels
            .insert(number, label, 0)
            .map_err(error("write a label", F::LABELS))
    }

    fn remove_label(&mut self, number: u32) -> Result<(), TableError> {
        accept_absence(self.labels.remove(&number)).map_err(error("remove a label", F::LABELS))
    }

    fn put_internal_scope(&mut self, number: u32, scope: Scope) {
        self.services.store(number, INTERNAL_WORD, scope.0);
    }

    fn put_external_scope(&mut self, number: u32, scope: Scope) {
        self.services.store(number, EXTERNAL_WORD, scope.0);
    }

    fn put_slot(&mut self, place: u32, backend: u32) {
        // An element is as long as a word; the value is its first half in memory.
        let [a, b, c, d] = backend.to_ne_bytes();
        self.slots.store(place, 0, u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]));
    }

    fn put_backend(&mut self, number: u32, backend: &Backend<F::Addr>) {
        for (index, word) in F::backend_to_words(backend).into_iter().enumerate() {
            self.backends.store(number, index, word);
        }
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<F::Addr>, u32)>, TableError> {
        all(&self.frontends).map_err(error("read the frontends", F::FRONTENDS))
    }

    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError> {
        all(&self.labels).map_err(error("read the labels", F::LABELS))
    }

    fn scopes(&self, number: u32) -> (Scope, Scope) {
        (
            Scope(self.services.load(number, INTERNAL_WORD)),
            Scope(self.services.load(number, EXTERNAL_WORD)),
        )
    }

    fn slot(&self, place: u32) -> u32 {
        let [a, b, c, d, ..] = self.slots.load(place, 0).to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    fn backend(&self, number: u32) -> Backend<F::Addr> {
        F::backend_from_words([0, 1, 2].map(|word| self.backends.load(number, word)))
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

fn error(action: &'static str, table: &'static str) -> impl FnOnce(MapError) -> TableError {
    move |reason| TableError {
        action,
        table,
        reason: match reason {
            MapError::SyscallError(failed) if failed.io_error.raw_os_error() == Some(libc::E2BIG) => {
                "the table is full".to_owned()
            }
            MapError::SyscallError(failed) => format!("{}: {}", failed.call, failed.io_error),
            other => other.to_string(),
        },
    }
}

fn accept_absence(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(failed)) if failed.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// All entries. The kernel starts its iteration anew when the key it stands at is removed, so doubles are left out.
fn all<K: aya::Pod + Eq + std::hash::Hash, V: aya::Pod>(
    map: &HashMap<impl Borrow<MapData>, K, V>,
) -> Result<Vec<(K, V)>, MapError> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for entry in map {
        let (key, value) = entry?;
        if seen.insert(key) {
            entries.push((key, value));
        }
    }
    Ok(entries)
}

/// What the kernel programs must know about the node.
pub struct NodeTable {
    node: aya::maps::Array<MapData, Node>,
}

impl NodeTable {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn open(map: Map) -> Result<Self> {
        Ok(Self {
            node: aya::maps::Array::try_from(map).context(names::NODE)?,
        })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn put(&mut self, node: Node) -> Result<(), TableError> {
        self.node
            .set(0, node, 0)
            .map_err(error("write the node record", names::NODE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_records_survive_the_way_through_words() {
        let flags = BackendFlags::ACTIVE.with(BackendFlags::LOCAL);
        let v4 = Backend {
            address: Ip4 { octets: [10, 1, 2, 3] },
            port: Port::new(8080),
            flags,
            rest: [],
        };
        assert_eq!(V4::backend_from_words(V4::backend_to_words(&v4)), v4);
        let octets = *b"\xfd\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e";
        let v6 = Backend {
            address: Ip6 { octets },
            port: Port::new(53),
            flags,
            rest: [0; 4],
        };
        assert_eq!(V6::backend_from_words(V6::backend_to_words(&v6)), v6);
    }
}
