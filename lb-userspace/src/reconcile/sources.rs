//! Sets of `loadBalancerSourceRanges`. A change makes a fresh set, publishes its number, and takes the old set away after a
//! grace period, so that a reader asks the old ranges or the new ones, never a mixture.

use lb_common::layout::Address;
use tracing::warn;

use super::publish::{PublishError, Publisher};
use crate::{
    model::Cidr,
    tables::{SourceRange, TableFamily, Tables},
};

/// A set as it is in the tables; number 0 stands for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublishedSet<A> {
    pub(super) set: u32,
    pub(super) ranges: Vec<SourceRange<A>>,
}

impl<A> Default for PublishedSet<A> {
    fn default() -> Self {
        Self {
            set: 0,
            ranges: Vec::new(),
        }
    }
}

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// Writes the set that is wanted. Nothing if it is the one that is there.
    pub(super) fn prepare_set(
        &mut self,
        now: &PublishedSet<F::Addr>,
        wanted: Option<&[Cidr]>,
    ) -> Result<Option<PublishedSet<F::Addr>>, PublishError> {
        let Some(wanted) = wanted else {
            return Ok((now.set != 0).then(PublishedSet::default));
        };
        let ranges = |set| -> Vec<SourceRange<F::Addr>> {
            let of_family = wanted.iter().filter_map(|range| {
                Some(SourceRange {
                    set,
                    base: F::from_ip(range.base())?,
                    prefix_len: range.prefix_len(),
                })
            });
            of_family.collect()
        };
        if now.set != 0 && now.ranges == ranges(now.set) {
            return Ok(None);
        }
        let Some(set) = self.free_sets.take(1) else {
            return Err(PublishError::Full {
                what: "sets of source ranges",
                needed: 1,
                capacity: Self::SETS,
            });
        };
        let ranges = ranges(set);
        for (written, range) in ranges.iter().enumerate() {
            if let Err(error) = self.tables.put_source(range) {
                self.free_set(set, &ranges[..written]);
                return Err(error.into());
            }
        }
        Ok(Some(PublishedSet { set, ranges }))
    }

    /// How many sets there can be.
    pub(super) const SETS: u32 = 1 << 20;

    /// Takes a set's ranges out of the table. A set that can't be emptied is never used again.
    pub(super) fn free_set(&mut self, set: u32, ranges: &[SourceRange<F::Addr>]) {
        if set == 0 {
            return;
        }
        for range in ranges {
            if let Err(error) = self.tables.remove_source(range) {
                warn!(%error, set, "a source range that nobody asks for any more stays in the table");
                return;
            }
        }
        self.free_sets.give_back(set, 1);
    }

    pub(super) fn retire_set(&mut self, set: PublishedSet<F::Addr>)
    where
        F::Addr: Address,
    {
        if set.set != 0 {
            self.retired.sources.push((set.set, set.ranges));
        }
    }
}
