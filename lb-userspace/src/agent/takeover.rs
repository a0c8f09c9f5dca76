//! Taking a node over from netfilter: whoever it translates stays with it until it ends, whoever comes next is ours. And what of its
//! connections is a Service's, and where it has decided otherwise than Sluice would.
//!
//! ```text
//! left to netfilter:  a flow's first packet makes entries: it is netfilter's
//!   1. the connections that conntrack has get entries, too: idle ones, and the tuples that netfilter has chosen for endpoints
//!   2. DEFERS is cleared: from here on a flow without entries is ours
//!   3. conntrack once more: what netfilter has chosen in between; and what has entries that netfilter knows nothing of is ours
//! ```

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use lb_common::{
    datapath::{Origin, policy},
    layout::{AddressFlags, Choice, Frontend, Node, NodeFlags, Port, Tunnelled, V4, V6},
};

use crate::{
    conntrack::{DeferredFlows, Followed, now_ns},
    netfilter::{Tracked, tracked},
    tables::{Deferral, DefersTable, FlowTable, KernelTables, TableFamily, Tables as _},
};

/// How long a packet may be under way in the kernel between an entry of ours and conntrack.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// The tables of one family that a takeover needs.
pub struct Half<'a, F: TableFamily> {
    /// Services and endpoints.
    pub tables: &'a KernelTables<F>,
    /// Flows.
    pub flows: &'a mut FlowTable<F>,
}

/// What a takeover has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Connections that go on with netfilter until they end.
    pub flows: usize,
    /// Tuples that netfilter and a flow of ours have both chosen while it was under way: answers to one of the two go astray.
    pub conflicts: usize,
}

/// Takes the node over.
///
/// # Errors
/// If conntrack can't be read, or a table: new flows stay whose they are, or, once they are ours, what netfilter has chosen meanwhile is not
/// known.
pub fn take_over(defers: &mut DefersTable, mut v4: Half<'_, V4>, mut v6: Half<'_, V6>) -> Result<TakenOver> {
    let (at_ns, all) = read()?;
    v4.follow(&all, at_ns)?;
    v6.follow(&all, at_ns)?;
    defers.put(Deferral::No)?;
    thread::sleep(UNDER_WAY);
    let mut tries = 1;
    loop {
        let last = read().and_then(|(at_ns, all)| Ok([v4.settle(&all, at_ns)?, v6.settle(&all, at_ns)?]));
        match last {
            Ok(last) => {
                return Ok(TakenOver {
                    flows: last.iter().map(|followed| followed.flows).sum(),
                    conflicts: last.iter().map(|followed| followed.conflicts).sum(),
                });
            }
            Err(error) if tries == TRIES_MAX => return Err(error.context("after new connections are Sluice's")),
            Err(_) => tries += 1,
        }
    }
}

/// How often conntrack is read at the end.
const TRIES_MAX: u32 = 5;

fn read() -> Result<(u64, Vec<Tracked>)> {
    let at_ns = now_ns();
    let tracked = tracked().context("read conntrack (with nf_conntrack_netlink in the kernel, and CAP_NET_ADMIN)")?;
    Ok((at_ns, tracked))
}

impl<F: TableFamily> Half<'_, F> {
    fn follow(&mut self, tracked: &[Tracked], at_ns: u64) -> Result<Followed> {
        DeferredFlows::<F>::default().follow(self.flows, &of_services(self.tables, tracked), at_ns, false)
    }

    fn settle(&mut self, tracked: &[Tracked], at_ns: u64) -> Result<Followed> {
        DeferredFlows::<F>::default().settle(self.flows, &of_services(self.tables, tracked), at_ns)
    }
}

/// Whether a connection's endpoint is still one of its Service.
pub(super) fn serves<F: TableFamily>(tables: &KernelTables<F>, tracked: &Tracked, frontend: Frontend) -> bool {
    let service = tables.service(frontend.number());
    [service.cluster, service.local].iter().any(|list| match list.choice() {
        Choice::Slots { base, len } => has_endpoint(tables, base..base + len, tracked),
        _ => false,
    })
}

fn has_endpoint<F: TableFamily>(tables: &KernelTables<F>, mut slots: std::ops::Range<u32>, tracked: &Tracked) -> bool {
    slots.any(|place| {
        let backend = tables.backend(tables.slot(place));
        F::to_ip(backend.address) == tracked.reply.src.ip() && backend.port.get() == tracked.reply.src.port()
    })
}

/// Those connections of this family that go through a frontend, each with it.
pub(super) fn of_services<F: TableFamily>(tables: &KernelTables<F>, tracked: &[Tracked]) -> Vec<(Tracked, Frontend)> {
    let of_frontend = tracked.iter().filter_map(|tracked| {
        let dialled = tracked.original.dst;
        let address = F::from_ip(dialled.ip())?;
        let frontend = tables.frontend_at(&address, Port::new(dialled.port()), tracked.original.proto)?;
        Some((*tracked, frontend))
    });
    of_frontend.collect()
}

/// Where netfilter has decided otherwise than Sluice would, as a clause about the connection; nothing if it hasn't.
pub(super) fn otherwise<F: TableFamily>(
    tables: &KernelTables<F>,
    node: &Node<F::Addr>,
    tracked: &Tracked,
    frontend: Frontend,
) -> Option<String> {
    let client = F::from_ip(tracked.original.src.ip())?;
    let service = tables.service(frontend.number());
    let sources = service.sets.sources;
    if frontend.is_filtered() && sources != 0 && !tables.allows(sources, &client) {
        return Some(
            "has an endpoint, and would be dropped: its client is in none of the loadBalancerSourceRanges".to_owned(),
        );
    }
    let is_host = tables.address_is(&client).has(AddressFlags::HOST);
    let by_address = node.flags.has(NodeFlags::PODS_BY_ADDRESS);
    // Which device its packets come by, conntrack doesn't say.
    let by_device = node.flags.has(NodeFlags::PODS_BY_DEVICE);
    if by_device && frontend.is_external() {
        return None;
    }
    let origin = Origin {
        host: is_host,
        pod: by_address && node.pods.contains(&client),
        detected: by_address,
    };
    let all = node.flags.has(NodeFlags::MASQUERADE_ALL);
    let policy = policy(&service, frontend.is_external(), origin, all, Tunnelled::NOT);
    let list = if policy.local { service.local } else { service.cluster };
    let endpoint = tracked.reply.src;
    let (base, len) = match list.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Reject => return Some("has an endpoint, and would be refused: its Service has none".to_owned()),
        Choice::Drop => {
            return Some("has an endpoint, and would be dropped: its Service has none on this node".to_owned());
        }
        Choice::Absent => return None,
    };
    if !has_endpoint(tables, base..base + len, tracked) {
        return Some(format!(
            "went to {endpoint}, which is none of the {len} that it could have gone to"
        ));
    }
    let is_masqueraded = policy.masquerade || tracked.original.src.ip() == endpoint.ip();
    // A connection of the host's has one of its addresses either way.
    if is_host || by_device || policy.tunnel || is_masqueraded == tracked.is_masqueraded() {
        return None;
    }
    let seen = tracked.reply.dst.ip();
    Some(if is_masqueraded {
        format!("is seen by its endpoint as {seen}, and would be masqueraded")
    } else {
        format!("is seen by its endpoint as {seen}, and would keep its client's address")
    })
}
