//! A cable with room for 1400 octets to one of the nodes with pods: large transfers and datagrams arrive whole, both ways, because
//! whoever sends too much is told so, through the translation.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tests::lab::{Host, Lab, plan};
use tests::traffic::{Cluster, Over};

use crate::scene::{DIRECT_NARROW, Frontend, NARROW, NARROW_NODE, ip, node, pod_of};

const MTU: u32 = 1400;
/// What a tunnel takes of it at most: headers of IPv6 and UDP.
const TUNNEL_MAX: u32 = 48;
/// The balancer that the router does not lead to.
const OTHER_NODE: u8 = 2;

/// What is sent and has to come back: over what, and how many octets. The answer is longer by a greeting of 30 to 50 octets; with
/// headers of IPv4, 1 372 octets fill the cable, and 1 472 the client's own.
const ROWS: &[(Over, usize)] = &[
    (Over::Tcp, 1),
    (Over::Tcp, 2_000_001),
    (Over::Udp, 1_300),
    (Over::Udp, 1_345),
    (Over::Udp, 1_372),
    (Over::Udp, 1_373),
    (Over::Udp, 1_452),
    (Over::Udp, 1_472),
];

/// How long an exchange may wait for its next bytes.
const PATIENCE: Duration = Duration::from_secs(4);
/// A datagram that may be lost has been when there is no answer after this.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// Datagrams that may be lost before client, balancer and pod know how narrow the way is.
const LOST_MAX: u32 = 8;
/// So often a row is played.
const TIMES: u32 = 3;

/// Who finds out that a packet doesn't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// The balancer's own route says so.
    AtTheBalancer,
    /// A router between it and the node: here, the other balancer.
    OnTheWay,
    /// The router by which the client's packets come, too.
    AtTheGateway,
}

/// What is led through the narrow cable: packets to the pods, or tunnels to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Pods,
    Tunnels,
}

impl What {
    /// The Service whose pod is behind it.
    const fn service(self) -> u16 {
        match self {
            Self::Pods => NARROW,
            Self::Tunnels => DIRECT_NARROW,
        }
    }
}

pub(crate) fn nothing_is_lost(cluster: &Cluster) -> Vec<String> {
    play(&cluster.lab, What::Pods)
}

pub(crate) fn nothing_is_lost_in_tunnels(cluster: &Cluster) -> Vec<String> {
    play(&cluster.lab, What::Tunnels)
}

fn play(lab: &Lab, what: What) -> Vec<String> {
    let mut wrong = Vec::new();
    // A switch says nothing about what doesn't fit, and drops it: who sends into it has to know. But the router's own device would
    // take the least of its ports' sizes, unless it was told one (told what it has already, it doesn't listen).
    let router = lab.router().expect("there is one");
    ip(router, "link set lan0 mtu 1501");
    ip(router, "link set lan0 mtu 1500");
    // The balancer is not to be told of the shorter way past whoever stands in it.
    for (host, device) in [(node(lab, OTHER_NODE), "eth0"), (router, "lan0")] {
        for device in ["all", device] {
            let setting = format!("/proc/sys/net/ipv4/conf/{device}/send_redirects");
            host.run(|| std::fs::write(&setting, "0")).expect("it can be set");
        }
    }
    set_cable(lab, MTU);
    for place in [Where::AtTheBalancer, Where::OnTheWay, Where::AtTheGateway] {
        for v6 in [false, true] {
            lead(lab, what, place, v6);
            for frontend in Frontend::ALL {
                let target = |over| frontend.of(what.service(), lab.node(), over, v6);
                for &(over, octets) in ROWS {
                    if let Err(error) = lab.client().run(|| exchanges(target(over), over, octets)) {
                        wrong.push(format!(
                            "{place:?}: {}, {over:?}, {octets} octets: {error}",
                            target(over)
                        ));
                    }
                }
                if let Err(error) = lab.client().run(|| grows(target(Over::Udp))) {
                    wrong.push(format!(
                        "{place:?}: {}, a session that grows: {error}",
                        target(Over::Udp)
                    ));
                }
                let told = told(lab.client(), target(Over::Udp));
                let is_right = match what {
                    What::Pods => told == Some(MTU),
                    // Less is what a tunnel leaves.
                    What::Tunnels => told.is_some_and(|told| (MTU - TUNNEL_MAX..=MTU).contains(&told)),
                };
                if !is_right {
                    wrong.push(format!(
                        "{place:?}: the client was told of {told:?} octets to {}, not of {MTU}",
                        target(Over::Udp)
                    ));
                }
            }
            lead_back(lab, what, v6);
            forget(lab, v6);
        }
    }
    set_cable(lab, 1500);
    wrong
}

