//! The node, its servers and clients, and how actions are done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::HashMap;
use lb_common::layout::{FrontendKey, Ip4, Port, Proto, names};
use serde_json::Value;

use super::action::{Action, End};
use super::verdict::{Load, Verdict};
use crate::api_server::{ApiServer, Resource};
use crate::lab::{Agent, AgentOptions, Host, Lab, SocketMode, XdpMode};
use crate::traffic::manifests::Service;
use crate::traffic::{Entry, HttpLoad, HttpPlan, LongLived, LongLivedPlan, Phase, Serve, Server, UdpPlan, UdpSessions};

/// Endpoints of the Service; the pod behind them is a client.
const ENDPOINTS: u8 = 4;
/// How long a change may take to be in the tables.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// From a damage to its repair.
const REPAIR_MAX: Duration = Duration::from_secs(12);
/// Clients outlive the actions by so much.
const MARGIN: Duration = Duration::from_secs(120);
/// Long enough for a lost packet to be sent again: what is lost is a connection, not a packet.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What listens on the pods, by protocol, with the port of the Service and the NodePort.
const PORTS: [(&str, u16, u16, u16); 3] = [
    ("TCP", 7, 7000, 30007),
    ("TCP", 80, 8080, 30080),
    ("UDP", 53, 5353, 30053),
];

/// What an endpoint is at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Endpoint {
    Ready,
    Terminating,
    Out,
}

/// Everything.
pub(super) struct Stage {
    // Dropped in this order.
    clients: Option<Clients>,
    agent: Agent,
    api: ApiServer,
    _servers: Vec<Server>,
    endpoints: BTreeMap<u8, Endpoint>,
    fillers: BTreeSet<u16>,
    /// By the name of a phase: who must not be met there.
    excluded: BTreeMap<String, BTreeSet<String>>,
    /// The phase under way, and the one before, of which connections may still be under way.
    phase: String,
    phase_before: String,
    lab: Lab,
}

/// Clients of one host.
struct Clients {
    outside: Client,
    pod: Client,
}

struct Client {
    http: HttpLoad,
    long_lived: LongLived,
    udp: UdpSessions,
}

fn cluster_ips() -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 96, 0, 80).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80).into(),
    ]
}

impl Client {
    fn start(
        lab: &Lab,
        host: &Host,
        (connections, per_second, sessions): (usize, u32, u16),
        length: Duration,
    ) -> Result<Self> {
        let targets = |port, node_port| lab.frontends(cluster_ips(), port, node_port);
        let time_max = length + MARGIN;
        let plan = LongLivedPlan {
            connections,
            message: 4_000,
            every: Duration::from_millis(250),
            patience: Duration::from_secs(10),
            time_max,
            ..LongLivedPlan::to(targets(7, 30007), Entry::Raw)
        };
        let long_lived = LongLived::start(host, plan)?;
        long_lived
            .wait_open()
            .with_context(|| format!("opening connections from {}", host.name))?;
        let plan = UdpPlan {
            sessions,
            time_max,
            ..UdpPlan::to(targets(53, 30053))
        };
        let udp = UdpSessions::start(host, plan)?;
        let plan = HttpPlan {
            per_second,
            connect_within: CONNECT_WITHIN,
            answer_within: CONNECT_WITHIN * 2,
            connections_max: u64::MAX,
            time_max,
            ..HttpPlan::to(targets(80, 30080))
        };
        let http = HttpLoad::start(host, plan, Phase::served("at rest"))?;
        Ok(Self { http, long_lived, udp })
    }

    fn finish(self) -> Load {
        Load {
            phases: self.http.finish(),
            long_lived: self.long_lived.finish(),
            udp: self.udp.finish(),
        }
    }
}

impl Stage {
    /// Builds the lab, and starts all that is in it.
    pub(super) fn set(length: Duration) -> Result<Self> {
        let lab = Lab::one_node()
            .backends(ENDPOINTS + 1)
            .complete_checksums()
            .build()
            .context("building the lab: this needs root")?;
        let servers = Server::start_on(lab.backends(), &Serve::default())?;
        let listener = lab.node().run(|| TcpListener::bind("127.0.0.1:0"))?;
        let api = ApiServer::start_on(listener)?;
        let nodes = lab.nodes().iter().map(crate::traffic::manifests::node);
        api.put(nodes)?;
        let endpoints: BTreeMap<u8, Endpoint> = (1..=ENDPOINTS).map(|number| (number, Endpoint::Ready)).collect();
        api.put(web(&lab, &endpoints).objects())?;
        let options = AgentOptions {
            xdp: XdpMode::Native,
            sockets: SocketMode::OfLab,
            api_server: Some(api.url()),
            ready_within: Duration::from_secs(40),
            ..AgentOptions::default()
        };
        let mut agent = Agent::start(&lab, &options)?;
        agent.wait_ready().context("waiting for the agent")?;
        let clients = Clients {
            outside: Client::start(&lab, lab.client(), (400, 200, 32), length)?,
            pod: Client::start(&lab, lab.backend(ENDPOINTS + 1), (100, 100, 16), length)?,
        };
        Ok(Self {
            clients: Some(clients),
            agent,
            api,
            _servers: servers,
            endpoints,
            fillers: BTreeSet::new(),
            excluded: BTreeMap::new(),
            phase: String::new(),
            phase_before: String::new(),
            lab,
        })
    }

