//! What `sluice takeover` leaves of others': tables of iptables and ipsets are afterwards as they were before kube-proxy wrote its own into
//! them, counters included.

use rstest::rstest;
use tests::lab::{Agent, Host, XdpMode};

use super::{
    Scene, ipvs,
    kube_proxy::{self, Mode, Variant, feed, said},
};

/// kubelet's and a CNI's chains, and those of somebody's firewall: before and after kube-proxy's by name, with rules of every kind that
/// leads elsewhere or nowhere. No packet of the lab counts there.
fn others(v6: bool) -> String {
    let (net, host) = if v6 {
        ("2001:db8:99::/64", "2001:db8:99::1/128")
    } else {
        ("198.51.100.0/24", "198.51.100.1/32")
    };
    let set = set_of_others(v6);
    format!(
        "*mangle
:KUBE-KUBELET-CANARY - [0:0]
[3:180] -A PREROUTING -s {net} -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*filter
:CNI-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:zone-inside - [0:0]
:zone-outside - [0:0]
[7:420] -A INPUT -s {net} -j zone-outside
[11:660] -A FORWARD -s {net} -m comment --comment \"policies of kube-router\" -j KUBE-ROUTER-FORWARD
[13:780] -A FORWARD -s {net} -g CNI-FORWARD
[17:1020] -A OUTPUT -d {net} -j KUBE-FIREWALL
[19:1140] -A CNI-FORWARD -m set --match-set {set} src -j ACCEPT
[23:1380] -A KUBE-FIREWALL -d {host} -j DROP
[29:1740] -A KUBE-ROUTER-FORWARD -s {host}
[31:1860] -A KUBE-ROUTER-FORWARD -s {net} -j zone-inside
[37:2220] -A zone-inside -d {host} -p tcp -m tcp --dport 22 -j ACCEPT
[41:2460] -A zone-outside -d {host} -g zone-inside
[43:2580] -A zone-outside -j DROP
COMMIT
*nat
:CNI-DN - [0:0]
[47:2820] -A PREROUTING -d {net} -j CNI-DN
[53:3180] -A CNI-DN -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 443
[59:3540] -A POSTROUTING -s {net} -j MASQUERADE
COMMIT
"
    )
}

/// Their sets, of which one is called as if it were kube-proxy's.
fn set_of_others(v6: bool) -> &'static str {
    if v6 {
        "KUBE-DST-of-kube-router-6"
    } else {
        "KUBE-DST-of-kube-router"
    }
}

fn sets_of_others() -> String {
    let sets = [(false, "inet"), (true, "inet6")];
    sets.map(|(v6, family)| format!("create {} hash:net family {family}\n", set_of_others(v6)))
        .concat()
        + "create zone bitmap:port range 0-1023\nadd zone 22\n"
}

/// All that tools tell of rules and sets. What chains count that the kernel has itself, lab packets move.
fn everything(node: &Host) -> String {
    let saved = [Variant::NfTables, Variant::Legacy]
        .map(|variant| variant.saved(node))
        .concat();
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| match line.strip_prefix(':') {
        Some(chain) => chain.split(" [").next().unwrap_or_default(),
        None => line,
    });
    let names = ["ip_tables_names", "ip6_tables_names"].map(|file| said(node, "cat", &[&format!("/proc/net/{file}")]));
    lines.collect::<Vec<_>>().join("\n") + &names.concat() + &said(node, "ipset", &["save", "-sorted"])
}

fn write_others(node: &Host, variant: Variant) {
    feed(node, "ipset", &["restore"], &sets_of_others());
    for (v6, tool) in [false, true].into_iter().zip(variant.tools("restore")) {
        feed(node, &tool, &["-c"], &others(v6));
    }
}

/// What kube-proxy has written.
#[derive(Clone, Copy, Debug)]
enum By {
    IptablesMode,
    IpvsMode,
}

#[rstest]
#[case::of_legacy_iptables(Variant::Legacy, By::IptablesMode, "chains KUBE-… of legacy iptables")]
#[case::of_legacy_iptables_and_sets(Variant::Legacy, By::IpvsMode, "chains KUBE-… of legacy iptables, 34 ipsets")]
#[case::of_iptables(Variant::NfTables, By::IptablesMode, "chains KUBE-… of iptables")]
#[case::of_iptables_and_sets(Variant::NfTables, By::IpvsMode, "chains KUBE-… of iptables, 34 ipsets")]
fn only_what_is_kube_proxys_is_taken_away(#[case] variant: Variant, #[case] by: By, #[case] told: &str) {
    let mut scene = Scene::empty();
    let node = scene.lab.node().clone();
    write_others(&node, variant);
    let before = everything(&node);
    assert!(
        before.contains("[53:3180]") && before.contains("add zone 22"),
        "{before}"
    );
    scene.add_service();
    match by {
        By::IptablesMode => kube_proxy::write_own(&node, variant, &scene.services),
        By::IpvsMode => ipvs::write_rules(&node, variant, &scene.services),
    }
    assert_ne!(everything(&node), before);
    scene.start(XdpMode::Off, &["--shadow"]);

    let said = scene
        .agent()
        .cli(["takeover", "--keep-rules"])
        .expect("it is taken over");
    assert!(said.contains(told), "{said}");
    let said = scene.agent().cli(["takeover"]).expect("the rules go");
    assert!(said.contains("taken away") && said.contains(told), "{said}");
    let after = everything(&node);
    assert!(after == before, "before:\n{before}\n\nafter:\n{after}");
    let said = scene.agent().cli(["takeover"]).expect("there is nothing to do");
    assert!(said.contains("no rules of kube-proxy's were found"), "{said}");
}

