//! Tables, packets and happenings that nobody has thought of, read from a tape. Few addresses and ports, so that flows
//! meet, collide and come back; and every part of a packet may be another than it should be.

use std::time::Duration;

use lb_common::datapath::Hook;

use super::{
    encode::{Link, Variant, encode},
    names::Version,
    scene::Change,
    service::ServiceSketch,
    sketch::{ABORT, Checksum, DATA, Extension, Fragment, INIT, Layer4, Sketch, icmp, other, sctp, tcp, udp},
    tape::Tape,
    tunnel::{Tunnel, gue, ipip},
};

const FRONTENDS: [&str; 5] = ["web:80", "web:53", "api:80", "api:443", "node:30080"];
const BACKENDS: [&str; 13] = [
    "pod:8080 local",
    "pod2:8080",
    "pod2:53",
    "pod3:50051 local",
    "pod:80 local",
    "pod3:443",
    "node:8080 local",
    "far:8080",
    "far-v:8080",
    "far-q:8080",
    "mute:8080",
    "far:8080 on peer",
    "pod2:8080 on peer",
];
const DIALLED: [&str; 14] = [
    "web:80",
    "web:53",
    "api:80",
    "api:443",
    "node:30080",
    "node2:30443",
    "vip:80",
    "vip:443",
    "vip:9",
    "eip:80",
    "eip:443",
    "lo:30080",
    "unused:80",
    "web:9",
];
const CLIENTS: [&str; 10] = [
    "client", "client2", "pod", "pod3", "node", "world", "web", "lo", "vip", "outside",
];
const CLIENT_PORTS: [u16; 6] = [40_000, 40_001, 8_080, 50_051, 80, 65_535];

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Happening {
    /// To the tables.
    Change(Change),
    /// Time passes.
    Later(Duration),
    /// Of this second's ICMP answers so many are left.
    LimitRejects(u64),
    /// A packet at a hook.
    Packet {
        /// The hook.
        hook: Hook,
        /// The kind of device.
        link: Link,
        /// The packet, as far as it can be said in words.
        sketch: Box<Sketch>,
        /// The frame.
        frame: Vec<u8>,
    },
}

/// Tables to begin with.
#[must_use]
pub fn beginning(tape: &mut Tape<'_>) -> Vec<Change> {
    let mut changes: Vec<Change> = FRONTENDS.iter().map(|frontend| published(tape, frontend)).collect();
    if !tape.once_in(4) {
        changes.push(Change::Node);
    }
    if tape.once_in(2) {
        // Other nodes, from which packets come in tunnels.
        let peers = ["peer", "peer2"].map(|name| Change::Peer(name.to_owned()));
        changes.extend(peers);
        changes.push(Change::HostAddress("node".to_owned()));
    }
    changes
}

/// What only a host world can be told: sockets of the host, and a route that leads back. Nothing in most stories.
#[must_use]
pub fn host_only(tape: &mut Tape<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    if tape.once_in(4) {
        let backend = tape.pick(&["pod:8080", "pod2:8080", "pod2:53", "pod3:443"]);
        let node = tape.pick(&["node", "node2", "web"]);
        changes.push(Change::Socket(format!(
            "{backend} > {node}:{}",
            tape.pick(&CLIENT_PORTS)
        )));
    }
    if tape.once_in(8) {
        changes.push(Change::LeadsBack(tape.pick(&["vip", "eip", "pod"]).to_owned()));
    }
    changes
}