    /// Does something, and begins a phase of the books with it.
    pub(super) fn act(&mut self, number: u32, action: &Action) -> Result<()> {
        self.begin(&format!("{number}: {action}"));
        match action {
            Action::Restart { how, after_ms } => {
                match how {
                    End::Killed => self.agent.kill9()?,
                    End::Asked => self.agent.stop()?,
                }
                std::thread::sleep(Duration::from_millis(*after_ms));
                self.come_back()
            }
            Action::KillAtStart { after_ms } => {
                self.agent.kill9()?;
                self.agent.restart()?;
                std::thread::sleep(Duration::from_millis(*after_ms));
                self.agent.kill9()?;
                self.come_back()
            }
            Action::Scale { backend } => {
                let to = if self.endpoints[backend] == Endpoint::Out {
                    Endpoint::Ready
                } else {
                    Endpoint::Out
                };
                self.change(number, *backend, to)
            }
            Action::Terminate { backend } => {
                let to = match self.endpoints[backend] {
                    Endpoint::Terminating => Endpoint::Ready,
                    Endpoint::Ready | Endpoint::Out => Endpoint::Terminating,
                };
                self.change(number, *backend, to)
            }
            Action::Repeat => {
                let fillers = self.fillers.iter().flat_map(|number| filler(*number).objects());
                self.api
                    .put(web(&self.lab, &self.endpoints).objects().into_iter().chain(fillers))
            }
            Action::Cut => {
                self.api.cut();
                Ok(())
            }
            Action::Relist => {
                self.api.compact();
                self.api.cut();
                Ok(())
            }
            Action::Away { ms } => {
                self.api.go_away()?;
                std::thread::sleep(Duration::from_millis(*ms));
                self.lab.node().run(|| self.api.come_back())
            }
            Action::Fillers { count } => self.fill(*count as u16),
            Action::Flap => {
                for words in [
                    "link add flap type veth peer name flap-peer",
                    "link set flap up",
                    "link del flap",
                ] {
                    ip(self.lab.node(), words)?;
                }
                Ok(())
            }
            Action::Damage => self.damage(),
        }
    }

    /// The next connections are of another phase; whoever is out must not be met in it.
    fn begin(&mut self, name: &str) {
        let out = self.endpoints.iter().filter(|(_, state)| **state != Endpoint::Ready);
        let out = out.map(|(number, _)| format!("backend-{number}")).collect();
        self.excluded.insert(name.to_owned(), out);
        self.phase_before = std::mem::replace(&mut self.phase, name.to_owned());
        if let Some(clients) = &self.clients {
            for client in [&clients.outside, &clients.pod] {
                client.http.begin(Phase::served(name));
            }
        }
    }

    fn come_back(&mut self) -> Result<()> {
        self.agent.restart()?;
        self.agent.wait_ready().context("waiting for the agent to come back")?;
        Ok(())
    }

    /// Writes what an endpoint is from now on, and waits until the tables say so.
    fn change(&mut self, number: u32, backend: u8, to: Endpoint) -> Result<()> {
        // Whoever comes is met at once, and who goes until it is in the tables.
        let before = self.endpoints.insert(backend, to);
        let result = self.api.put(web(&self.lab, &self.endpoints).objects());
        if to == Endpoint::Ready {
            let name = format!("backend-{backend}");
            for phase in [&self.phase_before, &self.phase] {
                if let Some(out) = self.excluded.get_mut(phase) {
                    out.remove(&name);
                }
            }
        }
        if before == Some(to) {
            return result;
        }
        self.wait_for_endpoints()?;
        self.begin(&format!("{number}: and is in the tables"));
        result
    }

