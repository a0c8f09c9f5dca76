//! Network devices come, go, and are made anew while the agent runs: programs are on every device a moment after it has appeared,
//! pins go with the devices, and what other devices carry goes on.

mod cables;
mod routes;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use lb_userspace::kernel::Pins;
use serde_json::Value;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder, XdpMode, plan};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Entry, LongLived, LongLivedPlan, Over};

use cables::{index, indices, ip, lead_to_pod, make_outward_link, plug, plug_after, unplug};

/// From a new device to its programs, and from the end of a device to the end of its pins. The agent gathers messages for 20 ms, and
/// the kernel takes some 30 ms to attach two programs.
const FOLLOWED_WITHIN: Duration = Duration::from_millis(500);
/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody answers.
const IMPATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(2);

#[test]
fn a_pod_that_comes_while_the_agent_runs_is_served_and_gets_served() {
    let mut cluster = start(XdpMode::Off);
    cluster.agent.stop().expect("it runs");
    unplug(&cluster.lab, 3);
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    let without = indices(cluster.lab.node());
    wait_for_pins_of(&cluster.lab, &without);
    for _ in 0..3 {
        let index = plug(&cluster.lab, 3);
        wait_for_programs(&cluster.lab, index);
        check_pod(&cluster, 3);
        unplug(&cluster.lab, 3);
        wait_for_pins_of(&cluster.lab, &without);
    }
}

#[test]
fn a_device_that_is_made_anew_is_followed_and_the_others_go_on() {
    let cluster = start(XdpMode::Off);
    let lab = &cluster.lab;
    let others = open_connections(lab, 2);
    let first = index(lab.node(), "pod1");
    unplug(lab, 1);
    wait_for_pins_of(lab, &indices(lab.node()));
    check_pod(&cluster, 2);
    let failed = ask(lab.client(), 1, (Over::Udp, false), IMPATIENCE);
    assert!(failed.is_err(), "the pod cannot be reached, but there was {failed:?}");

    let second = plug(lab, 1);
    assert_ne!(first, second);
    wait_for_programs(lab, second);
    check_pod(&cluster, 1);
    let devices = wait_for_state(&cluster, |devices| {
        devices.iter().any(|device| device["ifindex"] == second)
    });
    assert!(
        devices
            .iter()
            .all(|device| device["ifindex"] != first && device["tc"] == "attached"),
        "{devices:?}"
    );

    // Faster than the agent looks.
    for _ in 0..5 {
        unplug(lab, 1);
        plug(lab, 1);
    }
    let last = index(lab.node(), "pod1");
    wait_for_programs(lab, last);
    wait_for_pins_of(lab, &indices(lab.node()));
    check_pod(&cluster, 1);
    let report = others.finish();
    assert_eq!(report.lost, 0, "{:?}", report.failures);
}

/// A device may get the index of one that went: a device that comes from another namespace keeps its own if that is free.
#[test]
fn a_device_with_the_name_and_index_of_one_that_went_is_another_device() {
    let cluster = start(XdpMode::Off);
    let lab = &cluster.lab;
    let same = index(lab.node(), "pod1");
    // Once with a moment in between, and once in one go, so that the agent may find its list of devices as it was.
    for at_once in [false, true] {
        if !at_once {
            unplug(lab, 1);
            std::thread::sleep(FOLLOWED_WITHIN);
        }
        let before = if at_once { "link del pod1" } else { "" };
        assert_eq!(plug_after(lab, 1, before, &format!("index {same}")), same);
        // Pins may be those of the device that went: only the traffic tells.
        within(FOLLOWED_WITHIN + IMPATIENCE, || {
            ask(lab.backend(1), 2, (Over::Udp, false), IMPATIENCE)
        });
        check_pod(&cluster, 1);
    }
}

