//! The endpoints of a port: backend records, ranges of slots, and the words that publish them.
//!
//! ```text
//! new and revived backends -> Maglev tables -> fresh ranges of slots -> one atomic store per list -> … grace … -> backends that stopped
//!                                                                serving, old ranges, old tables, old backends
//! ```

use std::collections::HashSet;

use lb_common::layout::{Address as _, Backend, BackendFlags, Port, Scope as ScopeWord, TableHeader};

use super::{
    maglev::Member,
    publish::{PublishError, Published, PublishedScope, Publisher, Used},
    shared::WantedTable,
};
use crate::{
    plan::{BackendState, DesiredPort, Scope, Tunnel, WhenEmpty},
    tables::{List, TableFamily, Tables},
};

/// Which endpoint of which service port a backend number stands for.
pub(super) type Identity<A> = (u32, A, Port);

impl<A: lb_common::layout::Address> Used<A> {
    pub(super) fn identity(&self) -> Identity<A> {
        identity(&self.record)
    }
}

fn identity<A: lb_common::layout::Address>(record: &Backend<A>) -> Identity<A> {
    (record.service, record.address, record.port)
}

/// A port's endpoints, laid out but not published.
pub(super) struct Prepared {
    cluster: Option<PublishedScope>,
    local: Option<PublishedScope>,
    others: Vec<u32>,
}

/// The endpoints of a port as the kernel wants them.
struct Wanted<A: lb_common::layout::Address> {
    cluster: Option<WantedList<A>>,
    local: Option<WantedList<A>>,
    others: Vec<WantedBackend<A>>,
}

/// A backend, with its number if it had one before.
struct WantedBackend<A: lb_common::layout::Address> {
    record: Backend<A>,
    number: Option<u32>,
}

/// One list.
struct WantedList<A: lb_common::layout::Address> {
    backends: Vec<WantedBackend<A>>,
    when_empty: WhenEmpty,
    table: Option<WantedTable<A>>,
}

