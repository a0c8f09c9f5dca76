//! Translation between any addresses and ports: what is done is what a packet made anew would be, and the way back
//! leads back. Pure code: no root needed.

use std::net::IpAddr;

use lb_common::{
    datapath::{Hook, Verdict},
    layout::{DropReason, Flow, FlowFlags, Proto, Stage, V4, V6, limits::SOURCE_PORT_MIN},
};
use proptest::prelude::*;
use tests::packet::{
    decode::read,
    encode::{Link, Variant, encode},
    host::{Carrier, HostFamily, HostPacket, HostWorld},
    names::{Named, Tuple, Version},
    scene::{Change, Scene},
    side::{Shot, Side, TC_SHOT},
    sketch::{self, Checksum},
    sums::{checksum, sum},
};

/// Addresses and ports of a flow through a Service.
#[derive(Clone, Debug)]
struct Parties {
    client: (IpAddr, u16),
    frontend: (IpAddr, u16),
    backend: (IpAddr, u16),
}

impl Parties {
    fn dialled(&self) -> Tuple {
        between(self.client, self.frontend)
    }

    fn reaches(&self) -> Tuple {
        between(self.client, self.backend)
    }

    fn answered(&self) -> Tuple {
        between(self.backend, self.client)
    }

    fn comes_back(&self) -> Tuple {
        between(self.frontend, self.client)
    }
}

fn between((src, sport): (IpAddr, u16), (dst, dport): (IpAddr, u16)) -> Tuple {
    Tuple { src, sport, dst, dport }
}

/// Octets of an address, which of them are all zeros and which all ones, and a port.
type Dice = ([u8; 16], u16, u16, u16);

fn endpoint(version: Version, (octets, zeros, ones, port): Dice) -> (IpAddr, u16) {
    let mut octets = octets;
    for (at, octet) in octets.iter_mut().enumerate() {
        if zeros & ones >> at & 1 == 1 {
            *octet = if at % 2 == 0 { 0 } else { 0xff };
        }
    }
    let [a, b, c, d, ..] = octets;
    match version {
        Version::V4 => ([a, b, c, d].into(), port.max(1)),
        Version::V6 => (octets.into(), port.max(1)),
    }
}

/// A client, its Service and a backend that is neither of them.
fn parties() -> impl Strategy<Value = (Version, Parties)> {
    any::<(bool, Dice, Dice, Dice)>()
        .prop_map(|(is_v4, client, frontend, backend)| {
            let version = if is_v4 { Version::V4 } else { Version::V6 };
            let [client, frontend, backend] = [client, frontend, backend].map(|dice| endpoint(version, dice));
            (
                version,
                Parties {
                    client,
                    frontend,
                    backend,
                },
            )
        })
        .prop_filter(
            "different addresses",
            |(
                _,
                Parties {
                    client,
                    frontend,
                    backend,
                },
            )| { client.0 != backend.0 && frontend.0 != client.0 && frontend.0 != backend.0 },
        )
}

fn proto() -> impl Strategy<Value = Proto> {
    prop_oneof![Just(Proto::TCP), Just(Proto::UDP)]
}

/// A world in which the frontend is served by the backend.
fn world<F: HostFamily>(parties: &Parties, proto: Proto) -> HostWorld {
    let text = |(address, port): (IpAddr, u16)| match address {
        IpAddr::V4(_) => format!("{address}:{port}"),
        IpAddr::V6(_) => format!("[{address}]:{port}"),
    };
    let mut world = HostWorld::default();
    let backend = format!("{} local", text(parties.backend));
    for change in [Change::Node, Change::serve(&text(parties.frontend), &[&backend])] {
        for write in Scene::default().writes::<F>(&change, proto) {
            Side::<F>::write(&mut world, &write).expect("a host world takes every write");
        }
    }
    world
}

/// One packet through a hook: what became of it, and the octets.
fn through(world: &HostWorld, hook: Hook, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let got = world.shoot_plain(Shot {
        hook,
        link: Link::Ethernet,
        frame,
    });
    (got.verdict, got.outcome.frame)
}

