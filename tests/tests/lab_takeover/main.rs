//! From kube-proxy to Sluice and back, under load: connections that are open, new ones, and UDP sessions, by ClusterIP and NodePort, in both
//! families. Nothing is lost either way, and what began with one ends with it.
//!
//! kube-proxy itself is not here: its rules are, as it writes them (`kube_proxy`).

mod ipvs;
mod kube_proxy;
mod leftovers;
mod services;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kube_proxy::{Mode, Variant, feed, ruleset, write};
use rstest::rstest;
use tests::lab::{Agent, AgentOptions, Host, Lab, XdpMode, plan};
use tests::traffic::manifests::{ManifestFolder, Service};
use tests::traffic::{Entry, HttpLoad, HttpPlan, LongLived, LongLivedPlan, Phase, Serve, Server, UdpPlan, UdpSessions};

/// How long each part of the story is watched.
const WHILE: Duration = Duration::from_millis(1_500);
/// Long enough for an emulated machine.
const READY_WITHIN: Duration = Duration::from_secs(150);
/// Less than a second, after which TCP sends again: a lost packet is a lost connection.
const NO_SECOND_TRY: Duration = Duration::from_millis(900);
/// One every millisecond.
const PER_SECOND: u32 = 1_000;
const LONG_LIVED: usize = 1_000;
const SESSIONS: u16 = 64;
/// Failures of UDP sessions that are told.
const FAILURES_SHOWN: usize = 5;
/// Until the agent has looked at conntrack twice, and found nothing that goes on.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);

/// What listens on the pods, by protocol, with the port of the Service and the NodePort.
const PORTS: [(&str, u16, u16, u16); 3] = [
    ("TCP", 7, 7000, 30007),
    ("TCP", 80, 8080, 30080),
    ("UDP", 53, 5353, 30053),
];

fn cluster_ips() -> [IpAddr; 2] {
    ["10.96.0.80", "fd00:10:96::80"].map(|text| text.parse().expect("an address"))
}

/// All frontends of the port: ClusterIPs and the node's addresses.
fn frontends(lab: &Lab, port: u16, node_port: u16) -> Vec<SocketAddr> {
    lab.frontends(cluster_ips(), port, node_port)
}

/// A lab in which kube-proxy's rules serve.
struct Scene {
    agent: Option<Agent>,
    _servers: Vec<Server>,
    manifests: ManifestFolder,
    services: Vec<Service>,
    lab: Lab,
}

impl Scene {
    /// With servers, and no Services.
    fn empty() -> Self {
        let lab = Lab::one_node()
            .complete_checksums()
            .build()
            .expect("the lab can be built: this needs root");
        let servers = Server::start_on(lab.backends(), &Serve::default()).expect("the servers start");
        let manifests = ManifestFolder::of(&lab).expect("a folder");
        Self {
            agent: None,
            _servers: servers,
            manifests,
            services: Vec::new(),
            lab,
        }
    }

    /// With a Service, and kube-proxy's rules for it.
    fn new(mode: Mode) -> Self {
        let mut scene = Self::empty();
        scene.add_service();
        write(scene.lab.node(), mode, &scene.services);
        scene
    }

    fn add_service(&mut self) {
        let mut service = Service::new("web", cluster_ips()).backends(self.lab.backends());
        for (protocol, port, target, node_port) in PORTS {
            service = service.port(protocol, port, target).node_port(node_port);
        }
        let service = service.with_spec(serde_json::json!({"type": "NodePort"}));
        self.manifests.apply(&service).expect("it can be written to");
        self.services.push(service);
    }

    /// Starts an agent with more words on its command line, and waits until it is ready.
    fn start(&mut self, xdp: XdpMode, words: &[&str]) {
        let pods = [plan::ALL_PODS_V4, plan::ALL_PODS_V6].join(",");
        let mut extra = vec!["--cluster-cidr".to_owned(), pods];
        extra.extend(words.iter().map(|word| (*word).to_owned()));
        let options = AgentOptions {
            xdp,
            extra,
            ready_within: READY_WITHIN,
            ..AgentOptions::default()
        };
        let mut agent = Agent::start(&self.lab, &options).expect("it can be started");
        agent.wait_ready().expect("it gets ready");
        self.agent = Some(agent);
    }

    fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("it was started")
    }

    fn status(&self) -> serde_json::Value {
        let agent = self.agent.as_ref().expect("it was started");
        agent.cli_json(["status", "-o", "json"]).expect("there is a status")
    }

    fn count(&self, name: &str) -> u64 {
        let status = self.status();
        let counters = status["counters"].as_array().expect("counters");
        let counter = counters
            .iter()
            .find(|counter| counter["name"] == name)
            .expect("it is counted");
        counter["value"].as_u64().expect("a number")
    }
}

/// Clients of every kind.
struct Load {
    http: HttpLoad,
    long_lived: LongLived,
    udp: Option<UdpSessions>,
}

impl Load {
    fn start(lab: &Lab) -> Self {
        let udp = UdpPlan {
            sessions: SESSIONS,
            answer_within: NO_SECOND_TRY,
            ..UdpPlan::to(frontends(lab, 53, 30053))
        };
        let long_lived = LongLivedPlan::to(frontends(lab, 7, 30007), Entry::Raw);
        Self::of(lab, long_lived, Some(udp), HttpPlan::to(frontends(lab, 80, 30080)))
    }

    fn of(lab: &Lab, long_lived: LongLivedPlan, udp: Option<UdpPlan>, http: HttpPlan) -> Self {
        let client = lab.client();
        let plan = LongLivedPlan {
            connections: LONG_LIVED,
            every: Duration::from_millis(500),
            message: 200,
            ..long_lived
        };
        let long_lived = LongLived::start(client, plan).expect("threads can be started");
        long_lived.wait_open().expect("the Service is served");
        let udp = udp.map(|plan| UdpSessions::start(client, plan).expect("threads can be started"));
        let plan = HttpPlan {
            per_second: PER_SECOND,
            connect_within: NO_SECOND_TRY,
            ..http
        };
        let http = HttpLoad::start(client, plan, Phase::served("kube-proxy alone")).expect("threads can be started");
        std::thread::sleep(WHILE);
        Self { http, long_lived, udp }
    }

    fn begin(&self, phase: &str) {
        self.http.begin(Phase::served(phase));
    }

