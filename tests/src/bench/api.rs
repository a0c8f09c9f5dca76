//! From an API server's write to the kernel's tables: the start with all Services, single changes, and what an agent costs with
//! nothing to do. The server is `crate::api_server`, on a thread of this process, in the node's namespace.
//!
//! | row | from | to |
//! |---|---|---|
//! | `cold-start` | the agent's process is started, the server has all objects | it says that it is ready |
//! | `resident` | | the agent's largest resident size (`VmHWM`) |
//! | `change` | one slice is written, a hundred times a second | the kernel's tables say it |
//! | `idle` | | processor time of the agent, as a share of one core |
//! | `truth-check` | | of that, the truth check's last pass |

use std::{
    fs,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_userspace::{
    agent::Truth,
    model::{Family, Protocol},
};
use serde_json::{Value, json};

use super::{
    figure::Figure,
    population::{ENDPOINTS, Features, NODE, PORT, Population, TARGET_PORT, cluster_ip, endpoint},
    samples::Samples,
    sync::{Tables, resident_max_mib},
};
use crate::api_server::ApiServer;
use crate::lab::{Agent, AgentOptions, Lab};

/// From nothing to all of 10 000 Services in the tables, and of 50 000.
const COLD_START_MAX_S: f64 = 3.0;
const COLD_START_LARGE_MAX_S: f64 = 15.0;
/// What the agent may hold in memory with 50 000.
const RESIDENT_MAX_MIB: f64 = 400.0;
/// 99 of 100 endpoint changes are in the tables within this time.
const CHANGE_P99_MAX_MS: f64 = 10.0;
/// What an agent with nothing to do may take of a core.
const IDLE_MAX_PERCENT: f64 = 0.5;
/// Of that time, the truth check alone.
const TRUTH_CHECK_MAX_PERCENT: f64 = 1.0;
/// A pass takes some eight seconds.
const PASS_WITHIN: Duration = Duration::from_secs(20);
/// Between the beginnings of two changes.
const CHANGE_EVERY: Duration = Duration::from_millis(10);
/// How often the tables are looked at.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// What a start leaves to be done is done by then.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

struct Extent {
    services: u32,
    many: u32,
    starts: u32,
    changes: u32,
    idle: Duration,
}

const FULL: Extent = Extent {
    services: 10_000,
    many: 50_000,
    starts: 3,
    changes: 2_000,
    idle: Duration::from_secs(30),
};
const QUICK: Extent = Extent {
    services: 500,
    many: 2_000,
    starts: 1,
    changes: 100,
    idle: Duration::from_secs(2),
};

/// Runs the bench.
pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let extent = if quick { QUICK } else { FULL };
    println!(
        "bench api: {} and {} Services with {ENDPOINTS} endpoints each",
        extent.services, extent.many
    );
    let mut figures = Vec::new();
    let mut add = |figure: Figure| {
        println!("  {figure}");
        figures.push(figure);
    };
    let name = |what: &str, services: u32| format!("api/{what}/services={services}");
    for (services, cold_max_s, judged) in [
        (extent.services, COLD_START_MAX_S, false),
        (extent.many, COLD_START_LARGE_MAX_S, true),
    ] {
        let cluster = Cluster::with(services)?;
        let (mut ready_s, mut resident_mib) = (Vec::new(), Vec::new());
        for start in 0..extent.starts {
            let began = Instant::now();
            let mut agent = cluster.agent()?;
            agent.wait_ready()?;
            ready_s.push(began.elapsed().as_secs_f64());
            let pid = agent.pid().context("the agent's process")?;
            if !judged && start + 1 == extent.starts {
                let changes = cluster.changes(&extent)?;
                let row =
                    |what: &str, value| Figure::new(format!("{}/{what}", name("change", services)), "ms", value, 0.0);
                add(row("p50", changes.median()));
                add(row("p99", changes.quantile(0.99)).at_most(CHANGE_P99_MAX_MS));
                add(row("max", changes.max()));
                let idle = idle_percent(pid, extent.idle)?;
                add(Figure::new(name("idle", services), "%", idle, 0.0).at_most(IDLE_MAX_PERCENT));
                let truth_check = truth_check_percent(&agent)?;
                add(Figure::new(name("truth-check", services), "%", truth_check, 0.0).at_most(TRUTH_CHECK_MAX_PERCENT));
            }
            resident_mib.push(resident_max_mib(pid)?);
            agent.stop()?;
        }
        let ready_s = Samples::from_iter(ready_s);
        add(Figure::new(name("cold-start", services), "s", ready_s.median(), ready_s.noise()).at_most(cold_max_s));
        let resident = Figure::new(
            name("resident", services),
            "MiB",
            Samples::from_iter(resident_mib).max(),
            0.0,
        );
        add(if judged {
            resident.at_most(RESIDENT_MAX_MIB)
        } else {
            resident
        });
        cluster.lab.remove()?;
    }
    Ok(figures)
}

