//! What a publisher writes, and in which order; what it does when a write fails; what a second one finds. Over tables in
//! memory, one family. Readers between any two writes: `tests/tests/host_publishing.rs`.

mod addresses;
mod adoption;
mod affinity;
mod dsr;
mod lists;
mod sources;
mod tables;
mod truth;
mod written;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use lb_common::layout::{
    AddressFlags, BackendFlags, Choice, Frontend as FrontendWord, FrontendKey, Ip4, Scope as ScopeWord, ServiceFlags,
    V4,
};

use super::{PublishError, Publisher, Siblings};
use crate::model::{Cidr, Family, Protocol, ServiceKey};
use crate::plan::{Backend, BackendState, DesiredPort, Frontend, FrontendKind, PortId, Scope, WhenEmpty};
use crate::tables::{Capacity, Faulty, List, MemoryTables, Write};

/// How many writes that may fail still succeed; then one fails.
type Fuse = Rc<Cell<Option<u32>>>;

/// Tables of which a write fails when the fuse has burnt down.
fn faulty<T>(inner: T) -> (Faulty<T>, Fuse) {
    let fuse = Fuse::default();
    let burning = fuse.clone();
    let fails = move || match burning.get() {
        None => false,
        Some(0) => {
            burning.set(None);
            true
        }
        Some(left) => {
            burning.set(Some(left - 1));
            false
        }
    };
    let fails = Box::new(fails);
    (Faulty { inner, fails }, fuse)
}

/// A publisher whose writes are looked at.
struct Bench {
    publisher: Publisher<V4, Faulty<MemoryTables<Ip4>>>,
    fuse: Fuse,
}

impl Bench {
    fn new() -> Self {
        let capacity = Capacity {
            services: 4,
            slots: 8,
            chunks: 20,
            backends: 9,
        };
        Self::adopting(MemoryTables::new(capacity))
    }

    fn adopting(mut tables: MemoryTables<Ip4>) -> Self {
        tables.writes.clear();
        let (tables, fuse) = faulty(tables);
        let publisher = Publisher::adopt(tables).expect("nothing fails");
        Self { publisher, fuse }
    }

    /// A second agent that finds what this one has left.
    fn successor(&self) -> Self {
        Self::adopting(self.publisher.tables().inner.clone())
    }

    /// The write that comes after `successes` others fails.
    fn fail_after(&self, successes: u32) {
        self.fuse.set(Some(successes));
    }

    fn publish(&mut self, name: &str, desired: &DesiredPort) -> Result<bool, PublishError> {
        self.publisher.publish(&id(name), desired, &Siblings::default())
    }

    /// Publishes what must succeed, and forgets the writes.
    fn given(&mut self, name: &str, desired: &DesiredPort) {
        self.publish(name, desired).expect("it fits");
        self.writes();
    }

    fn withdraw(&mut self, name: &str) {
        assert!(
            self.publisher.withdraw(&id(name)).expect("nothing fails"),
            "it was there"
        );
    }

    /// All programs that ran have ended.
    fn grace(&mut self) {
        let retired = self.publisher.take_retired();
        self.publisher.reuse(retired);
    }

    /// The writes since the last look.
    fn writes(&mut self) -> Vec<String> {
        let writes = std::mem::take(&mut self.publisher.tables_mut().inner.writes);
        writes.iter().map(text).collect()
    }

    fn host(&mut self, addresses: &[(&str, AddressFlags)]) -> bool {
        let addresses: BTreeMap<Ip4, AddressFlags> = addresses
            .iter()
            .map(|(address, flags)| (ip4(address), *flags))
            .collect();
        self.publisher.set_host_addresses(&addresses).expect("nothing fails")
    }
}

fn ip4(text: &str) -> Ip4 {
    text.parse::<std::net::Ipv4Addr>().expect("an address").into()
}

