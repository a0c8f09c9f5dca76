//! Handing out ranges of places in the slot table, and single numbers of services and backends.

use std::collections::{BTreeMap, BTreeSet};

/// Free ranges of a table: the smallest that fits is handed out, neighbours are joined when they come back.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    /// First place to length.
    by_place: BTreeMap<u32, u32>,
    /// Length and first place.
    by_len: BTreeSet<(u32, u32)>,
    free: u32,
}

impl Ranges {
    /// All places from `first` to `end`, without `end`, are free.
    pub(super) fn new(first: u32, end: u32) -> Self {
        let mut ranges = Self {
            by_place: BTreeMap::new(),
            by_len: BTreeSet::new(),
            free: 0,
        };
        ranges.give_back(first, end.saturating_sub(first));
        ranges
    }

    /// Number of free places, which may lie apart.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// Whether there are `len` free places in a row.
    pub(super) fn has(&self, len: u32) -> bool {
        self.by_len.range((len, 0)..).next().is_some()
    }

    /// Takes `len` places in a row; nothing if there is no such row.
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        if len == 0 {
            return None;
        }
        let &(found_len, place) = self.by_len.range((len, 0)..).next()?;
        self.cut(place, found_len, place, len);
        Some(place)
    }

    /// Takes the places from `place` on, if all are free.
    pub(super) fn take_at(&mut self, place: u32, len: u32) -> bool {
        if len == 0 {
            return true;
        }
        let Some((&start, &found_len)) = self.by_place.range(..=place).next_back() else {
            return false;
        };
        let fits = place.checked_add(len).is_some_and(|end| end <= start + found_len);
        if fits {
            self.cut(start, found_len, place, len);
        }
        fits
    }

    fn cut(&mut self, start: u32, found_len: u32, place: u32, len: u32) {
        self.remove(start, found_len);
        self.insert(start, place - start);
        self.insert(place + len, start + found_len - (place + len));
    }

    /// Gives places back.
    pub(super) fn give_back(&mut self, place: u32, len: u32) {
        if len == 0 {
            return;
        }
        let (mut place, mut len) = (place, len);
        if let Some((&before, &before_len)) = self.by_place.range(..place).next_back()
            && before + before_len == place
        {
            self.remove(before, before_len);
            place = before;
            len += before_len;
        }
        if let Some((&after, &after_len)) = self.by_place.range(place + len..).next()
            && place + len == after
        {
            self.remove(after, after_len);
            len += after_len;
        }
        self.insert(place, len);
    }

    fn insert(&mut self, place: u32, len: u32) {
        if len > 0 {
            self.by_place.insert(place, len);
            self.by_len.insert((len, place));
            self.free += len;
        }
    }

    fn remove(&mut self, place: u32, len: u32) {
        self.by_place.remove(&place);
        self.by_len.remove(&(len, place));
        self.free -= len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_joined_whatever_the_order_in_which_they_come_back() {
        let mut ranges = Ranges::new(0, 30);
        let taken: Vec<u32> = (0..3).filter_map(|_| ranges.take(10)).collect();
        assert_eq!(taken, [0, 10, 20]);
        assert_eq!(ranges.take(1), None);
        for place in [10, 0, 20] {
            ranges.give_back(place, 10);
        }
        assert_eq!(ranges.take(30), Some(0));
    }

    proptest! {
        #[test]
        fn no_place_is_handed_out_twice_and_none_is_lost(lens in prop::collection::vec(1_u32..20, 1..60)) {
            let mut ranges = Ranges::new(1, 400);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (step, len) in lens.into_iter().enumerate() {
                if step % 3 == 2 && !held.is_empty() {
                    let (place, len) = held.swap_remove(step % held.len());
                    ranges.give_back(place, len);
                } else if let Some(place) = ranges.take(len) {
                    for &(other, other_len) in &held {
                        prop_assert!(place + len <= other || other + other_len <= place);
                    }
                    prop_assert!(place >= 1 && place + len <= 400);
                    held.push((place, len));
                }
            }
            let taken: u32 = held.iter().map(|(_, len)| len).sum();
            prop_assert_eq!(ranges.free() + taken, 399);
            for (place, len) in held {
                ranges.give_back(place, len);
            }
            prop_assert_eq!(ranges.take(399), Some(1));
        }

        #[test]
        fn what_is_taken_at_a_place_is_not_handed_out(place in 0_u32..100, len in 1_u32..30) {
            let mut ranges = Ranges::new(0, 100);
            let fits = place + len <= 100;
            prop_assert_eq!(ranges.take_at(place, len), fits);
            prop_assert_eq!(ranges.free(), if fits { 100 - len } else { 100 });
            prop_assert_eq!(ranges.take_at(place, len), false);
        }
    }
}
