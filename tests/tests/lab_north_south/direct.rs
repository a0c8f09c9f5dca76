//! Direct server return: the balancer sends a client's packets on as they are, in a tunnel to the pod's node, whose answers go to
//! the client past the balancer. Looked at on the balancer's cable, at the router's end: what XDP sends on, nobody sees on the
//! balancer itself.

use std::net::SocketAddr;

use tests::lab::{Capture, Lab, plan};
use tests::packet::decode::{Seen, read, show, verify};
use tests::packet::encode::Link;
use tests::traffic::{Cluster, Over};

use crate::scene::{COMBINATIONS, DIRECT, DIRECT_PORTS, Frontend, PATIENCE, Tunnel, ask};

/// Exchanges of each combination.
const TIMES: usize = 6;
/// The port of GUE (IANA).
const GUE_PORT: u16 = 6080;

pub(crate) fn by_ipip(cluster: &Cluster) -> Vec<String> {
    answers_pass_by_the_balancer(cluster, Tunnel::Ipip)
}

pub(crate) fn by_gue(cluster: &Cluster) -> Vec<String> {
    answers_pass_by_the_balancer(cluster, Tunnel::Gue)
}

fn answers_pass_by_the_balancer(cluster: &Cluster, tunnel: Tunnel) -> Vec<String> {
    let lab = &cluster.lab;
    let router = lab.router().expect("there is one");
    let mut wrong = agents_say(cluster, tunnel);
    for frontend in Frontend::ALL {
        for (over, v6) in COMBINATIONS {
            let target = frontend.of(DIRECT, lab.node(), over, v6);
            let file = lab.directory().join("direct.pcap");
            let capture = Capture::start(router, &plan::lan_device(1), "ip or ip6", &file).expect("tcpdump runs");
            let answers: Vec<_> = (0..TIMES).map(|_| ask(lab, over, target, PATIENCE)).collect();
            let frames = capture.frames().expect("tcpdump ends");
            let sees_the_client = |answer: &tests::traffic::Answer| answer.seen == answer.own;
            let outcomes = answers
                .iter()
                .filter(|outcome| !outcome.as_ref().is_ok_and(sees_the_client));
            let all = outcomes.map(|outcome| format!("{outcome:?}"));
            let all = all.chain(looked_at(lab, &frames, target, over, tunnel));
            wrong.extend(all.map(|why| format!("{target}, {over:?}: {why}")));
        }
    }
    wrong
}

/// What is wrong with what agents say of it.
fn agents_say(cluster: &Cluster, tunnel: Tunnel) -> Vec<String> {
    let mut wrong = Vec::new();
    let others = cluster.lab.nodes().len() - 1;
    for (agent, node) in std::iter::once(&cluster.agent)
        .chain(&cluster.other_agents)
        .zip(cluster.lab.nodes())
    {
        let expected = serde_json::json!({
            "ports": DIRECT_PORTS, "tunnel": tunnel.word(), "from": node.addresses(), "peers": [others, others],
        });
        match agent.cli_json(["status", "-o", "json"]) {
            Ok(said) if said["dsr"] == expected => {}
            Ok(said) => wrong.push(format!("{} says {}", node.name, said["dsr"])),
            Err(error) => wrong.push(format!("{}: {error:#}", node.name)),
        }
    }
    wrong
}

/// What is wrong with the frames on the balancer's cable: each of the client's has to go on in a tunnel, as it is, and nothing else.
fn looked_at(lab: &Lab, frames: &[Vec<u8>], frontend: SocketAddr, over: Over, tunnel: Tunnel) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut requests, mut inside) = (Vec::new(), Vec::new());
    for frame in frames {
        let Some(seen) = read(frame, Link::Ethernet) else {
            continue;
        };
        if seen.dst == frontend.ip() && lab.client().addresses().contains(&seen.src) {
            requests.push((seen, verify(frame, Link::Ethernet).is_ok()));
        } else if lab.client().addresses().contains(&seen.dst) {
            wrong.push(format!("by the balancer: {}", show(frame, Link::Ethernet)));
        } else if lab.backends().iter().any(|pod| pod.addresses().contains(&seen.dst)) {
            wrong.push(format!("masqueraded: {}", show(frame, Link::Ethernet)));
        } else if lab.node().addresses().contains(&seen.src) && seen.dst.is_ipv4() == frontend.is_ipv4() {
            match unpack(lab, &seen, tunnel) {
                Ok(Some(packet)) => inside.push(packet),
                Ok(None) => {}
                Err(why) => wrong.push(format!("{why}: {}", show(frame, Link::Ethernet))),
            }
        }
    }
    for (request, is_sound) in &requests {
        let is_it = |packet: &&Vec<u8>| {
            let seen = read(packet, Link::Bare);
            seen.is_some_and(|seen| alike(request, &seen) && (verify(packet, Link::Bare).is_ok() || !is_sound))
        };
        if !inside.iter().any(|packet| is_it(&packet)) {
            let tuple = request.tuple().map(|tuple| tuple.to_string());
            wrong.push(format!(
                "did not go on as it was: {tuple:?}, {} octets",
                request.layer4.len()
            ));
        }
    }
    let least = if over == Over::Tcp { 2 * TIMES } else { TIMES };
    if requests.len() < least || inside.len() != requests.len() {
        wrong.push(format!(
            "{} packets of the client, {} in tunnels",
            requests.len(),
            inside.len()
        ));
    }
    wrong
}

/// What is in a packet from the balancer to a node that has a pod; nothing if it isn't one of a tunnel.
///
/// # Errors
/// If it is a tunnel of another kind, or leads elsewhere.
fn unpack(lab: &Lab, seen: &Seen<'_>, tunnel: Tunnel) -> Result<Option<Vec<u8>>, String> {
    let word = |at: usize| {
        seen.layer4
            .get(at..at + 2)
            .map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    };
    let (kind, packet) = match seen.proto {
        4 | 41 => (Tunnel::Ipip, seen.layer4),
        17 if word(2) == Some(GUE_PORT) => (Tunnel::Gue, &seen.layer4[8..]),
        _ => return Ok(None),
    };
    let leads_to_a_pods_node = lab.nodes()[2..].iter().any(|node| node.addresses().contains(&seen.dst));
    if kind != tunnel || !leads_to_a_pods_node || seen.extensions > 0 {
        return Err(format!("a tunnel of {kind:?} to {}", seen.dst));
    }
    if kind == Tunnel::Gue && usize::from(word(4).unwrap_or(0)) != seen.layer4.len() {
        return Err("the length of UDP is wrong".to_owned());
    }
    Ok(Some(packet.to_vec()))
}

/// Whether one is the other, but for what a router may change, and the size that a SYN announces.
fn alike(one: &Seen<'_>, other: &Seen<'_>) -> bool {
    let same = |at: std::ops::Range<usize>| one.layer4.get(at.clone()) == other.layer4.get(at);
    let payload = |seen: &Seen<'_>| {
        let from = usize::from(seen.layer4.get(12).unwrap_or(&0) >> 4) * 4;
        seen.layer4.get(from..).map(<[u8]>::to_vec)
    };
    let same_rest = if one.proto == 6 {
        same(0..14) && payload(one) == payload(other)
    } else {
        one.layer4 == other.layer4
    };
    (one.src, one.dst, one.proto) == (other.src, other.dst, other.proto) && same_rest
}
