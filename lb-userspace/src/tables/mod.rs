//! The tables of one address family as the agent writes and reads them: one small trait over the kernel's maps, a
//! copy in memory for tests, and a wrapper that fails on purpose.
//!
//! Nothing here decides anything: which entries there should be, and in which order they are written, is up to
//! `reconcile`.

mod batch;
mod defers;
mod drift;
mod flows;
mod kernel;
mod mapped;
mod memory;
mod node;
mod peers;
mod routes;
mod sockets;
mod stats;

use lb_common::layout::{
    Address, AddressFlags, Backend, Chunk, Frontend, FrontendKey, Label, Rules, Scope, Service, Sets,
};
use thiserror::Error;

pub use defers::{Deferral, DefersTable};
pub use drift::{Difference, Drift, differences, sorted_differences};
pub use flows::{FlowEntry, FlowTable, Flows};
pub use kernel::{KernelTables, TableFamily};
pub use memory::{Faulty, MemoryTables, Write};
pub use node::{DeviceTable, Mirror, NodeTable, VlanTable, node_range};
pub use peers::PeerTable;
pub use routes::RoutesTable;
pub use sockets::SocketTable;
pub use stats::{EventReader, Stats};

/// Which of a service port's two lists of endpoints (kube-proxy-behaviour §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Endpoints of the whole cluster.
    Cluster,
    /// Endpoints of this node.
    Local,
}

/// A range of source addresses in a set: base address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange<A> {
    /// The set, from 1 on.
    pub set: u32,
    /// Lowest address.
    pub base: A,
    /// How many leading bits count.
    pub prefix_len: u8,
}

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

/// The tables of one family. Arrays can't fail to be written: they are mapped memory, but for that of Maglev tables.
///
/// Every method is one step that a reader in the kernel may see before or after, never in between; but for
/// [`Self::put_chunks`], whose chunks nobody reads yet.
pub trait Tables<A: Address> {
    /// Lets packets to `key` be handled as `frontend` says, where the address is known, too.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the table is full.
    fn put_frontend(&mut self, key: &FrontendKey<A>, frontend: Frontend) -> Result<(), TableError>;
    /// Takes a frontend away. Taking away what is not there is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_frontend(&mut self, key: &FrontendKey<A>) -> Result<(), TableError>;
    /// Says what an address is.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the table is full.
    fn put_address(&mut self, address: &A, flags: AddressFlags) -> Result<(), TableError>;
    /// Takes an address away. Taking away what is not there is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_address(&mut self, address: &A) -> Result<(), TableError>;
    /// Adds a range to a set of sources.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the table is full.
    fn put_source(&mut self, range: &SourceRange<A>) -> Result<(), TableError>;
    /// Takes a range out of a set of sources. Taking away what is not there is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_source(&mut self, range: &SourceRange<A>) -> Result<(), TableError>;
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
    /// Writes chunks of a Maglev table, from the place `first` on.
    ///
    /// # Errors
    /// If the kernel refuses; some of them may be written.
    fn put_chunks(&mut self, first: u32, chunks: &[Chunk]) -> Result<(), TableError>;
    /// Publishes a list of endpoints of a service: one atomic store.
    fn put_scope(&mut self, number: u32, list: List, scope: Scope);
    /// Publishes the rules of a service: one atomic store.
    fn put_rules(&mut self, number: u32, rules: Rules);
    /// Publishes where the state of a service is found: one atomic store.
    fn put_sets(&mut self, number: u32, sets: Sets);
    /// Writes one slot.
    fn put_slot(&mut self, place: u32, backend: u32);
    /// Writes a backend record. Address, port and service of a record in use never change; its flags may, and the address of
    /// its node.
    fn put_backend(&mut self, number: u32, backend: &Backend<A>);
    /// Forgets what was counted for a service number that is to be used anew.
    fn forget_service_counts(&mut self, number: u32);
    /// Forgets what was counted for a backend number that is to be used anew.
    fn forget_backend_counts(&mut self, number: u32);

    /// All frontends.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn frontends(&self) -> Result<Vec<(FrontendKey<A>, Frontend)>, TableError>;
    /// All addresses.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn addresses(&self) -> Result<Vec<(A, AddressFlags)>, TableError>;
    /// All ranges of all sets of sources.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn sources(&self) -> Result<Vec<SourceRange<A>>, TableError>;
    /// All labels.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn labels(&self) -> Result<Vec<(u32, Label)>, TableError>;
    /// Chunks of a Maglev table, from the place `first` on.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    fn chunks(&self, first: u32, count: u32) -> Result<Vec<Chunk>, TableError>;
    /// A service record; empty beyond the table.
    fn service(&self, number: u32) -> Service;
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
    /// Chunks of Maglev tables.
    pub chunks: u32,
    /// Backend numbers, of which 0 is never used.
    pub backends: u32,
}
