//! How long it takes from the change of a pod to the change of the tables (behaviour reference §1.5, §6.4).
//!
//! A slice says what triggered it. Here: remembering these times until the family is synced. Pure. Not here: the histogram
//! (`recorder`, which calls this).

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::model::{Change, EndpointSlice, Family, ServiceKey, Store};

/// Triggers remembered for a Service whose changes don't get into the tables.
const TRIGGERS_MAX: usize = 100;

/// Triggers of changes that are not in the tables yet.
#[derive(Debug)]
pub(super) struct ProgrammingLatency {
    /// What was triggered before this process began says nothing about it.
    started: SystemTime,
    waiting: HashMap<(Family, ServiceKey), Vec<SystemTime>>,
}

impl ProgrammingLatency {
    pub(super) fn since(started: SystemTime) -> Self {
        Self {
            started,
            waiting: HashMap::new(),
        }
    }

    /// A change came; `store` does not know it yet.
    pub(super) fn note(&mut self, store: &Store, change: &Change) {
        match change {
            Change::SliceApply(slice) => self.note_slice(store, slice),
            // A deletion carries no trigger, and those before it have nothing left to measure.
            Change::SliceDelete(key) => {
                let served = store.slice(key).and_then(|slice| slice.serves());
                if let Some((service, family)) = served {
                    self.waiting.remove(&(family, service.clone()));
                }
            }
            _ => {}
        }
    }

    fn note_slice(&mut self, store: &Store, slice: &EndpointSlice) {
        let (Some((service, family)), Some(triggered)) = (slice.serves(), slice.triggered) else {
            return;
        };
        let known = store
            .slice(&slice.key)
            .is_some_and(|known| known.says_the_same_as(slice));
        if known || triggered <= self.started {
            return;
        }
        let waiting = self.waiting.entry((family, service.clone())).or_default();
        if waiting.len() < TRIGGERS_MAX {
            waiting.push(triggered);
        }
    }

    /// The family's tables say all that is known: how long each change took.
    pub(super) fn synced(&mut self, family: Family, now: SystemTime) -> Vec<Duration> {
        let mut took = Vec::new();
        self.waiting.retain(|(of, _), triggers| {
            if *of != family {
                return true;
            }
            // The clocks of two machines may differ: no time is less than none.
            took.extend(
                triggers
                    .iter()
                    .map(|trigger| now.duration_since(*trigger).unwrap_or_default()),
            );
            false
        });
        took
    }
}