/// Picks a tuple of the flow table, if there is one: many packets follow it.
pub type PickFlow<'a> = &'a dyn Fn(&mut Tape<'_>) -> Option<String>;

/// What happens next.
#[must_use]
pub fn next(tape: &mut Tape<'_>, version: Version, flows: PickFlow<'_>) -> Happening {
    match tape.below(32) {
        31 => Happening::Change(change(tape, flows)),
        // Multiples of 7 seconds: no sum of them is just below a time limit.
        30 => Happening::Later(Duration::from_secs(7 * tape.pick(&[1, 1, 2, 5, 9, 18]))),
        29 => Happening::LimitRejects(tape.below(3) as u64),
        _ => packet(tape, version, flows),
    }
}

fn host(frontend: &str) -> &str {
    frontend.rsplit_once(':').map_or(frontend, |(host, _)| host)
}

fn published(tape: &mut Tape<'_>, frontend: &str) -> Change {
    if tape.below(16) == 14 {
        return Change::Dangle(frontend.to_owned());
    }
    let mut service = ServiceSketch::new(frontend);
    if tape.once_in(2) {
        service = match tape.below(3) {
            0 => service.load_balancer(&frontend.replace(host(frontend), "vip")),
            1 => service.external_ip(&frontend.replace(host(frontend), "eip")),
            _ => service.node_port(if frontend.starts_with("web") { 30_080 } else { 30_443 }),
        };
    }
    if tape.once_in(4) {
        service = service.affinity(tape.pick(&[10, 30, 10_800]));
    }
    if tape.once_in(4) {
        service = service.sources(&[tape.pick(&["clients", "pods", "10.0.0.0/8", "fd00::/16"])]);
    }
    if tape.once_in(4) {
        service = service.external_local();
    }
    let is_direct = tape.once_in(2);
    if is_direct {
        service = service.dsr();
    }
    let backends = |tape: &mut Tape<'_>| -> Vec<&str> {
        let all: &[&str] = if is_direct { &BACKENDS[10..] } else { &BACKENDS };
        (0..1 + tape.below(3)).map(|_| tape.pick(all)).collect()
    };
    if tape.once_in(3) {
        service = match tape.below(3) {
            0 => service.nobody_here(),
            _ => service.here(&backends(tape)),
        };
        if tape.once_in(2) {
            service = service.internal_local();
        }
    }
    if tape.once_in(4) {
        service = match tape.below(8) {
            0 => service.table_beyond(),
            1 => service.table(&[0, 7]),
            _ => service.table(&[0, 1, 2]),
        };
        if tape.once_in(2) {
            service = service.internal_maglev();
        }
    }
    Change::Service(Box::new(match tape.below(8) {
        0 => service.nobody(),
        1 => service.no_list(),
        _ => service.to(&backends(tape)),
    }))
}

fn change(tape: &mut Tape<'_>, flows: PickFlow<'_>) -> Change {
    let endpoint = |text: &str| text.split(' ').next().unwrap_or(text).to_owned();
    let flow = |tape: &mut Tape<'_>| flows(tape).unwrap_or_else(|| "client:40000 > web:80".to_owned());
    match tape.below(12) {
        0 => Change::Withdraw(endpoint(tape.pick(&BACKENDS))),
        1 => Change::Reuse(endpoint(tape.pick(&BACKENDS)), endpoint(tape.pick(&BACKENDS))),
        2 => Change::Remove(tape.pick(&FRONTENDS).to_owned()),
        3 | 4 => Change::Evict(flow(tape)),
        5 => Change::Garble(flow(tape)),
        6 => Change::StopServing(endpoint(tape.pick(&BACKENDS))),
        7 => match tape.below(16) {
            13 | 14 => Change::Defer(true),
            15 => Change::Defer(false),
            11 => Change::Gue,
            12 => Change::PathMtu("peer".to_owned(), tape.pick(&[0, 600, 1_300])),
            9 => Change::Vlans,
            10 => Change::VlansTurn,
            6 => Change::Outward,
            7 => Change::OutwardGeneric,
            8 => Change::Routing,
            0 => Change::DetectPods(tape.pick(&["pods", "clients"]).to_owned()),
            1 => Change::DetectPodDevice,
            2 => Change::MasqueradeAll,
            3 => Change::ServiceCidr("services".to_owned()),
            4 => Change::FirstDevice,
            _ => Change::HostAddress(tape.pick(&["node", "node2", "lo", "vip"]).to_owned()),
        },
        8 => Change::Reset(flow(tape)),
        _ => {
            let frontend = tape.pick(&FRONTENDS);
            published(tape, frontend)
        }
    }
}

fn packet(tape: &mut Tape<'_>, version: Version, flows: PickFlow<'_>) -> Happening {
    let hook = tape.pick(&[Hook::Ingress, Hook::EgressForwarded, Hook::EgressLocal, Hook::Xdp]);
    let link = if hook != Hook::Xdp && tape.once_in(4) {
        Link::Bare
    } else {
        Link::Ethernet
    };
    let mut sketch = sketch(tape, version, flows);
    // In test runs the kernel takes a tunnel's headers away behind a link header only.
    if link == Link::Ethernet && tape.once_in(6) {
        sketch.tunnel = Some(tunnel(tape));
    }
    // The protocol is said by the sketch.
    let variant = Variant {
        version,
        proto: lb_common::layout::Proto::TCP,
        link,
    };
    let mut frame = encode(&sketch, variant);
    if tape.once_in(8) {
        spoil(tape, &mut frame);
    }
    Happening::Packet {
        hook,
        link,
        sketch: Box::new(sketch),
        frame,
    }
}