    fn expect_no_loss(self) {
        let (phases, long_lived) = (self.http.finish(), self.long_lived.finish());
        let udp = self.udp.map(UdpSessions::finish).unwrap_or_default();
        let mut wrong = Vec::new();
        for report in &phases {
            let name = &report.phase.name;
            println!(
                "{name}: {} new connections answered, {} lost",
                report.answered, report.lost
            );
            if report.lost > 0 {
                wrong.push(format!("{name}: {} lost: {:?}", report.lost, report.failures));
            }
            let due = report.length.as_secs_f64() * f64::from(PER_SECOND);
            if (report.answered as f64) < due * 0.3 {
                wrong.push(format!("{name}: only {} connections", report.answered));
            }
        }
        println!(
            "{} open connections, {} bytes, longest pause {:?}; {} of {} questions answered",
            long_lived.open, long_lived.bytes, long_lived.longest_pause, udp.answered, udp.asked
        );
        if (long_lived.open, long_lived.lost) != (LONG_LIVED, 0) {
            wrong.push(format!(
                "{} open connections were lost: {:?}",
                long_lived.lost, long_lived.failures
            ));
        }
        if udp.answered != udp.asked || !udp.moves.is_empty() {
            wrong.push(format!(
                "of {} questions {} were answered: {:?}; moves: {:?}",
                udp.asked,
                udp.answered,
                udp.failures.iter().take(FAILURES_SHOWN).collect::<Vec<_>>(),
                udp.moves
            ));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[rstest]
#[case::nftables(Mode::Nftables, XdpMode::Off)]
#[case::nftables_with_xdp(Mode::Nftables, XdpMode::Native)]
#[case::iptables(Mode::Iptables(Variant::NfTables), XdpMode::Off)]
#[case::legacy_iptables(Mode::Iptables(Variant::Legacy), XdpMode::Off)]
fn there_and_back_without_a_lost_connection(#[case] mode: Mode, #[case] xdp: XdpMode) {
    let mut scene = Scene::new(mode);
    let load = Load::start(&scene.lab);
    let services = scene.services.clone();
    there_and_back(
        &mut scene,
        xdp,
        load,
        |node| write(node, mode, &services),
        |left| {
            if let Mode::Iptables(variant) = mode {
                let jump = if variant == Variant::Legacy { "-j" } else { "jump" };
                for others in [
                    "KUBE-FIREWALL",
                    "KUBE-KUBELET-CANARY",
                    "KUBE-IPTABLES-HINT",
                    &format!("{jump} CNI-FORWARD"),
                    &format!("{jump} KUBE-ROUTER-FORWARD"),
                ] {
                    assert!(left.contains(others), "{others} is somebody else's:\n{left}");
                }
            }
        },
    );
}

/// The same with what a real kube-proxy has written, for a folder of `kube-proxy-nftables-N.nft.gz` with `objects-N.json.gz`: N Services, each
/// with 5 endpoints in 10.128.0.0/14, all of which one pod answers for.
#[rstest]
#[case::of_10_services(10)]
#[case::of_1000_services(1_000)]
fn there_and_back_with_the_rules_of_a_real_kube_proxy(#[case] services: usize) {
    let Some(folder) = std::env::var_os("SLUICE_PEERS").map(PathBuf::from) else {
        println!("SKIP there_and_back_with_the_rules_of_a_real_kube_proxy: SLUICE_PEERS names no folder of rule sets");
        return;
    };
    let unpack = |name: String| {
        let output = Command::new("gunzip")
            .arg("-c")
            .arg(folder.join(name))
            .output()
            .expect("gunzip runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let rules = unpack(format!("kube-proxy-nftables-{services}.nft.gz"));
    let objects = unpack(format!("objects-{services}.json.gz"));
    let mut scene = Scene::empty();
    let pod = scene.lab.backend(1).clone();
    let ip = |host: &Host, line: &str| {
        let status = host.command("ip").args(line.split(' ')).status().expect("ip runs");
        assert!(status.success(), "{}: ip {line}", host.name);
    };
    ip(&pod, "route add local 10.128.0.0/14 dev lo");
    ip(
        scene.lab.node(),
        &format!("route add 10.128.0.0/14 via {} dev pod1 onlink", pod.addresses()[0]),
    );
    std::fs::write(scene.lab.directory().join("manifests/objects.json"), &objects).expect("it can be written to");
    feed(scene.lab.node(), "nft", &["-f", "-"], &rules);
    let objects: serde_json::Value = serde_json::from_str(&objects).expect("a list");
    let cluster_ips = objects["items"].as_array().expect("items").iter();
    let cluster_ips = cluster_ips.filter_map(|item| item["spec"]["clusterIP"].as_str());
    let targets: Vec<SocketAddr> = cluster_ips
        .map(|ip| format!("{ip}:80").parse().expect("an address"))
        .collect();
    let long_lived = LongLivedPlan::to(targets.clone(), Entry::Http);
    let load = Load::of(&scene.lab, long_lived, None, HttpPlan::to(targets));
    there_and_back(
        &mut scene,
        XdpMode::Off,
        load,
        |node| feed(node, "nft", &["-f", "-"], &rules),
        |_| {},
    );
}

/// The story: in shadow, taken over, given back to rules that are written again, taken over again.
fn there_and_back(
    scene: &mut Scene,
    xdp: XdpMode,
    load: Load,
    write_again: impl Fn(&Host),
    check_what_stays: impl Fn(&str),
) {
    load.begin("in shadow");
    scene.start(xdp, &["--shadow"]);
    std::thread::sleep(WHILE);
    assert_eq!(scene.status()["deferral"], "shadow");
    assert_eq!(scene.count("flows_created"), 0, "nothing is translated");
    assert!(scene.count("flows_deferred") > 0, "what would be is counted");

    load.begin("taken over");
    let said = scene.agent().cli(["takeover"]).expect("it is taken over");
    println!("{said}");
    std::thread::sleep(WHILE);
    assert_eq!(scene.status()["deferral"], "no");
    assert!(scene.count("flows_created") > 0, "new ones are served");
    let left = ruleset(scene.lab.node());
    let is_kube_proxys =
        |line: &&str| line.contains("kube-proxy") || line.contains("KUBE-S") || line.contains("KUBE-NODEPORTS");
    assert_eq!(left.lines().find(is_kube_proxys), None, "{left}");
    check_what_stays(&left);

    load.begin("given back");
    let nothing_to_give_back_to = scene.agent().cli(["retire"]);
    assert!(nothing_to_give_back_to.is_err(), "{nothing_to_give_back_to:?}");
    write_again(scene.lab.node());
    let said = scene.agent().cli(["retire"]).expect("it is given back");
    println!("{said}");
    std::thread::sleep(WHILE / 4);
    let created = scene.count("flows_created");
    std::thread::sleep(WHILE);
    assert_eq!(scene.status()["deferral"], "retired");
    assert_eq!(scene.count("flows_created"), created, "new ones are netfilter's");

    load.begin("taken over again");
    let said = scene.agent().cli(["takeover"]).expect("it is taken over");
    println!("{said}");
    std::thread::sleep(WHILE);
    load.expect_no_loss();
}

/// Who just starts an agent on a node that kube-proxy serves cuts nobody off.
#[test]
fn an_agent_that_starts_beside_kube_proxy_takes_over_by_itself() {
    let mut scene = Scene::new(Mode::Nftables);
    // Of datagrams netfilter would remember for two minutes that there were any.
    let forget = || std::fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", "5");
    scene.lab.node().run(forget).expect("a setting of this namespace");
    let load = Load::start(&scene.lab);
    load.begin("with an agent");
    scene.start(XdpMode::Off, &[]);
    let start = Instant::now();
    while scene.status()["deferral"] != "no" {
        assert!(start.elapsed() < Duration::from_secs(5), "it doesn't take over");
        std::thread::sleep(Duration::from_millis(20));
    }
    load.begin("taken over");
    std::thread::sleep(WHILE);
    assert!(scene.count("flows_created") > 0, "new ones are served");

    load.begin("without kube-proxy's rules");
    scene.agent().cli(["takeover"]).expect("the rules go");
    assert!(
        ruleset(scene.lab.node()).contains("sluice-takeover"),
        "netfilter goes on translating"
    );
    scene.agent().restart().expect("it can be started again");
    scene.agent().wait_ready().expect("it gets ready");
    std::thread::sleep(WHILE);
    load.expect_no_loss();

    // When all have ended, nothing is kept any more.
    let start = Instant::now();
    while ruleset(scene.lab.node()).contains("sluice-takeover") {
        assert!(
            start.elapsed() < LET_GO_WITHIN,
            "what was kept for connections stays:\n{}",
            scene.status()["agent"]["netfilter"]
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A load balancer's address that kube-proxy's rules let everybody to, and Sluice nobody who is not in the Service's ranges.
#[test]
fn what_would_have_been_dropped_is_told_and_counted() {
    let mut scene = Scene::empty();
    let of = |number: u16, ranges: [&str; 2]| {
        let outside = [format!("192.0.2.{number}"), format!("2001:db8:192::{number}")];
        let cluster_ips = [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")];
        let [outside, cluster_ips] =
            [outside, cluster_ips].map(|both| both.map(|text| text.parse::<IpAddr>().expect("an address")));
        let service = Service::new(&format!("web{number}"), cluster_ips)
            .backends(scene.lab.backends())
            .port("TCP", 7, 7000);
        let by_netfilter = Service {
            cluster_ips: outside.to_vec(),
            ..service.clone()
        };
        let ingress = outside.map(|address| serde_json::json!({"ip": address}));
        let ours = Service {
            status: serde_json::json!({"loadBalancer": {"ingress": ingress}}),
            ..service.with_spec(serde_json::json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}))
        };
        (outside, by_netfilter, ours)
    };
    let closed = of(80, ["203.0.113.0/24", "2001:db8:203::/48"]);
    let open = of(81, ["0.0.0.0/0", "::/0"]);
    write(scene.lab.node(), Mode::Nftables, &[closed.1, open.1]);
    for ours in [closed.2, open.2] {
        scene.manifests.apply(&ours).expect("it can be written to");
    }
    scene.start(XdpMode::Off, &["--shadow"]);
    let targets = [closed.0, open.0].concat();
    let targets = targets.into_iter().map(|address| SocketAddr::new(address, 7));
    let plan = LongLivedPlan {
        connections: 40,
        every: Duration::from_millis(500),
        ..LongLivedPlan::to(targets, Entry::Raw)
    };
    let load = LongLived::start(scene.lab.client(), plan).expect("threads can be started");
    load.wait_open().expect("netfilter serves");
    let start = Instant::now();
    let netfilter = loop {
        let netfilter = scene.status()["agent"]["netfilter"].clone();
        let (compared, otherwise) = (&netfilter["compared_total"], &netfilter["otherwise_total"]);
        if otherwise.as_u64() > Some(0) && compared.as_u64() > otherwise.as_u64() {
            break netfilter;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{netfilter}");
        std::thread::sleep(Duration::from_millis(100));
    };
    // Both say what conntrack said when it was last read, which was a moment ago.
    let flows = netfilter["flows"].as_u64();
    assert!(flows > Some(0), "{netfilter}");
    assert_eq!(Some(metric(scene.lab.node(), "sluice_netfilter_connections")), flows);
    assert_eq!(load.finish().lost, 0, "nothing is dropped in shadow");
    let examples = netfilter["otherwise"].as_array().expect("a list");
    let is_right = |text: &str| {
        ["192.0.2.80:7", "[2001:db8:192::80]:7"]
            .iter()
            .any(|closed| text.contains(closed))
            && text.contains("would be dropped: its client is in none of the loadBalancerSourceRanges")
    };
    assert!(
        !examples.is_empty() && examples.iter().all(|example| example.as_str().is_some_and(is_right)),
        "{examples:#?}"
    );
}

/// A value without labels, as Prometheus is told it.
fn metric(node: &Host, name: &str) -> u64 {
    let text = node.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:10249").expect("the agent listens");
        let request = "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    });
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {text}"))
}

/// Where netfilter decides otherwise, the status says so: here kube-proxy's rules have an endpoint that the Service lacks.
#[test]
fn what_would_have_gone_another_way_is_told() {
    let mut scene = Scene::new(Mode::Nftables);
    let fewer = Service {
        endpoints: scene.services[0].endpoints[2..].to_vec(),
        ..scene.services[0].clone()
    };
    scene.manifests.apply(&fewer).expect("it can be written to");
    scene.start(XdpMode::Off, &["--shadow"]);
    let load = Load::start(&scene.lab);
    let start = Instant::now();
    let netfilter = loop {
        let netfilter = scene.status()["agent"]["netfilter"].clone();
        if netfilter["otherwise_total"].as_u64() > Some(0) {
            break netfilter;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{netfilter}");
        std::thread::sleep(Duration::from_millis(100));
    };
    drop(load);
    let examples = netfilter["otherwise"].as_array().expect("a list");
    let of_first = |text: &str| text.contains("went to 10.244.1.11:") || text.contains("went to [fd00:10:244:1::11]:");
    assert!(
        examples.iter().all(|example| example.as_str().is_some_and(of_first)),
        "{examples:?}"
    );
    let (compared, otherwise) = (&netfilter["compared_total"], &netfilter["otherwise_total"]);
    assert!(
        compared.as_u64() > otherwise.as_u64(),
        "the others go where they would have gone: {netfilter}"
    );
}
