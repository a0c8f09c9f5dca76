//! Publishing: from "this port should look so" to writes in an order that no reader can trip over.
//!
//! ```text
//! change    source ranges -> backends -> Maglev tables -> fresh ranges of slots -> frontends that go -> words of both lists
//!               -> rules
//!               -> … grace … -> what nobody asks for any more
//! arrival   the same -> label -> frontends -> addresses
//! departure frontends, addresses -> label -> … grace … -> words, slots, tables, backends, source ranges, number
//! ```
//!
//! A reader goes frontend → scope → slot → backend. Whatever it has read, what it reads next is still there: places
//! are used anew only after every program that ran has ended (see [`Retired`]). A port that does not fit keeps its old
//! state whole. What is laid out for the lists is in `lists`, the rest of each step beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::layout::{
    Address, Backend, Frontend as FrontendWord, FrontendKey, Label, Port, Proto, Rules, Scope as ScopeWord,
    ServiceFlags, Sets, TableHeader,
};
use thiserror::Error;

use super::{
    frontends::AddressBook,
    lists::Identity,
    numbers::Numbers,
    places::Places,
    ranges::Ranges,
    retire::{Fading, Retired},
    shared::SharedTables,
    siblings::{Siblings, is_of},
    sources::PublishedSet,
};
use crate::{
    model::{Protocol, ServiceKey},
    plan::{DesiredPort, PortId},
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
        "no place for {needed} more {what} (of {capacity}): the port keeps its old state; remove \
         Services or endpoints"
    )]
    Full {
        /// Of what.
        what: &'static str,
        /// How many are needed.
        needed: u32,
        /// How many there are.
        capacity: u32,
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
    /// Chunks of Maglev tables in use.
    pub chunks: u32,
    /// Addresses that are known: of frontends and of the host.
    pub addresses: usize,
    /// Source ranges in use.
    pub sources: usize,
}

/// A port as it is in the tables.
#[derive(Clone, Debug)]
pub(super) struct Published<A: Address> {
    pub(super) number: u32,
    pub(super) frontends: Vec<FrontendKey<A>>,
    pub(super) cluster: PublishedScope,
    pub(super) local: PublishedScope,
    /// Backend numbers of endpoints in neither list.
    pub(super) others: Vec<u32>,
    pub(super) rules: Rules,
    pub(super) sources: PublishedSet<A>,
    /// Part of the keys of its session affinity, now or when it had one last.
    pub(super) affinity: u32,
    /// There is no room for the Maglev table that one of its lists is to have.
    pub(super) lacks_table: bool,
}

/// A list of endpoints as it is in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PublishedScope {
    pub(super) word: ScopeWord,
    pub(super) base: u32,
    /// Backend numbers in the order of their slots.
    pub(super) backends: Vec<u32>,
    /// Its Maglev table, which lies in the slots before `base`.
    pub(super) table: Option<TableHeader>,
}

/// A backend record and how many lists name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used<A: Address> {
    /// As it is in the table.
    pub(super) record: Backend<A>,
    /// As it will be after the next grace period.
    pub(super) wanted: Backend<A>,
    pub(super) uses: u32,
    /// How often it fell out of use: a number that came back and went again meanwhile needs a grace period of its own.
    pub(super) retirements: u64,
    /// How often it stopped serving, for the same reason.
    pub(super) stops: u64,
}

/// An endpoint of a service port that is gone, and whose clients are to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gone<A> {
    /// Service number.
    pub service: u32,
    /// Its address.
    pub address: A,
    /// Its port.
    pub port: Port,
}

/// The publisher of one family: knows all that is in its tables.
pub struct Publisher<F: TableFamily, T> {
    pub(super) tables: T,
    pub(super) ports: HashMap<PortId, Published<F::Addr>>,
    /// What an earlier agent left and nobody has asked for yet, by label.
    pub(super) adopted: BTreeMap<String, Published<F::Addr>>,
    pub(super) owners: HashMap<FrontendKey<F::Addr>, FrontendWord>,
    pub(super) addresses: AddressBook<F::Addr>,
    pub(super) addresses_are_late: bool,
    pub(super) labels: HashMap<u32, String>,
    pub(super) backends: Places<Used<F::Addr>>,
    pub(super) numbers_by_identity: HashMap<Identity<F::Addr>, u32>,
    pub(super) shared: SharedTables<F::Addr>,
    pub(super) free_slots: Ranges,
    pub(super) free_chunks: Ranges,
    pub(super) free_backends: Numbers<F::Addr>,
    pub(super) free_numbers: Ranges,
    pub(super) free_sets: Ranges,
    pub(super) fading: Fading,
    /// How many lists have begun to fade.
    pub(super) fadings: u64,
    pub(super) retired: Retired<F::Addr>,
    gone: Vec<Gone<F::Addr>>,
    /// A frontend was given up since somebody last asked.
    pub(super) freed: bool,
}