#[test]
fn a_device_that_goes_down_or_is_renamed_keeps_its_programs() {
    let cluster = start(XdpMode::Off);
    let lab = &cluster.lab;
    let before = pins(lab);
    let others = open_connections(lab, 2);
    ip(lab.node(), &["link set pod1 down"]);
    std::thread::sleep(FOLLOWED_WITHIN / 5);
    check_pod(&cluster, 2);
    ip(lab.node(), &["link set pod1 up"]);
    lead_to_pod(lab, 1, "pod1");
    check_pod(&cluster, 1);

    ip(
        lab.node(),
        &["link set pod1 down", "link set pod1 name cali1", "link set cali1 up"],
    );
    lead_to_pod(lab, 1, "cali1");
    let devices = wait_for_state(&cluster, |devices| {
        devices.iter().any(|device| device["name"] == "cali1")
    });
    assert!(
        devices
            .iter()
            .all(|device| device["name"] != "pod1" && device["tc"] == "attached"),
        "{devices:?}"
    );
    check_pod(&cluster, 1);
    assert_eq!(pins(lab), before, "the same links as before");
    let report = others.finish();
    assert_eq!(report.lost, 0, "{:?}", report.failures);
}

#[test]
fn an_outward_device_that_is_made_anew_gets_xdp_again() {
    let cluster = start(XdpMode::Native);
    let lab = &cluster.lab;
    let first = index(lab.node(), "eth0");
    assert!(pins(lab).contains_key(&format!("{first}-xdp")));
    ip(lab.node(), &["link del eth0"]);
    wait_for_pins_of(lab, &indices(lab.node()));
    make_outward_link(lab);
    let second = index(lab.node(), "eth0");
    assert_ne!(first, second);
    wait_for_programs(lab, second);
    let devices = wait_for_state(&cluster, |devices| {
        devices.iter().any(|device| device["ifindex"] == second)
    });
    let outward = devices.iter().find(|device| device["name"] == "eth0");
    assert_eq!(outward.map(|device| device["xdp"].clone()), Some("native".into()));
    assert!(pins(lab).contains_key(&format!("{second}-xdp")));
    (1..=3).for_each(|pod| check_pod(&cluster, pod));
}

/// The measurement itself: without its program a device is not served. A new agent finds what is missing.
#[test]
fn a_program_that_was_taken_away_is_missed_and_put_back_by_the_next_agent() {
    let mut cluster = start(XdpMode::Off);
    let first = index(cluster.lab.node(), "pod1");
    let links = Pins::new(cluster.lab.pin_directory()).links();
    std::fs::remove_file(links.join(format!("{first}-ingress"))).expect("it is pinned");
    let start = Instant::now();
    // The kernel takes it off a moment later.
    while ask(cluster.lab.backend(1), 2, (Over::Udp, false), IMPATIENCE).is_ok() {
        assert!(start.elapsed() < PATIENCE, "the program is not missed");
    }
    for combination in combinations() {
        let answer = ask(cluster.lab.backend(1), 2, combination, IMPATIENCE);
        assert!(answer.is_err(), "{combination:?}: {answer:?}");
    }
    check_pod(&cluster, 2);
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    check_pod(&cluster, 1);
    assert!(pins(&cluster.lab).contains_key(&format!("{first}-ingress")));
}

/// Three pods, and a Service for each.
fn start(xdp: XdpMode) -> Cluster {
    start_in(Lab::one_node(), xdp)
}

fn start_in(builder: LabBuilder, xdp: XdpMode) -> Cluster {
    let lab = builder
        .backends(3)
        .build()
        .expect("the lab can be built: this needs root");
    let services = (1..).zip(lab.backends()).map(|(number, pod)| {
        let addresses = [false, true].map(|v6| service_address(number, v6));
        let service = Service::new(&format!("pod-{number}"), addresses);
        service.port("TCP", 80, 7000).port("UDP", 53, 5353).backends([pod])
    });
    let services: Vec<_> = services.collect();
    let options = AgentOptions {
        xdp,
        ..AgentOptions::default()
    };
    Cluster::start(lab, &services, &options).expect("servers and agent start")
}

