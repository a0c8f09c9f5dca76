//! The tables in the kernel's maps.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{
    HashMap, Map, MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use lb_common::layout::{
    Address as _, AddressFlags, Backend, BackendEntry, BackendFlags, Chunk, Frontend, FrontendKey, Ip4, Ip6, Label,
    Port, Proto, Rules, SET_LEN, Scope, Service, ServiceEntry, ServiceStats, Sets, SourceKeys, V4, V6, names,
};

use super::{Capacity, List, SourceRange, TableError, Tables, batch, mapped::MappedArray};

/// A family as the agent knows it: which maps are its own, and how its backend records lie in memory.
pub trait TableFamily:
    lb_common::layout::Family<Addr: aya::Pod + SourceKeys<SourceKey: aya::Pod + AsRef<[u8]>>>
{
    /// Name of the address map.
    const ADDRESSES: &'static str;
    /// Name of the map of source ranges.
    const SOURCES: &'static str;
    /// Name of the map with facts about the node.
    const NODE: &'static str;
    /// Name of the map of other nodes.
    const PEERS: &'static str;
    /// Name of the frontend map.
    const FRONTENDS: &'static str;
    /// Name of the service map.
    const SERVICES: &'static str;
    /// Name of the slot map.
    const SLOTS: &'static str;
    /// Name of the map of Maglev tables.
    const MAGLEV: &'static str;
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
    /// An address from the octets of a key of source ranges.
    fn from_octets(octets: &[u8]) -> Option<Self::Addr>;
    /// A backend record as words; IPv4 needs the first two.
    fn backend_to_words(backend: &Backend<Self::Addr>) -> [u64; 5];
    /// A backend record from words.
    fn backend_from_words(words: [u64; 5]) -> Backend<Self::Addr>;
}

impl TableFamily for V4 {
    const ADDRESSES: &'static str = names::LB4_ADDRESSES;
    const SOURCES: &'static str = names::LB4_SOURCES;
    const NODE: &'static str = names::LB4_NODE;
    const PEERS: &'static str = names::LB4_PEERS;
    const FRONTENDS: &'static str = names::LB4_FRONTENDS;
    const SERVICES: &'static str = names::LB4_SERVICES;
    const SLOTS: &'static str = names::LB4_SLOTS;
    const MAGLEV: &'static str = names::LB4_MAGLEV;
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

    fn from_octets(octets: &[u8]) -> Option<Ip4> {
        octets.try_into().ok().map(|octets| Ip4 { octets })
    }

    fn backend_to_words(backend: &Backend<Ip4>) -> [u64; 5] {
        let [a, b, c, d] = backend.address.octets;
        let [e, f, g, h] = port_and_flags(backend.port, backend.flags);
        let [i, j, k, l] = backend.service.to_ne_bytes();
        let [m, n, o, p] = backend.node.octets;
        [
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            0,
            0,
            0,
        ]
    }

    fn backend_from_words([first, second, ..]: [u64; 5]) -> Backend<Ip4> {
        let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
        let (port, flags) = from_port_and_flags([e, f, g, h]);
        let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
        Backend {
            address: Ip4 { octets: [a, b, c, d] },
            port,
            flags,
            service: u32::from_ne_bytes([i, j, k, l]),
            node: Ip4 { octets: [m, n, o, p] },
        }
    }
}

impl TableFamily for V6 {
    const ADDRESSES: &'static str = names::LB6_ADDRESSES;
    const SOURCES: &'static str = names::LB6_SOURCES;
    const NODE: &'static str = names::LB6_NODE;
    const PEERS: &'static str = names::LB6_PEERS;
    const FRONTENDS: &'static str = names::LB6_FRONTENDS;
    const SERVICES: &'static str = names::LB6_SERVICES;
    const SLOTS: &'static str = names::LB6_SLOTS;
    const MAGLEV: &'static str = names::LB6_MAGLEV;
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

    fn from_octets(octets: &[u8]) -> Option<Ip6> {
        octets.try_into().ok().map(|octets| Ip6 { octets })
    }

    fn backend_to_words(backend: &Backend<Ip6>) -> [u64; 5] {
        let [high, low] = words_of(backend.address);
        let [node_high, node_low] = words_of(backend.node);
        let [a, b, c, d] = port_and_flags(backend.port, backend.flags);
        let [e, f, g, h] = backend.service.to_ne_bytes();
        let third = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        [high, low, third, node_high, node_low]
    }

