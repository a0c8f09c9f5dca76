//! One lab: a client pod, a node, and a pod that answers for all endpoints; with what balances between them. Client and server share one
//! CPU, so that a connection costs what its work costs.

use std::{
    fmt, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_linger, set_socket_timeout},
};

use super::peer::PeerRules;
use crate::{
    bench::shuffle,
    lab::{Agent, AgentOptions, Host, Lab, SocketMode},
    packet::kernel::stay_on_one_cpu,
    traffic::manifests::{Endpoint, ManifestFolder, Service},
};

/// Where endpoints are: five of each Service, one after the other.
const ENDPOINTS: &str = "10.128.0.0/14";
const ENDPOINTS_BASE: u32 = 0x0a80_0000;
const ENDPOINTS_OF_SERVICE: u32 = 5;
const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(5);
/// How many of the Services are dialled, chosen from all: each endpoint of theirs has had a connection before rounds are measured. A first
/// one makes the endpoint's counters, once.
const DIALLED_MAX: usize = 200;
/// Services of one file.
const SERVICES_OF_FILE: usize = 500;

/// What balances.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Nothing: endpoints are dialled.
    Direct,
    /// Nothing, beside the tc tier, which looks at every packet.
    Beside,
    /// The socket tier.
    Socket,
    /// The tc tier.
    Tc,
    /// The rules of another balancer.
    Peer,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Beside => "beside-tc",
            Self::Socket => "socket",
            Self::Tc => "tc",
            Self::Peer => "peer",
        })
    }
}

/// What a client is to do.
enum Order {
    /// Connections to time.
    Measure(u32),
    /// Sockets to connect and close, as fast as that goes.
    Churn(u32),
}

/// A running lab.
pub(super) struct Rig {
    orders: Sender<Order>,
    answers: Receiver<Result<Vec<Duration>>>,
    client: JoinHandle<()>,
    agent: Option<Agent>,
    lab: Lab,
    way: Way,
}

impl Rig {
    /// Builds it and waits until it serves.
    pub(super) fn start(way: Way, cluster_ips: &[Ipv4Addr], rules: Option<&PeerRules>) -> Result<Self> {
        let lab = Lab::one_node().backends(2).build()?;
        let (client, server) = (lab.backend(1), lab.backend(2));
        run(server, &["route", "add", "local", ENDPOINTS, "dev", "lo"])?;
        run(
            lab.node(),
            &[
                "route",
                "add",
                ENDPOINTS,
                "via",
                &server.v4.to_string(),
                "dev",
                "pod2",
                "onlink",
            ],
        )?;
        serve(server)?;
        let agent = match way {
            Way::Direct => None,
            Way::Beside | Way::Socket | Way::Tc => Some(start_agent(&lab, way, cluster_ips)?),
            Way::Peer => {
                rules.context("rules of another balancer")?.load(lab.node())?;
                // A favour: connections that are over go at once, so that its table never fills.
                for what in ["close", "time_wait"] {
                    let setting = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{what}");
                    let written = lab.node().run(|| fs::write(&setting, "1"));
                    written.with_context(|| format!("write {setting}"))?;
                }
                None
            }
        };
        let mut dialled: Vec<(u32, Ipv4Addr)> = (0..).zip(cluster_ips.iter().copied()).collect();
        shuffle(&mut dialled);
        dialled.truncate(DIALLED_MAX);
        let mut targets: Vec<SocketAddr> = match way {
            Way::Direct | Way::Beside => dialled
                .iter()
                .flat_map(|(service, _)| (0..ENDPOINTS_OF_SERVICE).map(move |one| service * ENDPOINTS_OF_SERVICE + one))
                .map(|number| SocketAddr::new(Ipv4Addr::from(ENDPOINTS_BASE + number).into(), TARGET_PORT))
                .collect(),
            _ => dialled
                .iter()
                .map(|(_, ip)| SocketAddr::new((*ip).into(), PORT))
                .collect(),
        };
        shuffle(&mut targets);
        let (orders, queue) = channel();
        let (answer, answers) = channel();
        let client = client.spawn("bench-client", move || work(&targets, &queue, &answer))?;
        Ok(Self {
            orders,
            answers,
            client,
            agent,
            lab,
            way,
        })
    }

    fn order(&mut self, order: Order) -> Result<Vec<Duration>> {
        self.orders.send(order).map_err(|_| anyhow!("the client has ended"))?;
        self.answers
            .recv()
            .context("the client has ended")?
            .with_context(|| format!("by {}", self.way))
    }

    /// How long each of so many connections took.
    pub(super) fn round(&mut self, connections: u32) -> Result<Vec<Duration>> {
        self.order(Order::Measure(connections))
    }

