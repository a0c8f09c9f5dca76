//! From a change to the tables: one endpoint more or less with many Services loaded; the start with all of them; what
//! the agent holds in memory.
//!
//! | row | from | to |
//! |---|---|---|
//! | `change` | an EndpointSlice at the agent's door, decoded | the kernel's tables say it |
//! | `many-ports` | the same, of a Service with 400 ports, 4 addresses and 100 endpoints | the kernel's tables say it |
//! | `file-to-table` | a manifest file renamed into its place | the kernel's tables say it |
//! | `cold-start` | the agent's process is started on a folder of manifests | it says that it is ready |
//! | `resident` | | the agent's largest resident size until then (`VmHWM`) |

use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::layout::{FrontendKey, Ip4, Port, Proto, ServiceEntry, names};
use lb_common::layout::{V4, V6, limits};
use lb_userspace::{
    kernel::{Datapath, LoadOptions, Pins, RARE_PROGRAMS},
    model::{Change, Family, NodeView, Protocol},
    reconcile::Reconciler,
    tables::KernelTables,
};

use super::{
    figure::Figure,
    population::{ENDPOINTS, Features, Large, NODE, PORT, Population, cluster_ip},
    samples::Samples,
};
use crate::lab::{Agent, AgentOptions, Lab};

/// 99 of 100 endpoint changes are in the tables within this time.
const CHANGE_P99_MAX_MS: f64 = 5.0;
/// The same of the Service with many ports, all changes.
const MANY_PORTS_MAX_MS: f64 = 20.0;
/// From nothing to all Services in the tables.
const COLD_START_MAX_S: f64 = 2.0;
/// What the agent may hold in memory.
const RESIDENT_MAX_MIB: f64 = 100.0;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    services: u32,
    changes: u32,
    many_ports: u32,
    starts: u32,
    files: u32,
}

const FULL: Extent = Extent {
    services: 10_000,
    changes: 2_000,
    many_ports: 200,
    starts: 5,
    files: 100,
};
const QUICK: Extent = Extent {
    services: 500,
    changes: 200,
    many_ports: 40,
    starts: 2,
    files: 20,
};

/// Services in one file of the folder; the last ones have a file each.
const SERVICES_OF_FILE: u32 = 100;
/// Between changes: more than they take, so that none waits for another.
const PAUSE: Duration = Duration::from_micros(500);
const MANY_PORTS_PAUSE: Duration = Duration::from_millis(20);

/// Runs the bench.
pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let extent = if quick { QUICK } else { FULL };
    println!(
        "bench sync: {} Services with {ENDPOINTS} endpoints each",
        extent.services
    );
    let mut figures = Vec::new();
    let mut add = |figure: Figure| {
        println!("  {figure}");
        figures.push(figure);
    };
    for (name, families) in [("v4", &[Family::V4][..]), ("dual-stack", &Family::BOTH[..])] {
        let changes = changes(&extent, families)?;
        let figure = |what: &str, value| Figure::new(format!("sync/change/{name}/{what}"), "ms", value, 0.0);
        add(figure("p50", changes.median()));
        add(figure("p99", changes.quantile(0.99)).at_most(CHANGE_P99_MAX_MS));
        add(figure("max", changes.max()));
    }
    let changes = many_ports(&extent)?;
    let figure = |what: &str, value| Figure::new(format!("sync/many-ports/v4/{what}"), "ms", value, 0.0);
    add(figure("p50", changes.median()));
    add(figure("p99", changes.quantile(0.99)).at_most(MANY_PORTS_MAX_MS));
    add(figure("max", changes.max()));
    let started = starts(&extent)?;
    let noise = started.ready_s.noise();
    add(Figure::new("sync/cold-start/v4".to_owned(), "s", started.ready_s.median(), noise).at_most(COLD_START_MAX_S));
    let resident = started.resident_mib.max();
    add(Figure::new("sync/resident/v4".to_owned(), "MiB", resident, 0.0).at_most(RESIDENT_MAX_MIB));
    add(Figure::new(
        "sync/file-to-table/v4/p50".to_owned(),
        "ms",
        started.file_ms.median(),
        0.0,
    ));
    add(Figure::new(
        "sync/file-to-table/v4/max".to_owned(),
        "ms",
        started.file_ms.max(),
        0.0,
    ));
    Ok(figures)
}