impl<A: lb_common::layout::Address> Wanted<A> {
    fn all(&self) -> impl Iterator<Item = &WantedBackend<A>> {
        let lists = [&self.cluster, &self.local].into_iter().flatten();
        lists.flat_map(|list| &list.backends).chain(&self.others)
    }
}

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// Lays out a port's endpoints. Nothing that is published has changed until [`Self::commit_lists`].
    pub(super) fn prepare_lists(
        &mut self,
        port: &Published<F::Addr>,
        desired: &DesiredPort,
    ) -> Result<Prepared, PublishError> {
        let number = port.number;
        let records = |backends: &[crate::plan::Backend], now: &[u32]| {
            let records = backends.iter().filter_map(|backend| record::<F>(number, backend));
            self.with_numbers(records, now)
        };
        let list = |scope: &Option<Scope>, now: &PublishedScope| {
            scope.as_ref().map(|scope| WantedList {
                backends: records(&scope.backends, &now.backends),
                when_empty: scope.when_empty,
                table: scope
                    .maglev
                    .then(|| members::<F>(&scope.backends))
                    .and_then(WantedTable::new),
            })
        };
        let wanted = Wanted {
            cluster: list(&desired.cluster, &port.cluster),
            local: list(&desired.local, &port.local),
            others: records(&desired.others, &port.others),
        };
        self.check_room(port, &wanted)?;
        let others = wanted.others.iter().map(|backend| self.use_backend(backend)).collect();
        let prepared = self
            .prepare_scope(&port.cluster, wanted.cluster.as_ref())
            .and_then(|cluster| match self.prepare_scope(&port.local, wanted.local.as_ref()) {
                Ok(local) => Ok((cluster, local)),
                Err(error) => {
                    self.retire_scope(cluster.unwrap_or_default());
                    Err(error)
                }
            });
        match prepared {
            Ok((cluster, local)) => Ok(Prepared { cluster, local, others }),
            Err(error) => {
                self.release(others);
                Err(error)
            }
        }
    }

    /// Backends with the numbers that they have. Most are in the list as it is `now`, and both are in one order: the book is
    /// asked for the others only.
    fn with_numbers(
        &self,
        records: impl Iterator<Item = (Backend<F::Addr>, Tunnel)>,
        now: &[u32],
    ) -> Vec<WantedBackend<F::Addr>> {
        let identity_of = |number: &u32| self.backends.get(*number).map(Used::identity);
        let mut now = now.iter().peekable();
        let with_number = |(mut record, tunnel): (Backend<F::Addr>, Tunnel)| {
            let wanted = identity(&record);
            while now.next_if(|number| identity_of(number) < Some(wanted)).is_some() {}
            let same = now.next_if(|number| identity_of(number) == Some(wanted));
            let number = same.or_else(|| self.numbers_by_identity.get(&wanted)).copied();
            if tunnel == Tunnel::Unknown
                && let Some(used) = number.and_then(|number| self.backends.get(number))
            {
                record.node = used.wanted.node;
            }
            WantedBackend { record, number }
        };
        records.map(with_number).collect()
    }

    /// Publishes what was laid out, and retires what was there. True if readers can see a difference.
    pub(super) fn commit_lists(&mut self, port: &mut Published<F::Addr>, prepared: Prepared) -> bool {
        let mut wrote = false;
        for (list, fresh) in [(List::Cluster, prepared.cluster), (List::Local, prepared.local)] {
            let Some(fresh) = fresh else { continue };
            wrote = true;
            let fading = (port.number, list == List::Local);
            if fresh.word == ScopeWord::ABSENT {
                // A reader may have seen the policy that asked for it.
                self.fadings += 1;
                self.fading.insert(fading, self.fadings);
                self.retired.lists.push((port.number, list, self.fadings));
            } else {
                self.fading.remove(&fading);
                self.tables.put_scope(port.number, list, fresh.word);
            }
            let place = match list {
                List::Cluster => &mut port.cluster,
                List::Local => &mut port.local,
            };
            let before = std::mem::replace(place, fresh);
            self.retire_scope(before);
        }
        let before = std::mem::replace(&mut port.others, prepared.others);
        self.release(before);
        wrote
    }

    /// Gives up what was laid out.
    pub(super) fn discard_lists(&mut self, prepared: Prepared) {
        for scope in [prepared.cluster, prepared.local].into_iter().flatten() {
            self.retire_scope(scope);
        }
        self.release(prepared.others);
    }

    /// Whether all new backends and slots have a place.
    fn check_room(&self, port: &Published<F::Addr>, wanted: &Wanted<F::Addr>) -> Result<(), PublishError> {
        let mut fresh: Vec<_> = wanted
            .all()
            .filter(|backend| backend.number.is_none())
            .map(|backend| identity(&backend.record))
            .collect();
        fresh.sort_unstable();
        fresh.dedup();
        let needed = fresh.len() as u32;
        if needed > self.free_backends.free() {
            return Err(PublishError::Full {
                what: "backends",
                needed,
                capacity: self.tables.capacity().backends - 1,
            });
        }
        let lists = [(&wanted.cluster, &port.cluster), (&wanted.local, &port.local)];
        for (list, now) in lists {
            let Some(list) = list else { continue };
            let len = list.backends.len() as u32;
            let with_header = match &list.table {
                Some(table) if self.has_room_for(table) => len + TableHeader::SLOTS,
                _ => len,
            };
            if len > ScopeWord::LEN_MAX || !self.is_as_wanted(now, list) && with_header > self.free_slots.free() {
                return Err(self.no_slots(with_header));
            }
        }
        Ok(())
    }

    fn no_slots(&self, needed: u32) -> PublishError {
        PublishError::Full {
            what: "slots",
            needed,
            capacity: self.tables.capacity().slots,
        }
    }

    /// Lays out one list. Nothing if it is as wanted already.
    fn prepare_scope(
        &mut self,
        now: &PublishedScope,
        wanted: Option<&WantedList<F::Addr>>,
    ) -> Result<Option<PublishedScope>, PublishError> {
        let of_word = |word| PublishedScope {
            word,
            ..PublishedScope::default()
        };
        let Some(list) = wanted else {
            return Ok((now.word != ScopeWord::ABSENT).then(|| of_word(ScopeWord::ABSENT)));
        };
        let backends = &list.backends;
        if backends.is_empty() {
            let word = match list.when_empty {
                WhenEmpty::Reject => ScopeWord::REJECT,
                WhenEmpty::Drop => ScopeWord::DROP,
            };
            return Ok((now.word != word).then(|| of_word(word)));
        }
        if self.is_as_wanted(now, list) {
            for (number, backend) in now.backends.iter().zip(backends) {
                self.refresh(*number, &backend.record);
            }
            if let Some(table) = &list.table {
                self.know_members(table);
            }
            return Ok(None);
        }
        let len = backends.len() as u32;
        let table = match &list.table {
            Some(table) => self.use_table(table)?,
            None => None,
        };
        let (_, slots) = slots_of(0, len, table.as_ref());
        let Some(first) = self.free_slots.take(slots) else {
            if let Some(header) = table {
                self.release_table(&header, len);
            }
            return Err(self.no_slots(slots));
        };
        let header = table.map(TableHeader::to_slots);
        for (place, word) in (first..).zip(header.iter().flatten()) {
            self.tables.put_slot(place, *word);
        }
        let base = first + slots - len;
        let numbers: Vec<u32> = backends.iter().map(|backend| self.use_backend(backend)).collect();
        for (place, number) in (base..).zip(&numbers) {
            self.tables.put_slot(place, *number);
        }
        Ok(Some(PublishedScope {
            word: if table.is_some() {
                ScopeWord::slots_with_table(base, len)
            } else {
                ScopeWord::slots(base, len)
            },
            base,
            backends: numbers,
            table,
        }))
    }

    fn is_as_wanted(&self, now: &PublishedScope, wanted: &WantedList<F::Addr>) -> bool {
        let len = now.backends.len();
        len == wanted.backends.len()
            && self.has_wanted_table(now.table.as_ref(), len as u32, wanted.table.as_ref())
            && now.backends.iter().zip(&wanted.backends).all(|(number, backend)| {
                let used = self.backends.get(*number);
                used.is_some_and(|used| used.identity() == identity(&backend.record))
            })
    }

    /// The number of a backend; its record is written if it is new or serves now.
    fn use_backend(&mut self, backend: &WantedBackend<F::Addr>) -> u32 {
        let record = &backend.record;
        let number = backend.number.unwrap_or_else(|| self.number_of(record));
        match self.backends.get_mut(number) {
            Some(used) => {
                used.uses += 1;
                self.refresh(number, record);
            }
            None => {
                self.enter_endpoint(record.address);
                self.backends.get_or_insert_with(number, || Used {
                    record: *record,
                    wanted: *record,
                    uses: 1,
                    retirements: 0,
                    stops: 0,
                });
                self.tables.put_backend(number, record);
            }
        }
        number
    }

    /// The number of a backend that had none when its list was looked at; another list may have given it one since.
    fn number_of(&mut self, record: &Backend<F::Addr>) -> u32 {
        let identity = identity(record);
        if let Some(&number) = self.numbers_by_identity.get(&identity) {
            return number;
        }
        // There is one: `check_room` has counted.
        let number = self.free_backends.take(&identity).unwrap_or_default();
        self.numbers_by_identity.insert(identity, number);
        number
    }

    /// Writes changed flags of a backend in use, and another address of its node; its own address and port stay. One that stops
    /// serving does so after a grace period.
    fn refresh(&mut self, number: u32, record: &Backend<F::Addr>) {
        let Some(used) = self.backends.get_mut(number) else {
            return;
        };
        if used.wanted == *record {
            return;
        }
        used.wanted = *record;
        if record.flags.has(BackendFlags::ACTIVE) || !used.record.flags.has(BackendFlags::ACTIVE) {
            used.record = *record;
            self.tables.put_backend(number, record);
        } else {
            used.stops += 1;
            self.retired.flags.push((number, used.stops));
        }
    }

    pub(super) fn retire_scope(&mut self, scope: PublishedScope) {
        if !scope.backends.is_empty() {
            let len = scope.backends.len() as u32;
            self.retired.slots.push(slots_of(scope.base, len, scope.table.as_ref()));
            if let Some(header) = &scope.table {
                self.release_table(header, len);
            }
        }
        self.release(scope.backends);
    }

    /// Backends that one list less names.
    pub(super) fn release(&mut self, numbers: Vec<u32>) {
        for number in numbers {
            if let Some(used) = self.backends.get_mut(number) {
                used.uses -= 1;
                if used.uses == 0 {
                    used.retirements += 1;
                    self.retired.backends.push((number, used.retirements));
                }
            }
        }
    }

    /// Whether a port has an endpoint.
    #[must_use]
    pub fn has_backend(&self, service: u32, address: F::Addr, port: Port) -> bool {
        let number = self.numbers_by_identity.get(&(service, address, port));
        number
            .and_then(|number| self.backends.get(*number))
            .is_some_and(|used| used.uses > 0)
    }
}

