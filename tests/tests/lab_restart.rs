//! The agent ends and comes back under load: killed, asked to, in the middle of its start, and with the next one waiting already. No
//! connection is lost or moved, the tables stay as they are, and of the manifests only what has changed meanwhile is brought into them.
//!
//! What a restart over full tables or with foreign pins does is in `lab_bad_input`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use lb_common::layout::{V4, V6};
use lb_userspace::kernel::Pins;
use rstest::rstest;
use tests::lab::{Agent, AgentOptions, Lab, Successor};
use tests::traffic::manifests::Service;
use tests::traffic::{
    Cluster, Entry, HttpLoad, HttpPlan, LongLived, LongLivedPlan, LongLivedReport, Phase, PhaseReport, UdpPlan,
    UdpReport, UdpSessions,
};

/// How long each part of a story is watched.
const WHILE: Duration = Duration::from_millis(800);
/// Less than a second, after which TCP sends again: a lost packet is a lost connection.
const NO_SECOND_TRY: Duration = Duration::from_millis(900);
/// New connections in a second.
const PER_SECOND: u32 = 300;
const LONG_LIVED: usize = 32;
/// The longest that a busy machine may hold up an open connection whose packets all arrive: TCP sends a lost one again after 200 ms.
const PAUSE_MAX: Duration = Duration::from_millis(190);
/// Their ClusterIPs end in 80 and the numbers that follow.
const SERVICES: [&str; 3] = ["web", "scaled", "removed"];
/// How long the agent may take to bring a changed file into the tables.
const CHANGE_MAX: Duration = Duration::from_secs(2);
/// What an agent says when its wait is over.
const BEGINS: &str = "the agent that served this node has ended";
/// How long nobody may bring changes into the tables when the next agent waits already: its start, on a busy machine.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// From one agent to the next, with the manifests unchanged.
#[rstest]
#[case::killed(Agent::kill9)]
#[case::asked_to(Agent::stop)]
fn row_123_the_datapath_goes_on_without_the_agent_and_the_next_one_writes_nothing(
    #[case] end: fn(&mut Agent) -> anyhow::Result<()>,
) {
    let mut cluster = start(&SERVICES);
    let before = everything(&cluster.lab);
    let load = Load::start(&cluster.lab);
    std::thread::sleep(WHILE);

    end(&mut cluster.agent).expect("the agent ends");
    load.begin("without an agent");
    std::thread::sleep(WHILE);
    assert_eq!(everything(&cluster.lab), before, "without an agent");

    load.begin("the next agent");
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    std::thread::sleep(WHILE);
    assert_eq!(everything(&cluster.lab), before, "with the next agent");
    load.expect_no_loss();
}

#[test]
fn it_may_be_killed_at_any_moment_of_its_start() {
    let mut cluster = start(&SERVICES);
    let before = everything(&cluster.lab);
    let load = Load::start(&cluster.lab);
    cluster.agent.kill9().expect("it runs");
    // It takes about 600 ms until it is ready.
    for wait in [0, 10, 50, 100, 200, 300, 400, 450, 500, 550, 600] {
        cluster.agent.restart().expect("it can be started again");
        std::thread::sleep(Duration::from_millis(wait));
        cluster.agent.kill9().expect("it runs");
        assert_eq!(everything(&cluster.lab), before, "killed after {wait} ms");
    }
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    assert_eq!(everything(&cluster.lab), before);
    load.expect_no_loss();
}

#[test]
fn changes_made_meanwhile_are_all_that_the_next_agent_makes() {
    let mut cluster = start(&SERVICES);
    let (pods, before) = (cluster.lab.backends(), everything(&cluster.lab));
    let load = Load::start(&cluster.lab);
    std::thread::sleep(WHILE / 2);
    cluster.agent.kill9().expect("it runs");
    let manifests = &cluster.manifests;
    manifests
        .apply(&service("scaled", 81).backends(&pods[1..2]))
        .expect("the folder can be written to");
    manifests.remove("removed.yaml").expect("it is there");
    manifests
        .apply(&service("new", 83).backends(pods))
        .expect("the folder can be written to");
    load.begin("with changes that nobody brings into the tables");
    std::thread::sleep(WHILE);
    assert_eq!(everything(&cluster.lab), before, "without an agent");

    load.begin("with the changes");
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    let after = everything(&cluster.lab);
    std::thread::sleep(WHILE);
    let untouched = |dump: &Everything| -> BTreeMap<String, Vec<String>> {
        let ports = dump.ports.clone().into_iter();
        ports.filter(|(label, _)| label.contains("default/web")).collect()
    };
    assert!(!untouched(&before).is_empty());
    assert_eq!(untouched(&after), untouched(&before), "nothing else changes");
    assert_eq!(after.links, before.links, "programs are exchanged in place");
    let says = |what: &str| after.ports.keys().any(|label| label.contains(what));
    assert!(
        says("default/new") && !says("default/removed"),
        "{:?}",
        after.ports.keys()
    );
    let scaled = |dump: &Everything| places(dump, "default/scaled");
    assert!(
        scaled(&after) > 0 && scaled(&after) * pods.len() == scaled(&before),
        "{:?}",
        after.ports
    );
    load.expect_no_loss();
}