/// The agent's reconciler over the kernel's tables, with all Services.
fn loaded(population: Population) -> Result<Reconciler<KernelTables<V4>, KernelTables<V6>>> {
    let mut datapath = Datapath::load(&LoadOptions {
        maps: None,
        flows_max: limits::FLOWS_MIN,
        ways_max: limits::FLOWS_MIN,
        later: RARE_PROGRAMS,
    })?;
    let v4 = KernelTables::<V4>::open(|name| datapath.take_map(name))?;
    let v6 = KernelTables::<V6>::open(|name| datapath.take_map(name))?;
    let mut reconciler = Reconciler::adopt(NodeView::named(NODE), v4, v6, true)?;
    reconciler.apply(population.first_lists());
    Ok(reconciler)
}

fn ensure_all_in_tables(reconciler: &Reconciler<KernelTables<V4>, KernelTables<V6>>) -> Result<()> {
    if let Some(problem) = reconciler.problems().next() {
        bail!("{} is not in the tables: {}", problem.port, problem.reason);
    }
    if let Some(problem) = reconciler.left_out().next() {
        bail!("{problem}");
    }
    Ok(())
}

/// Milliseconds of single endpoint changes of one large Service beside all others, whose lists have one Maglev table.
fn many_ports(extent: &Extent) -> Result<Samples> {
    let population = Population {
        services: extent.services,
        families: &[Family::V4],
        protocols: &[Protocol::Tcp],
        features: Features::None,
    };
    let mut reconciler = loaded(population)?;
    let large = Large {
        number: extent.services,
    };
    reconciler.apply([
        Change::ServiceApply(Arc::new(large.service())),
        Change::SliceApply(Arc::new(large.slice(0..Large::ENDPOINTS))),
    ]);
    ensure_all_in_tables(&reconciler)?;
    let mut samples = Vec::new();
    for change in 0..extent.many_ports {
        // Each endpoint goes once, and comes back.
        let gone = (change / 2 * 7 % Large::ENDPOINTS, change % 2 == 0);
        let endpoints = (0..Large::ENDPOINTS).filter(|endpoint| (*endpoint, true) != gone);
        let slice = Change::SliceApply(Arc::new(large.slice(endpoints)));
        let start = Instant::now();
        reconciler.apply([slice]);
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        thread::sleep(MANY_PORTS_PAUSE);
    }
    ensure_all_in_tables(&reconciler)?;
    Ok(Samples::from_iter(samples))
}

/// Milliseconds of single endpoint changes, through model, plan and the kernel's tables.
fn changes(extent: &Extent, families: &'static [Family]) -> Result<Samples> {
    let population = Population {
        services: extent.services,
        families,
        protocols: &[Protocol::Tcp],
        features: Features::None,
    };
    let mut reconciler = loaded(population)?;
    let mut samples = Vec::new();
    for change in 0..extent.changes {
        // Services in an order that visits all parts of the tables; each loses its last endpoint, then gets it back.
        let number = (u64::from(change / 2) * 7_919 % u64::from(extent.services)) as u32;
        let endpoints = if change % 2 == 0 { ENDPOINTS - 1 } else { ENDPOINTS };
        let family = families[(change / 2) as usize % families.len()];
        let slice = Change::SliceApply(Arc::new(population.slice(family, number, 0..endpoints)));
        let start = Instant::now();
        let planned = reconciler.apply([slice]);
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(planned == 1, "a change was planned as {planned}");
        thread::sleep(PAUSE);
    }
    ensure_all_in_tables(&reconciler)?;
    Ok(Samples::from_iter(samples))
}

/// What starts of the agent have shown.
struct Started {
    ready_s: Samples,
    resident_mib: Samples,
    file_ms: Samples,
}

