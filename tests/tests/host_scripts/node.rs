//! A node whose tables lie in memory, some of whose writes may fail, and the reader that looks at every single one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use lb_common::layout::{Address, Ip4, Ip6, V4, V6};
use lb_userspace::model::{Change, NodeView, ServiceKey, SliceKey, SyncedKind};
use lb_userspace::reconcile::Reconciler;
use lb_userspace::tables::{
    Capacity, Faulty, List, MemoryTables, SourceRange, TableError, TableFamily, Tables as _, Write,
};

use crate::view::{self, Dialled, View};

/// How often the agent tries again, at most, before a run gives up.
const RETRIES_MAX: usize = 200;

/// The tables of both families.
pub(crate) type Both = (MemoryTables<Ip4>, MemoryTables<Ip6>);

/// Which writes fail: one in `1 / rate`, by a number that depends on the seed only.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: Rc<Cell<u64>>,
    percent: u64,
}

impl Dice {
    /// No write fails.
    pub(crate) fn never() -> Self {
        Self::of(1, 0)
    }

    pub(crate) fn of(seed: u64, percent: u64) -> Self {
        let state = Rc::new(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        Self { state, percent }
    }

    /// The next of the numbers below `below`.
    pub(crate) fn roll(&self, below: u64) -> u64 {
        let mut x = self.state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.state.set(x);
        (x >> 11) % below
    }

    fn fails(&self) -> Box<dyn FnMut() -> bool> {
        let dice = self.clone();
        Box::new(move || dice.roll(100) < dice.percent)
    }
}

/// Everything that has been told so far, as a source tells it to an agent that starts.
#[derive(Debug, Default)]
pub(crate) struct World {
    services: BTreeMap<ServiceKey, Change>,
    slices: BTreeMap<SliceKey, Change>,
    node: Option<Change>,
    other_nodes: Option<Change>,
    service_cidrs: Option<Change>,
}

impl World {
    pub(crate) fn fold(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::ServiceApply(service) => drop(self.services.insert(service.key.clone(), change.clone())),
                Change::ServiceDelete(key) => drop(self.services.remove(key)),
                Change::SliceApply(slice) => drop(self.slices.insert(slice.key.clone(), change.clone())),
                Change::SliceDelete(key) => drop(self.slices.remove(key)),
                Change::Node(_) => self.node = Some(change.clone()),
                Change::OtherNodes(_) => self.other_nodes = Some(change.clone()),
                Change::ServiceCidrs(_) => self.service_cidrs = Some(change.clone()),
                Change::Synced(_) => {}
            }
        }
    }

    pub(crate) fn list(&self) -> Vec<Change> {
        let cluster = self.node.iter().chain(&self.other_nodes).chain(&self.service_cidrs);
        let objects = cluster
            .chain(self.slices.values())
            .chain(self.services.values())
            .cloned();
        let synced = [SyncedKind::EndpointSlices, SyncedKind::Services].map(Change::Synced);
        objects.chain(synced).collect()
    }
}

/// The agent of a node.
pub(crate) struct Node {
    reconciler: Reconciler<Faulty<MemoryTables<Ip4>>, Faulty<MemoryTables<Ip6>>>,
    /// What readers started from, and after how many writes.
    before: Both,
    seen: (usize, usize),
}

impl Node {
    /// Tables with nothing in them, and places for what scripts need: one of them fills them up.
    pub(crate) fn empty() -> Both {
        let capacity = Capacity {
            services: 5,
            slots: 24,
            chunks: 80,
            backends: 12,
        };
        (MemoryTables::new(capacity), MemoryTables::new(capacity))
    }

    /// An agent that adopts what the tables hold.
    ///
    /// # Errors
    /// If a write fails that adoption needs.
    pub(crate) fn adopt(tables: &Both, dice: &Dice) -> Result<Self, TableError> {
        let mut before = tables.clone();
        before.0.writes.clear();
        before.1.writes.clear();
        let (v4, v6) = before.clone();
        let faulty4 = Faulty {
            inner: v4,
            fails: dice.fails(),
        };
        let faulty6 = Faulty {
            inner: v6,
            fails: dice.fails(),
        };
        let reconciler = Reconciler::adopt(NodeView::named("node"), faulty4, faulty6, false)?;
        let seen = (0, 0);
        Ok(Self {
            reconciler,
            before,
            seen,
        })
    }

    /// One that no write fails for.
    pub(crate) fn adopt_without_faults(tables: &Both) -> Self {
        Self::adopt(tables, &Dice::never()).expect("no write fails")
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        self.reconciler.apply(changes.iter().cloned());
    }

    /// Tries again once, as the agent does after a second.
    pub(crate) fn retry(&mut self) {
        self.reconciler.retry();
    }

    /// Tries again until the tables say what they should; says what is wrong if they never do.
    pub(crate) fn settle(&mut self, wanted: &str) -> Result<(), String> {
        for _ in 0..RETRIES_MAX {
            let now = self.dump();
            if now == wanted {
                return Ok(());
            }
            if self.reconciler.is_settled() {
                return Err(format!(
                    "the agent is content with\n{now}\nwhere there should be\n{wanted}"
                ));
            }
            self.reconciler.retry();
        }
        let now = self.dump();
        Err(format!(
            "after {RETRIES_MAX} attempts there is\n{now}\nwhere there should be\n{wanted}"
        ))
    }

    pub(crate) fn dump(&self) -> String {
        let (v4, v6) = (self.reconciler.v4().tables(), self.reconciler.v6().tables());
        view::dump(&v4.inner, &v6.inner, &self.reconciler)
    }

