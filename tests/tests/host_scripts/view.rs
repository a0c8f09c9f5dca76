//! What the tables say, two ways: as text for scripts, and as a reader in the kernel finds it.
//!
//! Here is only looking; who writes, and when, is in the runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use lb_common::layout::{
    Address as _, AddressFlags, Backend, BackendFlags, Choice, Frontend, FrontendKey, Ip4, Ip6, Scope, Service,
    ServiceFlags, TableHeader, V4, V6,
};
use lb_userspace::reconcile::{Fill, Reconciler};
use lb_userspace::tables::{MemoryTables, TableFamily, Tables};

/// Where a client is: `externalTrafficPolicy` makes a difference (kube-proxy-behaviour §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// A pod of this cluster, or a process of the host.
    Inside,
    /// Somebody else.
    Outside,
}

/// A frontend of either family, and who dials it.
pub(crate) type Dialled = (SocketAddr, u8, Client);

/// What a client finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Service number and scope: the same as before means untouched.
    pub(crate) place: (u32, Scope),
    /// Which port it is, as it is labelled; empty in tables without labels.
    pub(crate) port: String,
    /// Backends with their flags in the order of their slots; none if clients are refused.
    pub(crate) backends: Vec<(SocketAddr, BackendFlags)>,
    /// How many cells of the Maglev table lead to each of them; none without a table.
    pub(crate) cells: Vec<u32>,
    /// The ranges from which clients may come; nothing if from everywhere.
    pub(crate) sources: Option<BTreeSet<String>>,
    /// Seconds of session affinity, and whose it is.
    pub(crate) affinity: Option<(u32, u32)>,
}

impl Found {
    /// The Service that it belongs to.
    pub(crate) fn service(&self) -> Vec<&str> {
        self.port.split([':', '/']).take(2).collect()
    }

    /// Whether a client finds the same, though perhaps at another place.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let kind = |found: &Self| std::mem::discriminant(&found.place.1.choice());
        kind(self) == kind(other)
            && self.port == other.port
            && self.backends == other.backends
            && self.cells == other.cells
            && self.affinity.is_some() == other.affinity.is_some()
    }
}

/// Everything that a client could find in the tables of both families.
pub(crate) type View = BTreeMap<Dialled, Found>;

fn socket<F: TableFamily>(key: &FrontendKey<F::Addr>) -> SocketAddr {
    SocketAddr::new(F::to_ip(key.address), key.port.get())
}

/// Which list a client is led to.
fn scope(service: &Service, frontend: Frontend, client: Client) -> Scope {
    let flag = if frontend.is_external() {
        ServiceFlags::EXTERNAL_LOCAL
    } else {
        ServiceFlags::INTERNAL_LOCAL
    };
    let short_cut = frontend.is_external() && client == Client::Inside;
    if service.rules.flags.has(flag) && !short_cut {
        service.local
    } else {
        service.cluster
    }
}

fn ranges<F: TableFamily>(tables: &impl Tables<F::Addr>, set: u32) -> BTreeSet<String> {
    let all = tables.sources().expect("memory tables can be read");
    let of_set = all.into_iter().filter(|range| range.set == set);
    of_set
        .map(|range| format!("{}/{}", F::to_ip(range.base), range.prefix_len))
        .collect()
}

/// Reads one frontend as a program in the kernel does.
///
/// # Errors
/// What is missing on the way, in words.
fn follow<F: TableFamily>(tables: &MemoryTables<F::Addr>, frontend: Frontend, client: Client) -> Result<Found, String> {
    let number = frontend.number();
    let service = tables.service(number);
    let scope = scope(&service, frontend, client);
    let (base, len) = match scope.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Reject | Choice::Drop => (0, 0),
        Choice::Absent => return Err(format!("service number {number} has no list for a client {client:?}")),
    };
    let mut backends = Vec::new();
    for slot in base..base + len {
        let place = tables.slot(slot);
        let backend = tables.backend(place);
        if place == 0 || !backend.flags.has(BackendFlags::ACTIVE) || backend.service != number {
            return Err(format!(
                "slot {slot} leads to backend {place}, which is not there: {backend:?}"
            ));
        }
        backends.push((backend_socket::<F>(&backend), backend.flags));
    }
    let cells = cells::<F>(tables, scope, base, len)?;
    let set = if frontend.is_filtered() {
        service.sets.sources
    } else {
        0
    };
    let sources = (set != 0).then(|| ranges::<F>(tables, set));
    if sources.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(format!("the set of source ranges {set} is empty: nobody could come"));
    }
    let labels = tables.labels().expect("memory tables can be read");
    let label = labels.iter().find(|(labelled, _)| *labelled == number);
    Ok(Found {
        place: (number, scope),
        port: label.map(|(_, label)| label.as_str().to_owned()).unwrap_or_default(),
        backends,
        cells,
        sources,
        affinity: (service.rules.affinity_s != 0).then_some((service.rules.affinity_s, service.sets.affinity)),
    })
}

