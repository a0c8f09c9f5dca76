//! A takeover from kube-proxy's IPVS mode: its services of IPVS stay for their connections, address by address, and go with the last.
//!
//! Needs IPVS in the kernel. Where it isn't, the test runs itself in a virtual machine with the kernel that `SLUICE_GUEST_KERNEL` names.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::lab::{Host, XdpMode, guest};
use tests::traffic::manifests::Service;
use tests::traffic::{Entry, HttpLoad, HttpPlan, LongLived, LongLivedPlan, Phase};

use super::kube_proxy::{Variant, feed, ruleset, said};
use super::{Scene, frontends, ipvs};

/// Four at each frontend.
const OPEN: usize = 16;
/// The agent reads conntrack every ten seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// IPVS forgets a TCP connection two minutes after it was closed.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(200);
const IDLE: [&str; 2] = ["10.96.0.81", "fd00:10:96::81"];

fn wait_until(what: &str, within: Duration, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn virtual_servers(node: &Host) -> String {
    said(node, "ipvsadm", &["-Sn"])
}

fn addresses(node: &Host) -> String {
    said(node, "ip", &["-o", "address", "show", "dev", "kube-ipvs0"])
}

/// New connections to all frontends, for a few seconds. How many.
fn expect_served(scene: &Scene, phase: &str) -> u64 {
    let plan = HttpPlan {
        per_second: 20,
        ..HttpPlan::to(frontends(&scene.lab, 80, 30080))
    };
    let load = HttpLoad::start(scene.lab.client(), plan, Phase::served(phase)).expect("threads can be started");
    std::thread::sleep(Duration::from_secs(5));
    let report = load.finish().remove(0);
    assert!(report.answered > 20 && report.lost == 0, "{report:?}");
    report.answered
}

#[test]
fn services_of_ipvs_stay_for_their_connections() {
    if !Path::new("/proc/net/ip_vs").exists() {
        let name = "services::services_of_ipvs_stay_for_their_connections";
        match guest::kernel() {
            Some(kernel) => {
                let text = guest::run(&kernel, &["ip_vs", "ip_vs_rr"], name).expect("it passes in a guest");
                println!("{text}");
            }
            None => println!(
                "SKIP {name}: no IPVS in the kernel, and {} names no other",
                guest::KERNEL
            ),
        }
        return;
    }
    let mut scene = Scene::empty();
    let (node, client) = (scene.lab.node().clone(), scene.lab.client().clone());
    scene.add_service();
    let idle = Service::new("idle", IDLE.map(|text| text.parse().expect("an address")));
    let idle = idle.backends(scene.lab.backends()).port("TCP", 80, 8080);
    scene.manifests.apply(&idle).expect("it can be written to");
    scene.services.push(idle);
    ipvs::write_rules(&node, Variant::NfTables, &scene.services);
    ipvs::write_services(&node, &scene.services);
    // Somebody's own, such as a control plane's.
    feed(
        &node,
        "ipvsadm",
        &["-R"],
        "-A -t 172.18.0.2:6443 -s rr\n-a -t 172.18.0.2:6443 -r 10.244.1.11:7000 -m -w 1\n",
    );
    let plan = LongLivedPlan {
        connections: OPEN,
        every: Duration::from_millis(500),
        message: 200,
        patience: Duration::from_secs(20),
        time_max: Duration::from_secs(600),
        ..LongLivedPlan::to(frontends(&scene.lab, 7, 30007), Entry::Raw)
    };
    let open = LongLived::start(&client, plan).expect("threads can be started");
    open.wait_open().expect("IPVS serves");

    scene.start(XdpMode::Off, &["--shadow"]);
    wait_until("conntrack knows of IPVS' connections", TOLD_WITHIN, || {
        scene.status()["agent"]["netfilter"]["flows"] == OPEN
    });
    let told = scene.agent().cli(["takeover"]).expect("it is taken over");
    println!("{told}");
    assert!(
        told.contains(&format!("{OPEN} that netfilter translates go on")),
        "{told}"
    );
    // All ports of the two ClusterIPs, and the NodePort, on both addresses of the node.
    assert!(
        told.contains(&format!(
            "8 services of IPVS stay with kube-proxy's rules for {OPEN} connections"
        )),
        "{told}"
    );
    let left = virtual_servers(&node);
    for (stays, at) in [
        (true, "10.96.0.80:7 "),
        (true, "[fd00:10:96::80]:80 "),
        (true, "172.18.0.2:30007 "),
        (true, "172.18.0.2:6443 "),
        (false, "172.18.0.2:30080 "),
        (false, "10.96.0.81:80 "),
        (false, "[fd00:10:96::81]:80 "),
    ] {
        assert_eq!(left.contains(at), stays, "{at}:\n{left}");
    }
    let left = addresses(&node);
    assert!(
        left.contains("10.96.0.80/32") && left.contains("fd00:10:96::80/128"),
        "{left}"
    );
    assert!(
        !left.contains("10.96.0.81/32") && !left.contains("fd00:10:96::81/128"),
        "{left}"
    );
    // Those of the node's own processes are masqueraded by the rules, as before.
    assert!(ruleset(&node).contains("KUBE-SERVICES"));
    let to_service = "10.96.0.80:80".parse().expect("an address");
    let by_the_node = node.run(|| TcpStream::connect_timeout(&to_service, TOLD_WITHIN).is_ok());
    assert!(by_the_node, "IPVS serves the node's own processes");

    // Without kube-proxy there is nothing to go back to, once the agent knows how it stands.
    wait_until("the status has the connections", TOLD_WITHIN, || {
        scene.status()["agent"]["netfilter"]["ipvs_connections"] == OPEN + 1
    });
    let refused = scene
        .agent()
        .cli(["retire"])
        .expect_err("services are missing")
        .to_string();
    assert!(refused.contains("nobody writes the others again"), "{refused}");

    // New ones are Sluice's, also at addresses that IPVS still has.
    let answered = expect_served(&scene, "taken over");
    assert!(scene.count("flows_created") >= answered, "they are Sluice's");

    // The way back, while the first ones are still open: what kube-proxy writes again, the agent leaves alone.
    ipvs::write_services(&node, &scene.services);
    wait_until("the agent has seen that kube-proxy runs", TOLD_WITHIN, || {
        scene.status()["agent"]["netfilter"]["ipvs_connections"] == 0
    });
    assert!(virtual_servers(&node).contains("10.96.0.81:80 "));
    let told = scene.agent().cli(["retire"]).expect("it is given back");
    assert!(told.contains("14 services of IPVS, device kube-ipvs0"), "{told}");
    let created = scene.count("flows_created");
    expect_served(&scene, "given back");
    assert_eq!(scene.count("flows_created"), created, "they are IPVS'");

    let told = scene.agent().cli(["takeover"]).expect("it is taken over again");
    assert!(told.contains("services of IPVS stay with kube-proxy's rules"), "{told}");
    assert!(!virtual_servers(&node).contains("10.96.0.81:80 "));
    expect_served(&scene, "taken over again");
    let report = open.finish();
    assert_eq!((report.open, report.lost), (OPEN, 0), "{:?}", report.failures);

    wait_until("all of kube-proxy's is gone", FORGOTTEN_WITHIN, || {
        !said(&node, "ip", &["link"]).contains("kube-ipvs0") && !ruleset(&node).contains("sluice-takeover")
    });
    assert!(!ruleset(&node).contains("KUBE-"), "{}", ruleset(&node));
    assert_eq!(said(&node, "ipset", &["list", "-n"]), "");
    let left = virtual_servers(&node);
    let others: Vec<&str> = left.lines().filter(|line| line.starts_with("-A")).collect();
    assert_eq!(others, ["-A -t 172.18.0.2:6443 -s rr"], "{left}");
}
