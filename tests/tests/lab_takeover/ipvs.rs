//! kube-proxy's IPVS mode: services of IPVS, the device with their addresses, rules by a variant of iptables, and the ipsets that they ask
//! for (Kubernetes 1.36).

use std::fmt::Write as _;
use std::net::SocketAddr;

use tests::lab::{Host, plan};
use tests::traffic::manifests::Service;

use super::kube_proxy::{Variant, feed, ports, said};

/// Its sets, with their types; of IPv6 they are called `KUBE-6-…`, as far as names go.
const SETS: [(&str, &str); 17] = [
    ("LOOP-BACK", "hash:ip,port,ip"),
    ("CLUSTER-IP", "hash:ip,port"),
    ("EXTERNAL-IP", "hash:ip,port"),
    ("EXTERNAL-IP-LOCAL", "hash:ip,port"),
    ("LOAD-BALANCER", "hash:ip,port"),
    ("LOAD-BALANCER-FW", "hash:ip,port"),
    ("LOAD-BALANCER-LOCAL", "hash:ip,port"),
    ("LOAD-BALANCER-SOURCE-IP", "hash:ip,port,ip"),
    ("LOAD-BALANCER-SOURCE-CIDR", "hash:ip,port,net"),
    ("NODE-PORT-TCP", "bitmap:port"),
    ("NODE-PORT-LOCAL-TCP", "bitmap:port"),
    ("NODE-PORT-UDP", "bitmap:port"),
    ("NODE-PORT-LOCAL-UDP", "bitmap:port"),
    ("NODE-PORT-SCTP-HASH", "hash:ip,port"),
    ("NODE-PORT-LOCAL-SCTP-HASH", "hash:ip,port"),
    ("HEALTH-CHECK-NODE-PORT", "bitmap:port"),
    ("IPVS-IPS", "hash:ip"),
];
const NAME_LEN: usize = 31;

/// Writes sets and rules on a node.
pub(crate) fn write_rules(node: &Host, variant: Variant, services: &[Service]) {
    for (v6, tool) in [false, true].into_iter().zip(variant.tools("restore")) {
        feed(node, "ipset", &["restore"], &sets(v6, services));
        feed(node, &tool, &["--noflush"], &rules(v6));
    }
}

/// Writes those services on a node that it doesn't have, and the device; the kernel must have IPVS.
pub(crate) fn write_services(node: &Host, services: &[Service]) {
    for setting in ["conntrack", "expire_nodest_conn", "expire_quiescent_template"] {
        let file = format!("/proc/sys/net/ipv4/vs/{setting}");
        node.run(|| std::fs::write(file, "1"))
            .expect("a setting of this namespace");
    }
    let mut addresses = "link add kube-ipvs0 type dummy\n".to_owned();
    let mut virtual_servers = String::new();
    for v6 in [false, true] {
        let node_ip = node.addresses()[usize::from(v6)];
        let whole = if v6 { 128 } else { 32 };
        for (_, port, cluster_ip, endpoints) in ports(v6, services) {
            if !addresses.contains(&format!("{cluster_ip}/")) {
                writeln!(addresses, "address add {cluster_ip}/{whole} dev kube-ipvs0").expect("a string");
            }
            let kind = if port.protocol == "UDP" { "-u" } else { "-t" };
            let by_node = port.node_port.map(|number| SocketAddr::new(node_ip, number));
            for at in [Some(SocketAddr::new(cluster_ip, port.port)), by_node]
                .into_iter()
                .flatten()
            {
                writeln!(virtual_servers, "-A {kind} {at} -s rr").expect("a string");
                for address in &endpoints {
                    let to = SocketAddr::new(*address, port.target);
                    writeln!(virtual_servers, "-a {kind} {at} -r {to} -m -w 1").expect("a string");
                }
            }
        }
    }
    // What of both is there already, in the same words.
    let device = said(node, "ip", &["-o", "address", "show", "dev", "kube-ipvs0"]);
    let has_device = said(node, "ip", &["link"]).contains("kube-ipvs0");
    let is_there = |line: &&str| match line.split(' ').nth(2) {
        Some(address) if line.starts_with("address") => device.contains(&format!(" {address} ")),
        _ => has_device,
    };
    let missing = addresses.lines().filter(|line| !is_there(line));
    let missing: String = missing.map(|line| format!("{line}\n")).collect();
    feed(node, "ip", &["-batch", "-"], &missing);
    let known = said(node, "ipvsadm", &["-Sn"]);
    let missing = virtual_servers
        .lines()
        .filter(|line| !known.lines().any(|known| known == *line));
    let missing: String = missing.map(|line| format!("{line}\n")).collect();
    feed(node, "ipvsadm", &["-R"], &missing);
}

fn set(v6: bool, name: &str) -> String {
    let mut name = format!("{}{name}", if v6 { "KUBE-6-" } else { "KUBE-" });
    name.truncate(NAME_LEN);
    name
}

fn sets(v6: bool, services: &[Service]) -> String {
    let family = if v6 { "inet6" } else { "inet" };
    let mut text = String::new();
    for (name, kind) in SETS {
        let name = set(v6, name);
        let options = if kind.starts_with("bitmap") {
            "range 0-65535".to_owned()
        } else {
            format!("family {family} hashsize 1024 maxelem 65536")
        };
        writeln!(text, "create {name} {kind} {options}").expect("a string");
    }
    for (_, port, cluster_ip, _) in ports(v6, services) {
        let protocol = port.protocol.to_lowercase();
        writeln!(
            text,
            "add {} {cluster_ip},{protocol}:{}",
            set(v6, "CLUSTER-IP"),
            port.port
        )
        .expect("a string");
        if let Some(number) = port.node_port {
            let name = set(v6, &format!("NODE-PORT-{}", port.protocol));
            writeln!(text, "add {name} {number}").expect("a string");
        }
    }
    text
}

fn rules(v6: bool) -> String {
    let pods = if v6 { plan::ALL_PODS_V6 } else { plan::ALL_PODS_V4 };
    let set = |name| set(v6, name);
    let (loop_back, cluster_ip, load_balancer) = (set("LOOP-BACK"), set("CLUSTER-IP"), set("LOAD-BALANCER"));
    let (firewall, source_cidr) = (set("LOAD-BALANCER-FW"), set("LOAD-BALANCER-SOURCE-CIDR"));
    let (node_port, local, health) = (
        set("NODE-PORT-TCP"),
        set("NODE-PORT-LOCAL-TCP"),
        set("HEALTH-CHECK-NODE-PORT"),
    );
    let (node_port_udp, addresses) = (set("NODE-PORT-UDP"), set("IPVS-IPS"));
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-NODE-PORT -p tcp -m set --match-set {local} dst -j RETURN
-A KUBE-NODE-PORT -p tcp -m set --match-set {node_port} dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p udp -m set --match-set {node_port_udp} dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set {loop_back} dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -m set --match-set {load_balancer} dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES ! -s {pods} -m set --match-set {cluster_ip} dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set {cluster_ip} dst,dst -j ACCEPT
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A INPUT -m comment --comment \"kubernetes health check rules\" -j KUBE-NODE-PORT
-A INPUT -m comment --comment \"kube-proxy firewall rules\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kube-proxy firewall rules\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER
-A OUTPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-OUT-FILTER
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-NODE-PORT -m set --match-set {health} dst -j ACCEPT
-A KUBE-PROXY-FIREWALL -m set --match-set {firewall} dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -m set --match-set {source_cidr} dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A KUBE-IPVS-FILTER -m set --match-set {cluster_ip} dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {addresses} dst -j REJECT
COMMIT
"
    )
}
