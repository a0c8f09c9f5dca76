//! The way that a packet went: what it was, what was said to it, and what it moved. Two packets went the same way if all of
//! that is the same; which lines of code they came by is not asked.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    mem,
};

use lb_common::datapath::Verdict;

use crate::packet::{
    decode::read,
    host::{HostOutcome, HostWorld},
    story::Scrap,
};

/// The ways of a story's packets.
#[derive(Default)]
pub(super) struct Coverage {
    /// So far.
    pub(super) ways: Vec<u64>,
    counters: Vec<u64>,
    drops: Vec<u64>,
    entries: [usize; 3],
    before: u8,
}

impl Coverage {
    /// Notes the way of a packet that the host has played.
    pub(super) fn note(&mut self, scrap: &Scrap, got: &HostOutcome, host: &HostWorld) {
        let mut way = DefaultHasher::new();
        let seen = read(&scrap.frame, scrap.link);
        let kind = seen.map(|seen| {
            let part = seen.fragment.map(|(_, from, more)| (from == 0, more));
            (seen.version as u8, seen.proto, part, seen.extensions.min(2))
        });
        let changed = got.outcome.frame != scrap.frame;
        (scrap.hook as u8, scrap.link as u8, kind, changed, got.outcome.code).hash(&mut way);
        let verdict = match got.verdict {
            Verdict::Pass => 0,
            Verdict::Route => 1,
            Verdict::Deliver => 2,
            Verdict::Refuse => 3,
            Verdict::Reset => 4,
            Verdict::Forward(_) => 5,
            Verdict::Turn => 6,
            Verdict::Echo => 7,
            Verdict::Tunnel => 8,
            Verdict::TooBig(_) => 9,
            Verdict::Drop(reason) => 10 + reason as u8,
        };
        (verdict, mem::replace(&mut self.before, verdict.min(10))).hash(&mut way);
        let moved = |old: &mut Vec<u64>, new: &[u64]| {
            old.resize(new.len(), 0);
            let moved: Vec<bool> = old.iter().zip(new).map(|(old, new)| old != new).collect();
            old.copy_from_slice(new);
            moved
        };
        moved(&mut self.counters, &*host.counters.borrow()).hash(&mut way);
        moved(&mut self.drops, &*host.drops.borrow()).hash(&mut way);
        let entries = [
            host.v4.flows.borrow().len() + host.v6.flows.borrow().len(),
            host.v4.fragments.borrow().len() + host.v6.fragments.borrow().len(),
            host.v4.affinities.borrow().len() + host.v6.affinities.borrow().len(),
        ];
        for (old, new) in self.entries.iter_mut().zip(entries) {
            new.cmp(old).hash(&mut way);
            *old = new;
        }
        self.ways.push(way.finish());
    }
}
