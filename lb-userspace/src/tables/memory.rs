//! The tables in memory, for tests: every write is recorded, and a wrapper makes writes fail.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::layout::{
    Address, AddressFlags, Backend, CHUNK_CELLS, Chunk, Frontend, FrontendKey, Label, Rules, Scope, Service, Sets,
};

use super::{Capacity, List, SourceRange, TableError, Tables};

/// One write, as a reader could see it happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Write<A: Address> {
    /// A frontend came, or changed its service.
    PutFrontend(FrontendKey<A>, Frontend),
    /// A frontend went.
    RemoveFrontend(FrontendKey<A>),
    /// An address came, or changed what it is.
    PutAddress(A, AddressFlags),
    /// An address went.
    RemoveAddress(A),
    /// A source range came.
    PutSource(SourceRange<A>),
    /// A source range went.
    RemoveSource(SourceRange<A>),
    /// A list of endpoints was published.
    Scope(u32, List, Scope),
    /// The rules of a service were published.
    Rules(u32, Rules),
    /// Where the state of a service is found was published.
    Sets(u32, Sets),
    /// A slot was written.
    Slot(u32, u32),
    /// A chunk of a Maglev table was written.
    Chunk(u32, Chunk),
    /// A backend record was written.
    Backend(u32, Backend<A>),
    /// All programs that ran before have ended.
    Grace,
}

/// Tables in memory.
#[derive(Clone, Debug)]
pub struct MemoryTables<A: Address> {
    frontends: BTreeMap<FrontendKey<A>, Frontend>,
    addresses: BTreeMap<A, AddressFlags>,
    sources: BTreeSet<SourceRange<A>>,
    labels: BTreeMap<u32, Label>,
    services: BTreeMap<u32, Service>,
    slots: BTreeMap<u32, u32>,
    chunks: BTreeMap<u32, Chunk>,
    backends: BTreeMap<u32, Backend<A>>,
    capacity: Capacity,
    /// All writes since the last look, in order.
    pub writes: Vec<Write<A>>,
}

impl<A: Address> MemoryTables<A> {
    /// Empty tables with so many places.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self {
            frontends: BTreeMap::new(),
            addresses: BTreeMap::new(),
            sources: BTreeSet::new(),
            labels: BTreeMap::new(),
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            chunks: BTreeMap::new(),
            backends: BTreeMap::new(),
            capacity,
            writes: Vec::new(),
        }
    }

    /// Does one recorded write.
    pub fn replay(&mut self, write: &Write<A>) {
        match write {
            Write::PutFrontend(key, number) => {
                self.frontends.insert(*key, *number);
            }
            Write::RemoveFrontend(key) => {
                self.frontends.remove(key);
            }
            Write::PutAddress(address, flags) => {
                self.addresses.insert(*address, *flags);
            }
            Write::RemoveAddress(address) => {
                self.addresses.remove(address);
            }
            Write::PutSource(range) => {
                self.sources.insert(*range);
            }
            Write::RemoveSource(range) => {
                self.sources.remove(range);
            }
            Write::Scope(number, List::Cluster, scope) => self.services.entry(*number).or_default().cluster = *scope,
            Write::Scope(number, List::Local, scope) => self.services.entry(*number).or_default().local = *scope,
            Write::Rules(number, rules) => self.services.entry(*number).or_default().rules = *rules,
            Write::Sets(number, sets) => self.services.entry(*number).or_default().sets = *sets,
            Write::Slot(place, backend) => {
                self.slots.insert(*place, *backend);
            }
            Write::Chunk(place, chunk) => {
                self.chunks.insert(*place, *chunk);
            }
            Write::Backend(number, backend) => {
                self.backends.insert(*number, *backend);
            }
            Write::Grace => {}
        }
    }

    /// What an address is.
    #[must_use]
    pub fn address(&self, address: &A) -> Option<AddressFlags> {
        self.addresses.get(address).copied()
    }

    /// What a frontend leads to.
    #[must_use]
    pub fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    /// The ordinal in a cell of the Maglev table that begins with this chunk; nothing beyond the tables.
    #[must_use]
    pub fn ordinal(&self, first_chunk: u32, cell: u32) -> Option<u16> {
        let place = first_chunk.wrapping_add(cell / CHUNK_CELLS);
        let ordinals = (place < self.capacity.chunks).then(|| self.chunk(place).ordinals)?;
        ordinals.get((cell % CHUNK_CELLS) as usize).copied()
    }

    /// A chunk of a Maglev table.
    #[must_use]
    pub fn chunk(&self, place: u32) -> Chunk {
        self.chunks.get(&place).copied().unwrap_or_default()
    }

    fn write(&mut self, write: Write<A>) {
        self.replay(&write);
        self.writes.push(write);
    }
}