/// The header of a list's table.
fn header<F: TableFamily>(tables: &impl Tables<F::Addr>, scope: Scope, base: u32) -> Option<TableHeader> {
    let slots = |first: u32| std::array::from_fn(|index| tables.slot(first + index as u32));
    scope
        .has_table()
        .then(|| TableHeader::from_slots(slots(base - TableHeader::SLOTS)))
}

/// How many cells of a list's table lead to each of its members.
///
/// # Errors
/// Which cell leads beyond the list, or that a member has none.
fn cells<F: TableFamily>(
    tables: &MemoryTables<F::Addr>,
    scope: Scope,
    base: u32,
    len: u32,
) -> Result<Vec<u32>, String> {
    let Some(header) = header::<F>(tables, scope, base) else {
        return Ok(Vec::new());
    };
    let mut counts = vec![0; len as usize];
    for cell in 0..header.cells.count() {
        let ordinal = tables.ordinal(header.first_chunk, cell);
        let count = ordinal.and_then(|ordinal| counts.get_mut(usize::from(ordinal)));
        *count.ok_or_else(|| format!("cell {cell} leads to {ordinal:?} of {len}"))? += 1;
    }
    if counts.contains(&0) {
        return Err(format!("a member of the list at {base} has no cell: {counts:?}"));
    }
    Ok(counts)
}

/// Adds what clients of one family find.
///
/// # Errors
/// Which frontend leads nowhere.
pub(crate) fn look<F: TableFamily>(tables: &MemoryTables<F::Addr>, into: &mut View) -> Result<(), String> {
    let addresses: BTreeMap<_, _> = tables
        .addresses()
        .expect("memory tables can be read")
        .into_iter()
        .collect();
    for (key, frontend) in tables.frontends().expect("memory tables can be read") {
        let flag = if frontend.is_external() {
            AddressFlags::EXTERNAL
        } else {
            AddressFlags::CLUSTER_IP
        };
        let known = addresses.get(&key.address).is_some_and(|flags| flags.has(flag));
        // A packet to an address that is nobody's goes its way. NodePorts are on addresses of the host.
        if key.address.is_some() && !known {
            continue;
        }
        for client in [Client::Inside, Client::Outside] {
            let dialled = (socket::<F>(&key), key.proto.0, client);
            let found = follow::<F>(tables, frontend, client).map_err(|error| format!("{dialled:?}: {error}"))?;
            into.insert(dialled, found);
        }
    }
    Ok(())
}

/// All that the tables say, and what the agent says of them.
pub(crate) fn dump<T4: Tables<Ip4>, T6: Tables<Ip6>>(
    v4: &MemoryTables<Ip4>,
    v6: &MemoryTables<Ip6>,
    reconciler: &Reconciler<T4, T6>,
) -> String {
    let mut text = String::new();
    dump_family::<V4>(v4, reconciler.fill().0, &mut text);
    dump_family::<V6>(v6, reconciler.fill().1, &mut text);
    for problem in reconciler.problems() {
        line(&mut text, &format!("problem: {}: {}", problem.port, problem.reason));
    }
    text.truncate(text.trim_end().len());
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}

fn dump_family<F: TableFamily>(tables: &MemoryTables<F::Addr>, fill: Fill, text: &mut String) {
    let mut labels: BTreeMap<u32, String> = tables
        .labels()
        .expect("memory tables can be read")
        .into_iter()
        .map(|(number, label)| (number, label.as_str().to_owned()))
        .collect();
    let mut frontends: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (key, frontend) in tables.frontends().expect("memory tables can be read") {
        labels
            .entry(frontend.number())
            .or_insert_with(|| "(no name)".to_owned());
        frontends
            .entry(frontend.number())
            .or_default()
            .push(frontend_text::<F>(&key, frontend));
    }
    let mut entries: Vec<String> = labels
        .iter()
        .map(|(number, label)| {
            let at = frontends
                .remove(number)
                .map_or("no frontend".to_owned(), |at| at.join(", "));
            format!("{label}  {at}{}", port::<F>(tables, *number))
        })
        .collect();
    entries.sort();
    for entry in entries {
        line(text, &entry);
    }
    let addresses = tables.addresses().expect("memory tables can be read");
    for (address, flags) in addresses {
        // Each endpoint has one.
        let flags = flags.without(AddressFlags::ENDPOINT);
        if flags == AddressFlags::default() {
            continue;
        }
        line(text, &format!("{}:{}", F::to_ip(address), address_text(flags)));
    }
    let Fill {
        frontends,
        services,
        backends,
        slots,
        chunks,
        ..
    } = fill;
    let family = F::NUMBER;
    let chunks = if chunks == 0 {
        String::new()
    } else {
        format!(", {chunks} chunks")
    };
    line(
        text,
        &format!(
            "in use, IPv{family}: {frontends} frontends, {services} numbers, {backends} backends, {slots} slots{chunks}"
        ),
    );
}