    fn backend_from_words([high, low, third, node_high, node_low]: [u64; 5]) -> Backend<Ip6> {
        let [a, b, c, d, e, f, g, h] = third.to_ne_bytes();
        let (port, flags) = from_port_and_flags([a, b, c, d]);
        Backend {
            address: address_of([high, low]),
            port,
            flags,
            service: u32::from_ne_bytes([e, f, g, h]),
            node: address_of([node_high, node_low]),
        }
    }
}

fn words_of(address: Ip6) -> [u64; 2] {
    let (high, low) = address.octets.split_at(8);
    [high, low].map(|octets| u64::from_ne_bytes(octets.try_into().unwrap_or_default()))
}

fn address_of([high, low]: [u64; 2]) -> Ip6 {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&high.to_ne_bytes());
    octets[8..].copy_from_slice(&low.to_ne_bytes());
    Ip6 { octets }
}

/// Port and flags as they lie behind each other in memory.
fn port_and_flags(port: Port, flags: BackendFlags) -> [u8; 4] {
    let [p, q] = port.octets;
    let [f, g] = flags.0.to_ne_bytes();
    [p, q, f, g]
}

fn from_port_and_flags([p, q, f, g]: [u8; 4]) -> (Port, BackendFlags) {
    (Port { octets: [p, q] }, BackendFlags(u16::from_ne_bytes([f, g])))
}

/// A hash table, and the descriptor by which it is read whole.
struct Hash<K, V> {
    map: HashMap<MapData, K, V>,
    fd: OwnedFd,
}

/// Entries read in one system call.
const BATCH_LEN: u32 = 4096;

impl<K: aya::Pod, V: aya::Pod> Hash<K, V> {
    fn open(name: &'static str, map: Map) -> Result<Self> {
        let Map::HashMap(data) = &map else {
            return Err(anyhow!("{name} is no hash table"));
        };
        let fd = data.fd().as_fd().try_clone_to_owned().context(name)?;
        let map = HashMap::try_from(map).context(name)?;
        Ok(Self { map, fd })
    }

    /// All entries. One may come twice if somebody else removes others meanwhile.
    fn all(&self) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        batch::for_each(self.fd.as_fd(), BATCH_LEN, |key: &K, value: &V| {
            entries.push((*key, *value));
        })?;
        Ok(entries)
    }
}

/// The tables of one family, in the kernel.
pub struct KernelTables<F: TableFamily> {
    frontends: Hash<FrontendKey<F::Addr>, u32>,
    addresses: Hash<F::Addr, u32>,
    sources: LpmTrie<MapData, <F::Addr as SourceKeys>::SourceKey, u32>,
    labels: Hash<u32, Label>,
    services: MappedArray,
    slots: MappedArray,
    maglev: MapData,
    backends: MappedArray,
    capacity: Capacity,
}

impl<F: TableFamily> KernelTables<F> {
    /// Words of a backend record; the next one counts.
    const BACKEND_WORDS: usize = size_of::<Backend<F::Addr>>() / 8;

    /// Opens the tables through `take`, which finds a map by its name: in the loaded object, or among the pins.
    ///
    /// # Errors
    /// If a map is missing, of another kind, or can't be mapped into memory.
    pub fn open(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let mut unmapped = |name: &'static str| -> Result<(MapData, u32)> {
            let Map::Array(data) = take(name)? else {
                return Err(anyhow!("{name} is no array"));
            };
            let entries = data.info()?.max_entries();
            Ok((data, entries))
        };
        let (maglev, chunk_count) = unmapped(F::MAGLEV)?;
        let mut array = |name: &'static str, element_len: usize| -> Result<(MappedArray, u32)> {
            let (data, entries) = unmapped(name)?;
            let mapped = MappedArray::new(data.fd(), entries, element_len)
                .with_context(|| format!("map the table {name} into memory"))?;
            Ok((mapped, entries))
        };
        let (services, service_count) = array(F::SERVICES, size_of::<ServiceEntry>())?;
        let (slots, slot_count) = array(F::SLOTS, size_of::<u32>())?;
        let (backends, backend_count) = array(F::BACKENDS, size_of::<BackendEntry<F::Addr>>())?;
        let capacity = Capacity {
            services: service_count,
            slots: slot_count,
            chunks: chunk_count,
            backends: backend_count,
        };
        Ok(Self {
            frontends: Hash::open(F::FRONTENDS, take(F::FRONTENDS)?)?,
            addresses: Hash::open(F::ADDRESSES, take(F::ADDRESSES)?)?,
            sources: LpmTrie::try_from(take(F::SOURCES)?).with_context(|| F::SOURCES)?,
            labels: Hash::open(F::LABELS, take(F::LABELS)?)?,
            services,
            slots,
            maglev,
            backends,
            capacity,
        })
    }

    /// What an address is to Sluice.
    #[must_use]
    pub fn address_is(&self, address: &F::Addr) -> AddressFlags {
        self.addresses.map.get(address, 0).map(AddressFlags).unwrap_or_default()
    }

    /// The frontend that answers at this address and port, if there is one: as `frontend_at` of the datapath.
    #[must_use]
    pub fn frontend_at(&self, address: &F::Addr, port: Port, proto: Proto) -> Option<Frontend> {
        let is = self.address_is(&address.looked_up());
        let at = |address| self.frontends.map.get(&FrontendKey::new(address, port, proto), 0).ok();
        let own = is
            .any(AddressFlags::CLUSTER_IP.with(AddressFlags::EXTERNAL))
            .then(|| at(*address));
        let node_port = || is.has(AddressFlags::NODE_PORTS).then(|| at(F::Addr::default()));
        own.flatten().or_else(|| node_port().flatten()).map(Frontend)
    }

    /// Whether an address is in a set of source ranges: as `allows` of the datapath. What can't be read refuses nobody here.
    #[must_use]
    pub fn allows(&self, set: u32, address: &F::Addr) -> bool {
        let whole = SourceRange {
            set,
            base: *address,
            prefix_len: (size_of::<F::Addr>() * 8) as u8,
        };
        !matches!(
            self.sources.get(&source_key::<F>(&whole), 0),
            Err(MapError::KeyNotFound)
        )
    }

    /// What was counted for a service port since its number is its own.
    #[must_use]
    pub fn service_counts(&self, number: u32) -> ServiceStats {
        ServiceStats {
            opened: self.services.load(number, OPENED_WORD),
            refused: self.services.load(number, REFUSED_WORD),
        }
    }

    /// The connections that were counted for a backend since its number is its own.
    #[must_use]
    pub fn backend_counts(&self, number: u32) -> u64 {
        self.backends.load(number, Self::BACKEND_WORDS)
    }
}