/// An agent that dies after it has taken a backend away and before it has cleared its record, which it does only when no packet can be
/// on its way there any more: the next one has to, as UDP sessions stay where they are for as long as the record is there.
#[test]
fn udp_sessions_leave_a_backend_that_went_just_before_the_agent_died() {
    let mut cluster = start(&["web"]);
    let (lab, manifests) = (&cluster.lab, &cluster.manifests);
    let few = service("web", 80).backends(&lab.backends()[..3]);
    let full = service("web", 80).backends(lab.backends());
    let with_it = |sessions: &UdpSessions| {
        let report = sessions.report();
        report
            .sessions
            .values()
            .filter(|backend| *backend == "backend-4")
            .count()
    };
    let mut tries = 0..5;
    let sessions = loop {
        let number = tries.next().expect("of five kills one comes in time");
        let plan = UdpPlan {
            first_port: 5_000 + 100 * number,
            ..UdpPlan::to(service_addresses(80).map(|address| SocketAddr::new(address, 53)))
        };
        let sessions = UdpSessions::start(lab.client(), plan).expect("threads can be started");
        std::thread::sleep(WHILE / 2);
        assert!(with_it(&sessions) > 0, "of 16 sessions some are with each backend");
        manifests.apply(&few).expect("the folder can be written to");
        wait_for_places(lab, 3);
        cluster.agent.kill9().expect("it runs");
        std::thread::sleep(WHILE / 4);
        if with_it(&sessions) > 0 {
            break sessions;
        }
        cluster.agent.restart().expect("it can be started again");
        cluster.agent.wait_ready().expect("it gets ready");
        manifests.apply(&full).expect("the folder can be written to");
        wait_for_places(lab, 4);
    };
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    let start = Instant::now();
    while with_it(&sessions) > 0 {
        assert!(
            start.elapsed() < CHANGE_MAX,
            "sessions stay with a backend that has left"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let report = sessions.finish();
    assert_eq!(report.answered, report.asked, "{:?}", report.failures);
    assert!(
        report.moves.iter().all(|change| change.from == "backend-4"),
        "{:?}",
        report.moves
    );
}

/// Waits until every Service port has so many backends.
fn wait_for_places(lab: &Lab, wanted: usize) {
    let start = Instant::now();
    let is_place = |line: &&String| line.trim_start().starts_with("place");
    while everything(lab)
        .ports
        .values()
        .any(|lines| lines.iter().filter(is_place).count() != wanted)
    {
        assert!(
            start.elapsed() < CHANGE_MAX,
            "not {wanted} backends after {CHANGE_MAX:?}"
        );
    }
}

/// A rollout in which the next agent is there before the first one has ended.
#[rstest]
#[case::killed(Agent::kill9)]
#[case::asked_to(Agent::stop)]
fn an_agent_that_waits_takes_over_when_the_first_ends(#[case] end: fn(&mut Agent) -> anyhow::Result<()>) {
    let mut cluster = start(&SERVICES);
    let (pods, first) = (cluster.lab.backends(), cluster.agent.pid().expect("it runs"));
    let load = Load::start(&cluster.lab);
    let before = everything(&cluster.lab);
    let mut successor = wait_behind(&cluster, first);
    load.begin("while the next one waits");
    std::thread::sleep(WHILE);
    assert_eq!(everything(&cluster.lab), before, "the one that waits touches nothing");
    cluster
        .manifests
        .apply(&service("scaled", 81).backends(&pods[1..2]))
        .expect("the folder can be written to");
    wait_until(CHANGE_MAX, "change while the next one waits", || {
        places(&everything(&cluster.lab), "default/scaled") * pods.len() == places(&before, "default/scaled")
    });
    assert!(successor.is_running().expect("it is our child"));
    let state = cluster.agent.state().expect("a state");
    assert_eq!(state["pid"], first, "the first one serves");
    assert!(!log(&cluster).contains(BEGINS), "{}", log(&cluster));

    load.begin("the hand-over");
    let asked = Instant::now();
    end(&mut cluster.agent).expect("the agent ends");
    cluster
        .manifests
        .apply(&service("new", 83).backends(pods))
        .expect("the folder can be written to");
    let after = wait_until(HAND_OVER_MAX, "change made at the hand-over", || {
        places(&everything(&cluster.lab), "default/new") > 0
    });
    println!("nobody brought changes into the tables for {:?}", after - asked);
    cluster.agent.give_way_to(successor);
    cluster.agent.wait_ready().expect("it gets ready");
    load.begin("the next agent");
    std::thread::sleep(WHILE);
    assert_eq!(
        everything(&cluster.lab).links,
        before.links,
        "programs are exchanged in place"
    );
    let log = log(&cluster);
    assert_eq!(log.matches(BEGINS).count(), 1, "{log}");
    assert!(
        !log.contains("cannot listen"),
        "it waits for the ports of the first one, too:\n{log}"
    );
    load.expect_no_loss();
}

#[test]
fn an_agent_that_waits_ends_when_asked_to_and_leaves_the_first_alone() {
    let cluster = start(&SERVICES);
    let first = cluster.agent.pid().expect("it runs");
    let load = Load::start(&cluster.lab);
    let before = everything(&cluster.lab);
    let successor = wait_behind(&cluster, first);
    let asked = Instant::now();
    successor.stop().expect("it ends without complaint");
    assert!(asked.elapsed() < CHANGE_MAX, "it took {:?}", asked.elapsed());
    load.begin("after the end of the one that waited");
    std::thread::sleep(WHILE);
    assert_eq!(everything(&cluster.lab), before);
    cluster.manifests.remove("removed.yaml").expect("it is there");
    wait_until(CHANGE_MAX, "change after that", || {
        places(&everything(&cluster.lab), "default/removed") == 0
    });
    assert_eq!(cluster.agent.state().expect("a state")["pid"], first);
    cluster.agent.cli(["status"]).expect("the first one is well");
    assert!(!log(&cluster).contains(BEGINS), "{}", log(&cluster));
    load.expect_no_loss();
}

/// Starts an agent behind the first one, and waits until it says that it waits.
fn wait_behind(cluster: &Cluster, first: u32) -> Successor {
    let successor = cluster.agent.start_successor().expect("it can be started");
    let said = format!("is held by process {first}. Waiting until that agent has ended");
    wait_until(CHANGE_MAX, &said, || log(cluster).contains(&said));
    successor
}

/// What both agents have said.
fn log(cluster: &Cluster) -> String {
    std::fs::read_to_string(cluster.agent.log_file()).expect("a log")
}

/// Waits until something is so, and says since when.
fn wait_until(within: Duration, what: &str, is_so: impl Fn() -> bool) -> Instant {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < within, "no {what} within {within:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Instant::now()
}

/// How many places the ports of a Service have.
fn places(dump: &Everything, label: &str) -> usize {
    let ports = dump.ports.iter().filter(|(port, _)| port.contains(label));
    ports
        .map(|(_, lines)| lines.iter().filter(|line| line.contains("place")).count())
        .sum()
}

/// An agent that takes the datapath with it: the same load and the same dump notice.
#[test]
fn a_datapath_that_goes_with_the_agent_is_noticed() {
    let mut cluster = start(&SERVICES);
    let before = everything(&cluster.lab);
    let load = Load::start(&cluster.lab);
    cluster.agent.kill9().expect("it runs");
    cluster.agent.cli(["cleanup"]).expect("nobody holds the datapath");
    load.begin("without a datapath");
    let gone = Instant::now();
    std::thread::sleep(PAUSE_MAX * 2);
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    let after = everything(&cluster.lab);
    assert_ne!(after.links, before.links, "other programs on the devices");
    // What was sent in vain is sent again after as long as it has been in vain (RFC 6298 §5.5): until then no pause has ended.
    std::thread::sleep(gone.elapsed() + Duration::from_millis(500));
    let (phases, long_lived, udp) = load.finish();
    let lost: u64 = phases.iter().map(|phase| phase.lost).sum();
    assert!(
        lost > 0 && udp.missing > 0,
        "{lost} connections lost, {} questions",
        udp.missing
    );
    assert!(
        long_lived.longest_pause > PAUSE_MAX || long_lived.lost > 0,
        "{long_lived:?}"
    );
    // So would numbers that are given out in another order.
    cluster.manifests.remove("removed.yaml").expect("it is there");
    let start = Instant::now();
    while everything(&cluster.lab).ports == after.ports {
        assert!(
            start.elapsed() < CHANGE_MAX,
            "a change of the manifests does not show in the dump"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Clients of every kind on Service `web`.
struct Load {
    http: HttpLoad,
    long_lived: LongLived,
    udp: UdpSessions,
}

impl Load {
    fn start(lab: &Lab) -> Self {
        let client = lab.client();
        let targets = |port| service_addresses(80).map(|address| SocketAddr::new(address, port));
        let plan = LongLivedPlan {
            connections: LONG_LIVED,
            every: Duration::from_millis(20),
            ..LongLivedPlan::to(targets(7), Entry::Raw)
        };
        let long_lived = LongLived::start(client, plan).expect("threads can be started");
        long_lived.wait_open().expect("the Service is there");
        let plan = UdpPlan {
            every: Duration::from_millis(20),
            answer_within: NO_SECOND_TRY,
            ..UdpPlan::to(targets(53))
        };
        let udp = UdpSessions::start(client, plan).expect("threads can be started");
        let by_node_port = lab.node().addresses().map(|address| SocketAddr::new(address, 30_080));
        let plan = HttpPlan {
            per_second: PER_SECOND,
            connect_within: NO_SECOND_TRY,
            ..HttpPlan::to(targets(80).into_iter().chain(by_node_port))
        };
        let http =
            HttpLoad::start(client, plan, Phase::served("with the first agent")).expect("threads can be started");
        Self { http, long_lived, udp }
    }

    fn begin(&self, phase: &str) {
        self.http.begin(Phase::served(phase));
    }

    fn finish(self) -> (Vec<PhaseReport>, LongLivedReport, UdpReport) {
        (self.http.finish(), self.long_lived.finish(), self.udp.finish())
    }

    /// Every new connection was answered in all phases, and whatever was open is open still, with the same backend.
    fn expect_no_loss(self) {
        let (phases, long_lived, udp) = self.finish();
        for report in &phases {
            let name = &report.phase.name;
            assert_eq!(report.lost, 0, "{name}: {:?}", report.failures);
            let due = report.length.as_secs_f64() * f64::from(PER_SECOND);
            assert!(
                report.answered as f64 > due * 0.7,
                "{name}: only {} connections",
                report.answered
            );
        }
        let answered: u64 = phases.iter().map(|report| report.answered).sum();
        println!(
            "{answered} new connections; {} bytes over {} open ones, longest pause {:?}; {} of {} questions answered",
            long_lived.bytes, long_lived.open, long_lived.longest_pause, udp.answered, udp.asked
        );
        assert_eq!(
            (long_lived.open, long_lived.lost),
            (LONG_LIVED, 0),
            "{:?}",
            long_lived.failures
        );
        assert!(
            long_lived.longest_pause < PAUSE_MAX,
            "an open connection paused for {:?}",
            long_lived.longest_pause
        );
        assert_eq!(udp.answered, udp.asked, "{:?}", udp.failures);
        assert!(
            udp.asked > 0 && udp.moves.is_empty(),
            "UDP sessions moved: {:?}",
            udp.moves
        );
    }
}

/// What the agent has put into the kernel.
#[derive(Clone, Debug, PartialEq)]
struct Everything {
    /// The tables of both families, by label.
    ports: BTreeMap<String, Vec<String>>,
    /// Pinned links, each with its inode: a link that was made anew has another one.
    links: Vec<(String, u64)>,
}

fn everything(lab: &Lab) -> Everything {
    let mut ports = lab.table_dump::<V4>().expect("the tables are pinned");
    ports.extend(lab.table_dump::<V6>().expect("the tables are pinned"));
    let folder = std::fs::read_dir(Pins::new(lab.pin_directory()).links()).expect("the links are pinned");
    let links = folder.map(|entry| {
        let entry = entry.expect("a pin");
        let inode = entry.metadata().expect("it is there").ino();
        (entry.file_name().to_string_lossy().into_owned(), inode)
    });
    let mut links: Vec<_> = links.collect();
    links.sort();
    Everything { ports, links }
}

fn service_addresses(number: u16) -> [std::net::IpAddr; 2] {
    let v4 = format!("10.96.0.{number}").parse().expect("an address");
    [v4, format!("fd00:10:96::{number}").parse().expect("an address")]
}

fn service(name: &str, number: u16) -> Service {
    Service::new(name, service_addresses(number))
        .port("TCP", 80, 8080)
        .node_port(30_000 + number)
        .port("TCP", 7, 7000)
        .port("UDP", 53, 5353)
        .with_spec(serde_json::json!({"type": "NodePort"}))
}

fn start(names: &[&str]) -> Cluster {
    let lab = Lab::one_node().build().expect("the lab can be built: this needs root");
    let services = (80..).zip(names);
    let services: Vec<_> = services
        .map(|(number, name)| service(name, number).backends(lab.backends()))
        .collect();
    Cluster::start(lab, &services, &AgentOptions::default()).expect("servers and agent start")
}
