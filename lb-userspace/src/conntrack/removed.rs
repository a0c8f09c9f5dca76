//! TCP connections whose endpoint is gone for good, of Services that ask for it: their clients are told by a reset at their
//! next packet, instead of waiting for a time-out. The flow's entry is marked; the kernel program answers. Sockets that the socket tier has
//! led there are for `hang_up` to close.
//!
//! An endpoint that moves from one EndpointSlice to another may be missing for a moment: it counts as gone after a while.

use std::{
    collections::HashSet,
    hash::Hash,
    time::{Duration, Instant},
};

use lb_common::{
    datapath::SocketFamily,
    layout::{FlowFlags, FlowKey, Ip4, Ip6, Proto, V4, V6},
};
use tracing::{error, info};

use super::GonePeer;
use crate::{
    reconcile::{Gone, Reconciler},
    tables::{FlowTable, TableFamily, Tables},
};

/// How long an endpoint must be missing to count as gone for good.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Endpoints that are missing, and since when.
#[derive(Debug, Default)]
pub struct RemovedEndpoints {
    v4: Vec<(Instant, Gone<Ip4>)>,
    v6: Vec<(Instant, Gone<Ip6>)>,
}

impl RemovedEndpoints {
    /// Takes note of what is missing since the last call.
    pub fn note<T4: Tables<Ip4>, T6: Tables<Ip6>>(&mut self, reconciler: &mut Reconciler<T4, T6>) {
        let now = Instant::now();
        let (v4, v6) = reconciler.take_gone();
        self.v4.extend(v4.into_iter().map(|gone| (now, gone)));
        self.v6.extend(v6.into_iter().map(|gone| (now, gone)));
    }

    /// Marks the connections of those that have not come back, and says which these are.
    pub fn hang_up<T4: Tables<Ip4>, T6: Tables<Ip6>>(
        &mut self,
        reconciler: &Reconciler<T4, T6>,
        flows4: &mut FlowTable<V4>,
        flows6: &mut FlowTable<V6>,
    ) -> HashSet<GonePeer> {
        let v4 = overdue(&mut self.v4);
        let v6 = overdue(&mut self.v6);
        let mut peers = mark(flows4, v4, |gone| {
            reconciler.v4().has_backend(gone.service, gone.address, gone.port)
        });
        peers.extend(mark(flows6, v6, |gone| {
            reconciler.v6().has_backend(gone.service, gone.address, gone.port)
        }));
        peers
    }
}

fn overdue<A: Copy>(missing: &mut Vec<(Instant, Gone<A>)>) -> Vec<Gone<A>> {
    let (over, waiting): (Vec<_>, Vec<_>) = missing.drain(..).partition(|(since, _)| since.elapsed() >= GONE_AFTER);
    *missing = waiting;
    over.into_iter().map(|(_, gone)| gone).collect()
}

fn mark<F: TableFamily + SocketFamily>(
    table: &mut FlowTable<F>,
    gone: Vec<Gone<F::Addr>>,
    is_back: impl Fn(&Gone<F::Addr>) -> bool,
) -> HashSet<GonePeer>
where
    F::Addr: Hash,
{
    let gone: HashSet<_> = gone
        .into_iter()
        .filter(|gone| !is_back(gone))
        .map(|gone| (gone.service, gone.address, gone.port))
        .collect();
    if gone.is_empty() {
        return HashSet::new();
    }
    let mut keys: Vec<FlowKey<F::Addr>> = Vec::new();
    let read = table.for_each(|key, flow| {
        let towards_backend = !flow.flags.has(FlowFlags::REPLY) && !flow.flags.has(FlowFlags::MASQUERADE);
        if key.proto == Proto::TCP && towards_backend && gone.contains(&(flow.service, flow.dst, flow.dport)) {
            keys.push(*key);
        }
    });
    let mut marked = 0;
    for key in &keys {
        if let Some(mut flow) = table.get(key) {
            flow.flags = flow.flags.with(FlowFlags::RESET);
            marked += usize::from(table.insert(key, &flow).is_ok());
        }
    }
    match read {
        Ok(()) => info!(
            endpoints = gone.len(),
            connections = marked,
            "endpoints are gone: their clients get a reset"
        ),
        Err(error) => error!(%error, "connections to endpoints that are gone could not be found"),
    }
    let peer = |(service, address, port)| GonePeer {
        service,
        address: F::wide(&address),
        port,
    };
    gone.into_iter().map(peer).collect()
}
