//! The truth check: whether the tables of one family hold what the books say, and putting right what doesn't. The books are what this
//! agent has written or adopted: a difference is somebody else's doing (`bpftool map update`), or a fault.
//!
//! ```text
//! hash tables   read whole and compared both ways: entries that differ, that are missing, that nobody has written
//! arrays        what is in use, a part at a time
//! ```
//!
//! Every repair is a write that publishing does, too, in its order: backends, Maglev tables, slots, then what leads there. What waits for a
//! grace period is in neither way wrong, and is passed by. Not here: when which step is due, and who is told (`crate::agent`).

use std::collections::HashSet;

use lb_common::layout::{AddressFlags, Choice, Frontend, Label, Scope, Sets};

use super::publish::{Published, PublishedScope, Publisher};
use crate::tables::{Drift, List, SourceRange, TableError, TableFamily, Tables, differences, sorted_differences};

/// Parts into which arrays are divided.
const PARTS: u32 = 12;
/// Hash tables that are read whole.
const WHOLE: u32 = 4;
/// Steps of a pass through all tables of a family.
pub const STEPS: u32 = WHOLE + 3 * PARTS;

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// One step of a pass through all tables, from 0 to [`STEPS`]: what was not as it should be or can't be told, and whether it is right
    /// now.
    pub fn check(&mut self, step: u32) -> Vec<Drift> {
        let part = step.saturating_sub(WHOLE) % PARTS;
        let check = match step {
            0 => Self::check_sources,
            1 => Self::check_labels,
            2 => Self::check_frontends,
            3 => Self::check_addresses,
            _ => {
                return match (step - WHOLE) / PARTS {
                    0 => self.check_backends(part),
                    1 => self.check_shared(part),
                    _ => self.check_ports(part),
                };
            }
        };
        // The kernel may have been short of memory.
        check(self)
            .or_else(|_| check(self))
            .unwrap_or_else(|error| vec![Drift::unread(error)])
    }

    fn check_frontends(&mut self) -> Result<Vec<Drift>, TableError> {
        let found = self.tables.frontends()?;
        let all = self.owners.iter().map(|(key, word)| (*key, *word));
        let differences = differences(&found, self.owners.len(), |key| self.owners.get(key).copied(), all);
        let drifts = differences.into_iter().map(|it| {
            let found = it.found.map_or_else(
                || "is not there".to_owned(),
                |word| format!("leads to {}", self.target(word)),
            );
            let wanted = it.wanted.map_or_else(
                || "not be there".to_owned(),
                |word| format!("lead to {}", self.target(word)),
            );
            let what = format!(
                "{} port {}/{} {found}, and should {wanted}",
                it.key.address, it.key.port, it.key.proto
            );
            let repaired = match it.wanted {
                Some(word) => self.tables.put_frontend(&it.key, word),
                None => self.tables.remove_frontend(&it.key),
            };
            Drift::new(F::FRONTENDS, what, repaired)
        });
        let mut drifts: Vec<_> = drifts.collect();
        // One is written as it is: somebody may have made the table take no writes (`bpftool map freeze`).
        let any = self.owners.iter().next().map(|(key, word)| (*key, *word));
        let mut put = |(key, word)| self.tables.put_frontend(&key, word);
        if let Some(Err(error)) = any.map(|entry| put(entry).or_else(|_| put(entry))) {
            drifts.push(Drift::new(F::FRONTENDS, "takes no writes".to_owned(), Err(error)));
        }
        Ok(drifts)
    }

    fn target(&self, word: Frontend) -> String {
        format!("{} ({:#x})", self.name(word.number()).unwrap_or("nobody"), word.0)
    }

    fn check_addresses(&mut self) -> Result<Vec<Drift>, TableError> {
        let found = self.tables.addresses()?;
        let none = AddressFlags::default();
        let is_written = |flags: AddressFlags| (flags != none).then_some(flags);
        let all = self
            .addresses
            .iter()
            .filter_map(|(address, entry)| Some((*address, is_written(entry.written())?)));
        let differences = sorted_differences(found, all);
        let drifts = differences.into_iter().map(|it| {
            let [found, wanted] = [it.found, it.wanted].map(|flags| flags.unwrap_or_default().0);
            let what = format!("{} has flags {found:#x}, and should have {wanted:#x}", it.key);
            let repaired = match it.wanted {
                Some(flags) => self.tables.put_address(&it.key, flags),
                None => self.tables.remove_address(&it.key),
            };
            Drift::new(F::ADDRESSES, what, repaired)
        });
        Ok(drifts.collect())
    }

    fn check_labels(&mut self) -> Result<Vec<Drift>, TableError> {
        let found = self.tables.labels()?;
        let label = |number: &u32| self.labels.get(number).map(|label| Label::new(label));
        let all = self.labels.iter().map(|(number, label)| (*number, Label::new(label)));
        let differences = differences(&found, self.labels.len(), label, all);
        let drifts = differences.into_iter().map(|it| {
            let name = |label: Option<Label>| {
                label.map_or_else(|| "no name".to_owned(), |label| format!("{:?}", label.as_str()))
            };
            let what = format!(
                "number {} has {}, and should have {}",
                it.key,
                name(it.found),
                name(it.wanted)
            );
            let repaired = match &it.wanted {
                Some(label) => self.tables.put_label(it.key, label),
                None => self.tables.remove_label(it.key),
            };
            Drift::new(F::LABELS, what, repaired)
        });
        Ok(drifts.collect())
    }

    /// Ranges of sets that nobody has, or that wait for a grace period, are passed by: no packet asks for them.
    fn check_sources(&mut self) -> Result<Vec<Drift>, TableError> {
        let found = self.tables.sources()?;
        let all = || self.published().flat_map(|port| &port.sources.ranges).copied();
        let wanted: HashSet<SourceRange<F::Addr>> = all().collect();
        let sets: HashSet<u32> = wanted.iter().map(|range| range.set).collect();
        let found: Vec<_> = found
            .into_iter()
            .filter(|range| sets.contains(&range.set))
            .map(|range| (range, ()))
            .collect();
        let wants = |range: &SourceRange<F::Addr>| wanted.contains(range).then_some(());
        let differences = differences(&found, wanted.len(), wants, all().map(|range| (range, ())));
        let drifts = differences.into_iter().map(|it| {
            let range = format!("{}/{} in set {}", it.key.base, it.key.prefix_len, it.key.set);
            let (what, repaired) = match it.wanted {
                Some(()) => (format!("{range} is missing"), self.tables.put_source(&it.key)),
                None => (format!("{range} is nobody's"), self.tables.remove_source(&it.key)),
            };
            Drift::new(F::SOURCES, what, repaired)
        });
        Ok(drifts.collect())
    }

    fn published(&self) -> impl Iterator<Item = &Published<F::Addr>> {
        self.ports.values().chain(self.adopted.values())
    }

    fn check_backends(&mut self, part: u32) -> Vec<Drift> {
        let len = self.backends.len();
        let mut drifts = Vec::new();
        // Number 0 is nobody's.
        for number in (len * part / PARTS).max(1)..len * (part + 1) / PARTS {
            let wanted = self.backends.get(number).map(|used| used.record).unwrap_or_default();
            let found = self.tables.backend(number);
            if found != wanted {
                let what = format!(
                    "number {number} is {}:{} of service {} with flags {:#x}, and should be {}:{} of service {} with flags {:#x}",
                    found.address,
                    found.port.get(),
                    found.service,
                    found.flags.0,
                    wanted.address,
                    wanted.port.get(),
                    wanted.service,
                    wanted.flags.0
                );
                self.tables.put_backend(number, &wanted);
                drifts.push(Drift::new(F::BACKENDS, what, Ok(())));
            }
        }
        drifts
    }

    fn check_shared(&mut self, part: u32) -> Vec<Drift> {
        let mut drifts = Vec::new();
        for (key, table) in &mut self.shared {
            if !key.is_of_part(part, PARTS) {
                continue;
            }
            let found = match self.tables.chunks(table.first_chunk(), key.chunks()) {
                Ok(found) => found,
                Err(error) => {
                    drifts.push(Drift::unread(error));
                    continue;
                }
            };
            let Some(right) = table.right_instead_of(&found) else {
                continue;
            };
            let what = format!(
                "the table of {} endpoints at chunk {} is not as it was made",
                key.members(),
                table.first_chunk()
            );
            drifts.push(Drift::new(
                F::MAGLEV,
                what,
                self.tables.put_chunks(table.first_chunk(), &right),
            ));
        }
        drifts
    }

    fn check_ports(&mut self, part: u32) -> Vec<Drift> {
        let (tables, fading, labels) = (&mut self.tables, &self.fading, &self.labels);
        let mut drifts = Vec::new();
        let published = self.ports.values().chain(self.adopted.values());
        for port in published.filter(|port| port.number % PARTS == part) {
            let number = port.number;
            let name = || labels.get(&number).map_or("nobody", String::as_str);
            for (list, scope) in [(List::Cluster, &port.cluster), (List::Local, &port.local)] {
                drifts.extend(check_slots::<F, T>(tables, scope, name));
                let found = tables.service(number);
                let found = match list {
                    List::Cluster => found.cluster,
                    List::Local => found.local,
                };
                // One that fades is there until a grace period is over.
                if found != scope.word && !fading.contains_key(&(number, list == List::Local)) {
                    let what = format!(
                        "the endpoints of {} are {}, and should be {}",
                        name(),
                        places(found),
                        places(scope.word)
                    );
                    tables.put_scope(number, list, scope.word);
                    drifts.push(Drift::new(F::SERVICES, what, Ok(())));
                }
            }
            let found = tables.service(number);
            let sets = Sets {
                sources: port.sources.set,
                affinity: port.affinity,
            };
            if (found.sets, found.rules) != (sets, port.rules) {
                let what = format!(
                    "the rules of {} are {:#x} with sets {:#x}, and should be {:#x} with sets {:#x}",
                    name(),
                    found.rules.to_word(),
                    found.sets.to_word(),
                    port.rules.to_word(),
                    sets.to_word()
                );
                tables.put_sets(number, sets);
                tables.put_rules(number, port.rules);
                drifts.push(Drift::new(F::SERVICES, what, Ok(())));
            }
        }
        drifts
    }
}

/// The slots of a list, the header of its table included.
fn check_slots<'a, F: TableFamily, T: Tables<F::Addr>>(
    tables: &mut T,
    scope: &PublishedScope,
    name: impl Fn() -> &'a str,
) -> Vec<Drift> {
    let header = scope.table.map(lb_common::layout::TableHeader::to_slots);
    let header = header.iter().flatten();
    let first = scope.base - header.clone().count() as u32;
    let mut drifts = Vec::new();
    for (place, wanted) in (first..).zip(header.chain(&scope.backends)) {
        let found = tables.slot(place);
        if found != *wanted {
            let what = format!("place {place} of {} has {found}, and should have {wanted}", name());
            tables.put_slot(place, *wanted);
            drifts.push(Drift::new(F::SLOTS, what, Ok(())));
        }
    }
    drifts
}

/// The places of a list, in words.
fn places(scope: Scope) -> String {
    match scope.choice() {
        Choice::Absent => "none".to_owned(),
        Choice::Reject => "refused".to_owned(),
        Choice::Drop => "dropped".to_owned(),
        Choice::Slots { base, len } => format!("{len} from place {base} on ({:#x})", scope.0),
    }
}
