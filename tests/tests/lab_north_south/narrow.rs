//! A cable with room for 1400 octets to one of the nodes with pods: large transfers and datagrams arrive whole, both ways, because
//! whoever sends too much is told so, through the translation.

use std::net::SocketAddr;
use std::time::Duration;

use tests::lab::{Host, Lab, plan};
use tests::traffic::{Cluster, Over};

use crate::scene::{Frontend, NARROW, NARROW_NODE, ip, node, pod_of};

const MTU: u32 = 1400;
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

pub(crate) fn nothing_is_lost(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
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
            lead(lab, place, v6);
            for frontend in Frontend::ALL {
                let target = |over| frontend.of(NARROW, lab.node(), over, v6);
                for &(over, octets) in ROWS {
                    if let Err(error) = lab.client().run(|| exchanges(target(over), over, octets)) {
                        wrong.push(format!(
                            "{place:?}: {}, {over:?}, {octets} octets: {error}",
                            target(over)
                        ));
                    }
                }
                if !knows(lab.client(), target(Over::Udp)) {
                    wrong.push(format!(
                        "{place:?}: the client was not told of {MTU} octets to {}",
                        target(Over::Udp)
                    ));
                }
            }
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

/// Leads the balancer to the node's pods.
fn lead(lab: &Lab, place: Where, v6: bool) {
    let (pods, [own, other]) = if v6 {
        (
            plan::pods_v6(NARROW_NODE),
            [NARROW_NODE, OTHER_NODE].map(|node| plan::node_v6(node).to_string()),
        )
    } else {
        (
            plan::pods_v4(NARROW_NODE),
            [NARROW_NODE, OTHER_NODE].map(|node| plan::node_v4(node).to_string()),
        )
    };
    let narrow = format!("route replace {pods} via {own} dev eth0 mtu lock {MTU}");
    match place {
        Where::AtTheBalancer => ip(lab.node(), &narrow),
        Where::OnTheWay => {
            ip(lab.node(), &format!("route replace {pods} via {other} dev eth0"));
            ip(node(lab, OTHER_NODE), &narrow);
        }
        Where::AtTheGateway => {
            let router = lab.router().expect("there is one");
            ip(
                lab.node(),
                &format!(
                    "route replace {pods} via {} dev eth0",
                    plan::of_family(plan::ROUTER_V4, plan::ROUTER_V6, v6)
                ),
            );
            ip(router, &narrow.replace("eth0", "lan0"));
        }
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

/// Whether a host knows how narrow it is on the way to an address.
fn knows(host: &Host, target: SocketAddr) -> bool {
    let mut ip = host.command("ip");
    let said = ip
        .args(["route", "get", &target.ip().to_string()])
        .output()
        .expect("ip runs")
        .stdout;
    String::from_utf8_lossy(&said).contains(&format!("mtu {MTU}"))
}