fn id(name: &str) -> PortId {
    PortId {
        service: ServiceKey::new("default", name),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn frontend(kind: FrontendKind, address: &str, port: u16) -> Frontend {
    Frontend {
        address: address.parse().expect("an address"),
        port,
        kind,
    }
}

/// An endpoint of the tests' subnet: `3` is ready, `3t` terminating, `3n` not serving, and `L` is on this node.
fn backend(text: &str) -> Backend {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    Backend {
        address: [10, 244, 1, digits.parse().expect("a number")].into(),
        port: 8080,
        local: text.contains('L'),
        state: match text {
            text if text.contains('t') => BackendState::Terminating,
            text if text.contains('n') => BackendState::NotServing,
            _ => BackendState::Ready,
        },
        weight: 1,
        tunnel: crate::plan::Tunnel::None,
    }
}

fn backends(text: &str) -> Vec<Backend> {
    text.split_whitespace().map(backend).collect()
}

fn list(text: &str) -> Option<Scope> {
    Some(Scope {
        backends: backends(text),
        when_empty: WhenEmpty::Reject,
        maglev: false,
    })
}

/// A port with a ClusterIP and these endpoints.
fn desired(cluster: &str) -> DesiredPort {
    DesiredPort {
        frontends: vec![frontend(FrontendKind::ClusterIp, "10.96.0.1", 80)],
        cluster: list(cluster),
        local: None,
        internal_local: false,
        external_local: false,
        internal_maglev: false,
        dsr: false,
        no_sockets: false,
        others: Vec::new(),
        affinity_timeout_s: None,
        sources: None,
        resets: false,
    }
}

fn with(mut desired: DesiredPort, change: impl FnOnce(&mut DesiredPort)) -> DesiredPort {
    change(&mut desired);
    desired
}

fn ranges(texts: &[&str]) -> Option<Vec<Cidr>> {
    Some(texts.iter().filter_map(|text| Cidr::parse_leniently(text)).collect())
}

fn words<T: Copy>(has: impl Fn(T) -> bool, names: &[(T, &str)]) -> String {
    names
        .iter()
        .filter(|(flag, _)| has(*flag))
        .map(|(_, name)| format!(" {name}"))
        .collect()
}

fn address_text(flags: AddressFlags) -> String {
    let names = [
        (AddressFlags::CLUSTER_IP, "cluster"),
        (AddressFlags::EXTERNAL, "external"),
        (AddressFlags::NODE_PORTS, "node-ports"),
        (AddressFlags::HOST, "host"),
        (AddressFlags::LOOPBACK, "loopback"),
        (AddressFlags::ENDPOINT, "endpoint"),
    ];
    words(|flag| flags.has(flag), &names)
}

fn frontend_text(word: FrontendWord) -> String {
    let kind = match (word.is_external(), word.is_filtered()) {
        (false, _) => "internal",
        (true, false) => "external",
        (true, true) => "filtered",
    };
    format!("{kind} {}", word.number())
}

fn key_text(key: &FrontendKey<Ip4>) -> String {
    format!("{}:{}", key.address, key.port)
}

fn scope_text(scope: ScopeWord) -> String {
    match scope.choice() {
        Choice::Absent => "absent".to_owned(),
        Choice::Reject => "refused".to_owned(),
        Choice::Drop => "dropped".to_owned(),
        Choice::Slots { base, len } => {
            let table = if scope.has_table() { " with a table" } else { "" };
            format!("slots {base} to {}{table}", base + len - 1)
        }
    }
}

/// A write, to be read.
fn text(write: &Write<Ip4>) -> String {
    match write {
        Write::PutFrontend(key, word) => format!("frontend {} = {}", key_text(key), frontend_text(*word)),
        Write::RemoveFrontend(key) => format!("frontend {} gone", key_text(key)),
        Write::PutAddress(address, flags) => format!("address {address} ={}", address_text(*flags)),
        Write::RemoveAddress(address) => format!("address {address} gone"),
        Write::PutSource(range) => format!("set {} + {}/{}", range.set, range.base, range.prefix_len),
        Write::RemoveSource(range) => format!("set {} - {}/{}", range.set, range.base, range.prefix_len),
        Write::Scope(number, List::Cluster, scope) => format!("{number}.cluster = {}", scope_text(*scope)),
        Write::Scope(number, List::Local, scope) => format!("{number}.local = {}", scope_text(*scope)),
        Write::Rules(number, rules) => {
            let names = [
                (ServiceFlags::INTERNAL_LOCAL, "internal-local"),
                (ServiceFlags::EXTERNAL_LOCAL, "external-local"),
                (ServiceFlags::INTERNAL_MAGLEV, "internal-maglev"),
            ];
            let flags = words(|flag| rules.flags.has(flag), &names);
            format!("{number}.rules ={flags} {} s", rules.affinity_s)
        }
        Write::Sets(number, sets) => format!("{number}.sets = sources {}, affinity {:x}", sets.sources, sets.affinity),
        Write::Slot(place, backend) => format!("slot {place} = {backend}"),
        Write::Chunk(place, _) => format!("chunk {place}"),
        Write::Backend(number, backend) if backend.address.octets == [0; 4] => format!("backend {number} gone"),
        Write::Backend(number, backend) => {
            let names = [
                (BackendFlags::ACTIVE, "active"),
                (BackendFlags::LOCAL, "local"),
                (BackendFlags::TERMINATING, "terminating"),
            ];
            let flags = words(|flag| backend.flags.has(flag), &names);
            format!("backend {number} = {}:{}{flags}", backend.address, backend.port)
        }
        Write::Grace => "grace".to_owned(),
    }
}