fn in_version(version: Version, parties: &Parties, proto: Proto) -> HostWorld {
    match version {
        Version::V4 => world::<V4>(parties, proto),
        Version::V6 => world::<V6>(parties, proto),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_translated_packet_is_what_would_have_been_made_anew_and_the_way_back_leads_back(
        (version, parties) in parties(),
        proto in proto(),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        by_host in any::<bool>(),
    ) {
        let world = in_version(version, &parties, proto);
        let variant = Variant { version, proto, link: Link::Ethernet };
        let make = |tuple: Tuple| encode(&sketch::any(&tuple.to_string()).says(&payload), variant);
        let ((to, there), (back, home)) = if by_host {
            ((Hook::EgressLocal, Verdict::Route), (Hook::Ingress, Verdict::Deliver))
        } else {
            ((Hook::Ingress, Verdict::Pass), (Hook::EgressForwarded, Verdict::Pass))
        };
        let dialled = make(parties.dialled());
        prop_assert_eq!(through(&world, to, &dialled), (there, make(parties.reaches())));
        let answered = make(parties.answered());
        prop_assert_eq!(through(&world, back, &answered), (home, make(parties.comes_back())));
        // The packet turned around on its way is the packet turned around before it.
        let (_, reached) = through(&world, to, &dialled);
        prop_assert_eq!(through(&world, back, &turned(&reached, version)), (home, turned(&dialled, version)));
    }

    #[test]
    fn xdp_does_what_tc_does(
        (version, parties) in parties(),
        proto in proto(),
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let variant = Variant { version, proto, link: Link::Ethernet };
        let dialled = encode(&sketch::any(&parties.dialled().to_string()).says(&payload), variant);
        let by_xdp = through(&in_version(version, &parties, proto), Hook::Xdp, &dialled);
        let by_tc = through(&in_version(version, &parties, proto), Hook::Ingress, &dialled);
        // But for a checksum that looks partial, which XDP leaves alone.
        prop_assert!(by_xdp == by_tc || by_xdp == (Verdict::Pass, dialled));
    }

    #[test]
    fn a_partial_checksum_is_right_once_it_is_completed(
        (version, parties) in parties(),
        proto in proto(),
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let world = in_version(version, &parties, proto);
        let variant = Variant { version, proto, link: Link::Ethernet };
        let packet = sketch::any(&parties.dialled().to_string()).says(&payload);
        let partial = encode(&packet.clone().checksum(Checksum::Partial), variant);
        let mut buffer = HostPacket::<14>::new(&partial, Carrier::SkbPartial);
        prop_assert_eq!(world.shoot(&mut buffer, Hook::Ingress).verdict, Verdict::Pass);
        let wanted = encode(&packet.between(&parties.reaches().to_string()), variant);
        prop_assert_eq!(completed(&buffer.octets, variant), wanted);
    }
}

/// The same packet from its receiver to its sender: no sum changes by that.
fn turned(frame: &[u8], version: Version) -> Vec<u8> {
    let (at, len) = if version == Version::V4 {
        (14 + 12, 4)
    } else {
        (14 + 8, 16)
    };
    let mut turned = frame.to_vec();
    let addresses = &mut turned[at..at + 2 * len];
    addresses.rotate_left(len);
    let ports = at + 2 * len;
    turned[ports..ports + 4].rotate_left(2);
    turned
}

/// What a device makes of a partial checksum: the sum over all from the TCP or UDP header on, the field included.
fn completed(frame: &[u8], variant: Variant) -> Vec<u8> {
    let at = 14 + if variant.version == Version::V4 { 20 } else { 40 };
    let field = at + if variant.proto == Proto::TCP { 16 } else { 6 };
    let mut completed = frame.to_vec();
    let whole = match checksum(sum(&frame[at..])) {
        0 if variant.proto == Proto::UDP => 0xffff,
        whole => whole,
    };
    completed[field..field + 2].copy_from_slice(&whole.to_be_bytes());
    completed
}

#[test]
fn the_hash_of_the_tuple_spreads_flows_over_the_backends() {
    let mut world = HostWorld::default();
    let backends: Vec<String> = (1..=5).map(|host| format!("10.0.0.{host}:80")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    for write in Scene::default().writes::<V4>(&Change::serve("web:80", &backends), Proto::TCP) {
        Side::<V4>::write(&mut world, &write).expect("a host world takes every write");
    }
    let mut hits = [0_u32; 6];
    let variant = Variant {
        version: Version::V4,
        proto: Proto::TCP,
        link: Link::Ethernet,
    };
    for port in 10_000..15_000 {
        let frame = encode(&sketch::any(&format!("client:{port} > web:80")).syn(), variant);
        let (_, out) = through(&world, Hook::Ingress, &frame);
        hits[usize::from(out[14 + 19])] += 1;
    }
    assert!(
        hits[1..].iter().all(|hit| (850..1150).contains(hit)),
        "5000 flows went to {hits:?}"
    );
}

#[test]
fn a_client_that_holds_every_port_of_a_backend_is_told_by_a_drop() {
    let mut world = HostWorld::default();
    let serve = Change::serve("web:80", &["pod:8080"]);
    for write in Scene::default().writes::<V4>(&serve, Proto::TCP) {
        Side::<V4>::write(&mut world, &write).expect("a host world takes every write");
    }
    // Replies to every port of the client belong to another frontend's flows, which are answered and in use.
    let other = V4::key("api:443 > client:1", Proto::TCP);
    for port in 1..=u16::MAX {
        let key = V4::key(&format!("pod:8080 > client:{port}"), Proto::TCP).at(Stage::LEAVES);
        let flow = Flow {
            check: key.check(),
            src: other.src,
            dst: key.dst,
            sport: other.sport,
            dport: key.dport,
            flags: FlowFlags::REPLY.with(FlowFlags::SEEN),
            seen_ns: world.now_ns.get(),
            ..Flow::default()
        };
        world.v4.flows.get_mut().insert(key, flow);
    }
    let held = world.v4.flows.borrow().len();
    let variant = Variant {
        version: Version::V4,
        proto: Proto::TCP,
        link: Link::Ethernet,
    };
    let frame = encode(&sketch::any("client:40001 > web:80").syn(), variant);
    assert_eq!(
        through(&world, Hook::Ingress, &frame),
        (Verdict::Drop(DropReason::NoSourcePort), frame.clone())
    );
    assert_eq!(world.v4.flows.borrow().len(), held, "nothing is left half done");
    // Half of the ports set free: one of the sixteen that are tried is among them.
    world.v4.flows.get_mut().retain(|key, _| key.dport.get() % 2 == 1);
    let (verdict, out) = through(&world, Hook::Ingress, &frame);
    let translated = read(&out, Link::Ethernet)
        .and_then(|seen| seen.tuple())
        .expect("a packet with ports");
    assert_eq!(verdict, Verdict::Pass);
    assert!(
        translated.sport.is_multiple_of(2) && translated.sport >= SOURCE_PORT_MIN,
        "{translated}"
    );
}

#[test]
fn an_answer_that_the_kernel_refuses_half_way_is_never_sent() {
    let mut world = HostWorld::default();
    for write in Scene::default().writes::<V4>(&Change::reject("web:80"), Proto::TCP) {
        Side::<V4>::write(&mut world, &write).expect("a host world takes every write");
    }
    let variant = Variant {
        version: Version::V4,
        proto: Proto::TCP,
        link: Link::Ethernet,
    };
    let frame = encode(&sketch::any("client:40001 > web:80").syn(), variant);
    let mut refused = 0;
    for writes in 0.. {
        let mut packet = HostPacket::<14>::new(&frame, Carrier::Skb);
        packet.writes_left = writes;
        let got = world.shoot(&mut packet, Hook::Ingress);
        assert_eq!(got.verdict, Verdict::Refuse);
        if got.outcome.code != TC_SHOT {
            break;
        }
        refused += 1;
    }
    // Cutting the quote, making it readable, making room before it: headers themselves are written in place.
    assert_eq!(refused, 3, "what the kernel can refuse");
}