/// A tunnel that another node has sent, or nearly so.
fn tunnel(tape: &mut Tape<'_>) -> Tunnel {
    let from = tape.pick(&["peer", "peer", "peer2", "stranger"]);
    let to = tape.pick(&["node", "node", "node", "vip", "peer"]);
    let tuple = format!("{from} > {to}");
    let tunnel = if tape.once_in(2) { gue(&tuple) } else { ipip(&tuple) };
    if tape.once_in(8) { tunnel.congested() } else { tunnel }
}

fn tuple(tape: &mut Tape<'_>, flows: PickFlow<'_>) -> String {
    if tape.once_in(2)
        && let Some(flow) = flows(tape)
    {
        return flow;
    }
    let client = format!("{}:{}", tape.pick(&CLIENTS), tape.pick(&CLIENT_PORTS));
    let server = if tape.once_in(8) {
        format!("{}:{}", tape.pick(&CLIENTS), tape.pick(&CLIENT_PORTS))
    } else {
        tape.pick(&DIALLED).to_owned()
    };
    if tape.once_in(32) {
        // Land: who sends it is whom it is for.
        format!("{server} > {server}")
    } else if tape.once_in(16) {
        format!("{server} > {client}")
    } else {
        format!("{client} > {server}")
    }
}

/// A packet that is right in most of its parts.
fn sketch(tape: &mut Tape<'_>, version: Version, flows: PickFlow<'_>) -> Sketch {
    let tuple = tuple(tape, flows);
    let mut sketch = match tape.below(16) {
        0..=7 => tcp(&tuple).flags(tape.pick(&[0x02, 0x10, 0x18, 0x12, 0x11, 0x04, 0x14, 0x29, 0xff, 0x00])),
        8..=12 => udp(&tuple),
        13 => sctp(&tuple, tape.pick(&[INIT, DATA, ABORT, 2, 7, 14, 255])),
        14 if tape.once_in(2) => icmp(&tuple, tape.octet(), tape.octet()),
        14 => return error(tape, version, &tuple),
        _ => other(&tuple, tape.pick(&[6, 17, 0, 44, 50, 58, 132, 255])),
    };
    let len = tape.pick(&[10, 0, 1, 2, 60, 100, 400, 1400]);
    sketch = sketch.sized(len);
    if tape.once_in(4) {
        sketch.checksum = match tape.below(4) {
            0 => Checksum::None,
            1 => Checksum::Partial,
            _ => Checksum::OffBy(tape.word()),
        };
    }
    match version {
        Version::V4 if tape.once_in(6) => sketch.options = tape.below(11),
        Version::V6 if tape.once_in(4) => {
            sketch.extensions = (0..tape.below(9)).map(|_| extension(tape)).collect();
        }
        _ => {}
    }
    if tape.once_in(4) {
        sketch.fragment = fragment(tape, &sketch);
    }
    if tape.once_in(12) {
        sketch.padding = tape.below(64);
    }
    if tape.once_in(16) {
        sketch.says_len = Some(if tape.once_in(2) {
            tape.word()
        } else {
            tape.below(100) as u16
        });
    }
    if tape.once_in(8) {
        let priority = tape.word() & 0xf000;
        sketch.tags = match tape.below(5) {
            0 => vec![(0x8100, tape.word())],
            1 => vec![(0x88a8, priority | 200)],
            2 => vec![(0x88a8, priority | 200), (0x8100, 300), (0x8100, 1)],
            3 => vec![(0x88a8, priority | 200), (0x8100, 300)],
            _ => vec![(0x8100, priority | 100)],
        };
    }
    if tape.once_in(24) {
        sketch.ethertype = Some(tape.pick(&[0x0800, 0x86dd, 0x0806, 0x8100, 0]));
    }
    sketch
}

