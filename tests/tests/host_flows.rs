//! A flow table of a million entries: what happens to a few flows touches no other.

use lb_common::{
    datapath::{Hook, Verdict},
    layout::{Flow, FlowFlags, FlowKey, Ip4, Port, Proto},
};
use tests::packet::{
    encode::{Link, Variant, encode},
    host::HostWorld,
    names::{Named as _, Version},
    scene::{Change, Scene},
    side::{Shot, Side},
    sketch::udp,
};

const FLOWS: u32 = 1_000_000;

#[test]
fn row_136_of_a_million_flows_only_those_to_an_endpoint_that_is_gone_change_and_each_at_its_own_packet() {
    use lb_common::layout::V4;
    let mut world = HostWorld::default();
    let mut scene = Scene::default();
    let mut change = |world: &mut HostWorld, change: &Change| {
        for write in scene.writes::<V4>(change, Proto::UDP) {
            Side::<V4>::write(world, &write).expect("a host world takes every write");
        }
    };
    change(&mut world, &Change::serve("web:53", &["pod:5353", "pod2:5353"]));
    let (pod, gone) = (V4::named("pod"), V4::named("pod2"));
    let now_ns = world.now_ns.get();
    // Every tenth flow goes to the endpoint that will be gone.
    for number in 0..FLOWS {
        let client = Ip4::from(std::net::Ipv4Addr::from(0x0a01_0000 + number / 50_000));
        let sport = Port::new(10_000 + (number % 50_000) as u16);
        let key = FlowKey::new(client, sport, V4::named("web"), Port::new(53), Proto::UDP);
        let to_gone = number % 10 == 0;
        let flow = Flow {
            check: key.check(),
            backend: if to_gone { 2 } else { 1 },
            src: client,
            dst: if to_gone { gone } else { pod },
            sport,
            dport: Port::new(5353),
            flags: FlowFlags::SEEN,
            seen_ns: now_ns,
            ..Flow::default()
        };
        world.v4.flows.get_mut().insert(key, flow);
    }
    let before = world.v4.flows.borrow().clone();
    change(&mut world, &Change::serve("web:53", &["pod:5353"]));
    change(&mut world, &Change::Withdraw("pod2:5353".to_owned()));
    let variant = Variant {
        version: Version::V4,
        proto: Proto::UDP,
        link: Link::Ethernet,
    };
    // A packet of the first, which goes to the gone one, and of the second, which doesn't.
    for port in [10_000, 10_001] {
        let frame = encode(&udp(&format!("10.1.0.0:{port} > web:53")), variant);
        let got = world.shoot_plain(Shot {
            hook: Hook::Ingress,
            link: Link::Ethernet,
            frame: &frame,
        });
        assert_eq!(got.verdict, Verdict::Pass);
        assert_eq!(got.outcome.frame[30..34], pod.octets, "port {port}");
    }
    let after = world.v4.flows.borrow();
    let changed: Vec<_> = before
        .iter()
        .filter(|(key, flow)| after.get(key) != Some(flow))
        .collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    // It has a reply entry now, and nothing else came.
    assert_eq!(after.len(), before.len() + 1);
}
