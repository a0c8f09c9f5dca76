//! The labs themselves work: everyone reaches everyone in both topologies and families, nothing leads out, and nothing stays behind.
//!
//! No agent runs here. Needs root, as all labs do; without it the tests fail and say so.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use rstest::rstest;
use serde_json::Value;
use tests::lab::{Capture, Host, Lab, LabBuilder, leftovers, remove_stale};

const PATIENCE: Duration = Duration::from_secs(2);

/// Sends a line to a listener on `to` and expects it back; says from which address the listener saw it coming.
fn ping(from: &Host, to: &Host, address: IpAddr) -> SocketAddr {
    // A port of the system's choice: a fixed one may be held for a moment by a program that another test is just starting.
    let listener = to
        .run(|| TcpListener::bind((address, 0)))
        .expect("the address is the host's own");
    let target = listener.local_addr().expect("it is bound");
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let (mut stream, peer) = listener.accept().expect("somebody connects");
            let mut line = [0; 5];
            stream.read_exact(&mut line).expect("five bytes come");
            stream.write_all(&line).expect("and go back");
            peer
        });
        from.run(|| {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)
                .unwrap_or_else(|error| panic!("{} to {target}: {error}", from.name));
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
            stream.write_all(b"hello").expect("five bytes go");
            stream.shutdown(Shutdown::Write).expect("the stream is open");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer comes");
            assert_eq!(answer, "hello");
        });
        echo.join().expect("the listener did its part")
    })
}

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
#[case::routed_like_a_network_card(Lab::one_node().complete_checksums())]
#[case::bridge_like_a_network_card(Lab::bridge_node().complete_checksums())]
#[case::routed_with_arp_and_nd(Lab::one_node().learn_neighbours())]
#[case::bridge_with_arp_and_nd(Lab::bridge_node().learn_neighbours())]
#[case::routed_strict(Lab::one_node().rp_filter(1).without_gro())]
#[case::routed_over_a_wire(Lab::one_node().over_a_wire())]
#[case::bridge_over_a_wire(Lab::bridge_node().over_a_wire())]
#[case::small_mtu(Lab::one_node().outward_mtu(1400).pod_mtu(1300).backends(2))]
#[case::two_nodes(Lab::two_nodes())]
#[case::two_bridge_nodes(Lab::two_bridge_nodes())]
#[case::two_nodes_strict_with_arp_and_nd(Lab::two_nodes().rp_filter(1).learn_neighbours())]
#[case::two_nodes_over_a_wire(Lab::two_nodes().over_a_wire())]
#[case::two_nodes_behind_a_narrow_way(Lab::two_bridge_nodes().way_mtu(1280).outward_mtu(1400).backends(1))]
fn everyone_reaches_everyone(#[case] builder: LabBuilder) {
    let lab = builder.build().expect("the lab can be built");
    let hosts: Vec<_> = lab.hosts().collect();
    for from in &hosts {
        for to in hosts.iter().filter(|to| to.name != from.name) {
            for address in to.addresses() {
                let seen = ping(from, to, address).ip();
                // Nodes and routers speak from the address on the side of whom they speak to.
                let own = from.addresses().contains(&seen);
                let has_more = ["node", "node2", "router"].contains(&from.name.as_str());
                assert!(own || has_more, "{} came from {seen}", from.name);
            }
        }
    }
}

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
#[case::two_nodes(Lab::two_nodes())]
#[case::two_bridge_nodes(Lab::two_bridge_nodes())]
fn nothing_leads_out(#[case] builder: LabBuilder) {
    let lab = builder.build().expect("the lab can be built");
    for host in lab.hosts() {
        let name = host.namespace.name();
        let links = ip_json(&["-n", name, "link", "show"]);
        for link in links.as_array().expect("a list of links") {
            if link.get("link").is_none() && link.get("link_index").is_none() {
                continue; // lo and bridges have no other end
            }
            let peer = link["link_netnsid"]
                .as_i64()
                .expect("a veth's other end is in another namespace");
            let ids = ip_json(&["-n", name, "netns", "list-id"]);
            let ids = ids.as_array().expect("a list of namespaces");
            let known = ids
                .iter()
                .find(|id| id["nsid"] == peer)
                .and_then(|id| id["name"].as_str());
            let known =
                known.unwrap_or_else(|| panic!("{name}: {} leads to a namespace without a name", link["ifname"]));
            assert!(
                known.starts_with(lab.name()),
                "{name}: {} leads to {known}",
                link["ifname"]
            );
        }
    }
    // Whatever the node does not translate ends at the client, which forwards nothing, or at the router: they know no way on.
    for family in ["-4", "-6"] {
        for host in [lab.client()].into_iter().chain(lab.router()) {
            let routes = ip_json(&["-n", host.namespace.name(), family, "route", "show", "default"]);
            assert_eq!(routes, Value::Array(Vec::new()), "{} has a default route", host.name);
        }
    }
    let read = |path: &str| {
        lab.client()
            .run(|| std::fs::read_to_string(path))
            .expect("the setting is there")
    };
    assert_eq!(read("/proc/sys/net/ipv4/ip_forward").trim(), "0");
    assert_eq!(read("/proc/sys/net/ipv6/conf/all/forwarding").trim(), "0");
}

