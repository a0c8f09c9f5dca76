//! The flow tables from userspace: reading them whole, looking at one entry, removing one.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::layout::{Flow, FlowKey};

use super::{batch, kernel::TableFamily};

/// `BPF_NOEXIST` of the kernel's `linux/bpf.h`.
const BPF_NOEXIST: u64 = 1;
/// Entries read in one system call.
const BATCH_LEN: u32 = 4096;

/// One entry with its key.
pub type FlowEntry<F> = (
    FlowKey<<F as lb_common::layout::Family>::Addr>,
    Flow<<F as lb_common::layout::Family>::Addr>,
);

/// What the agent does with flows that packets change at the same time.
pub trait Flows<F: TableFamily> {
    /// Calls `visit` with every entry.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn for_each(&self, visit: impl FnMut(&FlowKey<F::Addr>, &Flow<F::Addr>)) -> Result<()>;

    /// One entry. Does not count as use: the entry is not kept from being evicted by it.
    fn get(&self, key: &FlowKey<F::Addr>) -> Option<Flow<F::Addr>>;

    /// Removes an entry; false if it was gone.
    fn remove(&mut self, key: &FlowKey<F::Addr>) -> bool;

    /// Writes an entry if there is none with this key; false if there is.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn insert_new(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<bool>;

    /// Writes an entry.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn insert(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<()>;

    /// Removes an entry if it is as it was read: since then a packet may have come, or another flow have got the tuple. False if it isn't,
    /// or was gone. The kernel has no such call: between the look and the removal are some microseconds.
    fn remove_if_still(&mut self, key: &FlowKey<F::Addr>, before: &Flow<F::Addr>) -> bool {
        let is_still = self
            .get(key)
            .is_some_and(|now| now.seen_ns == before.seen_ns && now.tcp == before.tcp && now.flags == before.flags);
        is_still && self.remove(key)
    }
}

/// The flow table of one family.
pub struct FlowTable<F: TableFamily> {
    map: HashMap<MapData, FlowKey<F::Addr>, Flow<F::Addr>>,
    fd: OwnedFd,
    /// Entries that fit.
    pub capacity: u32,
}

impl<F: TableFamily> FlowTable<F> {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn open(map: Map) -> Result<Self> {
        let Map::LruHashMap(data) = &map else {
            return Err(anyhow!("{} is no LRU hash table", F::FLOWS));
        };
        let capacity = data.info()?.max_entries();
        let fd = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .with_context(|| format!("open {}", F::FLOWS))?;
        Ok(Self {
            fd,
            map: HashMap::try_from(map).context(F::FLOWS)?,
            capacity,
        })
    }
}

impl<F: TableFamily> Flows<F> for FlowTable<F> {
    fn for_each(&self, visit: impl FnMut(&FlowKey<F::Addr>, &Flow<F::Addr>)) -> Result<()> {
        batch::for_each(self.fd.as_fd(), BATCH_LEN, visit).with_context(|| format!("read {}", F::FLOWS))
    }

    fn get(&self, key: &FlowKey<F::Addr>) -> Option<Flow<F::Addr>> {
        self.map.get(key, 0).ok()
    }

    fn remove(&mut self, key: &FlowKey<F::Addr>) -> bool {
        self.map.remove(key).is_ok()
    }

    fn insert_new(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<bool> {
        match self.map.insert(key, flow, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(failed)) if failed.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(reason) => Err(reason).with_context(|| format!("write {}", F::FLOWS)),
        }
    }

    fn insert(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<()> {
        self.map
            .insert(key, flow, 0)
            .with_context(|| format!("write {}", F::FLOWS))
    }
}