impl<A: Address> Tables<A> for MemoryTables<A> {
    fn put_frontend(&mut self, key: &FrontendKey<A>, frontend: Frontend) -> Result<(), TableError> {
        self.write(Write::PutFrontend(*key, frontend));
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey<A>) -> Result<(), TableError> {
        self.write(Write::RemoveFrontend(*key));
        Ok(())
    }

    fn put_address(&mut self, address: &A, flags: AddressFlags) -> Result<(), TableError> {
        self.write(Write::PutAddress(*address, flags));
        Ok(())
    }

    fn remove_address(&mut self, address: &A) -> Result<(), TableError> {
        self.write(Write::RemoveAddress(*address));
        Ok(())
    }

    fn put_source(&mut self, range: &SourceRange<A>) -> Result<(), TableError> {
        self.write(Write::PutSource(*range));
        Ok(())
    }

    fn remove_source(&mut self, range: &SourceRange<A>) -> Result<(), TableError> {
        self.write(Write::RemoveSource(*range));
        Ok(())
    }

    fn put_label(&mut self, number: u32, label: &Label) -> Result<(), TableError> {
        self.labels.insert(number, *label);
        Ok(())
    }

    fn remove_label(&mut self, number: u32) -> Result<(), TableError> {
        self.labels.remove(&number);
        Ok(())
    }

    fn put_scope(&mut self, number: u32, list: List, scope: Scope) {
        self.write(Write::Scope(number, list, scope));
    }

    fn put_rules(&mut self, number: u32, rules: Rules) {
        self.write(Write::Rules(number, rules));
    }

    fn put_sets(&mut self, number: u32, sets: Sets) {
        self.write(Write::Sets(number, sets));
    }

    fn forget_service_counts(&mut self, _number: u32) {}

    fn forget_backend_counts(&mut self, _number: u32) {}

    fn put_chunks(&mut self, first: u32, chunks: &[Chunk]) -> Result<(), TableError> {
        for (place, chunk) in (first..).zip(chunks) {
            self.write(Write::Chunk(place, *chunk));
        }
        Ok(())
    }

    fn put_slot(&mut self, place: u32, backend: u32) {
        self.write(Write::Slot(place, backend));
    }