    /// Waits until the Service has in the tables as many endpoints that take new connections as it should.
    fn wait_for_endpoints(&self) -> Result<()> {
        let ready: BTreeSet<String> = self
            .endpoints
            .iter()
            .filter(|(_, state)| **state == Endpoint::Ready)
            .flat_map(|(number, _)| self.lab.backend(*number).addresses())
            .map(|address| address.to_string())
            .collect();
        let start = Instant::now();
        loop {
            let found = self
                .agent
                .cli_json(["get", "frontends", "-o", "json"])
                .unwrap_or_default();
            if serving(&found).as_ref() == Some(&ready) {
                return Ok(());
            }
            ensure!(
                start.elapsed() < CHANGE_MAX,
                "after {CHANGE_MAX:?} the endpoints in the tables are {:?} and should be {ready:?}",
                serving(&found)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn fill(&mut self, count: u16) -> Result<()> {
        for number in 0..200 {
            let wanted = number < count;
            if wanted && self.fillers.insert(number) {
                self.api.put(filler(number).objects())?;
            } else if !wanted && self.fillers.remove(&number) {
                let name = filler(number).name;
                self.api.delete(Resource::Services, "default", &name)?;
                self.api
                    .delete(Resource::EndpointSlices, "default", &format!("{name}-ipv4"))?;
            }
        }
        Ok(())
    }

    fn damage(&mut self) -> Result<()> {
        let Some(number) = self.fillers.first() else {
            return Ok(());
        };
        let table = self.lab.table(names::LB4_FRONTENDS)?;
        let mut table: HashMap<_, FrontendKey<Ip4>, u32> = table.try_into()?;
        // It may not have got there yet.
        let _ = table.remove(&filler_key(*number));
        Ok(())
    }

    /// Everything that was done is in the tables, what was damaged is repaired, and the agent has nothing to complain about.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.wait_for_endpoints()?;
        let start = Instant::now();
        loop {
            let table = self.lab.table(names::LB4_FRONTENDS)?;
            let table: HashMap<_, FrontendKey<Ip4>, u32> = table.try_into()?;
            let missing = self
                .fillers
                .iter()
                .filter(|number| table.get(&filler_key(**number), 0).is_err())
                .count();
            let xdp = self.agent.state()?["devices"]
                .to_string()
                .contains("\"xdp\":\"native\"");
            let healthy = self.agent.cli(["status"]);
            if missing == 0 && xdp && healthy.is_ok() {
                return Ok(());
            }
            if start.elapsed() > REPAIR_MAX {
                bail!("after {REPAIR_MAX:?} {missing} frontends are missing, XDP is there: {xdp}, status: {healthy:?}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the clients, and says what became of them.
    pub(super) fn finish(mut self, seed: u64, actions: u32) -> Result<Verdict> {
        let clients = self.clients.take().context("clients that were started")?;
        Ok(Verdict {
            seed,
            actions,
            excluded: std::mem::take(&mut self.excluded),
            outside: clients.outside.finish(),
            pod: clients.pod.finish(),
        })
    }
}

/// The Service that everybody asks for.
fn web(lab: &Lab, endpoints: &BTreeMap<u8, Endpoint>) -> Service {
    let is_in = |number: &u8| endpoints[number] != Endpoint::Out;
    let mut service =
        Service::new("web", cluster_ips()).backends((1..=ENDPOINTS).filter(is_in).map(|number| lab.backend(number)));
    for (protocol, port, target, node_port) in PORTS {
        service = service.port(protocol, port, target).node_port(node_port);
    }
    for endpoint in &mut service.endpoints {
        let number = (1..=ENDPOINTS).find(|number| lab.backend(*number).addresses().contains(&endpoint.address));
        let ends = number.is_some_and(|number| endpoints[&number] == Endpoint::Terminating);
        (endpoint.ready, endpoint.terminating) = (!ends, ends);
    }
    service.with_spec(serde_json::json!({"type": "NodePort"}))
}

fn filler_address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 97, high, low)
}

fn filler_key(number: u16) -> FrontendKey<Ip4> {
    FrontendKey::new(filler_address(number).into(), Port::new(80), Proto::TCP)
}

/// A Service that nobody asks for.
fn filler(number: u16) -> Service {
    let endpoint = crate::traffic::manifests::Endpoint::local(Ipv4Addr::new(10, 244, 1, 99));
    let service = Service::new(&format!("filler-{number}"), [filler_address(number).into()]);
    Service {
        endpoints: vec![endpoint],
        ..service.port("TCP", 80, 8080)
    }
}

/// Addresses of the endpoints that take new connections to the Service, as `sluice get frontends -o json` says.
fn serving(frontends: &Value) -> Option<BTreeSet<String>> {
    let all = frontends.as_array()?;
    let of_web = all
        .iter()
        .filter(|frontend| frontend["service"].as_str().is_some_and(|name| name.contains("/web")));
    let backends = of_web.flat_map(|frontend| frontend["backends"].as_array().cloned().unwrap_or_default());
    Some(
        backends
            .filter_map(|backend| backend.as_str()?.parse::<SocketAddr>().ok())
            .map(|backend| backend.ip().to_string())
            .collect(),
    )
}

fn ip(host: &Host, words: &str) -> Result<()> {
    let output = host
        .command("ip")
        .args(words.split(' '))
        .output()
        .context("starting ip")?;
    ensure!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
