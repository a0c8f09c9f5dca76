//! Where the programs are, how they come and go, and who is left out.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rstest::rstest;
use serde_json::Value;
use tests::lab::{Agent, AgentOptions, Host, Lab, SocketMode};
use tests::traffic::{Cluster, Over};

use crate::scene::{NODE_PORT, PATIENCE, WEB, at, count, ips, options, served, start, until, web};

/// Types of the programs that bpftool finds attached to a cgroup, with their names.
fn attached(cgroup: &Path) -> Vec<String> {
    let output = Command::new("bpftool")
        .args(["--json", "cgroup", "show"])
        .arg(cgroup)
        .output()
        .expect("bpftool runs");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let names = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|program| program["name"].as_str().unwrap_or_default().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn ours() -> Vec<String> {
    let mut names: Vec<String> = lb_common::layout::names::SOCKET_PROGRAMS
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    names.sort();
    names
}

fn sockets_line(agent: &Agent) -> String {
    let text = agent.cli(["status"]).expect("a status");
    let line = text
        .lines()
        .find(|line| line.starts_with("sockets:"))
        .unwrap_or_default();
    line.trim_start_matches("sockets:").trim().to_owned()
}

fn told(words: &[&str]) -> AgentOptions {
    AgentOptions {
        sockets: SocketMode::Told,
        ..options(words)
    }
}

/// How many connections of a host its sockets have translated meanwhile: none are left to tc, or all.
fn is_served(cluster: &Cluster, host: &Host) -> bool {
    let before = count(cluster, "counters", "socket_connects");
    host.run(|| {
        Over::Tcp
            .ask(at(ips(WEB)[0], 80), PATIENCE)
            .expect("an answer, by whatever tier")
    });
    count(cluster, "counters", "socket_connects") > before
}

#[test]
fn attached_to_its_cgroup_exchanged_by_the_next_agent_and_gone_after_cleanup() {
    let mut cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    let cgroup = cluster.lab.cgroup().expect("a cgroup").to_owned();
    assert_eq!(attached(&cgroup), ours());
    assert_eq!(sockets_line(&cluster.agent), format!("on, at {}", cgroup.display()));
    let client = cluster.lab.client().clone();
    client.run(|| TcpStream::connect_timeout(&at(ips(WEB)[0], 80), PATIENCE).expect("served by tc"));
    assert_eq!(
        count(&cluster, "counters", "socket_connects"),
        0,
        "the client is outside of the cgroup"
    );

    // Whoever connects all the time never misses a program.
    let pod = cluster.lab.backend(1).clone();
    let (is_over, made) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            pod.run(|| {
                while !is_over.load(Ordering::Relaxed) {
                    Over::Tcp
                        .ask(at(ips(WEB)[0], 80), PATIENCE)
                        .expect("a connection during restarts");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        for round in 0..4 {
            if round % 2 == 0 {
                cluster.agent.kill9().expect("killed");
                assert_eq!(attached(&cgroup), ours(), "nobody took them off");
                cluster.agent.restart().expect("started");
            } else {
                cluster.agent.restart().expect("stopped and started");
            }
            cluster.agent.wait_ready().expect("ready");
            assert_eq!(attached(&cgroup), ours(), "each once");
        }
        is_over.store(true, Ordering::Relaxed);
        connecting.join().expect("no connection failed");
    });
    let made = made.into_inner();
    assert_eq!(
        count(&cluster, "counters", "socket_connects"),
        made,
        "each by its socket"
    );

    cluster.agent.stop().expect("stopped");
    assert!(is_served(&cluster, &pod), "without an agent");
    cluster.agent.cli(["cleanup"]).expect("cleaned up");
    assert_eq!(attached(&cgroup), [""; 0]);
}

#[test]
fn what_others_take_away_comes_back_and_switched_off_all_is_gone() {
    let mut cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    let cgroup = cluster.lab.cgroup().expect("a cgroup").to_owned();
    let links = cluster
        .lab
        .pin_directory()
        .join(format!("layout-{}/links", lb_common::layout::limits::LAYOUT_VERSION));
    fs::remove_file(links.join("cgroup-connect4")).expect("the pin is there");
    assert_ne!(attached(&cgroup), ours());
    let begun = std::time::Instant::now();
    while attached(&cgroup) != ours() {
        assert!(begun.elapsed() < Duration::from_secs(15), "nobody puts it back");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Switched off, they go; the pins, too.
    cluster.agent.stop().expect("stopped");
    let mut agent = Agent::start(&cluster.lab, &AgentOptions::default()).expect("started");
    agent.wait_ready().expect("ready");
    assert_eq!(attached(&cgroup), [""; 0]);
    assert_eq!(sockets_line(&agent), "off: switched off (--socket-tier off)");
}

#[test]
fn a_cgroup_that_is_not_there_leaves_all_to_tc_and_says_so() {
    let lab = Lab::one_node().backends(2).build().expect("a lab");
    let services = [web().backends(lab.backends())];
    let nowhere = told(&["--cgroup-root", "/sys/fs/cgroup/nowhere/at/all"]);
    let cluster = Cluster::start(lab, &services, &nowhere).expect("it starts without");
    let line = sockets_line(&cluster.agent);
    assert!(
        line.starts_with("off: open the cgroup /sys/fs/cgroup/nowhere/at/all"),
        "{line}"
    );
    assert!(!is_served(&cluster, cluster.lab.backend(1)));
}

#[rstest]
#[case::host_sockets_only(&["--socket-namespaces", "host"], true, false)]
#[case::all(&[], true, true)]
fn sockets_of_other_namespaces_can_be_left_to_tc(#[case] words: &[&str], #[case] node: bool, #[case] pod: bool) {
    let cluster = served(Lab::one_node().backends(2).build().expect("a lab"), words);
    let lab = &cluster.lab;
    assert_eq!(
        (is_served(&cluster, lab.node()), is_served(&cluster, lab.backend(1))),
        (node, pod)
    );
}

#[test]
fn sockets_with_a_mark_are_left_to_tc() {
    let cluster = served(
        Lab::one_node().backends(2).build().expect("a lab"),
        &["--socket-leave-mark", "0x500/0xff00"],
    );
    let pod = cluster.lab.backend(1);
    for (mark, served) in [
        (0_u32, true),
        (0x500, false),
        (0x5ff, false),
        (0x600, true),
        (0x1_0500, false),
    ] {
        let before = count(&cluster, "counters", "socket_connects");
        assert_eq!(marked(pod, mark), format!("{} 80", WEB[0]));
        assert_eq!(
            count(&cluster, "counters", "socket_connects") > before,
            served,
            "mark {mark:#x}"
        );
    }
}

/// A connection of a socket with a mark, and its peer as the process is told.
fn marked(pod: &Host, mark: u32) -> String {
    let target = ips(WEB)[0];
    let script = format!(
        "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, 36, {mark})\ns.connect(('{target}', 80))\nprint(*s.getpeername())"
    );
    let output = pod
        .command("python3")
        .args(["-c", &script])
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn processes_in_a_cgroup_and_below_can_be_left_to_tc() {
    let lab = Lab::one_node().backends(2).build().expect("a lab");
    let group = lab.cgroup().expect("a cgroup").join("left");
    let below = group.join("below");
    for folder in [&group, &below] {
        fs::create_dir(folder).expect("a cgroup");
        fs::write(folder.join("cgroup.type"), "threaded").expect("a threaded one");
    }
    let group_text = group.display().to_string();
    let cluster = served(lab, &["--socket-leave-cgroup", &group_text]);
    let pod = cluster.lab.backend(1);
    for (folder, served) in [(None, true), (Some(&group), false), (Some(&below), false)] {
        let before = count(&cluster, "counters", "socket_connects");
        pod.run(|| {
            if let Some(folder) = folder {
                fs::write(folder.join("cgroup.threads"), "0").expect("this thread moves");
            }
            Over::Tcp.ask(at(ips(WEB)[0], 80), PATIENCE).expect("an answer");
        });
        assert_eq!(
            count(&cluster, "counters", "socket_connects") > before,
            served,
            "{folder:?}"
        );
    }
    drop(cluster.agent);
    for folder in [&below, &group] {
        until("an empty cgroup", || fs::remove_dir(folder).is_ok());
    }
}

#[test]
fn a_service_can_be_left_to_tc() {
    let lab = Lab::one_node().backends(2).build().expect("a lab");
    let off = web().backends(lab.backends()).annotated("sluice.io/socket", "false");
    let cluster = start(&[off], lab, &[]);
    let pod = cluster.lab.backend(1);
    assert!(!is_served(&cluster, pod));
    cluster
        .manifests
        .apply(&web().backends(cluster.lab.backends()))
        .expect("written");
    until("the Service by its sockets", || is_served(&cluster, pod));
}

#[test]
fn node_ports_are_guarded_and_the_reason_is_told() {
    let cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    let lab = &cluster.lab;
    let (any4, any6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let taken = [
        at(any4, NODE_PORT),
        at(any6, NODE_PORT),
        at(lab.node().v4, NODE_PORT),
        at(lab.node().v6, NODE_PORT),
        at(Ipv4Addr::LOCALHOST, NODE_PORT),
        at(Ipv6Addr::LOCALHOST, NODE_PORT),
        at(lab.node().v4.to_ipv6_mapped(), NODE_PORT),
    ];
    for own in taken {
        let error = lab.node().run(|| TcpListener::bind(own).expect_err("it is a NodePort"));
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{own}: {error}");
    }
    let free = [
        at(any4, NODE_PORT + 1),
        at(any6, NODE_PORT + 2),
        at(any4, 0),
        at(any6, 0),
    ];
    for own in free {
        lab.node()
            .run(|| drop(TcpListener::bind(own).unwrap_or_else(|error| panic!("{own}: {error}"))));
    }
    // UDP has another NodePort, and a pod has ports of its own.
    lab.node()
        .run(|| drop(UdpSocket::bind((any4, NODE_PORT)).expect("nobody's for UDP")));
    lab.backend(1)
        .run(|| drop(TcpListener::bind((any6, NODE_PORT)).expect("a pod's own")));
    assert_eq!(count(&cluster, "drops", "node_port_taken"), taken.len() as u64);
    until("the reason in the log", || {
        let log = fs::read_to_string(cluster.agent.log_file()).unwrap_or_default();
        log.lines().any(|line| {
            line.contains("socket refused") && line.contains("node_port_taken") && line.contains("port=30080")
        })
    });
}
