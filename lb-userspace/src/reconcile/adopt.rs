//! Adopting tables that an earlier agent left: everything that is consistent stays as it is, so that a restart moves
//! no connection; what is not (a half-written arrival, a damaged entry) is taken away.

use std::collections::{BTreeMap, HashMap};

use lb_common::layout::{BackendFlags, Choice, FrontendKey, Scope as ScopeWord};
use tracing::warn;

use super::publish::{Published, PublishedScope, Publisher, Used};
use crate::tables::{TableError, TableFamily, Tables};

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
        let mut frontends: HashMap<u32, Vec<FrontendKey<F::Addr>>> = HashMap::new();
        for (key, number) in publisher.tables.frontends()? {
            frontends.entry(number).or_default().push(key);
        }
        for (number, label) in labels {
            let keys = frontends.remove(&number).unwrap_or_default();
            match publisher.adopt_port(number, &label, keys.clone()) {
                Some(port) => {
                    for key in &port.frontends {
                        publisher.owners.insert(*key, number);
                    }
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
        publisher.retire_unnamed();
        Ok(publisher)
    }

    /// Backends that no scope names: whoever had taken them away died while it waited for the end of a grace period.
    /// They go with the next one, or keep their numbers if they are asked for until then. UDP flows stay with a backend
    /// for as long as its record is there.
    fn retire_unnamed(&mut self) {
        for number in 1..self.tables.capacity().backends {
            let record = self.tables.backend(number);
            if !record.flags.has(BackendFlags::ACTIVE) || self.backends.contains_key(&number) {
                continue;
            }
            self.free_backends.take_at(number, 1);
            self.numbers_by_address
                .entry((record.address, record.port))
                .or_insert(number);
            let retired = Used {
                record,
                uses: 0,
                retirements: 1,
            };
            self.retired.backends.push((number, retired.retirements));
            self.backends.insert(number, retired);
        }
    }

    fn discard(&mut self, number: u32, keys: &[FrontendKey<F::Addr>]) -> Result<(), TableError> {
        for key in keys {
            self.tables.remove_frontend(key)?;
        }
        self.tables.remove_label(number)
    }

    fn adopt_port(
        &mut self,
        number: u32,
        label: &str,
        mut frontends: Vec<FrontendKey<F::Addr>>,
    ) -> Option<Published<F::Addr>> {
        if label.is_empty() || self.adopted.contains_key(label) || !self.free_numbers.take_at(number, 1) {
            return None;
        }
        let (internal_word, external_word) = self.tables.scopes(number);
        let (internal, external) = match (self.adopt_scope(internal_word), self.adopt_scope(external_word)) {
            (Some(internal), Some(external)) => (internal, external),
            (one, other) => {
                for scope in [one, other].into_iter().flatten() {
                    self.retire_scope(scope);
                }
                self.free_numbers.give_back(number, 1);
                return None;
            }
        };
        frontends.sort_unstable();
        Some(Published {
            number,
            frontends,
            internal,
            external,
        })
    }

    /// Reads a scope back. Nothing is taken if it is damaged.
    fn adopt_scope(&mut self, word: ScopeWord) -> Option<PublishedScope> {
        let Choice::Slots { base, len } = word.choice() else {
            return Some(PublishedScope {
                word,
                base: 0,
                backends: Vec::new(),
            });
        };
        let capacity = self.tables.capacity();
        if len == 0 || base.checked_add(len).is_none_or(|end| end > capacity.slots) {
            return None;
        }
        let backends: Vec<u32> = (base..base + len).map(|place| self.tables.slot(place)).collect();
        let sound = backends.iter().all(|&number| {
            number != 0 && number < capacity.backends && self.tables.backend(number).flags.has(BackendFlags::ACTIVE)
        });
        if !sound || !self.free_slots.take_at(base, len) {
            return None;
        }
        for &number in &backends {
            let record = self.tables.backend(number);
            let used = self.backends.entry(number).or_insert_with(|| {
                self.free_backends.take_at(number, 1);
                Used {
                    record,
                    uses: 0,
                    retirements: 0,
                }
            });
            used.uses += 1;
            self.numbers_by_address
                .entry((record.address, record.port))
                .or_insert(number);
        }
        Some(PublishedScope { word, base, backends })
    }
}
