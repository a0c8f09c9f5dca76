//! Rules as kube-proxy writes them, in its nftables and its iptables mode: the names, hooks and order of its own (Kubernetes 1.36), for the
//! Services of a lab. The iptables mode comes with what kubelet and a CNI have in the same tables, which is none of its business. What the
//! IPVS mode has in tables and sets is in `ipvs`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use tests::lab::{Host, plan};
use tests::traffic::manifests::{Port, Service};

/// How kube-proxy was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    /// With a variant of iptables.
    Iptables(Variant),
}

/// What iptables writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    NfTables,
    Legacy,
}

impl Variant {
    /// The tools of both families that do this.
    pub(crate) fn tools(self, does: &str) -> [String; 2] {
        let variant = match self {
            Self::NfTables => "nft",
            Self::Legacy => "legacy",
        };
        ["iptables", "ip6tables"].map(|tool| format!("{tool}-{variant}-{does}"))
    }

    /// All rules of both families, with their counters.
    pub(crate) fn saved(self, node: &Host) -> String {
        self.tools("save").map(|tool| said(node, &tool, &["-c"])).concat()
    }
}

/// Writes the rules on a node.
pub(crate) fn write(node: &Host, mode: Mode, services: &[Service]) {
    match mode {
        Mode::Nftables => {
            let both = [false, true].map(|v6| nftables(node, v6, services)).concat();
            feed(node, "nft", &["-f", "-"], &both);
        }
        Mode::Iptables(variant) => {
            for (v6, tool) in [false, true].into_iter().zip(variant.tools("restore")) {
                feed(node, &tool, &["--noflush"], &iptables(v6, services));
            }
        }
    }
}

/// Writes the rules of the iptables mode without those of others.
pub(crate) fn write_own(node: &Host, variant: Variant, services: &[Service]) {
    for (v6, tool) in [false, true].into_iter().zip(variant.tools("restore")) {
        let all = iptables(v6, services);
        let own = all
            .lines()
            .filter(|line| !OTHERS.iter().any(|other| line.contains(other)));
        let own = own.map(|line| format!("{line}\n")).collect::<String>();
        feed(node, &tool, &["--noflush"], &own);
    }
}

/// Everything in nftables on a node, and in legacy iptables.
pub(crate) fn ruleset(node: &Host) -> String {
    said(node, "nft", &["list", "ruleset"]) + &Variant::Legacy.saved(node)
}

/// What a tool prints on a node.
pub(crate) fn said(node: &Host, tool: &str, arguments: &[&str]) -> String {
    let output = node.command(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}; get it with: cargo xtask setup"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool on a node, and has it read a text.
pub(crate) fn feed(node: &Host, tool: &str, arguments: &[&str], text: &str) {
    let mut command = node.command(tool);
    let child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{tool}: {error}; get it with: cargo xtask setup"));
    let mut pipe = child.stdin.take().expect("it is piped");
    pipe.write_all(text.as_bytes()).expect("it reads");
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "{tool}: {}\n{text}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A port of a Service in a family: its ClusterIP, and its endpoints.
pub(crate) fn ports(v6: bool, services: &[Service]) -> Vec<(String, &Port, IpAddr, Vec<IpAddr>)> {
    let is_of = move |address: &IpAddr| address.is_ipv6() == v6;
    let of = |service: &'_ Service| {
        let cluster_ip = service.cluster_ips.iter().copied().find(is_of).expect("dual-stack");
        let endpoints: Vec<_> = service
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address)
            .filter(is_of)
            .collect();
        (cluster_ip, endpoints)
    };
    let all = services.iter().flat_map(|service| {
        let (cluster_ip, endpoints) = of(service);
        let port = move |port| {
            (
                format!("{}/{}", service.namespace, service.name),
                port,
                cluster_ip,
                endpoints.clone(),
            )
        };
        service.ports.iter().map(port)
    });
    all.collect()
}

