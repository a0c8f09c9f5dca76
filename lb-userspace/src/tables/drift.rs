//! Tables that hold something else than they should: comparing, and what is told of it.
//!
//! Not here: what they should hold, which is known to whoever writes them.

use std::{collections::HashSet, fmt, hash::Hash};

use super::TableError;

/// An entry that was not as it should be.
#[derive(Debug)]
pub struct Drift {
    /// The table.
    pub table: &'static str,
    /// Which entry, and what was wrong with it.
    pub what: String,
    /// Why it could not be put right, if it couldn't.
    pub refused: Option<TableError>,
}

impl Drift {
    /// A table that can't be read.
    #[must_use]
    pub fn unread(error: TableError) -> Self {
        Self::new(error.table, "can't be compared".to_owned(), Err(error))
    }

    /// From what came of putting it right.
    #[must_use]
    pub fn new(table: &'static str, what: String, repaired: Result<(), TableError>) -> Self {
        Self {
            table,
            what,
            refused: repaired.err(),
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.table, self.what)?;
        match &self.refused {
            None => Ok(()),
            Some(error) => write!(f, ". It could not be put right: {error}"),
        }
    }
}

/// An entry as it was found, and as it should be.
pub struct Difference<K, V> {
    /// Which one.
    pub key: K,
    /// What there is.
    pub found: Option<V>,
    /// What there should be.
    pub wanted: Option<V>,
}

/// Compares a table with the books, which have `len` entries: `wanted` says what one should be, `all` tells of all.
pub fn differences<K: Copy + Eq + Hash, V: Copy + PartialEq>(
    found: &[(K, V)],
    len: usize,
    wanted: impl Fn(&K) -> Option<V>,
    all: impl Iterator<Item = (K, V)>,
) -> Vec<Difference<K, V>> {
    let mut differences = Vec::new();
    let mut known = 0;
    for (key, value) in found {
        let wanted = wanted(key);
        known += usize::from(wanted.is_some());
        if wanted.as_ref() != Some(value) {
            differences.push(Difference {
                key: *key,
                found: Some(*value),
                wanted,
            });
        }
    }
    if known < len {
        let found: HashSet<K> = found.iter().map(|(key, _)| *key).collect();
        let missing = all.filter(|(key, _)| !found.contains(key));
        differences.extend(missing.map(|(key, wanted)| Difference {
            key,
            found: None,
            wanted: Some(wanted),
        }));
    }
    differences
}

/// The same of books that are in order, which is faster: `all` tells of all, by their keys.
pub fn sorted_differences<K: Copy + Ord, V: Copy + PartialEq>(
    mut found: Vec<(K, V)>,
    all: impl Iterator<Item = (K, V)>,
) -> Vec<Difference<K, V>> {
    found.sort_unstable_by_key(|(key, _)| *key);
    let mut differences = Vec::new();
    let mut found = found.into_iter().peekable();
    let stranger = |(key, value)| Difference {
        key,
        found: Some(value),
        wanted: None,
    };
    for (key, wanted) in all {
        while let Some(entry) = found.next_if(|(other, _)| *other < key) {
            differences.push(stranger(entry));
        }
        let found = found.next_if(|(other, _)| *other == key).map(|(_, value)| value);
        if found != Some(wanted) {
            differences.push(Difference {
                key,
                found,
                wanted: Some(wanted),
            });
        }
    }
    differences.extend(found.map(stranger));
    differences
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn tables_are_compared_both_ways() {
        let wanted = HashMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let found = [(1, 'a'), (2, 'x'), (4, 'd')];
        let all = wanted.iter().map(|(key, value)| (*key, *value));
        let differences = differences(&found, wanted.len(), |key| wanted.get(key).copied(), all);
        let words: Vec<_> = differences.iter().map(|it| (it.key, it.found, it.wanted)).collect();
        assert_eq!(
            words,
            [(2, Some('x'), Some('b')), (4, Some('d'), None), (3, None, Some('c'))]
        );
        let sorted = sorted_differences(found.to_vec(), [(1, 'a'), (2, 'b'), (3, 'c')].into_iter());
        let words: Vec<_> = sorted.iter().map(|it| (it.key, it.found, it.wanted)).collect();
        assert_eq!(
            words,
            [(2, Some('x'), Some('b')), (3, None, Some('c')), (4, Some('d'), None)]
        );
    }
}
