//! Adopting tables that an earlier agent left: everything that is consistent stays as it is, so that a restart moves
//! no connection; what is not (a half-written arrival, a damaged entry) is taken away.

use std::collections::{BTreeMap, HashMap};

use lb_common::layout::{Backend, BackendFlags, Choice, FrontendKey, Scope as ScopeWord, TableHeader};
use tracing::warn;

use super::{
    lists::slots_of,
    publish::{Published, PublishedScope, Publisher, Used},
    sources::PublishedSet,
};
use crate::tables::{SourceRange, TableError, TableFamily, Tables};

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// A publisher that knows what the tables hold.
    ///
    /// # Errors
    /// If the tables can't be read, or a stray frontend can't be removed.
    pub fn adopt(tables: T) -> Result<Self, TableError> {
        let mut publisher = Self::over_empty(tables);
        let labels: BTreeMap<u32, String> = publisher
            .tables
            .labels()?
            .into_iter()
            .map(|(number, label)| (number, label.as_str().to_owned()))
            .collect();
        for (address, flags) in publisher.tables.addresses()? {
            publisher.adopt_address(address, flags);
        }
        let mut sets: HashMap<u32, Vec<SourceRange<F::Addr>>> = HashMap::new();
        for range in publisher.tables.sources()? {
            sets.entry(range.set).or_default().push(range);
        }
        let mut frontends: HashMap<u32, Vec<FrontendKey<F::Addr>>> = HashMap::new();
        for (key, word) in publisher.tables.frontends()? {
            if publisher.owners.insert(key, word).is_none() {
                frontends.entry(word.number()).or_default().push(key);
                publisher.enter_address(&key, word);
            }
        }
        for (number, label) in labels {
            let keys = frontends.remove(&number).unwrap_or_default();
            match publisher.adopt_port(number, &label, keys.clone(), &mut sets) {
                Some(port) => {
                    publisher.labels.insert(number, label.clone());
                    publisher.adopted.insert(label, port);
                }
                None => {
                    warn!(service = %label, number, "left by an earlier agent and damaged: taken away, to be written anew");
                    publisher.discard(number, &keys)?;
                }
            }
        }
        for (number, keys) in frontends {
            warn!(
                number,
                frontends = keys.len(),
                "frontends without a label, left by an agent that was killed: taken away"
            );
            publisher.discard(number, &keys)?;
        }
        for (set, ranges) in sets {
            publisher.free_sets.take_at(set, 1);
            publisher.retire_set(PublishedSet { set, ranges });
        }
        publisher.retire_unnamed();
        publisher.count_endpoints();
        publisher.settle_addresses()?;
        Ok(publisher)
    }

    /// Backends that no scope names: whoever had taken them away died while it waited for the end of a grace period.
    /// They go with the next one, or keep their numbers if they are asked for until then. UDP flows stay with a backend
    /// for as long as its record is there.
    fn retire_unnamed(&mut self) {
        for number in 1..self.tables.capacity().backends {
            let record = self.tables.backend(number);
            if record == Backend::default() || self.backends.get(number).is_some() {
                continue;
            }
            self.free_backends.take_at(number);
            let retired = Used {
                record,
                wanted: record,
                uses: 0,
                retirements: 1,
                stops: 0,
            };
            self.numbers_by_identity.entry(retired.identity()).or_insert(number);
            self.retired.backends.push((number, retired.retirements));
            self.backends.get_or_insert_with(number, || retired);
        }
    }

    fn discard(&mut self, number: u32, keys: &[FrontendKey<F::Addr>]) -> Result<(), TableError> {
        for key in keys {
            self.remove_frontend(key)?;
        }
        self.tables.remove_label(number)
    }

    fn adopt_port(
        &mut self,
        number: u32,
        label: &str,
        mut frontends: Vec<FrontendKey<F::Addr>>,
        sets: &mut HashMap<u32, Vec<SourceRange<F::Addr>>>,
    ) -> Option<Published<F::Addr>> {
        if label.is_empty() || self.adopted.contains_key(label) || !self.free_numbers.take_at(number, 1) {
            return None;
        }
        let service = self.tables.service(number);
        let cluster = self.adopt_scope(number, service.cluster);
        let local = self.adopt_scope(number, service.local);
        let ranges = match service.sets.sources {
            0 => Some(Vec::new()),
            set => sets.remove(&set).filter(|_| self.free_sets.take_at(set, 1)),
        };
        let (Some(cluster), Some(local), Some(mut ranges)) = (cluster.clone(), local.clone(), ranges) else {
            for scope in [cluster, local].into_iter().flatten() {
                self.retire_scope(scope);
            }
            self.free_numbers.give_back(number, 1);
            return None;
        };
        ranges.sort_unstable();
        frontends.sort_unstable();
        Some(Published {
            number,
            frontends,
            cluster,
            local,
            // They are asked for with the port, or go with the next grace period.
            others: Vec::new(),
            rules: service.rules,
            sources: PublishedSet {
                set: service.sets.sources,
                ranges,
            },
            affinity: service.sets.affinity,
            lacks_table: false,
        })
    }

    /// Reads a scope back. Nothing is taken if it is damaged.
    fn adopt_scope(&mut self, service: u32, word: ScopeWord) -> Option<PublishedScope> {
        let Choice::Slots { base, len } = word.choice() else {
            return Some(PublishedScope {
                word,
                ..PublishedScope::default()
            });
        };
        let capacity = self.tables.capacity();
        if len == 0 || base.checked_add(len).is_none_or(|end| end > capacity.slots) {
            return None;
        }
        let backends: Vec<u32> = (base..base + len).map(|place| self.tables.slot(place)).collect();
        let sound = backends.iter().all(|&number| {
            let record = self.tables.backend(number);
            number != 0
                && number < capacity.backends
                && record.flags.has(BackendFlags::ACTIVE)
                && record.service == service
        });
        if !sound {
            return None;
        }
        let table = if word.has_table() {
            let first = base.checked_sub(TableHeader::SLOTS)?;
            let slots = std::array::from_fn(|index| self.tables.slot(first + index as u32));
            Some(TableHeader::from_slots(slots))
        } else {
            None
        };
        let (first, slots) = slots_of(base, len, table.as_ref());
        if !self.free_slots.take_at(first, slots) {
            return None;
        }
        if let Some(header) = table
            && !self.adopt_table(header, len)
        {
            self.free_slots.give_back(first, slots);
            return None;
        }
        for &number in &backends {
            let record = self.tables.backend(number);
            let used = self.backends.get_or_insert_with(number, || {
                self.free_backends.take_at(number);
                Used {
                    record,
                    wanted: record,
                    uses: 0,
                    retirements: 0,
                    stops: 0,
                }
            });
            used.uses += 1;
            self.numbers_by_identity.entry(used.identity()).or_insert(number);
        }
        Some(PublishedScope {
            word,
            base,
            backends,
            table,
        })
    }
}
