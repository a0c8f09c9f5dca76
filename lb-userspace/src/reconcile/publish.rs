//! Publishing: from "this port should look so" to writes in an order that no reader can trip over.
//!
//! ```text
//! change    new backends -> fresh range of slots -> one atomic store of the scope -> … grace … -> old range and
//!                                                                                     backends that nobody uses
//! arrival   backends -> slots -> scope -> label -> frontends
//! departure frontends -> … grace … -> scope, label, slots, backends, number
//! ```
//!
//! A reader goes frontend → scope → slot → backend. Whatever it has read, what it reads next is still there: places
//! are used anew only after every program that ran has ended (see [`Retired`]). A port that does not fit keeps its old
//! state whole.

use std::collections::{BTreeMap, HashMap};

use lb_common::layout::{Backend, BackendFlags, FrontendKey, Label, Port, Proto, Scope as ScopeWord};
use thiserror::Error;

use super::{
    ranges::Ranges,
    siblings::{Siblings, is_of},
};
use crate::{
    model::{Protocol, ServiceKey},
    plan::{BackendState, DesiredPort, PortId, Scope, WhenEmpty},
    tables::{Capacity, TableError, TableFamily, Tables},
};

/// Why a port isn't in the tables as it should be.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The kernel refused.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No place.
    #[error(
        "no place for {needed} more {what} (of {capacity}, {free} are free): the port keeps its old state; remove \
         Services or endpoints"
    )]
    Full {
        /// Of what.
        what: &'static str,
        /// How many are needed.
        needed: u32,
        /// How many there are.
        capacity: u32,
        /// How many are free, perhaps apart.
        free: u32,
    },
    /// Another port has the frontend.
    #[error("{address} port {port} belongs to {owner} already: that Service keeps it")]
    Taken {
        /// The address that is claimed twice.
        address: std::net::IpAddr,
        /// The port number.
        port: u16,
        /// Who has it.
        owner: String,
    },
}

/// What may be used anew once every program that ran has ended.
#[derive(Debug, Default)]
pub struct Retired {
    slots: Vec<(u32, u32)>,
    /// Backend number, and which of its retirements this is.
    pub(super) backends: Vec<(u32, u64)>,
    numbers: Vec<u32>,
}

impl Retired {
    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.backends.is_empty() && self.numbers.is_empty()
    }
}

/// How far the tables are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fill {
    /// Frontends in use.
    pub frontends: usize,
    /// Service numbers in use.
    pub services: u32,
    /// Backend numbers in use.
    pub backends: u32,
    /// Slots in use.
    pub slots: u32,
}

/// A port as it is in the tables.
#[derive(Clone, Debug)]
pub(super) struct Published<A: lb_common::layout::Address> {
    pub(super) number: u32,
    pub(super) frontends: Vec<FrontendKey<A>>,
    pub(super) internal: PublishedScope,
    pub(super) external: PublishedScope,
}

/// A scope as it is in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PublishedScope {
    pub(super) word: ScopeWord,
    pub(super) base: u32,
    /// Backend numbers in the order of their slots.
    pub(super) backends: Vec<u32>,
}

/// A backend record and how many scopes name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used<A: lb_common::layout::Address> {
    pub(super) record: Backend<A>,
    pub(super) uses: u32,
    /// How often it fell out of use: a number that came back and went again meanwhile needs a grace period of its own.
    pub(super) retirements: u64,
}

/// The publisher of one family: knows all that is in its tables.
pub struct Publisher<F: TableFamily, T> {
    pub(super) tables: T,
    pub(super) ports: HashMap<PortId, Published<F::Addr>>,
    /// What an earlier agent left and nobody has asked for yet, by label.
    pub(super) adopted: BTreeMap<String, Published<F::Addr>>,
    pub(super) owners: HashMap<FrontendKey<F::Addr>, u32>,
    pub(super) labels: HashMap<u32, String>,
    pub(super) backends: HashMap<u32, Used<F::Addr>>,
    pub(super) numbers_by_address: HashMap<(F::Addr, Port), u32>,
    pub(super) free_slots: Ranges,
    pub(super) free_backends: Ranges,
    pub(super) free_numbers: Ranges,
    pub(super) retired: Retired,
    /// A frontend was given up since somebody last asked.
    freed: bool,
}