/// `10.96.0.1:80 TCP`, with what it is unless it is a ClusterIP.
fn frontend_text<F: TableFamily>(key: &FrontendKey<F::Addr>, frontend: Frontend) -> String {
    let at = socket::<F>(key);
    match (frontend.is_external(), frontend.is_filtered(), key.address.is_some()) {
        (false, ..) => format!("{at} {}", key.proto),
        (true, true, _) => format!("{at} {} (load balancer)", key.proto),
        (true, false, true) => format!("{at} {} (external)", key.proto),
        (true, false, false) => format!("{} {} (node port)", at.port(), key.proto),
    }
}

fn address_text(flags: AddressFlags) -> String {
    let words = [
        (AddressFlags::CLUSTER_IP, " ClusterIP"),
        (AddressFlags::EXTERNAL, " external"),
        (AddressFlags::NODE_PORTS, " node ports"),
        (AddressFlags::HOST, " host"),
        (AddressFlags::LOOPBACK, " loopback"),
    ];
    words
        .into_iter()
        .filter(|(flag, _)| flags.has(*flag))
        .map(|(_, word)| word)
        .collect()
}

/// The rules of a port and its endpoints.
fn port<F: TableFamily>(tables: &MemoryTables<F::Addr>, number: u32) -> String {
    let service = tables.service(number);
    let mut text = String::new();
    for (flag, word) in [
        (ServiceFlags::INTERNAL_LOCAL, "internalTrafficPolicy: Local"),
        (ServiceFlags::EXTERNAL_LOCAL, "externalTrafficPolicy: Local"),
        (ServiceFlags::DSR, "clients outside are answered directly"),
        (ServiceFlags::INTERNAL_MAGLEV, "Maglev tables for the ClusterIP, too"),
    ] {
        if service.rules.flags.has(flag) {
            write!(text, "\n  {word}").expect("a String takes everything");
        }
    }
    if service.rules.affinity_s != 0 {
        write!(
            text,
            "\n  clients keep their endpoint for {} s",
            service.rules.affinity_s
        )
        .expect("a String takes everything");
    }
    if service.sets.sources != 0 {
        let ranges = ranges::<F>(tables, service.sets.sources);
        let ranges: Vec<String> = ranges.into_iter().collect();
        write!(text, "\n  load balancer only for {}", ranges.join(" ")).expect("a String takes everything");
    }
    let mut listed = BTreeSet::new();
    if service.cluster.choice() != Choice::Absent {
        text.push_str(&backends::<F>(tables, service.cluster, "\n  ", &mut listed));
    }
    if service.local.choice() != Choice::Absent {
        text.push_str("\n  on this node:");
        text.push_str(&backends::<F>(tables, service.local, "\n    ", &mut listed));
    }
    let mut others = (1..tables.capacity().backends)
        .filter(|place| !listed.contains(place))
        .map(|place| tables.backend(place))
        .filter(|backend| *backend != Backend::default() && backend.service == number)
        .map(|backend| backend_text::<F>(&backend))
        .collect::<Vec<_>>();
    others.sort();
    if !others.is_empty() {
        write!(text, "\n  for old flows only:\n    {}", others.join("\n    ")).expect("a String takes everything");
    }
    text
}

fn backends<F: TableFamily>(
    tables: &MemoryTables<F::Addr>,
    scope: Scope,
    indent: &str,
    listed: &mut BTreeSet<u32>,
) -> String {
    let (base, len) = match scope.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Reject => return format!("{indent}refused: no endpoint"),
        Choice::Drop => return format!("{indent}dropped: no endpoint on this node"),
        Choice::Absent => return format!("{indent}absent"),
    };
    let mut text = String::new();
    for slot in base..base + len {
        let place = tables.slot(slot);
        listed.insert(place);
        text.push_str(indent);
        text.push_str(&backend_text::<F>(&tables.backend(place)));
    }
    match cells::<F>(tables, scope, base, len) {
        Ok(cells) if cells.is_empty() => {}
        Ok(cells) => {
            let cells: Vec<String> = cells.iter().map(u32::to_string).collect();
            write!(text, "{indent}by a table with {} cells", cells.join(" + ")).expect("a String takes everything");
        }
        Err(error) => write!(text, "{indent}by a table where {error}").expect("a String takes everything"),
    }
    text
}

fn backend_socket<F: TableFamily>(backend: &Backend<F::Addr>) -> SocketAddr {
    SocketAddr::new(F::to_ip(backend.address), backend.port.get())
}

fn backend_text<F: TableFamily>(backend: &Backend<F::Addr>) -> String {
    let mut text = backend_socket::<F>(backend).to_string();
    for (flag, word) in [
        (BackendFlags::LOCAL, " local"),
        (BackendFlags::TERMINATING, " terminating"),
    ] {
        if backend.flags.has(flag) {
            text.push_str(word);
        }
    }
    if !backend.flags.has(BackendFlags::ACTIVE) {
        text.push_str(" not serving");
    }
    if backend.node.is_some() {
        write!(text, " on node {}", F::to_ip(backend.node)).expect("a String takes everything");
    }
    text
}