/// An ICMP error about a packet of a flow, as one of its routers or its receiver sends it; or nearly so.
fn error(tape: &mut Tape<'_>, version: Version, about: &str) -> Sketch {
    let [quoted, back] = match about.split_once(" > ") {
        // The entry found is that of packets that travel as the error does, so it quotes one of the others.
        Some((src, dst)) if !tape.once_in(4) => [format!("{dst} > {src}"), about.to_owned()],
        Some((src, dst)) => [about.to_owned(), format!("{dst} > {src}")],
        None => [about.to_owned(), about.to_owned()],
    };
    let (from, to) = back.split_once(" > ").unwrap_or(("client", "web"));
    let from = if tape.once_in(2) {
        tape.pick(&CLIENTS)
    } else {
        host(from)
    };
    let to = if tape.once_in(8) { tape.pick(&CLIENTS) } else { host(to) };
    let kinds = match version {
        Version::V4 => [3, 11, 12, 5],
        Version::V6 => [1, 2, 3, 4],
    };
    let kind = if tape.once_in(8) {
        tape.octet()
    } else {
        tape.pick(&kinds)
    };
    let mut inner = match tape.below(8) {
        0..=2 => tcp(&quoted),
        3..=5 => udp(&quoted),
        6 => sctp(&quoted, DATA),
        _ => other(&quoted, tape.pick(&[1, 47, 58, 41])),
    };
    match version {
        Version::V4 if tape.once_in(6) => inner.options = tape.below(11),
        Version::V6 if tape.once_in(4) => inner.extensions = vec![extension(tape)],
        _ => {}
    }
    if tape.once_in(6) {
        inner.fragment = fragment(tape, &inner);
    }
    if tape.once_in(6) {
        inner.checksum = tape.pick(&[Checksum::None, Checksum::Partial, Checksum::OffBy(0x1234)]);
    }
    if tape.once_in(16) {
        inner = icmp(&quoted, 3, 1).quoting(inner, 60);
    }
    let octets_max = tape.pick(&[1_200, 28, 48, 27, 24, 20, 8, 0]);
    let mut error = icmp(&format!("{from} > {to}"), kind, tape.pick(&[0, 1, 3, 4])).quoting(inner, octets_max);
    if tape.once_in(6) {
        error.payload = tape.take(8);
    }
    if tape.once_in(8) {
        error.checksum = Checksum::OffBy(tape.word());
    }
    match version {
        Version::V4 if tape.once_in(8) => error.options = tape.below(11),
        Version::V6 if tape.once_in(8) => error.extensions = vec![extension(tape)],
        _ => {}
    }
    if tape.once_in(16) {
        error.says_len = Some(tape.below(120) as u16);
    }
    error
}

fn extension(tape: &mut Tape<'_>) -> Extension {
    let len = 8 * (1 + tape.pick(&[0, 0, 0, 1, 2, 8, 14]));
    match tape.below(8) {
        0..=2 => Extension::Destination(len),
        3 | 4 => Extension::HopByHop(len),
        5 => Extension::Routing(len),
        6 => Extension::AtomicFragment,
        _ => Extension::Authentication,
    }
}

/// A first, a middle or a last part.
fn fragment(tape: &mut Tape<'_>, sketch: &Sketch) -> Option<Fragment> {
    let header_len = match sketch.layer4 {
        Layer4::Tcp(_) => 20,
        // With the padding behind the chunk.
        Layer4::Sctp(_) => 16 + sketch.payload.len().next_multiple_of(4) - sketch.payload.len(),
        Layer4::Udp | Layer4::Icmp(..) => 8,
        Layer4::Other(17) => 8,
        _ => 4,
    };
    let len = header_len + sketch.payload.len();
    let units = len / 8;
    let id = 1 + tape.below(3) as u32;
    let from = if tape.once_in(2) { 8 * tape.below(units + 1) } else { 0 };
    let to = if tape.once_in(2) {
        len
    } else {
        from + 8 * tape.below((len - from) / 8 + 1)
    };
    Some(Fragment { id, from, to })
}

/// Bits turned over, octets replaced, ends cut off or added: mostly in the headers.
pub fn spoil(tape: &mut Tape<'_>, frame: &mut Vec<u8>) {
    for _ in 0..=tape.below(3) {
        match tape.below(8) {
            0 => frame.truncate(tape.below(frame.len() + 1)),
            1 => frame.extend(tape.take(8)),
            _ if frame.is_empty() => {}
            2 | 3 => {
                let at = tape.below(frame.len().min(100));
                frame[at] = tape.octet();
            }
            _ => {
                let at = tape.below(frame.len().min(100));
                frame[at] ^= 1 << tape.below(8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tape::recorded;

    #[test]
    fn an_empty_tape_makes_a_plain_packet() {
        let Happening::Packet { hook, frame, .. } = next(&mut Tape::new(&[]), Version::V4, &|_| None) else {
            panic!("no packet");
        };
        let seen = crate::packet::decode::read(&frame, Link::Ethernet).expect("well-formed");
        assert_eq!(seen.tuple().expect("ports").to_string(), "client:40000 > web:80");
        assert_eq!(hook, Hook::Ingress);
    }

    #[test]
    fn every_tape_makes_something() {
        for seed in 0..2_000 {
            let octets = recorded(seed, 200);
            let mut tape = Tape::new(&octets);
            assert!(!beginning(&mut tape).is_empty());
            for version in [Version::V4, Version::V6] {
                let _ = next(&mut tape, version, &|_| Some("pod:8080 > client:40000".to_owned()));
            }
        }
    }
}
