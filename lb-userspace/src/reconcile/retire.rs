//! What may be used anew once every program that ran has ended, and what is taken back only then.

use std::collections::HashMap;

use lb_common::layout::{Backend, Scope as ScopeWord};

use super::publish::{Publisher, Used};
use crate::tables::{List, SourceRange, TableFamily, Tables};

/// What waits for a grace period.
#[derive(Debug)]
pub struct Retired<A> {
    pub(super) slots: Vec<(u32, u32)>,
    /// Maglev tables.
    pub(super) chunks: Vec<(u32, u32)>,
    /// Backend number, and which of its retirements this is.
    pub(super) backends: Vec<(u32, u64)>,
    /// Backends that stopped serving: a reader of the old range must still find them in service.
    /// With which of its stops this is.
    pub(super) flags: Vec<(u32, u64)>,
    /// Lists that no policy asks for any more, and the how manyth this is.
    pub(super) lists: Vec<(u32, List, u64)>,
    pub(super) numbers: Vec<u32>,
    pub(super) sources: Vec<(u32, Vec<SourceRange<A>>)>,
}

impl<A> Default for Retired<A> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            chunks: Vec::new(),
            backends: Vec::new(),
            flags: Vec::new(),
            lists: Vec::new(),
            numbers: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl<A> Retired<A> {
    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
            && self.chunks.is_empty()
            && self.backends.is_empty()
            && self.flags.is_empty()
            && self.lists.is_empty()
            && self.numbers.is_empty()
            && self.sources.is_empty()
    }
}

/// Lists that are to be absent after a grace period, unless they are published again meanwhile. One that is, and fades
/// again, waits for a period that began then: the number says which it waits for.
pub(super) type Fading = HashMap<(u32, bool), u64>;

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// What has been retired since the last call. The caller waits for a grace period, then calls
    /// [`Self::reuse`] with it.
    pub fn take_retired(&mut self) -> Retired<F::Addr> {
        std::mem::take(&mut self.retired)
    }

    /// Frees what was retired before a grace period that is over.
    pub fn reuse(&mut self, retired: Retired<F::Addr>) {
        for (number, list, fading) in retired.lists {
            let key = (number, list == List::Local);
            if self.fading.get(&key) == Some(&fading) {
                self.fading.remove(&key);
                self.tables.put_scope(number, list, ScopeWord::ABSENT);
            }
        }
        for (number, stop) in retired.flags {
            // It may have served again meanwhile, and even have stopped again.
            if let Some(used) = self.backends.get_mut(number)
                && used.stops == stop
                && used.record != used.wanted
            {
                used.record = used.wanted;
                self.tables.put_backend(number, &used.record);
            }
        }
        for (number, retirement) in retired.backends {
            // It may have been taken into use again meanwhile, and even have fallen out of use again.
            let over = |used: &&Used<F::Addr>| used.uses == 0 && used.retirements == retirement;
            let Some(used) = self.backends.get(number).filter(over) else {
                continue;
            };
            let identity = used.identity();
            if self.numbers_by_identity.get(&identity) == Some(&number) {
                self.numbers_by_identity.remove(&identity);
            }
            self.backends.remove(number);
            self.tables.put_backend(number, &Backend::default());
            self.leave_endpoint(identity.1);
            self.tables.forget_backend_counts(number);
            // Clients may be remembered by it.
            let service = identity.0;
            if self.labels.contains_key(&service) && self.tables.service(service).rules.affinity_s != 0 {
                self.free_backends.keep(number, identity);
            } else {
                self.free_backends.give_back(number);
            }
        }
        for number in retired.numbers {
            for list in [List::Cluster, List::Local] {
                self.fading.remove(&(number, list == List::Local));
                self.tables.put_scope(number, list, ScopeWord::ABSENT);
            }
            self.tables.forget_service_counts(number);
            self.free_numbers.give_back(number, 1);
        }
        for (set, ranges) in retired.sources {
            self.free_set(set, &ranges);
        }
        for (base, len) in retired.slots {
            self.free_slots.give_back(base, len);
        }
        for (first, len) in retired.chunks {
            self.free_chunks.give_back(first, len);
        }
    }
}
