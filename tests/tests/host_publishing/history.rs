//! What the writer did, and what a reader may get meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    datapath::Hook,
    layout::{AddressFlags, CHUNK_CELLS, DropReason, Ip4, V4, limits::MAGLEV_CELLS_MIN},
};
use lb_userspace::{
    plan::FrontendKind,
    reconcile::{Publisher, Siblings},
    tables::{Capacity, MemoryTables, Write},
};

use crate::look::{Client, Look, NODE, endpoint, port_id};

/// What one port is to look like after a step; `None` takes it away.
pub(crate) type Step = (&'static str, Option<Look>);

/// How everything is to look.
pub(crate) struct State {
    /// Number of writes after which its own begin.
    pub(crate) begins: usize,
    /// Number of writes after which it holds.
    pub(crate) complete: usize,
    pub(crate) services: BTreeMap<&'static str, Look>,
}

/// The history of a run: what was written, and after which write each state was complete.
pub(crate) struct History {
    pub(crate) writes: Vec<Write<Ip4>>,
    /// The tables after so many writes.
    pub(crate) tables: Vec<MemoryTables<Ip4>>,
    pub(crate) states: Vec<State>,
    /// The marks where grace periods begin and end.
    pub(crate) periods: Vec<(usize, usize)>,
}

/// After how many further steps a grace period ends.
pub(crate) type Lag = usize;

/// None: all steps come before the first period ends.
pub(crate) const LAGS: [Option<Lag>; 4] = [Some(0), Some(1), Some(2), None];

/// Three tables of the size that lists have here; a fourth has no room.
const CHUNKS: u32 = 3 * MAGLEV_CELLS_MIN / CHUNK_CELLS;

/// Lets the publisher make the steps over tables so small that everything is reused.
pub(crate) fn record(steps: &[Step], lag: Option<Lag>) -> History {
    (1..80)
        .find_map(|slots| try_to_record(steps, lag, slots))
        .expect("it fits somewhere")
}

pub(crate) fn try_to_record(steps: &[Step], lag: Option<Lag>, slots: u32) -> Option<History> {
    let capacity = Capacity {
        services: 2,
        slots,
        chunks: CHUNKS,
        backends: slots + 1,
    };
    let mut publisher = Publisher::<V4, _>::adopt(MemoryTables::new(capacity)).expect("empty tables");
    let own = AddressFlags::HOST.with(AddressFlags::NODE_PORTS);
    publisher
        .set_host_addresses(&BTreeMap::from([(Ip4 { octets: NODE }, own)]))
        .expect("memory tables don't fail");
    let mut now = BTreeMap::new();
    let mut states = vec![State {
        begins: 0,
        complete: publisher.tables().writes.len(),
        services: BTreeMap::new(),
    }];
    let (mut waiting, mut periods) = (Vec::new(), Vec::new());
    for (number, (service, look)) in steps.iter().enumerate() {
        let begins = publisher.tables().writes.len();
        match look {
            Some(look) => {
                let desired = look.desired(service);
                publisher
                    .publish(&port_id(service), &desired, &Siblings::default())
                    .ok()?;
                now.insert(*service, look.clone());
            }
            None => {
                publisher.withdraw(&port_id(service)).expect("memory tables don't fail");
                now.remove(service);
            }
        }
        states.push(State {
            begins,
            complete: publisher.tables().writes.len(),
            services: now.clone(),
        });
        let begins = mark(&mut publisher);
        waiting.push((begins, publisher.take_retired()));
        if lag.is_some_and(|lag| number >= lag) {
            let (begins, retired) = waiting.remove(0);
            periods.push((begins, mark(&mut publisher)));
            publisher.reuse(retired);
        }
    }
    let writes = publisher.tables().writes.clone();
    let mut tables = vec![MemoryTables::new(capacity)];
    for write in &writes {
        let mut next = tables.last().cloned()?;
        next.replay(write);
        tables.push(next);
    }
    Some(History {
        writes,
        tables,
        states,
        periods,
    })
}

impl History {
    /// After how many writes a reader may begin. Between two chunks of a table it may see no more than just before it, and
    /// nothing else is allowed then.
    pub(crate) fn beginnings(&self) -> impl Iterator<Item = usize> {
        let is_chunk = |at: usize| matches!(self.writes.get(at), Some(Write::Chunk(..)));
        (0..=self.writes.len()).filter(move |first| *first == 0 || !is_chunk(first - 1) || !is_chunk(*first))
    }
}

pub(crate) fn mark(publisher: &mut Publisher<V4, MemoryTables<Ip4>>) -> usize {
    let writes = &mut publisher.tables_mut().writes;
    writes.push(Write::Grace);
    writes.len() - 1
}

/// What a client may get when its reads happen after `from` to `to` writes.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) backends: BTreeSet<IpAddr>,
    pub(crate) absent: bool,
    pub(crate) ends: BTreeSet<&'static str>,
}

pub(crate) fn allowed(history: &History, client: &Client, from: usize, to: usize) -> Allowed {
    // A state is in force from some write of its own step on until the next step is complete.
    let mut in_force: Vec<Option<&Look>> = Vec::new();
    for (index, state) in history.states.iter().enumerate() {
        let has_begun = index == 0 || to > state.begins;
        let ends = history.states.get(index + 1).map_or(usize::MAX, |next| next.complete);
        if has_begun && ends > from {
            in_force.push(state.services.get(client.service));
        }
    }
    let mut made = Allowed {
        absent: in_force
            .iter()
            .any(|look| look.is_none_or(|look| !look.frontends.contains(&client.kind))),
        ..Allowed::default()
    };
    let is_anywhere = in_force
        .iter()
        .flatten()
        .any(|look| look.frontends.contains(&client.kind));
    let looks: Vec<&Look> = in_force.into_iter().flatten().filter(|_| is_anywhere).collect();
    for rules in &looks {
        if client.kind == FrontendKind::LoadBalancer && rules.only.is_some_and(|only| only != client.octet) {
            made.ends.insert(DropReason::SourceDenied.name());
        }
        let local = match client.hook {
            Hook::EgressLocal if client.is_external() => false,
            _ if client.is_external() => rules.external_local,
            _ => rules.internal_local,
        };
        for lists in &looks {
            let Some(list) = lists.list(local) else { continue };
            if list.is_empty() {
                let somebody = local && lists.endpoints.iter().any(|one| one.serves);
                let reason = if somebody {
                    DropReason::NoLocalEndpoint
                } else {
                    DropReason::NoEndpoint
                };
                made.ends.insert(reason.name());
            }
            made.backends
                .extend(list.iter().map(|one| endpoint(client.service, one.number)));
        }
    }
    // If nobody ever lets it in, it gets nothing else.
    if client.kind == FrontendKind::LoadBalancer
        && looks
            .iter()
            .all(|look| look.only.is_some_and(|only| only != client.octet))
    {
        made.backends.clear();
        made.ends.retain(|end| *end == DropReason::SourceDenied.name());
    }
    made
}