    /// How much memory the kernel has more after so many sockets came and went, in MiB: what it can't give back.
    pub(super) fn memory_after(&mut self, sockets: u32) -> Result<f64> {
        self.order(Order::Churn(10_000))?;
        thread::sleep(Duration::from_secs(1));
        let before = unreclaimable_mib()?;
        self.order(Order::Churn(sockets))?;
        thread::sleep(Duration::from_secs(1));
        Ok(unreclaimable_mib()? - before)
    }

    /// Ends it, after a look at what the agent has counted.
    pub(super) fn end(self) -> Result<()> {
        drop(self.orders);
        self.client.join().map_err(|_| anyhow!("the client has panicked"))?;
        if let Some(agent) = self.agent {
            let text = agent.cli(["status", "-o", "json"])?;
            let status: serde_json::Value = serde_json::from_str(&text)?;
            let counters = status["counters"].as_array().context("counters")?;
            let of = |name: &str| -> u64 {
                let found = counters.iter().find(|counter| counter["name"] == name);
                found.and_then(|counter| counter["value"].as_u64()).unwrap_or(0)
            };
            let (sockets, flows) = (of("socket_connects"), of("flows_created"));
            match self.way {
                Way::Socket => ensure!(
                    sockets > 0 && flows == 0,
                    "connections were not translated by their sockets: {flows} flows"
                ),
                Way::Beside => ensure!(sockets == 0 && flows == 0, "connections were translated: {flows} flows"),
                _ => ensure!(
                    sockets == 0 && flows > 0,
                    "connections were not translated by tc: {sockets} by sockets"
                ),
            }
        }
        self.lab.remove()
    }
}

fn run(host: &Host, words: &[&str]) -> Result<()> {
    let output = host.command("ip").args(words).output().context("run ip")?;
    if !output.status.success() {
        bail!(
            "ip {words:?} in {}: {}",
            host.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn start_agent(lab: &Lab, way: Way, cluster_ips: &[Ipv4Addr]) -> Result<Agent> {
    let manifests = ManifestFolder::of(lab)?;
    for (number, chunk) in cluster_ips.chunks(SERVICES_OF_FILE).enumerate() {
        let services = chunk.iter().enumerate().map(|(index, ip)| {
            let service = (number * SERVICES_OF_FILE + index) as u32;
            let mut sketch = Service::new(&format!("svc-{service}"), [(*ip).into()]).port("TCP", PORT, TARGET_PORT);
            for endpoint in 0..ENDPOINTS_OF_SERVICE {
                let address = Ipv4Addr::from(ENDPOINTS_BASE + service * ENDPOINTS_OF_SERVICE + endpoint);
                sketch.endpoints.push(Endpoint {
                    address: address.into(),
                    node: Some(lab.node().name.clone()),
                    ready: true,
                    serving: true,
                    terminating: false,
                });
            }
            sketch.to_yaml()
        });
        let text: Vec<String> = services.collect();
        manifests.write(&format!("services-{number}.yaml"), &text.join("---\n"))?;
    }
    let options = AgentOptions {
        sockets: if way == Way::Socket {
            SocketMode::OfLab
        } else {
            SocketMode::Off
        },
        // As a node is set up: pods are known, and keep their addresses.
        extra: ["--cluster-cidr", "10.244.0.0/16"].map(str::to_owned).into(),
        ready_within: Duration::from_secs(60),
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(lab, &options)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// Answers one octet with one, for whatever address it is asked.
fn serve(server: &Host) -> Result<()> {
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORT)))?;
    server.spawn("bench-server", move || {
        if stay_on_one_cpu().is_err() {
            return;
        }
        // Until the bench ends: a client that has gone is no reason to.
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut octet = [0];
            if stream.read(&mut octet).is_ok_and(|count| count == 1) {
                let _gone = stream.write_all(&octet);
            }
        }
    })?;
    Ok(())
}

fn work(targets: &[SocketAddr], queue: &Receiver<Order>, answer: &Sender<Result<Vec<Duration>>>) {
    let mut next = targets.iter().cycle();
    let is_placed = stay_on_one_cpu();
    while let Ok(order) = queue.recv() {
        let mut run = || -> Result<Vec<Duration>> {
            if let Err(error) = &is_placed {
                bail!("{error:#}");
            }
            let mut latencies = Vec::new();
            let (count, is_timed) = match order {
                Order::Measure(count) => (count, true),
                Order::Churn(count) => (count, false),
            };
            for _ in 0..count {
                let target = *next.next().context("targets")?;
                let begun = Instant::now();
                one(target, is_timed).with_context(|| format!("a connection to {target}"))?;
                if is_timed {
                    latencies.push(begun.elapsed());
                }
            }
            Ok(latencies)
        };
        if answer.send(run()).is_err() {
            return;
        }
    }
}

/// One connection. It ends by a reset, so that ports don't wait.
fn one(target: SocketAddr, asks: bool) -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &target)?;
    if asks {
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

/// Kernel memory that nothing can claim back.
fn unreclaimable_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.context("SUnreclaim in /proc/meminfo")? / 1024.0)
}