/// What the node's cable takes.
fn set_cable(lab: &Lab, mtu: u32) {
    let router = lab.router().expect("there is one");
    ip(router, &format!("link set {} mtu {mtu}", plan::lan_device(NARROW_NODE)));
    ip(node(lab, NARROW_NODE), &format!("link set eth0 mtu {mtu}"));
}

/// Leads the balancer to the node's pods, and to the node itself, if that is where packets for them go. What doesn't fit into a
/// tunnel then goes to the pods.
fn lead(lab: &Lab, what: What, place: Where, v6: bool) {
    let of = |node| plan::of_family(plan::node_v4(node), plan::node_v6(node), v6).to_string();
    let (own, other) = (of(NARROW_NODE), of(OTHER_NODE));
    let gateway = plan::of_family(plan::ROUTER_V4, plan::ROUTER_V6, v6);
    let router = lab.router().expect("there is one");
    for (to, via) in destinations(what, &own, v6) {
        let narrow = |device: &str| format!("route replace {to} {via}dev {device} mtu lock {MTU}");
        match place {
            Where::AtTheBalancer => ip(lab.node(), &narrow("eth0")),
            Where::OnTheWay => {
                ip(lab.node(), &format!("route replace {to} via {other} dev eth0"));
                ip(node(lab, OTHER_NODE), &narrow("eth0"));
            }
            Where::AtTheGateway => {
                ip(lab.node(), &format!("route replace {to} via {gateway} dev eth0"));
                ip(router, &narrow("lan0"));
            }
        }
    }
}

/// Takes the routes to a node away that nothing else needs.
fn lead_back(lab: &Lab, what: What, v6: bool) {
    if what == What::Pods {
        return;
    }
    let node_route = node_range(v6);
    for host in [lab.node(), node(lab, OTHER_NODE)] {
        // On one of them there may be none.
        let mut ip = host.command("ip");
        let _ = ip.args(["route", "del", &node_route, "dev", "eth0"]).output();
    }
    ip(
        lab.router().expect("there is one"),
        &format!("route replace {node_route} dev lan0"),
    );
}

/// The routes that are changed, each with its gateway.
fn destinations(what: What, own: &str, v6: bool) -> Vec<(String, String)> {
    let pods = if v6 {
        plan::pods_v6(NARROW_NODE)
    } else {
        plan::pods_v4(NARROW_NODE)
    };
    let pods = (pods, format!("via {own} "));
    match what {
        What::Pods => vec![pods],
        What::Tunnels => vec![pods, (node_range(v6), String::new())],
    }
}

fn node_range(v6: bool) -> String {
    if v6 {
        format!("{}/128", plan::node_v6(NARROW_NODE))
    } else {
        format!("{}/32", plan::node_v4(NARROW_NODE))
    }
}

/// Lets client, balancer and pod forget what they were told.
fn forget(lab: &Lab, v6: bool) {
    let family = if v6 { "-6" } else { "-4" };
    for host in [
        lab.client(),
        lab.node(),
        node(lab, OTHER_NODE),
        pod_of(lab, NARROW_NODE),
    ] {
        ip(host, &format!("{family} route flush cache"));
    }
}

/// Exchanges several times in a row, after so many losses at most.
fn exchanges(target: SocketAddr, over: Over, octets: usize) -> std::io::Result<()> {
    let lost_max = if over == Over::Udp { LOST_MAX } else { 0 };
    let (mut in_a_row, mut lost) = (0, 0);
    while in_a_row < TIMES {
        let patience = if lost < lost_max { LOST_AFTER } else { PATIENCE };
        match over.exchange(target, octets, patience) {
            Ok(_) => in_a_row += 1,
            Err(_) if lost < lost_max => (in_a_row, lost) = (0, lost + 1),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A session whose first datagrams are small, then too large: those that come after are not lost.
fn grows(target: SocketAddr) -> std::io::Result<()> {
    let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
        .parse()
        .expect("an address");
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    for octets in [16, 1_300, 1_372, 1_472] {
        let mut lost = 0;
        loop {
            socket.set_read_timeout(Some(if lost < LOST_MAX { LOST_AFTER } else { PATIENCE }))?;
            let asked = socket
                .send(&vec![b'x'; octets])
                .and_then(|_| socket.recv(&mut [0; 2048]));
            match asked {
                Ok(count) if count > octets => break,
                Ok(_) => {}
                Err(_) if lost < LOST_MAX => lost += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The largest packet to an address that a host was told of.
fn told(host: &Host, target: SocketAddr) -> Option<u32> {
    let mut ip = host.command("ip");
    let said = ip
        .args(["route", "get", &target.ip().to_string()])
        .output()
        .expect("ip runs")
        .stdout;
    let said = String::from_utf8_lossy(&said);
    let (_, behind) = said.split_once("mtu ")?;
    behind.split_whitespace().next()?.parse().ok()
}
