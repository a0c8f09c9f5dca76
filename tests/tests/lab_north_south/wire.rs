//! What passes on the cable of a balancer: who sends what to whom, and whether every checksum is right.
//!
//! The capture is at the router's end: what XDP sends on, nobody sees on the balancer itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tests::lab::{Capture, Host, Lab, plan};
use tests::packet::decode::{read, show, verify};
use tests::packet::encode::Link;
use tests::traffic::{Cluster, Over};

use crate::scene::{CLUSTER, COMBINATIONS, Frontend, PATIENCE, node};

/// Exchanges of each combination.
const TIMES: usize = 4;

/// What passes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leg {
    /// From the client to the frontend.
    Request,
    /// On to a pod, with an address of the balancer.
    SentOn,
    /// From the pod to that address.
    Answer,
    /// Back to the client, from the frontend.
    SentBack,
}

pub(crate) fn addresses_ports_and_checksums(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
    lab.complete_checksums_on_the_way().expect("the nodes' devices can");
    let router = lab.router().expect("there is one");
    let mut wrong = Vec::new();
    for frontend in Frontend::ALL {
        for (over, v6) in COMBINATIONS {
            let target = frontend.of(CLUSTER, lab.node(), over, v6);
            let filter = if over == Over::Tcp { "tcp" } else { "udp" };
            let file = lab.directory().join("balancer.pcap");
            let capture = Capture::start(router, &plan::lan_device(1), filter, &file).expect("tcpdump runs");
            let ask = || (0..TIMES).try_for_each(|_| over.ask(target, PATIENCE).map(drop));
            let outcome = lab.client().run(ask);
            let frames = capture.frames().expect("tcpdump ends");
            wrong.extend(outcome.err().map(|error| format!("{target}: {error}")));
            let all = looked_at(lab, &frames, target, over);
            wrong.extend(all.into_iter().map(|why| format!("{target}: {why}")));
        }
    }
    wrong
}

/// What is wrong with the frames of exchanges with a frontend.
fn looked_at(lab: &Lab, frames: &[Vec<u8>], frontend: SocketAddr, over: Over) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut counts = BTreeMap::new();
    for frame in frames {
        match leg(lab, frame, frontend, over) {
            Some((leg, macs)) if frame.starts_with(&macs) => *counts.entry(leg).or_insert(0) += 1,
            Some((leg, _)) => wrong.push(format!("{leg:?} with MAC addresses {:02x?}", &frame[..12])),
            None => wrong.push(format!("nobody's packet: {}", show(frame, Link::Ethernet))),
        }
        if verify(frame, Link::Ethernet).is_err() {
            wrong.push(show(frame, Link::Ethernet));
        }
    }
    for leg in [Leg::Request, Leg::SentOn, Leg::Answer, Leg::SentBack] {
        let count = counts.get(&leg).copied().unwrap_or(0);
        if count < TIMES {
            wrong.push(format!("{count} packets are {leg:?}, of {TIMES} exchanges: {counts:?}"));
        }
    }
    wrong
}

/// What a frame is by its addresses and ports, and which MAC addresses it has to have.
fn leg(lab: &Lab, frame: &[u8], frontend: SocketAddr, over: Over) -> Option<(Leg, Vec<u8>)> {
    let tuple = read(frame, Link::Ethernet)?.tuple()?;
    let (from, to) = (
        SocketAddr::new(tuple.src, tuple.sport),
        SocketAddr::new(tuple.dst, tuple.dport),
    );
    let is = |host: &Host, address: SocketAddr| host.addresses().contains(&address.ip());
    let target_port = if over == Over::Tcp { 7000 } else { 5353 };
    let balancer = node(lab, 1);
    let (own, router) = (mac(&plan::node_mac(1)), mac(plan::ROUTER_MAC));
    // The MAC address of the node that has a pod.
    let node_of = |pod: SocketAddr| {
        let number = (3..=5).find(|number| lab.backends_of(*number).any(|host| is(host, pod)))?;
        Some(mac(&plan::node_mac(number))).filter(|_| pod.port() == target_port)
    };
    if to == frontend && is(lab.client(), from) {
        Some((Leg::Request, [own, router].concat()))
    } else if from == frontend && is(lab.client(), to) {
        Some((Leg::SentBack, [router, own].concat()))
    } else if is(balancer, from) {
        Some((Leg::SentOn, [node_of(to)?, own].concat()))
    } else if is(balancer, to) {
        Some((Leg::Answer, [own, node_of(from)?].concat()))
    } else {
        None
    }
}

fn mac(text: &str) -> Vec<u8> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    octets.collect::<Result<_, _>>().expect("a MAC address")
}