/// A device may be up for a while before the kernel lets it send.
#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
#[case::two_nodes(Lab::two_nodes())]
#[case::two_bridge_nodes(Lab::two_bridge_nodes().over_a_wire())]
fn the_first_datagram_arrives(#[case] builder: LabBuilder) {
    for turn in 0..8 {
        let lab = builder.clone().build().expect("the lab can be built");
        let pod = lab.backends().last().expect("it has pods");
        let address = pod.addresses()[turn % 2];
        let socket = pod
            .run(|| UdpSocket::bind((address, 0)))
            .expect("the address is the pod's own");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
        let target = socket.local_addr().expect("it is bound");
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        lab.client()
            .run(|| UdpSocket::bind(any).and_then(|own| own.send_to(b"hello", target)))
            .expect("it goes");
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).expect("it arrives"), 5, "turn {turn}");
    }
}

#[rstest]
#[case::one_node(Lab::one_node())]
#[case::two_nodes(Lab::two_nodes())]
fn no_address_is_ever_tentative(#[case] builder: LabBuilder) {
    let lab = builder.build().expect("the lab can be built");
    for host in lab.hosts() {
        let addresses = ip_json(&["-n", host.namespace.name(), "address", "show", "tentative"]);
        let found = addresses
            .as_array()
            .into_iter()
            .flatten()
            .filter(|device| device.get("ifname").is_some());
        assert_eq!(found.count(), 0, "{}: {addresses}", host.name);
    }
}

#[rstest]
#[case::as_between_containers(Lab::one_node(), ["on", "on", "on"])]
#[case::as_from_a_network_card(Lab::one_node().complete_checksums(), ["off", "off", "on"])]
#[case::without_gro(Lab::bridge_node().without_gro(), ["on", "on", "off"])]
fn offloads_are_as_told(#[case] builder: LabBuilder, #[case] expected: [&str; 3]) {
    let lab = builder.backends(1).build().expect("the lab can be built");
    for host in [lab.client(), lab.backend(1)] {
        let output = host
            .command("ethtool")
            .args(["-k", "eth0"])
            .output()
            .expect("ethtool runs")
            .stdout;
        let output = String::from_utf8(output).expect("text");
        for (feature, setting) in ["tx-checksumming", "\ttx-tcp-segmentation", "generic-receive-offload"]
            .iter()
            .zip(expected)
        {
            assert!(
                output.contains(&format!("{feature}: {setting}")),
                "{}: {feature} is not {setting}:\n{output}",
                host.name
            );
        }
    }
}

#[test]
fn services_are_routed_to_the_node() {
    let lab = Lab::one_node().build().expect("the lab can be built");
    let file = lab.directory().join("services.pcap");
    let capture =
        Capture::start(lab.node(), "eth0", "tcp[tcpflags] & tcp-syn != 0 or ip6", &file).expect("tcpdump runs");
    lab.client().run(|| {
        for target in [
            "10.96.0.10:80",
            "192.0.2.1:80",
            "[fd00:10:96::a]:80",
            "[2001:db8:192::1]:80",
        ] {
            let target: SocketAddr = target.parse().expect("an address");
            let outcome = TcpStream::connect_timeout(&target, Duration::from_millis(50));
            assert!(outcome.is_err(), "nobody serves {target} without an agent");
        }
    });
    let packets = capture.stop().expect("tcpdump ends").join("\n");
    for target in [
        "10.96.0.10.80",
        "192.0.2.1.80",
        "fd00:10:96::a.80",
        "2001:db8:192::1.80",
    ] {
        assert!(
            packets.contains(&format!("> {target}")),
            "no packet to {target} in:\n{packets}"
        );
    }
    let counted = lab.node().counters("eth0").expect("counters can be read");
    assert!(counted.rx.packets >= 4, "{counted:?}");
}