impl<F: TableFamily, T> Publisher<F, T> {
    /// The nodes to which tunnels of these services lead, by service number.
    #[must_use]
    pub fn nodes(&self, services: &HashSet<u32>) -> HashSet<(u32, F::Addr)> {
        let used = self.backends.values().filter(|used| used.uses > 0);
        let of_them = used.filter(|used| services.contains(&used.record.service) && used.record.node.is_some());
        of_them.map(|used| (used.record.service, used.record.node)).collect()
    }
}

/// The slots of a list, first and number: its members from `base` on, and before them the header of its table.
pub(super) fn slots_of(base: u32, len: u32, table: Option<&TableHeader>) -> (u32, u32) {
    let before = table.map_or(0, |_| TableHeader::SLOTS);
    (base.saturating_sub(before), len + before)
}

/// Backends as the members of a table, in the order of the list.
fn members<F: TableFamily>(backends: &[crate::plan::Backend]) -> Vec<Member<F::Addr>> {
    let member = |backend: &crate::plan::Backend| {
        Some(Member {
            address: F::from_ip(backend.address)?,
            weight: backend.weight,
        })
    };
    backends.iter().filter_map(member).collect()
}

/// A backend as the kernel wants it, but for the address of a node that isn't known; nothing if it is of the other family.
fn record<F: TableFamily>(service: u32, backend: &crate::plan::Backend) -> Option<(Backend<F::Addr>, Tunnel)> {
    let mut flags = BackendFlags::default();
    if backend.state != BackendState::NotServing {
        flags = flags.with(BackendFlags::ACTIVE);
    }
    if backend.local {
        flags = flags.with(BackendFlags::LOCAL);
    }
    if backend.state == BackendState::Terminating {
        flags = flags.with(BackendFlags::TERMINATING);
    }
    let node = match backend.tunnel {
        Tunnel::To(node) => F::from_ip(node),
        Tunnel::None | Tunnel::Unknown => None,
    };
    let record = Backend {
        address: F::from_ip(backend.address)?,
        port: Port::new(backend.port),
        flags,
        service,
        node: node.unwrap_or_default(),
    };
    Some((record, backend.tunnel))
}
