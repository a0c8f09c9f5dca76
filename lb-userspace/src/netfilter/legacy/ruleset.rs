//! A table of legacy iptables as the kernel hands it out: one block of entries, in which rules lead to each other by their places. What is
//! left of it without some of its chains is computed here, and nothing is asked or told.
//!
//! ```text
//! entry:  addresses and devices │ place of its target │ its length │ counters │ matches … │ target
//! block:  rules of built-in chains, each with its policy as the last │ name of a chain, its rules, RETURN │ … │ the name "ERROR"
//! ```
//!
//! A target without a name holds a verdict: below zero ends, otherwise it is the place of the rule at which it goes on. That is the first of a
//! chain, or just the next one. The structures are those of `linux/netfilter_ipv4/ip_tables.h`, `linux/netfilter_ipv6/ip6_tables.h` and
//! `linux/netfilter/x_tables.h`, for 64-bit machines.

use std::collections::BTreeMap;

/// `NF_INET_NUMHOOKS`.
pub(super) const HOOKS: usize = 5;
/// `struct xt_entry_target`, without what is its own.
const TARGET_LEN: usize = 32;
/// `XT_FUNCTION_MAXNAMELEN`.
const NAME_LEN: usize = 30;
/// The target that stands for a chain's name, and for the end of the block.
const NAMES: &str = "ERROR";

/// Where things are in an entry, which its family decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Octets before its matches.
    head_len: usize,
    /// Where the place of its target is said, and behind that its length: `target_offset`, `next_offset`.
    offsets_at: usize,
}

impl Format {
    /// `struct ipt_entry`.
    pub(super) const V4: Self = Self {
        head_len: 112,
        offsets_at: 88,
    };
    /// `struct ip6t_entry`.
    pub(super) const V6: Self = Self {
        head_len: 168,
        offsets_at: 140,
    };
}

/// Where the kernel enters the block, by hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hooks {
    /// One bit for each hook that the table has.
    pub(super) valid: u32,
    /// Place of the first rule of the hook's chain.
    pub(super) first: [u32; HOOKS],
    /// Place of its policy.
    pub(super) policy: [u32; HOOKS],
}

impl Hooks {
    fn all(&self) -> impl Iterator<Item = usize> {
        (0..HOOKS).filter(|hook| self.valid & (1 << hook) != 0)
    }
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) hooks: Hooks,
    /// How many entries.
    pub(super) count: usize,
    pub(super) block: Vec<u8>,
}

/// What is left of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) ruleset: Ruleset,
    /// Of each entry that is left, which it was.
    pub(super) kept: Vec<usize>,
    /// How many chains are not.
    pub(super) chains: usize,
}

/// The block is not as the kernel makes it; nothing is changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table is not understood at octet {at} of {len}: {what}")]
pub(super) struct Malformed {
    at: usize,
    len: usize,
    what: &'static str,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// The name of a chain, whose rules follow.
    Name(&'a str),
    /// A rule that goes on at a place.
    Jump(usize),
    /// Any other rule.
    Rule,
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    at: usize,
    end: usize,
    /// Where its target is.
    target: usize,
    kind: Kind<'a>,
}

impl Ruleset {
    /// The table without the chains that have such names, and without the rules that lead to them.
    pub(super) fn without(&self, format: Format, is_own: impl Fn(&str) -> bool) -> Result<Rest, Malformed> {
        let entries = self.entries(format)?;
        // First rules of chains that have a name: whether the chain goes.
        let chains: BTreeMap<usize, bool> = entries
            .iter()
            .filter_map(|entry| match entry.kind {
                Kind::Name(name) => Some((entry.end, is_own(name))),
                _ => None,
            })
            .collect();
        let mut rest = Rest {
            chains: chains.values().filter(|goes| **goes).count(),
            ..Rest::default()
        };
        // Where the entries that stay will be.
        let (mut places, mut len, mut goes) = (BTreeMap::new(), 0, false);
        for (index, entry) in entries.iter().enumerate() {
            let is_entered = || self.hooks.all().any(|hook| self.hooks.first[hook] as usize == entry.at);
            match entry.kind {
                Kind::Name(name) => goes = is_own(name),
                _ if goes && is_entered() => goes = false,
                _ => {}
            }
            let leads_there = matches!(entry.kind, Kind::Jump(to) if to != entry.end && chains.get(&to) == Some(&true));
            if !goes && !leads_there {
                places.insert(entry.at, len);
                rest.kept.push(index);
                len += entry.end - entry.at;
            }
        }
        for index in &rest.kept {
            let entry = &entries[*index];
            let mut octets = self.block[entry.at..entry.end].to_vec();
            if let Kind::Jump(to) = entry.kind {
                let place = if to == entry.end {
                    rest.ruleset.block.len() + octets.len()
                } else {
                    let name_end = chains.contains_key(&to).then_some(to);
                    let first = name_end.and_then(|to| self.place_behind_name(&entries, &places, to));
                    first.ok_or_else(|| self.malformed(entry.at, "a rule leads to what is no chain"))?
                };
                let verdict = i32::try_from(place).map_err(|_| self.malformed(entry.at, "the table is too long"))?;
                let at = entry.target - entry.at + TARGET_LEN;
                octets[at..at + 4].copy_from_slice(&verdict.to_ne_bytes());
            }
            rest.ruleset.block.extend(octets);
        }
        rest.ruleset.count = rest.kept.len();
        rest.ruleset.hooks = self.hooks_in(&places)?;
        Ok(rest)
    }