/// Words of a service's entry: its record, and what is counted.
const CLUSTER_WORD: usize = 0;
const LOCAL_WORD: usize = 1;
const RULES_WORD: usize = 2;
const SETS_WORD: usize = 3;
const OPENED_WORD: usize = 4;
const REFUSED_WORD: usize = 5;

fn source_key<F: TableFamily>(range: &SourceRange<F::Addr>) -> Key<<F::Addr as SourceKeys>::SourceKey> {
    let prefix_len = SET_LEN as u32 * 8 + u32::from(range.prefix_len);
    Key::new(prefix_len, range.base.source_key(range.set))
}

fn source_range<F: TableFamily>(key: &Key<<F::Addr as SourceKeys>::SourceKey>) -> Option<SourceRange<F::Addr>> {
    let data = key.data();
    let (set, base) = data.as_ref().split_first_chunk::<SET_LEN>()?;
    Some(SourceRange {
        set: u32::from_be_bytes(*set),
        base: F::from_octets(base)?,
        prefix_len: u8::try_from(key.prefix_len().checked_sub(SET_LEN as u32 * 8)?).ok()?,
    })
}

impl<F: TableFamily> Tables<F::Addr> for KernelTables<F> {
    fn put_frontend(&mut self, key: &FrontendKey<F::Addr>, frontend: Frontend) -> Result<(), TableError> {
        self.frontends
            .map
            .insert(key, frontend.0, 0)
            .map_err(error("write a frontend", F::FRONTENDS))
    }

    fn remove_frontend(&mut self, key: &FrontendKey<F::Addr>) -> Result<(), TableError> {
        accept_absence(self.frontends.map.remove(key)).map_err(error("remove a frontend", F::FRONTENDS))
    }

    fn put_address(&mut self, address: &F::Addr, flags: AddressFlags) -> Result<(), TableError> {
        self.addresses
            .map
            .insert(address, flags.0, 0)
            .map_err(error("write an address", F::ADDRESSES))
    }

    fn remove_address(&mut self, address: &F::Addr) -> Result<(), TableError> {
        accept_absence(self.addresses.map.remove(address)).map_err(error("remove an address", F::ADDRESSES))
    }

    fn put_source(&mut self, range: &SourceRange<F::Addr>) -> Result<(), TableError> {
        self.sources
            .insert(&source_key::<F>(range), 1, 0)
            .map_err(error("write a source range", F::SOURCES))
    }

    fn remove_source(&mut self, range: &SourceRange<F::Addr>) -> Result<(), TableError> {
        accept_absence(self.sources.remove(&source_key::<F>(range))).map_err(error("remove a source range", F::SOURCES))
    }

    fn put_label(&mut self, number: u32, label: &Label) -> Result<(), TableError> {
        self.labels
            .map
            .insert(number, label, 0)
            .map_err(error("write a label", F::LABELS))
    }