fn service_address(pod: u8, v6: bool) -> IpAddr {
    let text = if v6 {
        format!("fd00:10:96::{pod}")
    } else {
        format!("10.96.0.{pod}")
    };
    text.parse().expect("an address")
}

fn combinations() -> impl Iterator<Item = (Over, bool)> {
    Over::BOTH.into_iter().flat_map(|over| [(over, false), (over, true)])
}

fn ask(from: &Host, pod: u8, (over, v6): (Over, bool), patience: Duration) -> Result<(), String> {
    let target = SocketAddr::new(service_address(pod, v6), if over == Over::Tcp { 80 } else { 53 });
    match from.run(|| over.ask(target, patience)) {
        Ok(answer) if answer.backend == plan::backend_name(pod) => Ok(()),
        other => Err(format!("{} -> {target} {over:?}: {other:?}", from.name)),
    }
}

/// The client and the node reach a pod through its Service, and the pod reaches `backend-2` through that one's.
fn check_pod(cluster: &Cluster, pod: u8) {
    let lab = &cluster.lab;
    let mut rows = vec![(lab.client(), pod), (lab.node(), pod)];
    if pod != 2 {
        rows.push((lab.backend(pod), 2));
    }
    for (from, to) in rows {
        for combination in combinations() {
            ask(from, to, combination, PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Connections that must not notice what happens to other pods.
fn open_connections(lab: &Lab, pod: u8) -> LongLived {
    let targets = [false, true].map(|v6| SocketAddr::new(service_address(pod, v6), 80));
    let plan = LongLivedPlan {
        connections: 8,
        ..LongLivedPlan::to(targets, Entry::Raw)
    };
    let open = LongLived::start(lab.client(), plan).expect("threads can be started");
    open.wait_open().expect("the Service is there");
    open
}

/// Pinned links, each with its inode: a link that was made anew has another one.
fn pins(lab: &Lab) -> BTreeMap<String, u64> {
    let folder = std::fs::read_dir(Pins::new(lab.pin_directory()).links()).expect("the links are pinned");
    let pins = folder.filter_map(|entry| {
        let entry = entry.expect("a pin");
        // One that goes while it is looked at is none.
        let inode = entry.metadata().ok()?.ino();
        Some((entry.file_name().to_string_lossy().into_owned(), inode))
    });
    pins.collect()
}

/// Waits until exactly the devices of these indices have pins.
fn wait_for_pins_of(lab: &Lab, wanted: &BTreeSet<u64>) {
    within(FOLLOWED_WITHIN, || {
        let found: BTreeSet<u64> = pins(lab)
            .keys()
            .filter_map(|pin| pin.split('-').next()?.parse().ok())
            .collect();
        (found == *wanted)
            .then_some(())
            .ok_or(format!("pins of {found:?} instead of {wanted:?}"))
    });
}

/// Waits until a device has both programs.
fn wait_for_programs(lab: &Lab, index: u64) {
    let start = Instant::now();
    within(FOLLOWED_WITHIN, || {
        let there = pins(lab);
        let missing: Vec<_> = ["ingress", "egress"]
            .iter()
            .filter(|direction| !there.contains_key(&format!("{index}-{direction}")))
            .collect();
        missing
            .is_empty()
            .then_some(())
            .ok_or(format!("no {missing:?} on device {index}"))
    });
    println!("programs on device {index} after {:?} more", start.elapsed());
}

/// The agent's list of devices, once it is as wanted.
fn wait_for_state(cluster: &Cluster, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    within(FOLLOWED_WITHIN, || {
        let state = cluster.agent.state().map_err(|error| error.to_string())?;
        let devices = state["devices"].as_array().cloned().unwrap_or_default();
        if wanted(&devices) {
            Ok(devices)
        } else {
            Err(format!("{devices:?}"))
        }
    })
}

fn within<T>(time: Duration, look: impl Fn() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(start.elapsed() < time, "after {time:?}: {why}"),
        }
        std::thread::sleep(POLL);
    }
}