    /// Where the rule behind the name that ends here will be.
    fn place_behind_name(
        &self,
        entries: &[Entry<'_>],
        places: &BTreeMap<usize, usize>,
        name_end: usize,
    ) -> Option<usize> {
        let name = entries.binary_search_by_key(&name_end, |entry| entry.end).ok()?;
        let entry = &entries[name];
        Some(places.get(&entry.at)? + entry.end - entry.at)
    }

    fn hooks_in(&self, places: &BTreeMap<usize, usize>) -> Result<Hooks, Malformed> {
        let mut hooks = Hooks {
            valid: self.hooks.valid,
            ..Hooks::default()
        };
        for hook in self.hooks.all() {
            let (first, policy) = (self.hooks.first[hook] as usize, self.hooks.policy[hook] as usize);
            let no_chain = || self.malformed(first, "a hook leads to what is no chain");
            // The first rule may be gone; the policy never is.
            let (_, first_place) = places.range(first..=policy.max(first)).next().ok_or_else(no_chain)?;
            let policy_place = places.get(&policy).ok_or_else(no_chain)?;
            let number = |place: usize| u32::try_from(place).map_err(|_| no_chain());
            (hooks.first[hook], hooks.policy[hook]) = (number(*first_place)?, number(*policy_place)?);
        }
        Ok(hooks)
    }

    fn entries(&self, format: Format) -> Result<Vec<Entry<'_>>, Malformed> {
        let (mut entries, mut at) = (Vec::new(), 0);
        while at < self.block.len() {
            let entry = self.entry(format, at)?;
            entries.push(entry);
            at = entry.end;
        }
        if entries.len() != self.count {
            return Err(self.malformed(at, "it has not as many entries as it says"));
        }
        Ok(entries)
    }

    fn entry(&self, format: Format, at: usize) -> Result<Entry<'_>, Malformed> {
        let octets = &self.block[at..];
        let short = || self.malformed(at, "an entry is cut off");
        let to_target = usize::from(number(octets, format.offsets_at).ok_or_else(short)?);
        let len = usize::from(number(octets, format.offsets_at + 2).ok_or_else(short)?);
        let octets = octets.get(..len).ok_or_else(short)?;
        if to_target < format.head_len {
            return Err(self.malformed(at, "a target is where matches are"));
        }
        let target = octets.get(to_target..).ok_or_else(short)?;
        let target_len = usize::from(number(target, 0).ok_or_else(short)?);
        let target = target.get(..target_len).ok_or_else(short)?;
        let of_its_own = target.get(TARGET_LEN..).ok_or_else(short)?;
        let unnamed = || self.malformed(at, "a name is not one");
        let kind = match text(&target[2..2 + NAME_LEN - 1]).ok_or_else(unnamed)? {
            "" => match of_its_own.first_chunk().copied().map(i32::from_ne_bytes) {
                Some(verdict) => usize::try_from(verdict).map_or(Kind::Rule, Kind::Jump),
                None => return Err(short()),
            },
            NAMES => Kind::Name(text(of_its_own.get(..NAME_LEN).ok_or_else(short)?).ok_or_else(unnamed)?),
            _ => Kind::Rule,
        };
        Ok(Entry {
            at,
            end: at + len,
            target: at + to_target,
            kind,
        })
    }

    fn malformed(&self, at: usize, what: &'static str) -> Malformed {
        let len = self.block.len();
        Malformed { at, len, what }
    }
}

fn number(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

/// Text that ends with a zero.
fn text(octets: &[u8]) -> Option<&str> {
    std::str::from_utf8(octets.split(|octet| *octet == 0).next()?).ok()
}

#[cfg(test)]
mod tests;