/// The protocol number.
pub(super) const fn proto(protocol: Protocol) -> Proto {
    match protocol {
        Protocol::Tcp => Proto::TCP,
        Protocol::Udp => Proto::UDP,
        Protocol::Sctp => Proto::SCTP,
    }
}

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// A publisher over tables of which nothing is known: see [`Self::adopt`](super::adopt).
    pub(super) fn over_empty(tables: T) -> Self {
        let Capacity {
            services,
            slots,
            chunks,
            backends,
        } = tables.capacity();
        Self {
            tables,
            ports: HashMap::new(),
            adopted: BTreeMap::new(),
            owners: HashMap::new(),
            addresses: AddressBook::new(),
            addresses_are_late: false,
            labels: HashMap::new(),
            backends: Places::new(),
            numbers_by_identity: HashMap::new(),
            shared: SharedTables::new(),
            free_slots: Ranges::new(0, slots),
            free_chunks: Ranges::new(0, chunks),
            free_backends: Numbers::new(1, backends),
            free_numbers: Ranges::new(0, services),
            free_sets: Ranges::new(1, Self::SETS),
            fading: Fading::new(),
            fadings: 0,
            retired: Retired::default(),
            gone: Vec::new(),
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
            chunks,
            backends,
        } = self.tables.capacity();
        Fill {
            frontends: self.owners.len(),
            services: services - self.free_numbers.free(),
            backends: backends.saturating_sub(1) - self.free_backends.free(),
            slots: slots - self.free_slots.free(),
            chunks: chunks - self.free_chunks.free(),
            addresses: self.addresses.len(),
            sources: self.ports.values().map(|port| port.sources.ranges.len()).sum(),
        }
    }

    /// Service numbers with the port that has each.
    pub fn numbers(&self) -> impl Iterator<Item = (u32, &PortId)> {
        self.ports.iter().map(|(id, port)| (port.number, id))
    }

    /// All backend numbers of the ports that are published, each with its port and its record.
    pub fn backends(&self) -> impl Iterator<Item = (u32, &PortId, &Backend<F::Addr>)> {
        self.ports.iter().flat_map(move |(id, port)| {
            let lists = [&port.cluster.backends, &port.local.backends, &port.others];
            let numbers: BTreeSet<u32> = lists.into_iter().flatten().copied().collect();
            let record = move |number: u32| Some((number, id, &self.backends.get(number)?.record));
            numbers.into_iter().filter_map(record)
        })
    }

    /// The name of a service number.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&str> {
        self.labels.get(&number).map(String::as_str)
    }

    /// Whether there was no room for a Maglev table of a port: its flows are spread by hash alone.
    #[must_use]
    pub fn lacks_table(&self, id: &PortId) -> bool {
        self.ports.get(id).is_some_and(|port| port.lacks_table)
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
        let label = label(id);
        let known = self.ports.contains_key(id);
        let mut port = match self
            .ports
            .get(id)
            .cloned()
            .or_else(|| self.adopted.get(&label).cloned())
        {
            Some(port) => port,
            None => self.new_port()?,
        };
        let is_new = !self.labels.contains_key(&port.number);
        let result = self.bring(id, &mut port, desired, siblings);
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
        port: &mut Published<F::Addr>,
        desired: &DesiredPort,
        siblings: &Siblings<'_>,
    ) -> Result<(bool, Option<PublishError>), PublishError> {
        let sources = self.prepare_set(&port.sources, desired.sources.as_deref())?;
        let lists = match self.prepare_lists(port, desired) {
            Ok(lists) => lists,
            Err(error) => {
                if let Some(unused) = sources {
                    self.free_set(unused.set, &unused.ranges);
                }
                return Err(error);
            }
        };
        let before = desired.resets.then(|| self.endpoints(port));
        let mut wrote = match self.drop_frontends(proto(id.protocol), port, &desired.frontends, siblings) {
            Ok(wrote) => wrote,
            Err(error) => {
                self.discard_lists(lists);
                if let Some(unused) = sources {
                    self.free_set(unused.set, &unused.ranges);
                }
                return Err(error.into());
            }
        };
        wrote |= self.commit_lists(port, lists);
        port.lacks_table = lacks_table(port, desired);
        if let Some(before) = before {
            let gone = before
                .into_iter()
                .filter(|gone| !self.has_backend(gone.service, gone.address, gone.port));
            let gone: Vec<_> = gone.collect();
            self.gone.extend(gone);
        }
        wrote |= self.commit_rules(port, desired, sources);
        if !self.labels.contains_key(&port.number) {
            let label = label(id);
            if let Err(error) = self.tables.put_label(port.number, &Label::new(&label)) {
                self.retire_all(port);
                return Err(error.into());
            }
            self.labels.insert(port.number, label);
            wrote = true;
        }
        let (changed, problem) = self.bring_frontends(id, proto(id.protocol), port, &desired.frontends, siblings);
        Ok((wrote | changed, problem))
    }

    /// Publishes policies, affinity and source ranges. Lists that a new policy asks for are there already.
    fn commit_rules(
        &mut self,
        port: &mut Published<F::Addr>,
        desired: &DesiredPort,
        sources: Option<PublishedSet<F::Addr>>,
    ) -> bool {
        let rules = rules(desired);
        if rules.affinity_s != 0 && port.rules.affinity_s == 0 {
            // Whom anybody got before it was switched on does not count.
            port.affinity = next_affinity(port.number, port.affinity);
        }
        let set = sources.as_ref().map_or(port.sources.set, |sources| sources.set);
        let sets = Sets {
            sources: set,
            affinity: port.affinity,
        };
        let now = self.tables.service(port.number);
        let wrote = sets != now.sets || rules != now.rules;
        if wrote {
            self.tables.put_sets(port.number, sets);
            self.tables.put_rules(port.number, rules);
        }
        port.rules = rules;
        if let Some(sources) = sources {
            let before = std::mem::replace(&mut port.sources, sources);
            self.retire_set(before);
        }
        wrote
    }

    /// All endpoints of a port.
    fn endpoints(&self, port: &Published<F::Addr>) -> Vec<Gone<F::Addr>> {
        let numbers = port
            .cluster
            .backends
            .iter()
            .chain(&port.local.backends)
            .chain(&port.others);
        let mut endpoints = Vec::new();
        for used in numbers.filter_map(|number| self.backends.get(*number)) {
            let (service, address, port) = used.identity();
            let endpoint = Gone { service, address, port };
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        endpoints
    }

    /// Endpoints that are gone since the last call, of ports whose clients are to know. They may come back.
    pub fn take_gone(&mut self) -> Vec<Gone<F::Addr>> {
        std::mem::take(&mut self.gone)
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
            if self.owners.get(&key).is_some_and(|owner| owner.number() == port.number) {
                self.remove_frontend(&key)?;
            }
            port.frontends.pop();
        }
        self.tables.remove_label(port.number)?;
        self.labels.remove(&port.number);
        // The words stay until the grace period is over: a reader may have found the frontend just now.
        self.retire_all(port);
        self.retired.numbers.push(port.number);
        Ok(())
    }

    /// Everything that a port has but its number.
    pub(super) fn retire_all(&mut self, port: &mut Published<F::Addr>) {
        self.retire_scope(std::mem::take(&mut port.cluster));
        self.retire_scope(std::mem::take(&mut port.local));
        self.release(std::mem::take(&mut port.others));
        self.retire_set(std::mem::take(&mut port.sources));
    }

    /// A port of which nothing is in the tables but a number.
    fn new_port(&mut self) -> Result<Published<F::Addr>, PublishError> {
        let number = self.free_numbers.take(1).ok_or_else(|| PublishError::Full {
            what: "service ports",
            needed: 1,
            capacity: self.tables.capacity().services,
        })?;
        // What the number's last owner has left: clients of its are none of this one's.
        let left = self.tables.service(number);
        Ok(Published {
            number,
            frontends: Vec::new(),
            cluster: PublishedScope::default(),
            local: PublishedScope::default(),
            others: Vec::new(),
            rules: Rules::default(),
            sources: PublishedSet::default(),
            affinity: left.sets.affinity,
            lacks_table: false,
        })
    }
}

