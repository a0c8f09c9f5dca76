//! The fold of a watch with its lists into what appeared, changed and vanished.
//!
//! A watch that was interrupted too long begins again with a list, and says nothing about what was deleted meanwhile.
//! Here: noticing it, by remembering names. Pure, and without a word about `kube`, so that it is tested without a
//! cluster. Not here: watching (`kubernetes`). Called by `kubernetes`, once for each kind.

use std::collections::HashSet;
use std::hash::Hash;
use std::mem;

/// What a watch shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen<K, T> {
    /// A list begins, the first one or one after an interruption.
    ListStarts,
    /// An object of that list.
    Listed(K, T),
    /// The list is complete.
    ListEnds,
    /// An object appeared or changed.
    Applied(K, T),
    /// An object is there, and can't be read: what it was before stays.
    Unreadable(K),
    /// An object is gone, or no longer fits the selectors.
    Deleted(K),
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told<K, T> {
    /// The object is so now.
    Apply(T),
    /// The object is gone.
    Delete(K),
    /// The first list is complete.
    Synced,
}

/// The names of all objects told and not deleted since.
#[derive(Debug)]
pub(super) struct Relist<K> {
    present: HashSet<K>,
    /// While a list runs: what was there before and has not come up in it yet.
    missing: HashSet<K>,
    synced: bool,
}

impl<K> Default for Relist<K> {
    fn default() -> Self {
        Self {
            present: HashSet::new(),
            missing: HashSet::new(),
            synced: false,
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Relist<K> {
    /// Has a list been complete yet?
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Takes in one thing seen.
    pub(super) fn fold<T>(&mut self, seen: Seen<K, T>) -> Vec<Told<K, T>> {
        match seen {
            // A list that broke off is simply begun again; what it showed stays told.
            Seen::ListStarts => {
                self.missing = self.present.clone();
                Vec::new()
            }
            Seen::Listed(key, object) | Seen::Applied(key, object) => {
                self.missing.remove(&key);
                self.present.insert(key);
                vec![Told::Apply(object)]
            }
            Seen::Unreadable(key) => {
                self.missing.remove(&key);
                self.present.insert(key);
                Vec::new()
            }
            Seen::Deleted(key) => {
                self.missing.remove(&key);
                if self.present.remove(&key) {
                    vec![Told::Delete(key)]
                } else {
                    Vec::new()
                }
            }
            Seen::ListEnds => {
                let mut vanished: Vec<K> = mem::take(&mut self.missing).into_iter().collect();
                vanished.sort();
                self.present.retain(|key| vanished.binary_search(key).is_err());
                let first = !mem::replace(&mut self.synced, true);
                vanished
                    .into_iter()
                    .map(Told::Delete)
                    .chain(first.then_some(Told::Synced))
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Relist, Seen, Told};

    /// One letter a step: `[` and `]` begin and end a list, `a b c` are objects (listed or applied), `?a` can't be read, `-a` is
    /// a deletion.
    /// The answer uses the same letters, and `!` for synced.
    fn fold(steps: &str) -> String {
        let mut relist = Relist::default();
        let mut listing = false;
        let mut told = Vec::new();
        for step in steps.split_whitespace() {
            let key = step.trim_start_matches(['-', '?']).to_owned();
            let seen = match step {
                "[" => Seen::ListStarts,
                "]" => Seen::ListEnds,
                _ if step.starts_with('-') => Seen::Deleted(key),
                _ if step.starts_with('?') => Seen::Unreadable(key),
                _ if listing => Seen::Listed(key.clone(), key),
                _ => Seen::Applied(key.clone(), key),
            };
            listing = if listing { step != "]" } else { step == "[" };
            told.extend(relist.fold(seen).into_iter().map(|told| match told {
                Told::Apply(object) => object,
                Told::Delete(key) => format!("-{key}"),
                Told::Synced => "!".to_owned(),
            }));
        }
        told.join(" ")
    }

    #[rstest]
    #[case::first_list("[ a b ]", "a b !")]
    #[case::empty_first_list("[ ]", "!")]
    #[case::nothing_is_synced_before_the_end("[ a", "a")]
    #[case::watch_after_list("[ a ] b a -a", "a ! b a -a")]
    #[case::second_list_says_the_same("[ a b ] [ a b ]", "a b ! a b")]
    #[case::one_vanished_while_away("[ a b ] [ a ]", "a b ! a -b")]
    #[case::all_vanished_while_away("[ b a ] [ ]", "b a ! -a -b")]
    #[case::one_appeared_while_away("[ a ] [ a b ]", "a ! a b")]
    #[case::deleted_and_then_relisted("[ a b ] -b [ a ]", "a b ! -b a")]
    #[case::deleted_twice("[ a ] -a -a", "a ! -a")]
    #[case::unknown_deleted("[ ] -a", "!")]
    #[case::first_list_broken_off("[ a [ a b ]", "a a b !")]
    #[case::first_list_broken_off_and_a_vanished("[ a [ b ]", "a b -a !")]
    #[case::later_list_broken_off("[ a b ] [ a [ a ]", "a b ! a a -b")]
    #[case::broken_list_deletes_nothing("[ a b ] [ a [", "a b ! a")]
    #[case::unreadable_stays_as_it_was("[ a b ] [ ?a ]", "a b ! -b")]
    #[case::never_readable_is_only_ever_taken_away("[ ?a ] -a", "! -a")]
    #[case::readable_again("[ a ] ?a a -a", "a ! a -a")]
    #[case::back_after_it_vanished("[ a ] [ ] a [ a ]", "a ! -a a a")]
    fn what_follows_from_what_is_seen(#[case] seen: &str, #[case] told: &str) {
        assert_eq!(fold(seen), told);
    }
}
