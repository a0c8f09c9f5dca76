//! The kernel's tables as this process sees them: who serves what, at this moment. And a watch over all slices that counts changes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_common::layout::{BackendFlags, Choice, FrontendKey, Port, Proto, V4, V6};
use lb_userspace::tables::{KernelTables, TableFamily, Tables as _};
use tests::lab::{Lab, plan};
use tests::traffic::Over;

use crate::churner::Log;
use crate::scene::{BACKENDS, SLICES, cluster_ip, port};

/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(4);

/// Backends, one bit each: bit 0 is `backend-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set(u16);

impl Set {
    /// Whether a backend is in it.
    pub(crate) fn has(self, backend: u8) -> bool {
        self.0 >> (backend - 1) & 1 == 1
    }

    /// How many are in it.
    pub(crate) fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).expect("at most 16")
    }
}

/// The pinned tables of both families.
pub(crate) struct View {
    pub(crate) v4: KernelTables<V4>,
    v6: KernelTables<V6>,
    numbers: HashMap<(SocketAddr, u8), u32>,
    backends: HashMap<IpAddr, u8>,
}

impl View {
    pub(crate) fn open(lab: &Lab) -> Self {
        let v4 = lab.tables::<V4>().expect("the tables are pinned");
        let v6 = lab.tables::<V6>().expect("the tables are pinned");
        let mut numbers = HashMap::new();
        add_frontends(&v4, &mut numbers);
        add_frontends(&v6, &mut numbers);
        let backends = (1..=BACKENDS).flat_map(|number| {
            let addresses: [IpAddr; 2] = [plan::backend_v4(number).into(), plan::backend_v6(number).into()];
            addresses.map(|address| (address, number))
        });
        Self {
            v4,
            v6,
            numbers,
            backends: backends.collect(),
        }
    }

    /// Who gets new connections to this address and port.
    pub(crate) fn serving(&self, target: SocketAddr, over: Over) -> Set {
        let Some(number) = self.numbers.get(&(target, proto(over).0)) else {
            return Set(0);
        };
        if target.is_ipv4() {
            self.read(&self.v4, *number)
        } else {
            self.read(&self.v6, *number)
        }
    }

    /// How many backends all Services together name: each Service port has its own.
    pub(crate) fn named(&self) -> usize {
        let of_port = |(target, proto): &(SocketAddr, u8)| {
            let over = if *proto == Proto::TCP.0 { Over::Tcp } else { Over::Udp };
            let set = self.serving(*target, over);
            (1..=BACKENDS).filter(|backend| set.has(*backend)).count()
        };
        self.numbers.keys().map(of_port).sum()
    }

    /// How many backends have a record.
    pub(crate) fn kept(&self) -> usize {
        kept(&self.v4) + kept(&self.v6)
    }

    fn read<F: TableFamily>(&self, tables: &KernelTables<F>, number: u32) -> Set {
        loop {
            let word = tables.service(number).cluster;
            let mut set = 0;
            if let Choice::Slots { base, len } = word.choice() {
                for place in base..base + len {
                    let address = F::to_ip(tables.backend(tables.slot(place)).address);
                    set |= self.backends.get(&address).map_or(0, |backend| 1 << (backend - 1));
                }
            }
            // A range that was given up may be another Service's by now: the kernel's readers are waited for, this one isn't.
            if tables.service(number).cluster == word {
                return Set(set);
            }
        }
    }
}

/// The key of a Service's frontend.
pub(crate) fn frontend_v4(target: SocketAddr, over: Over) -> FrontendKey<<V4 as lb_common::layout::Family>::Addr> {
    let address = V4::from_ip(target.ip()).expect("an IPv4 address");
    FrontendKey::new(address, Port::new(target.port()), proto(over))
}

fn proto(over: Over) -> Proto {
    if over == Over::Tcp { Proto::TCP } else { Proto::UDP }
}

fn kept<F: TableFamily>(tables: &KernelTables<F>) -> usize {
    let numbers = 1..tables.capacity().backends;
    numbers
        .filter(|number| tables.backend(*number).flags.has(BackendFlags::ACTIVE))
        .count()
}

fn add_frontends<F: TableFamily>(tables: &KernelTables<F>, numbers: &mut HashMap<(SocketAddr, u8), u32>) {
    for (key, frontend) in tables.frontends().expect("the table can be read") {
        let target = SocketAddr::new(F::to_ip(key.address), key.port.get());
        numbers.insert((target, key.proto.0), frontend.number());
    }
}

/// What a watch over all slices has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Changes of the set that serves a slice's TCP port.
    pub(crate) changes: usize,
    /// From the file to the tables: one time for each of them.
    pub(crate) delays: Vec<Duration>,
}

/// Looks at all slices again and again until it is told to stop. What changes twice between two looks is seen once.
pub(crate) fn watch(view: &View, log: &Log, stop: &AtomicBool) -> Seen {
    let targets: Vec<SocketAddr> = (0..SLICES)
        .map(|slice| SocketAddr::new(cluster_ip(slice / 2, slice % 2 == 1), port(Over::Tcp)))
        .collect();
    let mut last: Vec<Set> = targets.iter().map(|target| view.serving(*target, Over::Tcp)).collect();
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        for (slice, target) in targets.iter().enumerate() {
            let now = view.serving(*target, Over::Tcp);
            if std::mem::replace(&mut last[slice], now) == now {
                continue;
            }
            seen.changes += 1;
            let at = Instant::now();
            let written = log
                .said(slice, now.len(), at)
                .expect("the tables say what a file has said");
            seen.delays.push(at.duration_since(written));
        }
    }
    seen.delays.sort();
    seen
}

/// Slices whose tables, over TCP or UDP, are not what their files say.
pub(crate) fn unlike_files(view: &View, log: &Log) -> Vec<String> {
    let mut unlike = Vec::new();
    for slice in 0..SLICES {
        for over in Over::BOTH {
            let target = SocketAddr::new(cluster_ip(slice / 2, slice % 2 == 1), port(over));
            let (tables, file) = (view.serving(target, over).len(), log.now(slice));
            if tables != file {
                unlike.push(format!("{target} {over:?}: {tables} in the tables, {file} in the file"));
            }
        }
    }
    unlike
}