    fn remove_label(&mut self, number: u32) -> Result<(), TableError> {
        accept_absence(self.labels.map.remove(&number)).map_err(error("remove a label", F::LABELS))
    }

    fn put_scope(&mut self, number: u32, list: List, scope: Scope) {
        let word = match list {
            List::Cluster => CLUSTER_WORD,
            List::Local => LOCAL_WORD,
        };
        self.services.store(number, word, scope.0);
    }

    fn put_rules(&mut self, number: u32, rules: Rules) {
        self.services.store(number, RULES_WORD, rules.to_word());
    }

    fn put_sets(&mut self, number: u32, sets: Sets) {
        self.services.store(number, SETS_WORD, sets.to_word());
    }

    fn put_chunks(&mut self, first: u32, chunks: &[Chunk]) -> Result<(), TableError> {
        batch::write_row(self.maglev.fd().as_fd(), first, chunks).map_err(refused("write a Maglev table", F::MAGLEV))
    }

    fn put_slot(&mut self, place: u32, backend: u32) {
        // An element is as long as a word; the value is its first half in memory.
        let [a, b, c, d] = backend.to_ne_bytes();
        self.slots.store(place, 0, u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]));
    }

    fn put_backend(&mut self, number: u32, backend: &Backend<F::Addr>) {
        let words = F::backend_to_words(backend).into_iter().take(Self::BACKEND_WORDS);
        for (index, word) in words.enumerate() {
            self.backends.store(number, index, word);
        }
    }

    fn forget_service_counts(&mut self, number: u32) {
        self.services.store(number, OPENED_WORD, 0);
        self.services.store(number, REFUSED_WORD, 0);
    }

    fn forget_backend_counts(&mut self, number: u32) {
        self.backends.store(number, Self::BACKEND_WORDS, 0);
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<F::Addr>, Frontend)>, TableError> {
        let found = self
            .frontends
            .all()
            .map_err(refused("read the frontends", F::FRONTENDS))?;
        Ok(found.into_iter().map(|(key, value)| (key, Frontend(value))).collect())
    }

    fn addresses(&self) -> Result<Vec<(F::Addr, AddressFlags)>, TableError> {
        let found = self
            .addresses
            .all()
            .map_err(refused("read the addresses", F::ADDRESSES))?;
        Ok(found
            .into_iter()
            .map(|(address, value)| (address, AddressFlags(value)))
            .collect())
    }

    fn sources(&self) -> Result<Vec<SourceRange<F::Addr>>, TableError> {
        let mut ranges = Vec::new();
        for key in self.sources.keys() {
            let key = key.map_err(error("read the source ranges", F::SOURCES))?;
            ranges.extend(source_range::<F>(&key));
        }
        Ok(ranges)
    }

    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError> {
        self.labels.all().map_err(refused("read the labels", F::LABELS))
    }

    fn chunks(&self, first: u32, count: u32) -> Result<Vec<Chunk>, TableError> {
        batch::read_row(self.maglev.fd().as_fd(), first, count).map_err(refused("read a Maglev table", F::MAGLEV))
    }

    fn service(&self, number: u32) -> Service {
        let word = |index| self.services.load(number, index);
        Service {
            cluster: Scope(word(CLUSTER_WORD)),
            local: Scope(word(LOCAL_WORD)),
            rules: Rules::from_word(word(RULES_WORD)),
            sets: Sets::from_word(word(SETS_WORD)),
        }
    }

    fn slot(&self, place: u32) -> u32 {
        let [a, b, c, d, ..] = self.slots.load(place, 0).to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    fn backend(&self, number: u32) -> Backend<F::Addr> {
        F::backend_from_words([0, 1, 2, 3, 4].map(|word| self.backends.load(number, word)))
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

pub(super) fn error(action: &'static str, table: &'static str) -> impl FnOnce(MapError) -> TableError {
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

fn refused(action: &'static str, table: &'static str) -> impl FnOnce(io::Error) -> TableError {
    move |reason| TableError {
        action,
        table,
        reason: reason.to_string(),
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
            service: 77,
            node: Ip4 { octets: [192, 0, 2, 7] },
        };
        assert_eq!(V4::backend_from_words(V4::backend_to_words(&v4)), v4);
        let octets = *b"\xfd\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e";
        let v6 = Backend {
            address: Ip6 { octets },
            port: Port::new(53),
            flags,
            service: 65_535,
            node: Ip6 {
                octets: octets.map(|octet| octet ^ 0x80),
            },
        };
        assert_eq!(V6::backend_from_words(V6::backend_to_words(&v6)), v6);
    }
}