fn lacks_table<A: Address>(port: &Published<A>, desired: &DesiredPort) -> bool {
    let lists = [(&desired.cluster, &port.cluster), (&desired.local, &port.local)];
    lists.into_iter().any(|(wanted, now)| {
        wanted.as_ref().is_some_and(|list| list.maglev) && now.backends.len() > 1 && now.table.is_none()
    })
}

fn rules(desired: &DesiredPort) -> Rules {
    let mut flags = ServiceFlags::default();
    if desired.internal_local {
        flags = flags.with(ServiceFlags::INTERNAL_LOCAL);
    }
    if desired.external_local {
        flags = flags.with(ServiceFlags::EXTERNAL_LOCAL);
    }
    if desired.dsr {
        flags = flags.with(ServiceFlags::DSR);
    }
    if desired.internal_maglev {
        flags = flags.with(ServiceFlags::INTERNAL_MAGLEV);
    }
    if desired.no_sockets {
        flags = flags.with(ServiceFlags::NO_SOCKETS);
    }
    Rules {
        flags,
        affinity_s: desired.affinity_timeout_s.unwrap_or(0),
    }
}

/// Service number and how often affinity was switched on for it: a word that no client's entry has yet.
const fn next_affinity(number: u32, before: u32) -> u32 {
    (before & 0xffff_0000).wrapping_add(0x1_0000) | number & 0xffff
}

/// The name under which a port is found again after a restart: as much of it as the table keeps.
fn label(id: &PortId) -> String {
    Label::new(&id.to_string()).as_str().to_owned()
}
