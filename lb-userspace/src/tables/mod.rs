//! The tables of one address family as the agent writes and reads them: one small trait over the kernel's maps, a
//! copy in memory for tests, and a wrapper that fails on purpose.
//!
//! Nothing here decides anything: which entries there should be, and in which order they are written, is up to
//! `reconcile`.

mod batch;
mod flows;
mod kernel;
mod mapped;
mod memory;
mod stats;

use lb_common::layout::{Address, Backend, FrontendKey, Label, Scope};
use thiserror::Error;

pub use flows::{FlowEntry, FlowTable};
pub use kernel::{KernelTables, NodeTable, TableFamily};
pub use memory::{Faulty, MemoryTables, Write};
pub use stats::{EventReader, Stats};

/// A write or read that the kernel refused.
#[derive(Debug, Error)]
#[error("{action} in {table}: {reason}")]
pub struct TableError {
    /// What was tried.
    pub action: &'static str,
    /// In which table.
    pub table: &'static str,
    /// What the kernel said.
    pub reason: String,
}

/// The tables of one family. Arrays can't fail to be written: they are mapped memory.
///
/// Every method is one step that a reader in the kernel may see before or after, never in between.
pub trait Tables<A: Address> {
    /// Lets packets to `key` be handled by service `number`.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the table is full.
    fn put_frontend(&mut self, key: &FrontendKey<A>, number: u32) -> Result<(), TableError>;
    /// Takes a frontend away. Taking away what is not there is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_frontend(&mut self, key: &FrontendKey<A>) -> Result<(), TableError>;
    /// Writes the Service's name beside its number.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because it has no memory.
    fn put_label(&mut self, number: u32, label: &Label) -> Result<(), TableError>;
    /// Takes a label away. Taking away what is not there is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_label(&mut self, number: u32) -> Result<(), TableError>;
    /// Publishes the internal scope of a service: one atomic store.
    fn put_internal_scope(&mut self, number: u32, scope: Scope);
    /// Publishes the external scope of a service: one atomic store.
    fn put_external_scope(&mut self, number: u32, scope: Scope);
    /// Writes one slot.
    fn put_slot(&mut self, place: u32, backend: u32);
    /// Writes a backend record. Address and port of a record in use never change; its flags may.
    fn put_backend(&mut self, number: u32, backend: &Backend<A>);

    /// All frontends.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, u32)>, TableError>;
    /// All labels.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError>;
    /// Scopes of a service, internal and external.
    fn scopes(&self, number: u32) -> (Scope, Scope);
    /// Backend number in a slot; 0 beyond the table.
    fn slot(&self, place: u32) -> u32;
    /// A backend record; empty beyond the table.
    fn backend(&self, number: u32) -> Backend<A>;

    /// Places of each kind.
    fn capacity(&self) -> Capacity;
}

/// How much fits into the tables of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Service numbers.
    pub services: u32,
    /// Slots.
    pub slots: u32,
    /// Backend numbers, of which 0 is never used.
    pub backends: u32,
}
