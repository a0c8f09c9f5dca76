//! `sluice cleanup` leaves nothing of the datapath, however the agent has ended, and only when it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aya::maps::{MapData, loaded_maps};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use lb_userspace::kernel::Pins;
use rstest::rstest;
use tests::lab::{Agent, AgentOptions, Host, Lab, LabBuilder, XdpMode};
use tests::traffic::{Cluster, Over};

use crate::{IMPATIENCE, PATIENCE, ask, connect, echo, service, service_address};

/// The kernel frees maps and programs when the last reader has gone.
const FREED_WITHIN: Duration = Duration::from_secs(2);

#[rstest]
#[case::routed(Lab::one_node().rp_filter(1), XdpMode::Off, Agent::stop)]
#[case::bridge_with_xdp_after_a_kill(Lab::bridge_node(), XdpMode::Native, Agent::kill9)]
fn cleanup_leaves_nothing(
    #[case] builder: LabBuilder,
    #[case] xdp: XdpMode,
    #[case] end: fn(&mut Agent) -> anyhow::Result<()>,
) {
    let lab = builder
        .backends(2)
        .build()
        .expect("the lab can be built: this needs root");
    let settings_before = settings(&lab);
    let web = service("web", 80).backends(lab.backends());
    let options = AgentOptions {
        xdp,
        ..AgentOptions::default()
    };
    let mut cluster = Cluster::start(lab, &[web], &options).expect("servers and agent start");
    let lab = &cluster.lab;
    let mut open = connect(lab.client(), service_address(80, false));

    // While an agent runs, it is refused, and nothing happens.
    let refused = cluster.agent.cli(["cleanup"]).expect_err("an agent runs");
    assert!(
        format!("{refused:#}").contains("another agent already serves this node"),
        "{refused:#}"
    );
    expect_served(lab, &mut open);

    end(&mut cluster.agent).expect("it runs");
    let (maps, programs) = (pinned_maps(lab), attached_programs(lab));
    assert!(maps.len() > 10 && programs.len() >= 2, "{maps:?}, {programs:?}");
    assert_eq!(alive(&maps, &programs), maps.len() + programs.len());
    assert_ne!(
        settings(lab),
        settings_before,
        "the agent has set what host clients need"
    );
    expect_served(lab, &mut open);

    let said = cluster.agent.cli(["cleanup"]).expect("nobody holds the datapath");
    assert!(said.contains("all programs are detached"), "{said}");
    assert!(
        !lab.pin_directory().exists(),
        "{} is still there",
        lab.pin_directory().display()
    );
    assert!(
        !lab.directory().join("run").exists(),
        "the state of the agent is still there"
    );
    assert_eq!(settings(lab), settings_before);
    let start = Instant::now();
    while !attached_programs(lab).is_empty() || alive(&maps, &programs) > 0 {
        let left = (attached_programs(lab), alive(&maps, &programs));
        assert!(
            start.elapsed() < FREED_WITHIN,
            "still on devices, still in the kernel: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    for (from, over, v6) in everyone(lab) {
        let answer = ask(from, over, service_address(80, v6), IMPATIENCE);
        assert!(answer.is_err(), "{} got {answer:?}", from.name);
        let pod = lab.backend(2).addresses()[usize::from(v6)];
        let port = if over == Over::Tcp { 7000 } else { 5353 };
        from.run(|| over.ask(SocketAddr::new(pod, port), PATIENCE))
            .unwrap_or_else(|error| panic!("{} -> {pod}: {error}", from.name));
    }

    let said = cluster.agent.cli(["cleanup"]).expect("once more is no error");
    assert!(said.contains("nothing to clean up"), "{said}");

    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    expect_served(
        &cluster.lab,
        &mut connect(cluster.lab.client(), service_address(80, true)),
    );
}

/// An init container has more rights than the agent: what it has set is put back by the same command.
#[test]
fn what_was_prepared_is_left_alone_by_the_agent_and_put_back_by_cleanup() {
    let lab = Lab::one_node()
        .rp_filter(1)
        .backends(1)
        .build()
        .expect("the lab can be built: this needs root");
    let before = settings(&lab);
    let places = |word: &'static str| {
        let text = |path: PathBuf| path.display().to_string();
        let (pins, run) = (text(lab.pin_directory()), text(lab.directory().join("run")));
        [
            word.to_owned(),
            "--pin-dir".to_owned(),
            pins,
            "--run-dir".to_owned(),
            run,
        ]
    };
    let sluice = |word| {
        let output = lab
            .node()
            .command(Agent::binary().expect("an agent"))
            .args(places(word))
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = sluice("prepare");
    assert!(
        said.contains("/proc/sys/net/ipv4/conf/lo/accept_local (it was 0)"),
        "{said}"
    );
    let prepared = settings(&lab);
    assert_ne!(prepared, before);
    assert!(!sluice("prepare").contains("set "), "once is enough");

    let mut agent = Agent::start(&lab, &AgentOptions::default()).expect("the agent starts");
    agent.wait_ready().expect("it gets ready");
    assert_eq!(settings(&lab), prepared);
    assert!(
        !agent
            .log_tail()
            .contains("so that processes on the host reach Services"),
        "{}",
        agent.log_tail()
    );
    agent.stop().expect("it runs");
    sluice("cleanup");
    assert_eq!(settings(&lab), before, "as before it was prepared");
}

/// Clients outside, on the node, and in a pod, over both protocols and families.
fn everyone(lab: &Lab) -> impl Iterator<Item = (&Host, Over, bool)> {
    let hosts = [lab.client(), lab.node(), lab.backend(1)].into_iter();
    hosts.flat_map(|host| {
        Over::BOTH
            .into_iter()
            .flat_map(move |over| [(host, over, false), (host, over, true)])
    })
}

/// The open connection goes on, and everyone's new ones are answered.
fn expect_served(lab: &Lab, open: &mut TcpStream) {
    echo(open);
    for (from, over, v6) in everyone(lab) {
        let answer = ask(from, over, service_address(80, v6), PATIENCE);
        answer.unwrap_or_else(|error| panic!("{}, {over:?}, IPv6 {v6}: {error}", from.name));
    }
}

/// The settings of the node's devices that the agent may change, by file.
fn settings(lab: &Lab) -> BTreeMap<PathBuf, String> {
    lab.node().run(|| {
        let folders = std::fs::read_dir("/proc/sys/net/ipv4/conf").expect("every namespace has one");
        let folders = folders.map(|folder| folder.expect("a folder").path());
        let files = folders.flat_map(|folder| ["rp_filter", "accept_local"].map(|name| folder.join(name)));
        files
            .map(|file| (file.clone(), std::fs::read_to_string(file).expect("a setting")))
            .collect()
    })
}

/// Numbers of the pinned maps.
fn pinned_maps(lab: &Lab) -> BTreeSet<u32> {
    let pins = std::fs::read_dir(Pins::new(lab.pin_directory()).maps()).expect("the maps are pinned");
    let number = |pin: PathBuf| MapData::from_pin(pin)?.info().map(|info| info.id());
    pins.map(|pin| number(pin.expect("a pin").path()).expect("a map"))
        .collect()
}

/// Numbers of the programs on the node's devices.
fn attached_programs(lab: &Lab) -> BTreeSet<u32> {
    let node = lab.node();
    let mut devices = node.devices().expect("devices can be listed");
    devices.push("lo".to_owned());
    let mut programs = BTreeSet::new();
    for device in devices {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let query = || SchedClassifier::query_tcx(&device, direction);
            let (_, found) = node.run(query).expect("the kernel lists them");
            programs.extend(found.iter().map(ProgramInfo::id));
        }
        let mut ip = node.command("ip");
        let shown = ip
            .args(["-json", "link", "show", "dev", &device])
            .output()
            .expect("ip runs");
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("ip prints JSON");
        let number = shown[0]["xdp"]["prog"]["id"].as_u64();
        programs.extend(number.map(|number| u32::try_from(number).expect("a program's number")));
    }
    programs
}

/// How many of these the kernel still has.
fn alive(maps: &BTreeSet<u32>, programs: &BTreeSet<u32>) -> usize {
    // What goes while it is listed is gone.
    let maps = loaded_maps().flatten().filter(|map| maps.contains(&map.id())).count();
    maps + loaded_programs()
        .flatten()
        .filter(|program| programs.contains(&program.id()))
        .count()
}