#[test]
fn threads_of_node_and_pods_are_in_the_lab_cgroup_and_the_client_is_not() {
    let lab = Lab::one_node().backends(1).build().expect("the lab can be built");
    let cgroup = lab
        .cgroup()
        .expect("cgroup2 is mounted")
        .file_name()
        .expect("a name")
        .to_owned();
    let inside = |host: &Host| {
        let of_thread = host
            .run(|| std::fs::read_to_string("/proc/thread-self/cgroup"))
            .expect("readable");
        let mut cat = host.command("cat");
        let of_process = cat.arg("/proc/self/cgroup").output().expect("cat runs").stdout;
        let of_process = String::from_utf8(of_process).expect("text");
        let is_in = |text: &str| {
            text.lines()
                .any(|line| line.starts_with("0::") && line.ends_with(cgroup.to_str().expect("text")))
        };
        (is_in(&of_thread), is_in(&of_process))
    };
    assert_eq!(inside(lab.node()), (true, true));
    assert_eq!(inside(lab.backend(1)), (true, true));
    assert_eq!(inside(lab.client()), (false, false));
}

#[rstest]
#[case::one_node(Lab::one_node())]
#[case::two_nodes(Lab::two_nodes())]
fn a_removed_lab_leaves_nothing(#[case] builder: LabBuilder) {
    let lab = builder.build().expect("the lab can be built");
    let name = lab.name().to_owned();
    let mut sleeper = lab.node().command("sleep").arg("60").spawn().expect("sleep runs");
    assert!(!leftovers(&name).is_empty());
    lab.remove().expect("all of it can be removed");
    assert_eq!(leftovers(&name), Vec::<String>::new());
    assert!(
        !sleeper.wait().expect("it has ended").success(),
        "the lab's processes are killed"
    );
}

#[test]
fn a_panic_leaves_nothing() {
    let lab = Lab::bridge_node().backends(2).build().expect("the lab can be built");
    let name = lab.name().to_owned();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        lab.client().run(|| std::panic::resume_unwind(Box::new("on purpose")));
    }));
    assert!(outcome.is_err());
    assert_eq!(leftovers(&name), Vec::<String>::new());
}

/// Set for the process that will be interrupted or killed.
const VICTIM: &str = "SLUICE_LAB_VICTIM";

/// Runs this very program again, only with the test below, and answers with the name of the lab that it built.
fn start_victim() -> (std::process::Child, String) {
    let mut victim = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "a_lab_says_its_name", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test program runs");
    let mut output = std::io::BufReader::new(victim.stdout.take().expect("it is piped"));
    let mut line = String::new();
    while !line.starts_with("lab ") {
        line.clear();
        let read = std::io::BufRead::read_line(&mut output, &mut line).expect("readable");
        assert!(read > 0, "the victim ended without building a lab");
    }
    (victim, line.trim_start_matches("lab ").trim().to_owned())
}

#[test]
fn a_lab_says_its_name() {
    let lab = Lab::one_node().backends(2).build().expect("the lab can be built");
    println!("\nlab {}", lab.name());
    assert!(lab.hosts().all(|host| host.namespace.name().starts_with(lab.name())));
    if std::env::var_os(VICTIM).is_some() {
        let mut sleeper = lab.node().command("sleep").arg("30").spawn().expect("sleep runs");
        sleeper.wait().expect("nobody kills it before this process ends");
    }
}

#[test]
fn ctrl_c_leaves_nothing() {
    let (mut victim, name) = start_victim();
    assert!(!leftovers(&name).is_empty());
    let pid = rustix::process::Pid::from_child(&victim);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(victim.wait().expect("it ends").code(), Some(130));
    assert_eq!(leftovers(&name), Vec::<String>::new());
}

#[test]
fn the_next_lab_removes_what_a_killed_one_left() {
    let (mut victim, name) = start_victim();
    remove_stale();
    assert!(!leftovers(&name).is_empty(), "a lab whose owner lives is left alone");
    victim.kill().expect("it runs");
    victim.wait().expect("it ends");
    assert!(!leftovers(&name).is_empty(), "nobody was there to clean up");
    remove_stale();
    assert_eq!(leftovers(&name), Vec::<String>::new());
}

fn ip_json(arguments: &[&str]) -> Value {
    let output = Command::new("ip")
        .arg("-json")
        .args(arguments)
        .output()
        .expect("ip runs");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    if output.stdout.trim_ascii().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_slice(&output.stdout).expect("ip prints JSON")
}
