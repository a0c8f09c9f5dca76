//! What the tables say, two ways: as text for scripts, and as a reader in the kernel finds it.
//!
//! Here is only looking; who writes, and when, is in the runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use lb_common::layout::{BackendFlags, Choice, FrontendKey, Ip4, Ip6, Scope, V4, V6};
use lb_userspace::reconcile::{Fill, Reconciler};
use lb_userspace::tables::{TableFamily, Tables};

/// A frontend of either family.
pub(crate) type Dialled = (SocketAddr, u8);

/// What a client finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Service number and scope: the same as before means untouched.
    pub(crate) place: (u32, Scope),
    /// Which port it is, as it is labelled; empty in tables without labels.
    pub(crate) port: String,
    /// Backends with their flags in the order of their slots; none if clients are refused.
    pub(crate) backends: Vec<(SocketAddr, BackendFlags)>,
}

impl Found {
    /// The Service that it belongs to.
    pub(crate) fn service(&self) -> Vec<&str> {
        self.port.split([':', '/']).take(2).collect()
    }

    /// Whether a client finds the same, though perhaps at another place.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let kind = |found: &Self| std::mem::discriminant(&found.place.1.choice());
        kind(self) == kind(other) && self.port == other.port && self.backends == other.backends
    }
}

/// Everything that a client could find in the tables of both families.
pub(crate) type View = BTreeMap<Dialled, Found>;

fn dialled<F: TableFamily>(key: &FrontendKey<F::Addr>) -> Dialled {
    let address = SocketAddr::new(F::to_ip(key.address), key.port.get());
    (address, key.proto.0)
}

/// Reads one frontend as a program in the kernel does.
///
/// # Errors
/// What is missing on the way, in words.
fn follow<F: TableFamily>(tables: &impl Tables<F::Addr>, number: u32) -> Result<Found, String> {
    let scope = tables.scopes(number).0;
    let (base, len) = match scope.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Reject | Choice::Drop => (0, 0),
        Choice::Absent => return Err(format!("service number {number} has no scope")),
    };
    let mut backends = Vec::new();
    for slot in base..base + len {
        let number = tables.slot(slot);
        let backend = tables.backend(number);
        if number == 0 || !backend.flags.has(BackendFlags::ACTIVE) {
            return Err(format!("slot {slot} leads to backend {number}, which is not there"));
        }
        let address = SocketAddr::new(F::to_ip(backend.address), backend.port.get());
        backends.push((address, backend.flags));
    }
    let labels = tables.labels().expect("memory tables can be read");
    let label = labels.iter().find(|(labelled, _)| *labelled == number);
    Ok(Found {
        place: (number, scope),
        port: label.map(|(_, label)| label.as_str().to_owned()).unwrap_or_default(),
        backends,
    })
}

/// Adds what clients of one family find.
///
/// # Errors
/// Which frontend leads nowhere.
pub(crate) fn look<F: TableFamily>(tables: &impl Tables<F::Addr>, into: &mut View) -> Result<(), String> {
    for (key, number) in tables.frontends().expect("memory tables can be read") {
        let dialled = dialled::<F>(&key);
        let found = follow::<F>(tables, number).map_err(|error| format!("{dialled:?}: {error}"))?;
        into.insert(dialled, found);
    }
    Ok(())
}

/// All that the tables say, and what the agent says of them.
pub(crate) fn dump<T4: Tables<Ip4>, T6: Tables<Ip6>>(reconciler: &Reconciler<T4, T6>) -> String {
    let mut text = String::new();
    dump_family::<V4>(reconciler.v4().tables(), reconciler.fill().0, &mut text);
    dump_family::<V6>(reconciler.v6().tables(), reconciler.fill().1, &mut text);
    for problem in reconciler.problems() {
        line(&mut text, &format!("problem: {}: {}", problem.port, problem.reason));
    }
    text.truncate(text.trim_end().len());
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}

fn dump_family<F: TableFamily>(tables: &impl Tables<F::Addr>, fill: Fill, text: &mut String) {
    let labels: BTreeMap<u32, String> = tables
        .labels()
        .expect("memory tables can be read")
        .into_iter()
        .map(|(number, label)| (number, label.as_str().to_owned()))
        .collect();
    let mut nameless: BTreeSet<u32> = labels.keys().copied().collect();
    let mut entries = Vec::new();
    for (key, number) in tables.frontends().expect("memory tables can be read") {
        nameless.remove(&number);
        let name = labels.get(&number).map_or("(no name)", String::as_str);
        let (address, _) = dialled::<F>(&key);
        let mut entry = format!("{name}  {address} {}", key.proto);
        let (internal, external) = tables.scopes(number);
        entry.push_str(&backends::<F>(tables, internal));
        if external.choice() != Choice::Absent {
            write!(entry, "\n  external:{}", backends::<F>(tables, external)).expect("a String takes everything");
        }
        entries.push(entry);
    }
    entries.extend(nameless.iter().map(|number| format!("{}  no frontend", labels[number])));
    entries.sort();
    for entry in entries {
        line(text, &entry);
    }
    let Fill {
        frontends,
        services,
        backends,
        slots,
    } = fill;
    let family = F::NUMBER;
    line(
        text,
        &format!("in use, IPv{family}: {frontends} frontends, {services} numbers, {backends} backends, {slots} slots"),
    );
}

fn backends<F: TableFamily>(tables: &impl Tables<F::Addr>, scope: Scope) -> String {
    let (base, len) = match scope.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Reject => return "\n  refused: no endpoint".to_owned(),
        Choice::Drop => return "\n  dropped: no endpoint on this node".to_owned(),
        Choice::Absent => return "\n  absent".to_owned(),
    };
    let mut text = String::new();
    for slot in base..base + len {
        let backend = tables.backend(tables.slot(slot));
        let address = SocketAddr::new(F::to_ip(backend.address), backend.port.get());
        write!(text, "\n  {address}").expect("a String takes everything");
        for (flag, word) in [
            (BackendFlags::LOCAL, " local"),
            (BackendFlags::TERMINATING, " terminating"),
        ] {
            if backend.flags.has(flag) {
                text.push_str(word);
            }
        }
        if !backend.flags.has(BackendFlags::ACTIVE) {
            text.push_str(" NOT THERE");
        }
    }
    text
}