/// The protocol number, if the datapath knows the protocol.
pub(super) fn proto(protocol: Protocol) -> Option<Proto> {
    match protocol {
        Protocol::Tcp => Some(Proto::TCP),
        Protocol::Udp => Some(Proto::UDP),
        Protocol::Sctp => None,
    }
}

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// A publisher over tables of which nothing is known: see [`Self::adopt`](super::adopt).
    pub(super) fn over_empty(tables: T) -> Self {
        let Capacity {
            services,
            slots,
            backends,
        } = tables.capacity();
        Self {
            tables,
            ports: HashMap::new(),
            adopted: BTreeMap::new(),
            owners: HashMap::new(),
            labels: HashMap::new(),
            backends: HashMap::new(),
            numbers_by_address: HashMap::new(),
            free_slots: Ranges::new(0, slots),
            free_backends: Ranges::new(1, backends),
            free_numbers: Ranges::new(0, services),
            retired: Retired::default(),
            freed: false,
        }
    }

    /// The tables behind.
    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// The tables behind, to be changed: for tests.
    pub fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// How far the tables are filled.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let Capacity {
            services,
            slots,
            backends,
        } = self.tables.capacity();
        Fill {
            frontends: self.owners.len(),
            services: services - self.free_numbers.free(),
            backends: backends.saturating_sub(1) - self.free_backends.free(),
            slots: slots - self.free_slots.free(),
        }
    }

    /// The name of a service number.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&str> {
        self.labels.get(&number).map(String::as_str)
    }

    /// All ports that are published.
    pub fn ports(&self) -> impl Iterator<Item = &PortId> {
        self.ports.keys()
    }

    /// Brings a port to its desired state. True if anything was written. Frontends move between the ports of one Service
    /// in one step, so that a renamed port, or one of two that swap their numbers, is never without: see [`Siblings`].
    ///
    /// # Errors
    /// See [`PublishError`]. The port is then as it was before, but for frontends that another port has, which alone
    /// are left out.
    pub fn publish(
        &mut self,
        id: &PortId,
        desired: &DesiredPort,
        siblings: &Siblings<'_>,
    ) -> Result<bool, PublishError> {
        let Some(proto) = proto(id.protocol) else {
            return Ok(false);
        };
        let label = label(id);
        let known = self.ports.contains_key(id);
        let mut port = match self
            .ports
            .get(id)
            .cloned()
            .or_else(|| self.adopted.get(&label).cloned())
        {
            Some(port) => port,
            None => Published {
                number: self.take_number()?,
                frontends: Vec::new(),
                internal: PublishedScope::default(),
                external: PublishedScope::default(),
            },
        };
        let is_new = !self.labels.contains_key(&port.number);
        let result = self.bring(id, proto, &mut port, desired, siblings);
        match result {
            Ok((wrote, taken)) => {
                self.adopted.remove(&label);
                self.ports.insert(id.clone(), port);
                taken.map_or(Ok(wrote), Err)
            }
            Err(error) => {
                if is_new && !known {
                    self.retired.numbers.push(port.number);
                } else if self.adopted.remove(&label).is_some() {
                    // What an earlier agent left of it is asked for, though it can't be changed now.
                    self.ports.insert(id.clone(), port);
                }
                Err(error)
            }
        }
    }

    fn bring(
        &mut self,
        id: &PortId,
        proto: Proto,
        port: &mut Published<F::Addr>,
        desired: &DesiredPort,
        siblings: &Siblings<'_>,
    ) -> Result<(bool, Option<PublishError>), PublishError> {
        let mut wrote = false;
        let internal = self.prepare(&port.internal, &desired.internal)?;
        if let Some(scope) = internal {
            self.tables.put_internal_scope(port.number, scope.word);
            self.retire_scope(std::mem::replace(&mut port.internal, scope));
            wrote = true;
        }
        if !self.labels.contains_key(&port.number) {
            let label = label(id);
            if let Err(error) = self.tables.put_label(port.number, &Label::new(&label)) {
                self.tables.put_internal_scope(port.number, ScopeWord::ABSENT);
                self.retire_scope(std::mem::take(&mut port.internal));
                return Err(error.into());
            }
            self.labels.insert(port.number, label);
            wrote = true;
        }
        let mut taken = None;
        let mut keep = Vec::with_capacity(desired.frontends.len());
        for frontend in &desired.frontends {
            let Some(address) = F::from_ip(frontend.address) else {
                continue;
            };
            let key = FrontendKey::new(address, Port::new(frontend.port), proto);
            match self.owners.get(&key) {
                Some(&owner) if owner == port.number => keep.push(key),
                Some(&owner) if !self.is_sibling(owner, id, siblings) => {
                    let owner = self.labels.get(&owner).cloned().unwrap_or_default();
                    taken = Some(PublishError::Taken {
                        address: frontend.address,
                        port: frontend.port,
                        owner,
                    });
                }
                _ => match self.tables.put_frontend(&key, port.number) {
                    Ok(()) => {
                        self.owners.insert(key, port.number);
                        keep.push(key);
                        wrote = true;
                    }
                    Err(error) => taken = Some(error.into()),
                },
            }
        }
        for key in std::mem::take(&mut port.frontends) {
            // Another port of the Service may have taken it over, or is about to.
            if keep.contains(&key) || self.owners.get(&key) != Some(&port.number) {
                continue;
            }
            if siblings.claim::<F>(&key) {
                keep.push(key);
                continue;
            }
            match self.tables.remove_frontend(&key) {
                Ok(()) => {
                    self.owners.remove(&key);
                    self.freed = true;
                    wrote = true;
                }
                // Still there: keep it in the books, so that the next attempt removes it.
                Err(error) => {
                    keep.push(key);
                    taken = Some(error.into());
                }
            }
        }
        port.frontends = keep;
        Ok((wrote, taken))
    }

    /// Whether a frontend was given up since the last call: another port may wait for it.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Takes a port away. True if it was there.
    ///
    /// # Errors
    /// If the kernel refuses; what could not be removed stays in the books.
    pub fn withdraw(&mut self, id: &PortId) -> Result<bool, PublishError> {
        let Some(mut port) = self.ports.remove(id) else {
            return Ok(false);
        };
        let result = self.remove(&mut port);
        if result.is_err() {
            self.ports.insert(id.clone(), port);
        }
        result.map(|()| true)
    }

    /// Takes away everything that an earlier agent left and nobody has asked for, but for ports of Services that are
    /// `held`: their frontends are still to be taken over. Returns the names.
    ///
    /// # Errors
    /// If the kernel refuses; what could not be removed stays in the books.
    pub fn withdraw_unclaimed(&mut self, held: &[ServiceKey]) -> Result<Vec<String>, PublishError> {
        let is_held = |label: &String| held.iter().any(|service| is_of(label, service));
        let labels: Vec<String> = self.adopted.keys().filter(|label| !is_held(label)).cloned().collect();
        let mut names = Vec::with_capacity(labels.len());
        for label in labels {
            let Some(mut port) = self.adopted.remove(&label) else {
                continue;
            };
            if let Err(error) = self.remove(&mut port) {
                self.adopted.insert(label, port);
                return Err(error);
            }
            names.push(label);
        }
        Ok(names)
    }

    /// Whether anything that an earlier agent left has not been asked for.
    #[must_use]
    pub fn has_unclaimed(&self) -> bool {
        !self.adopted.is_empty()
    }

    fn remove(&mut self, port: &mut Published<F::Addr>) -> Result<(), PublishError> {
        while let Some(key) = port.frontends.last().copied() {
            // Another port may have taken it over.
            if self.owners.get(&key) == Some(&port.number) {
                self.tables.remove_frontend(&key)?;
                self.owners.remove(&key);
                self.freed = true;
            }
            port.frontends.pop();
        }
        self.tables.remove_label(port.number)?;
        self.labels.remove(&port.number);
        // The scope word stays until the grace period is over: a reader may have found the frontend just now.
        self.retire_scope(std::mem::take(&mut port.internal));
        self.retire_scope(std::mem::take(&mut port.external));
        self.retired.numbers.push(port.number);
        Ok(())
    }

    /// Lays out a scope: backends, then a fresh range. Nothing if it is as desired already. Nothing that is published
    /// has changed until the word is stored.
    fn prepare(&mut self, now: &PublishedScope, desired: &Scope) -> Result<Option<PublishedScope>, PublishError> {
        let wanted: Vec<Backend<F::Addr>> = desired
            .backends
            .iter()
            .filter_map(|backend| record::<F>(backend))
            .collect();
        if wanted.is_empty() {
            let word = match desired.when_empty {
                WhenEmpty::Reject => ScopeWord::REJECT,
                WhenEmpty::Drop => ScopeWord::DROP,
            };
            let scope = PublishedScope {
                word,
                base: 0,
                backends: Vec::new(),
            };
            return Ok((*now != scope).then_some(scope));
        }
        if self.is_as_wanted(now, &wanted) {
            self.refresh_flags(&wanted);
            return Ok(None);
        }
        let len = wanted.len() as u32;
        if len > ScopeWord::LEN_MAX {
            return Err(PublishError::Full {
                what: "slots",
                needed: len,
                capacity: ScopeWord::LEN_MAX,
                free: 0,
            });
        }
        let fresh = wanted
            .iter()
            .filter(|backend| !self.numbers_by_address.contains_key(&key(backend)))
            .count() as u32;
        if fresh > self.free_backends.free() {
            let capacity = self.tables.capacity().backends - 1;
            return Err(PublishError::Full {
                what: "backends",
                needed: fresh,
                capacity,
                free: self.free_backends.free(),
            });
        }
        let Some(base) = self.free_slots.take(len) else {
            let capacity = self.tables.capacity().slots;
            return Err(PublishError::Full {
                what: "slots",
                needed: len,
                capacity,
                free: self.free_slots.free(),
            });
        };
        let mut backends = Vec::with_capacity(wanted.len());
        for record in &wanted {
            backends.push(self.use_backend(record));
        }
        for (place, number) in (base..).zip(&backends) {
            self.tables.put_slot(place, *number);
        }
        Ok(Some(PublishedScope {
            word: ScopeWord::slots(base, len),
            base,
            backends,
        }))
    }

    fn is_as_wanted(&self, now: &PublishedScope, wanted: &[Backend<F::Addr>]) -> bool {
        now.backends.len() == wanted.len()
            && now.backends.iter().zip(wanted).all(|(number, record)| {
                self.backends
                    .get(number)
                    .is_some_and(|used| key(&used.record) == key(record))
            })
    }

    /// Writes changed flags of backends in use: address and port stay, so readers see either.
    fn refresh_flags(&mut self, wanted: &[Backend<F::Addr>]) {
        for record in wanted {
            if let Some(number) = self.numbers_by_address.get(&key(record))
                && let Some(used) = self.backends.get_mut(number)
                && used.record != *record
            {
                used.record = *record;
                self.tables.put_backend(*number, record);
            }
        }
    }

    /// The number of a backend; its record is written if it is new or its flags changed.
    fn use_backend(&mut self, record: &Backend<F::Addr>) -> u32 {
        let number = match self.numbers_by_address.get(&key(record)) {
            Some(&number) => number,
            // There is one: `prepare` has counted.
            None => self.free_backends.take(1).unwrap_or_default(),
        };
        self.numbers_by_address.insert(key(record), number);
        let used = self.backends.entry(number).or_insert(Used {
            record: Backend::default(),
            uses: 0,
            retirements: 0,
        });
        used.uses += 1;
        if used.record != *record {
            used.record = *record;
            self.tables.put_backend(number, record);
        }
        number
    }

    pub(super) fn retire_scope(&mut self, scope: PublishedScope) {
        self.retired.slots.push((scope.base, scope.backends.len() as u32));
        for number in scope.backends {
            if let Some(used) = self.backends.get_mut(&number) {
                used.uses -= 1;
                if used.uses == 0 {
                    used.retirements += 1;
                    self.retired.backends.push((number, used.retirements));
                }
            }
        }
    }

    fn take_number(&mut self) -> Result<u32, PublishError> {
        self.free_numbers.take(1).ok_or_else(|| PublishError::Full {
            what: "service ports",
            needed: 1,
            capacity: self.tables.capacity().services,
            free: 0,
        })
    }

    /// What has been retired since the last call. The caller waits for a grace period, then calls
    /// [`Self::reuse`] with it.
    pub fn take_retired(&mut self) -> Retired {
        std::mem::take(&mut self.retired)
    }

    /// Frees what was retired before a grace period that is over.
    pub fn reuse(&mut self, retired: Retired) {
        for (number, retirement) in retired.backends {
            // It may have been taken into use again meanwhile, and even have fallen out of use again.
            let over = |used: &&Used<F::Addr>| used.uses == 0 && used.retirements == retirement;
            let Some(used) = self.backends.get(&number).filter(over) else {
                continue;
            };
            let address = key(&used.record);
            if self.numbers_by_address.get(&address) == Some(&number) {
                self.numbers_by_address.remove(&address);
            }
            self.backends.remove(&number);
            self.tables.put_backend(number, &Backend::default());
            self.free_backends.give_back(number, 1);
        }
        for number in retired.numbers {
            self.tables.put_internal_scope(number, ScopeWord::ABSENT);
            self.tables.put_external_scope(number, ScopeWord::ABSENT);
            self.free_numbers.give_back(number, 1);
        }
        for (base, len) in retired.slots {
            self.free_slots.give_back(base, len);
        }
    }
}

/// The name under which a port is found again after a restart: as much of it as the table keeps.
fn label(id: &PortId) -> String {
    Label::new(&id.to_string()).as_str().to_owned()
}

fn key<A: lb_common::layout::Address>(backend: &Backend<A>) -> (A, Port) {
    (backend.address, backend.port)
}

/// A backend as the kernel wants it; nothing if it is of the other family.
fn record<F: TableFamily>(backend: &crate::plan::Backend) -> Option<Backend<F::Addr>> {
    let mut flags = BackendFlags::ACTIVE;
    if backend.local {
        flags = flags.with(BackendFlags::LOCAL);
    }
    if backend.state == BackendState::Terminating {
        flags = flags.with(BackendFlags::TERMINATING);
    }
    Some(Backend {
        address: F::from_ip(backend.address)?,
        port: Port::new(backend.port),
        flags,
        rest: Default::default(),
    })
}