    pub(crate) fn tables(&self) -> Both {
        let (v4, v6) = (self.reconciler.v4().tables(), self.reconciler.v6().tables());
        (v4.inner.clone(), v6.inner.clone())
    }

    /// From here on a reader looks at later writes only.
    pub(crate) fn forget_writes(&mut self) {
        let (v4, v6) = self.tables();
        self.seen = (v4.writes.len(), v6.writes.len());
        self.before = (v4, v6);
    }

    /// How many writes since the start made a difference to the tables.
    pub(crate) fn changes(&self) -> usize {
        let (v4, v6) = self.tables();
        changes::<V4>(self.before.0.clone(), &v4.writes) + changes::<V6>(self.before.1.clone(), &v6.writes)
    }

    /// What clients find now.
    pub(crate) fn view(&self) -> View {
        let (v4, v6) = self.tables();
        let mut view = View::new();
        view::look::<V4>(&v4, &mut view).expect("a settled table leads everywhere");
        view::look::<V6>(&v6, &mut view).expect("a settled table leads everywhere");
        view
    }

    /// Lets a reader look at the tables after every write since the start. It must find what was there `before` or
    /// what comes `after`, and nothing may be missing that one Service has in both.
    pub(crate) fn check_readers(&self, before: &View, after: &View) -> Result<(), String> {
        let (v4, v6) = self.tables();
        replay::<V4>(self.before.0.clone(), &v4.writes[self.seen.0..], before, after)?;
        replay::<V6>(self.before.1.clone(), &v6.writes[self.seen.1..], before, after)
    }
}

fn replay<F: TableFamily>(
    mut shadow: MemoryTables<F::Addr>,
    writes: &[Write<F::Addr>],
    before: &View,
    after: &View,
) -> Result<(), String> {
    for (number, write) in writes.iter().enumerate() {
        shadow.replay(write);
        let mut view = View::new();
        view::look::<F>(&shadow, &mut view)
            .and_then(|()| between(&view, before, after, F::NUMBER == 6))
            .map_err(|error| {
                let writes = writes[..=number].iter().map(|write| format!("  {write:?}\n"));
                format!(
                    "after the last of these writes a reader finds {error}\n{}",
                    writes.collect::<String>()
                )
            })?;
    }
    Ok(())
}

fn changes<F: TableFamily>(mut shadow: MemoryTables<F::Addr>, writes: &[Write<F::Addr>]) -> usize {
    let differs = |write: &&Write<F::Addr>| {
        let same = match write {
            Write::PutFrontend(key, number) => shadow.frontend(key) == Some(*number),
            Write::RemoveFrontend(key) => shadow.frontend(key).is_none(),
            Write::PutAddress(address, flags) => shadow.address(address) == Some(*flags),
            Write::RemoveAddress(address) => shadow.address(address).is_none(),
            Write::PutSource(range) => has_source(&shadow, range),
            Write::RemoveSource(range) => !has_source(&shadow, range),
            Write::Scope(number, List::Cluster, scope) => shadow.service(*number).cluster == *scope,
            Write::Scope(number, List::Local, scope) => shadow.service(*number).local == *scope,
            Write::Rules(number, rules) => shadow.service(*number).rules == *rules,
            Write::Sets(number, sets) => shadow.service(*number).sets == *sets,
            Write::Slot(place, backend) => shadow.slot(*place) == *backend,
            Write::Chunk(place, chunk) => shadow.chunk(*place) == *chunk,
            Write::Backend(number, backend) => shadow.backend(*number) == *backend,
            Write::Grace => true,
        };
        shadow.replay(write);
        !same
    };
    writes.iter().filter(differs).count()
}

fn has_source<A: Address>(tables: &MemoryTables<A>, range: &SourceRange<A>) -> bool {
    tables.sources().expect("memory tables can be read").contains(range)
}

fn between(now: &View, before: &View, after: &View, is_v6: bool) -> Result<(), String> {
    for (dialled, found) in now {
        let states: Vec<_> = [before, after]
            .into_iter()
            .filter_map(|view| view.get(dialled))
            .collect();
        let refusal = found.backends.is_empty() && states.iter().any(|state| state.backends.is_empty());
        let known = |address| {
            states
                .iter()
                .any(|state| state.backends.iter().any(|(known, _)| known == address))
        };
        let served = !found.backends.is_empty() && found.backends.iter().all(|(address, _)| known(address));
        if !refusal && !served {
            return Err(format!(
                "at {dialled:?} {:?}, which is not of {states:?}",
                found.backends
            ));
        }
        if !states.iter().any(|state| state.sources == found.sources) {
            return Err(format!(
                "at {dialled:?} only {:?} may come, which is not of {states:?}",
                found.sources
            ));
        }
        if !states
            .iter()
            .any(|state| state.affinity.is_some() == found.affinity.is_some())
        {
            return Err(format!(
                "at {dialled:?} the affinity {:?}, which is not of {states:?}",
                found.affinity
            ));
        }
    }
    // Between two Services a frontend passes through nobody's hands, for the time of two writes.
    let stays = |dialled: &&Dialled| {
        after
            .get(dialled)
            .is_some_and(|found| found.service() == before[dialled].service())
    };
    let of_family = before.keys().filter(|dialled| dialled.0.is_ipv6() == is_v6);
    let lost = of_family.filter(stays).find(|dialled| !now.contains_key(dialled));
    lost.map_or(Ok(()), |dialled| {
        Err(format!("nothing at {dialled:?}, which was there and will be"))
    })
}