/// Asking for a table of legacy iptables would make it, for all packets of the node to go through.
#[test]
fn looking_leaves_no_trace() {
    let mut scene = Scene::new(Mode::Nftables);
    let node = scene.lab.node().clone();
    let tables =
        || ["ip_tables_names", "ip6_tables_names"].map(|file| said(&node, "cat", &[&format!("/proc/net/{file}")]));
    assert_eq!(tables(), ["", ""]);
    scene.start(XdpMode::Off, &["--shadow"]);
    scene.agent().cli(["takeover"]).expect("it is taken over");
    assert_eq!(tables(), ["", ""]);
}

/// A lock on legacy iptables is waited for, as iptables waits with `-w`.
#[test]
fn nothing_is_changed_while_somebody_else_changes_legacy_iptables() {
    let mut scene = Scene::new(Mode::Iptables(Variant::Legacy));
    let node = scene.lab.node().clone();
    scene.start(XdpMode::Off, &["--shadow"]);
    let lock = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open("/run/xtables.lock");
    let lock = lock.expect("it can be opened");
    lock.lock().expect("it can be locked");
    let agent = scene.agent.as_ref().expect("it was started");
    std::thread::scope(|scope| {
        let takeover = scope.spawn(|| agent.cli(["takeover"]).expect("the rules go"));
        std::thread::sleep(super::WHILE);
        assert!(Variant::Legacy.saved(&node).contains("KUBE-SERVICES"), "it waits");
        drop(lock);
        takeover.join().expect("it ends");
    });
    assert!(!Variant::Legacy.saved(&node).contains("KUBE-SERVICES"));
}

/// As in a container without the host's `/run`: whoever can't have the lock changes nothing, and is told what to do.
#[test]
fn without_the_lock_legacy_iptables_stays_as_it_is() {
    let mut scene = Scene::new(Mode::Iptables(Variant::Legacy));
    let node = scene.lab.node().clone();
    scene.start(XdpMode::Off, &["--shadow"]);
    let before = Variant::Legacy.saved(&node);
    let takeover = node
        .command("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs -o ro none /run && exec \"$0\" \"$@\"",
        ])
        .arg(Agent::binary().expect("it is built"))
        .arg("takeover")
        .args(scene.agent().places())
        .output()
        .expect("unshare runs");
    let told = String::from_utf8_lossy(&takeover.stderr);
    assert!(!takeover.status.success(), "{told}");
    for words in [
        "open /run/xtables.lock",
        "mount the file of the host",
        "new connections are Sluice's",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let chains = |text: &str| text.lines().filter(|line| line.starts_with(":KUBE-")).count();
    assert_eq!(chains(&Variant::Legacy.saved(&node)), chains(&before));
    scene.agent().cli(["takeover"]).expect("the rules go");
    assert!(!Variant::Legacy.saved(&node).contains("KUBE-SERVICES"));
}

/// What kube-proxy's IPVS mode has on its device are Services' addresses: NodePorts are not served there, and it goes with the rest.
#[test]
fn kube_proxys_device_has_none_of_the_hosts_addresses() {
    let mut scene = Scene::empty();
    let node = scene.lab.node().clone();
    // Of another kind, since not every kernel has kube-proxy's.
    feed(
        &node,
        "ip",
        &["-batch", "-"],
        "link add kube-ipvs0 type bridge\naddress add 10.96.0.80/32 dev kube-ipvs0\n",
    );
    scene.add_service();
    scene.start(XdpMode::Off, &["--shadow"]);
    let told = scene
        .agent()
        .cli(["takeover", "--keep-rules"])
        .expect("it is taken over");
    assert!(told.contains("device kube-ipvs0"), "{told}");
    let reaches = |at: &str| {
        let at = at.parse().expect("an address");
        let connect = || std::net::TcpStream::connect_timeout(&at, super::NO_SECOND_TRY);
        scene.lab.client().run(connect).is_ok()
    };
    assert!(
        reaches("10.96.0.80:80") && reaches("172.18.0.2:30080"),
        "the Service is served"
    );
    assert!(!reaches("10.96.0.80:30080"), "a NodePort at a ClusterIP");
    let told = scene.agent().cli(["takeover"]).expect("the device goes");
    assert!(told.contains("taken away: device kube-ipvs0"), "{told}");
    assert!(!said(&node, "ip", &["link"]).contains("kube-ipvs0"));
}