fn nftables(node: &Host, v6: bool, services: &[Service]) -> String {
    let (family, kind) = if v6 { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") };
    let pods = if v6 { plan::ALL_PODS_V6 } else { plan::ALL_PODS_V4 };
    let node_ip = node.addresses()[usize::from(v6)];
    let (mut cluster_ips, mut by_ip, mut by_port, mut chains) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    for (name, port, cluster_ip, endpoints) in ports(v6, services) {
        let protocol = port.protocol.to_lowercase();
        let chain = format!("{name}/{protocol}/{}", port.name);
        cluster_ips.push(cluster_ip.to_string());
        by_ip.push(format!(
            "{cluster_ip} . {protocol} . {} : goto service-AAAAAAAA-{chain}",
            port.port
        ));
        let to = endpoints
            .iter()
            .enumerate()
            .map(|(index, address)| format!("{index} : {address} . {}", port.target));
        let to = to.collect::<Vec<_>>().join(", ");
        writeln!(
            chains,
            "chain service-AAAAAAAA-{chain} {{ meta l4proto {protocol} dnat {family} to numgen random mod {} map {{ {to} }}; }}",
            endpoints.len()
        )
        .expect("a string");
        if let Some(number) = port.node_port {
            by_port.push(format!("{protocol} . {number} : goto external-AAAAAAAA-{chain}"));
            writeln!(
                chains,
                "chain external-AAAAAAAA-{chain} {{ {family} saddr {pods} goto service-AAAAAAAA-{chain}; meta mark set meta mark or 0x4000; \
                 goto service-AAAAAAAA-{chain}; }}"
            )
            .expect("a string");
        }
    }
    cluster_ips.sort();
    cluster_ips.dedup();
    let services = if v6 { plan::SERVICES_V6 } else { plan::SERVICES_V4 };
    let elements = |all: &[String]| {
        if all.is_empty() {
            String::new()
        } else {
            format!("elements = {{ {} }};", all.join(", "))
        }
    };
    format!(
        "table {family} kube-proxy {{
            comment \"rules for kube-proxy\";
            set cluster-ips {{ type {kind}; {} }}
            set nodeport-ips {{ type {kind}; elements = {{ {node_ip} }}; }}
            map service-ips {{ type {kind} . inet_proto . inet_service : verdict; {} }}
            map service-nodeports {{ type inet_proto . inet_service : verdict; {} }}
            {chains}
            chain services {{
                {family} daddr @cluster-ips {family} saddr != {pods} meta mark set meta mark or 0x4000
                {family} daddr . meta l4proto . th dport vmap @service-ips
                {family} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
            }}
            chain masquerading {{ meta mark and 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random; }}
            chain cluster-ips-check {{
                {family} daddr @cluster-ips reject
                {family} daddr {services} drop
            }}
            chain filter-forward {{ type filter hook forward priority filter; ct state new jump cluster-ips-check; }}
            chain filter-output {{ type filter hook output priority filter; ct state new jump cluster-ips-check; }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain nat-output {{ type nat hook output priority -100; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
        }}\n",
        elements(&cluster_ips),
        elements(&by_ip),
        elements(&by_port)
    )
}

/// Whose chains are not kube-proxy's.
const OTHERS: [&str; 5] = [
    "KUBE-KUBELET-CANARY",
    "KUBE-IPTABLES-HINT",
    "KUBE-FIREWALL",
    "CNI-FORWARD",
    "KUBE-ROUTER-FORWARD",
];

fn iptables(v6: bool, services: &[Service]) -> String {
    let pods = if v6 { plan::ALL_PODS_V6 } else { plan::ALL_PODS_V4 };
    let whole = if v6 { 128 } else { 32 };
    let (mut names, mut rules) = (String::new(), String::new());
    for (number, (name, port, cluster_ip, endpoints)) in ports(v6, services).into_iter().enumerate() {
        let protocol = port.protocol.to_lowercase();
        let (service, matches) = (
            format!("KUBE-SVC-{number:016}"),
            format!("-p {protocol} -m {protocol} --dport {}", port.port),
        );
        writeln!(names, ":{service} - [0:0]").expect("a string");
        writeln!(
            rules,
            "-A KUBE-SERVICES -d {cluster_ip}/{whole} {matches} -m comment --comment \"{name} cluster IP\" -j {service}
-A {service} ! -s {pods} -d {cluster_ip}/{whole} {matches} -j KUBE-MARK-MASQ"
        )
        .expect("a string");
        for (index, address) in endpoints.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{number:08}{index:08}");
            let to = std::net::SocketAddr::new(*address, port.target);
            let left = endpoints.len() - index;
            let chance = if left == 1 {
                String::new()
            } else {
                format!("-m statistic --mode random --probability {:.11} ", 1.0 / left as f64)
            };
            writeln!(names, ":{endpoint} - [0:0]").expect("a string");
            writeln!(
                rules,
                "-A {service} {chance}-j {endpoint}
-A {endpoint} -s {address}/{whole} -j KUBE-MARK-MASQ
-A {endpoint} -p {protocol} -m {protocol} -j DNAT --to-destination {to}"
            )
            .expect("a string");
        }
        if let Some(node_port) = port.node_port {
            let external = format!("KUBE-EXT-{number:016}");
            writeln!(names, ":{external} - [0:0]").expect("a string");
            writeln!(
                rules,
                "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j {external}
-A {external} -j KUBE-MARK-MASQ
-A {external} -j {service}"
            )
            .expect("a string");
        }
    }
    format!(
        "*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:CNI-FORWARD - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A FORWARD -m comment --comment \"policies of kube-router\" -j KUBE-ROUTER-FORWARD
-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A CNI-FORWARD -j ACCEPT
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{names}-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"
    )
}