struct Cluster {
    server: ApiServer,
    lab: Lab,
    population: Population,
}

impl Cluster {
    fn with(services: u32) -> Result<Self> {
        let population = Population {
            services,
            families: &[Family::V4],
            protocols: &[Protocol::Tcp],
            features: Features::None,
        };
        let lab = Lab::one_node().backends(1).build()?;
        let listener = lab
            .node()
            .run(|| TcpListener::bind("127.0.0.1:0"))
            .context("binding in the node's namespace")?;
        let server = ApiServer::start_on(listener)?;
        for number in 0..services {
            server.put([service(number), slice(number, ENDPOINTS)])?;
        }
        Ok(Self {
            server,
            lab,
            population,
        })
    }

    fn agent(&self) -> Result<Agent> {
        let options = AgentOptions {
            api_server: Some(self.server.url()),
            ready_within: Duration::from_secs(120),
            ..AgentOptions::default()
        };
        Agent::start(&self.lab, &options)
    }

    /// Milliseconds of single changes: each Service loses its last endpoint, then gets it back.
    fn changes(&self, extent: &Extent) -> Result<Samples> {
        let tables = Tables::open(&self.lab)?;
        let begin = Instant::now();
        let mut samples = Vec::new();
        for change in 0..extent.changes {
            let number = (u64::from(change / 2) * 7_919 % u64::from(self.population.services)) as u32;
            let endpoints = if change % 2 == 0 { ENDPOINTS - 1 } else { ENDPOINTS };
            let object = slice(number, endpoints);
            thread::sleep((begin + CHANGE_EVERY * change).saturating_duration_since(Instant::now()));
            samples.push(tables.until_changed(number, LOOK_EVERY, || self.server.put([object]))?);
        }
        Ok(Samples::from_iter(samples))
    }
}

/// A Service as a server has it.
fn service(number: u32) -> Value {
    let address = cluster_ip(Family::V4, number);
    json!({
        "kind": "Service",
        "metadata": {
            "name": format!("service-{number}"), "namespace": "bench",
            "labels": {"app.kubernetes.io/name": format!("service-{number}"), "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": format!("service-{number}"), "meta.helm.sh/release-namespace": "bench"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": format!("service-{number}")},
            "ports": [{"name": "TCP", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// Its slice as a server has it, with so many endpoints.
fn slice(number: u32, endpoints: u32) -> Value {
    let endpoints = (0..endpoints).map(|place| {
        json!({
            "addresses": [endpoint(Family::V4, number, place)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": NODE, "zone": "zone-a",
            "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("service-{number}-7d4b9c6f5-x{place}"),
                "uid": "00000000-0000-4000-8000-000000000000"},
        })
    });
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{number}-abcde"), "generateName": format!("service-{number}-"), "namespace": "bench",
            "labels": {"kubernetes.io/service-name": format!("service-{number}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": format!("service-{number}"),
                "uid": "00000000-0000-4000-8000-000000000000", "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": "IPv4",
        "ports": [{"name": "TCP", "protocol": "TCP", "port": TARGET_PORT}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// Processor time that a process takes while nothing happens, as percents of one core.
fn idle_percent(pid: u32, time: Duration) -> Result<f64> {
    thread::sleep(SETTLED_AFTER);
    let (before, began) = (cpu_s(pid)?, Instant::now());
    thread::sleep(time);
    Ok((cpu_s(pid)? - before) / began.elapsed().as_secs_f64() * 100.0)
}

/// What part of the idle time's is the truth check's, as it says itself of its last pass.
fn truth_check_percent(agent: &Agent) -> Result<f64> {
    let deadline = Instant::now() + PASS_WITHIN;
    loop {
        let truth: Truth = serde_json::from_value(agent.state()?["truth"].take())?;
        if let Some(percent) = truth.percent() {
            return Ok(percent);
        }
        if Instant::now() > deadline {
            bail!("`sluice status` tells of no pass of the truth check within {PASS_WITHIN:?}");
        }
        thread::sleep(SETTLED_AFTER / 10);
    }
}

/// Processor time of a process and all its threads, by the scheduler's own account.
fn cpu_s(pid: u32) -> Result<f64> {
    let mut sum_ns = 0;
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let on_cpu = text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse::<u64>().ok());
        sum_ns += on_cpu.with_context(|| format!("{}: {text}", path.display()))?;
    }
    Ok(sum_ns as f64 / 1e9)
}
