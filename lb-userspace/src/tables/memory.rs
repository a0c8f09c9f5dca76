//! The tables in memory, for tests: every write is recorded, and a wrapper makes writes fail.

use std::collections::BTreeMap;

use lb_common::layout::{Address, Backend, FrontendKey, Label, Scope};

use super::{Capacity, TableError, Tables};

/// One write, as a reader could see it happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Write<A: Address> {
    /// A frontend came, or changed its service.
    PutFrontend(FrontendKey<A>, u32),
    /// A frontend went.
    RemoveFrontend(FrontendKey<A>),
    /// An internal scope was published.
    InternalScope(u32, Scope),
    /// An external scope was published.
    ExternalScope(u32, Scope),
    /// A slot was written.
    Slot(u32, u32),
    /// A backend record was written.
    Backend(u32, Backend<A>),
    /// All programs that ran before have ended.
    Grace,
}

/// Tables in memory.
#[derive(Clone, Debug)]
pub struct MemoryTables<A: Address> {
    frontends: BTreeMap<FrontendKey<A>, u32>,
    labels: BTreeMap<u32, Label>,
    scopes: BTreeMap<u32, (Scope, Scope)>,
    slots: BTreeMap<u32, u32>,
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
            labels: BTreeMap::new(),
            scopes: BTreeMap::new(),
            slots: BTreeMap::new(),
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
            Write::InternalScope(number, scope) => self.scopes.entry(*number).or_default().0 = *scope,
            Write::ExternalScope(number, scope) => self.scopes.entry(*number).or_default().1 = *scope,
            Write::Slot(place, backend) => {
                self.slots.insert(*place, *backend);
            }
            Write::Backend(number, backend) => {
                self.backends.insert(*number, *backend);
            }
            Write::Grace => {}
        }
    }

    /// Service number of a frontend.
    #[must_use]
    pub fn frontend(&self, key: &FrontendKey<A>) -> Option<u32> {
        self.frontends.get(key).copied()
    }

    fn write(&mut self, write: Write<A>) {
        self.replay(&write);
        self.writes.push(write);
    }
}

impl<A: Address> Tables<A> for MemoryTables<A> {
    fn put_frontend(&mut self, key: &FrontendKey<A>, number: u32) -> Result<(), TableError> {
        self.write(Write::PutFrontend(*key, number));
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey<A>) -> Result<(), TableError> {
        self.write(Write::RemoveFrontend(*key));
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

    fn put_internal_scope(&mut self, number: u32, scope: Scope) {
        self.write(Write::InternalScope(number, scope));
    }

    fn put_external_scope(&mut self, number: u32, scope: Scope) {
        self.write(Write::ExternalScope(number, scope));
    }

    fn put_slot(&mut self, place: u32, backend: u32) {
        self.write(Write::Slot(place, backend));
    }

    fn put_backend(&mut self, number: u32, backend: &Backend<A>) {
        self.write(Write::Backend(number, *backend));
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, u32)>, TableError> {
        Ok(self.frontends.iter().map(|(key, number)| (*key, *number)).collect())
    }

    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError> {
        Ok(self.labels.iter().map(|(number, label)| (*number, *label)).collect())
    }

    fn scopes(&self, number: u32) -> (Scope, Scope) {
        self.scopes.get(&number).copied().unwrap_or_default()
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
    fn put_frontend(&mut self, key: &FrontendKey<A>, number: u32) -> Result<(), TableError> {
        self.check("write a frontend")?;
        self.inner.put_frontend(key, number)
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

    fn put_internal_scope(&mut self, number: u32, scope: Scope) {
        self.inner.put_internal_scope(number, scope);
    }

    fn put_external_scope(&mut self, number: u32, scope: Scope) {
        self.inner.put_external_scope(number, scope);
    }

    fn put_slot(&mut self, place: u32, backend: u32) {
        self.inner.put_slot(place, backend);
    }

    fn put_backend(&mut self, number: u32, backend: &Backend<A>) {
        self.inner.put_backend(number, backend);
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, u32)>, TableError> {
        self.inner.frontends()
    }

    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError> {
        self.inner.labels()
    }

    fn scopes(&self, number: u32) -> (Scope, Scope) {
        self.inner.scopes(number)
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