fn starts(extent: &Extent) -> Result<Started> {
    let population = Population {
        services: extent.services,
        families: &[Family::V4],
        protocols: &[Protocol::Tcp],
        features: Features::None,
    };
    let lab = Lab::one_node().backends(1).build()?;
    let folder = lab.directory().join("manifests");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let alone = extent.services - extent.files;
    for first in (0..alone).step_by(SERVICES_OF_FILE as usize) {
        let numbers = first..alone.min(first + SERVICES_OF_FILE);
        let text: String = numbers.map(|number| population.yaml(number, ENDPOINTS)).collect();
        put(&folder, &format!("services-{first}.yaml"), &text)?;
    }
    for number in alone..extent.services {
        put(
            &folder,
            &format!("service-{number}.yaml"),
            &population.yaml(number, ENDPOINTS),
        )?;
    }
    let (mut ready_s, mut resident_mib, mut file_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..extent.starts {
        let start = Instant::now();
        let mut agent = Agent::start(&lab, &AgentOptions::default())?;
        agent.wait_ready()?;
        ready_s.push(start.elapsed().as_secs_f64());
        resident_mib.push(resident_max_mib(agent.pid().context("the agent's process")?)?);
        let tables = Tables::open(&lab)?;
        for number in alone..extent.services {
            file_ms.push(tables.follow(&folder, &population, number, ENDPOINTS - 1)?);
            file_ms.push(tables.follow(&folder, &population, number, ENDPOINTS)?);
        }
        agent.stop()?;
        // Dropped, it removes every trace: the next start is a cold one, too.
    }
    lab.remove()?;
    Ok(Started {
        ready_s: Samples::from_iter(ready_s),
        resident_mib: Samples::from_iter(resident_mib),
        file_ms: Samples::from_iter(file_ms),
    })
}

/// Puts a file into the folder as a whole, as every careful writer does.
fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let draft = folder.join(format!(".{name}"));
    fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
    fs::rename(&draft, folder.join(name)).with_context(|| format!("put {name} into {}", folder.display()))
}

/// The largest resident size that a process ever had.
pub(super) fn resident_max_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("VmHWM in /proc/PID/status")?;
    let kib: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| format!("VmHWM:{line}"))?;
    Ok(kib / 1024.0)
}

/// The agent's tables, seen from outside.
pub(super) struct Tables {
    frontends: HashMap<MapData, FrontendKey<Ip4>, u32>,
    services: Array<MapData, ServiceEntry>,
}

/// How long a change may take to be seen.
const FOLLOW_MAX: Duration = Duration::from_secs(10);

impl Tables {
    pub(super) fn open(lab: &Lab) -> Result<Self> {
        let maps = Pins::new(lab.pin_directory()).maps();
        let pinned =
            |name: &str| MapData::from_pin(maps.join(name)).with_context(|| format!("open the pinned map {name}"));
        Ok(Self {
            frontends: Map::HashMap(pinned(names::LB4_FRONTENDS)?).try_into()?,
            services: Map::Array(pinned(names::LB4_SERVICES)?).try_into()?,
        })
    }

    /// Writes a Service's file with so many endpoints, and waits for the tables. Milliseconds.
    fn follow(&self, folder: &Path, population: &Population, service: u32, endpoints: u32) -> Result<f64> {
        let text = population.yaml(service, endpoints);
        self.until_changed(service, Duration::from_micros(200), || {
            put(folder, &format!("service-{service}.yaml"), &text)
        })
    }

    /// Changes a Service, and looks at its record this often until it says so. Milliseconds.
    pub(super) fn until_changed(
        &self,
        service: u32,
        every: Duration,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<f64> {
        let std::net::IpAddr::V4(address) = cluster_ip(Family::V4, service) else {
            bail!("an IPv4 address")
        };
        let key = FrontendKey::new(address.into(), Port::new(PORT), Proto::TCP);
        let number = self
            .frontends
            .get(&key, 0)
            .with_context(|| format!("the frontend of Service {service}"))?;
        let record = || Ok::<_, anyhow::Error>(self.services.get(&number, 0)?.record);
        let before = record()?;
        let start = Instant::now();
        change()?;
        while record()? == before {
            if start.elapsed() > FOLLOW_MAX {
                bail!("a change of Service {service} was not in the tables after {FOLLOW_MAX:?}");
            }
            thread::sleep(every);
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}