    fn put_backend(&mut self, number: u32, backend: &Backend<A>) {
        self.write(Write::Backend(number, *backend));
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, TableError> {
        Ok(self.frontends.iter().map(|(key, frontend)| (*key, *frontend)).collect())
    }

    fn addresses(&self) -> Result<Vec<(A, AddressFlags)>, TableError> {
        Ok(self
            .addresses
            .iter()
            .map(|(address, flags)| (*address, *flags))
            .collect())
    }

    fn sources(&self) -> Result<Vec<SourceRange<A>>, TableError> {
        Ok(self.sources.iter().copied().collect())
    }

    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError> {
        Ok(self.labels.iter().map(|(number, label)| (*number, *label)).collect())
    }

    fn chunks(&self, first: u32, count: u32) -> Result<Vec<Chunk>, TableError> {
        let chunk = |place| self.chunks.get(&place).copied().unwrap_or_default();
        Ok((first..first + count).map(chunk).collect())
    }

    fn service(&self, number: u32) -> Service {
        self.services.get(&number).copied().unwrap_or_default()
    }

    fn slot(&self, place: u32) -> u32 {
        self.slots.get(&place).copied().unwrap_or_default()
    }

    fn backend(&self, number: u32) -> Backend<A> {
        self.backends.get(&number).copied().unwrap_or_default()
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// Tables some of whose writes fail: every write that can fail in the kernel asks `fails` first.
pub struct Faulty<T> {
    /// The tables behind.
    pub inner: T,
    /// Says whether the next write fails.
    pub fails: Box<dyn FnMut() -> bool>,
}

impl<T> Faulty<T> {
    fn check(&mut self, action: &'static str) -> Result<(), TableError> {
        if (self.fails)() {
            return Err(TableError {
                action,
                table: "a faulty table",
                reason: "fault injected".to_owned(),
            });
        }
        Ok(())
    }
}

impl<A: Address, T: Tables<A>> Tables<A> for Faulty<T> {
    fn put_frontend(&mut self, key: &FrontendKey<A>, frontend: Frontend) -> Result<(), TableError> {
        self.check("write a frontend")?;
        self.inner.put_frontend(key, frontend)
    }

    fn put_address(&mut self, address: &A, flags: AddressFlags) -> Result<(), TableError> {
        self.check("write an address")?;
        self.inner.put_address(address, flags)
    }

    fn remove_address(&mut self, address: &A) -> Result<(), TableError> {
        self.check("remove an address")?;
        self.inner.remove_address(address)
    }

    fn put_source(&mut self, range: &SourceRange<A>) -> Result<(), TableError> {
        self.check("write a source range")?;
        self.inner.put_source(range)
    }

    fn remove_source(&mut self, range: &SourceRange<A>) -> Result<(), TableError> {
        self.check("remove a source range")?;
        self.inner.remove_source(range)
    }

    fn remove_frontend(&mut self, key: &FrontendKey<A>) -> Result<(), TableError> {
        self.check("remove a frontend")?;
        self.inner.remove_frontend(key)
    }

    fn put_label(&mut self, number: u32, label: &Label) -> Result<(), TableError> {
        self.check("write a label")?;
        self.inner.put_label(number, label)
    }

    fn remove_label(&mut self, number: u32) -> Result<(), TableError> {
        self.check("remove a label")?;
        self.inner.remove_label(number)
    }

    fn put_chunks(&mut self, first: u32, chunks: &[Chunk]) -> Result<(), TableError> {
        self.check("write a Maglev table")?;
        self.inner.put_chunks(first, chunks)
    }

    fn put_scope(&mut self, number: u32, list: List, scope: Scope) {
        self.inner.put_scope(number, list, scope);
    }

    fn put_rules(&mut self, number: u32, rules: Rules) {
        self.inner.put_rules(number, rules);
    }

    fn put_sets(&mut self, number: u32, sets: Sets) {
        self.inner.put_sets(number, sets);
    }

    fn forget_service_counts(&mut self, number: u32) {
        self.inner.forget_service_counts(number);
    }

    fn forget_backend_counts(&mut self, number: u32) {
        self.inner.forget_backend_counts(number);
    }

    fn put_slot(&mut self, place: u32, backend: u32) {
        self.inner.put_slot(place, backend);
    }

    fn put_backend(&mut self, number: u32, backend: &Backend<A>) {
        self.inner.put_backend(number, backend);
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, TableError> {
        self.inner.frontends()
    }

    fn addresses(&self) -> Result<Vec<(A, AddressFlags)>, TableError> {
        self.inner.addresses()
    }

    fn sources(&self) -> Result<Vec<SourceRange<A>>, TableError> {
        self.inner.sources()
    }

    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError> {
        self.inner.labels()
    }

    fn chunks(&self, first: u32, count: u32) -> Result<Vec<Chunk>, TableError> {
        self.inner.chunks(first, count)
    }

    fn service(&self, number: u32) -> Service {
        self.inner.service(number)
    }

    fn slot(&self, place: u32) -> u32 {
        self.inner.slot(place)
    }

    fn backend(&self, number: u32) -> Backend<A> {
        self.inner.backend(number)
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }
}
