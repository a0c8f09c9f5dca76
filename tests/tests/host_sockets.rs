//! Rows: what the socket tier makes of an address that a process dials, and what the process is told of who answers. Pure code: no root
//! needed; the same with real sockets is in `lab_socket`.

use std::{fmt::Display, marker::PhantomData};

use lb_common::{
    datapath::{self, Dialled, SocketFamily, is_mapped},
    layout::{Counter, DropReason, Port, Proto, ServiceFlags, V4, V6, limits::SOCKET_PEER_IDLE_NS},
};
use rstest::rstest;
use tests::packet::{
    host::{HostFamily, HostSocket, HostWorld},
    names::{endpoint, name_of},
    scene::{Change, Scene, Write},
    service::{ServiceSketch, service},
    side::Side,
};

/// A family, both sides of it.
trait Both: HostFamily + SocketFamily {}
impl<F: HostFamily + SocketFamily> Both for F {}

const POD: u64 = 77;

/// One node and one socket.
struct Sockets<F> {
    scene: Scene,
    world: HostWorld,
    proto: Proto,
    family: PhantomData<F>,
}

impl<F: Both> Sockets<F>
where
    HostWorld: datapath::World + datapath::Tables<F>,
{
    /// A socket of the host's own.
    fn new(proto: Proto) -> Self {
        Self {
            scene: Scene::default(),
            world: HostWorld::default(),
            proto,
            family: PhantomData,
        }
    }

    fn of_pod(self) -> Self {
        self.world.socket.namespace.set(POD);
        self
    }

    fn given(mut self, service: ServiceSketch) -> Self {
        self.change(Change::Service(Box::new(service)));
        self
    }

    fn with(mut self, change: Change) -> Self {
        self.change(change);
        self
    }

    fn change(&mut self, change: Change) {
        for write in self.scene.writes::<F>(&change, self.proto) {
            Side::<F>::write(&mut self.world, &write).expect("memory");
        }
    }

    /// All Services have these rules, too.
    fn ruled(mut self, flags: ServiceFlags) -> Self {
        let services: Vec<_> = F::cabinet(&self.world).services.clone().into_iter().collect();
        for (number, mut service) in services {
            service.rules.flags = service.rules.flags.with(flags);
            Side::<F>::write(&mut self.world, &Write::Service(number, service)).expect("memory");
        }
        self
    }

    fn address(text: &str) -> (F::Addr, Port) {
        let (ip, port) = endpoint(text, F::VERSION);
        (F::from_ip(ip).expect("an address of the family"), Port::new(port))
    }

    fn named(address: F::Addr, port: Port) -> String {
        format!("{}:{port}", name_of(F::to_ip(address)))
    }

    fn dial(&self, text: &str) -> String {
        let (address, port) = Self::address(text);
        let dialled = if self.proto == Proto::TCP {
            datapath::connect::<F, _>(&self.world, address, port)
        } else {
            datapath::send::<F, _>(&self.world, address, port)
        };
        match dialled {
            Dialled::Alone => "alone".to_owned(),
            Dialled::Backend(address, port) => Self::named(address, port),
            Dialled::Refused => "refused".to_owned(),
        }
    }

    /// Of another socket.
    fn dial_anew(&self, text: &str) -> String {
        self.world.socket.peer.take();
        self.world.socket.peers.take();
        self.dial(text)
    }

    fn told(&self, text: &str) -> String {
        let (address, port) = Self::address(text);
        let instead = if self.proto == Proto::TCP {
            datapath::peer_name::<F, _>(&self.world, address, port)
        } else {
            datapath::received::<F, _>(&self.world, address, port)
        };
        instead.map_or_else(|| "the same".to_owned(), |(address, port)| Self::named(address, port))
    }

    fn socket(&self) -> &HostSocket {
        &self.world.socket
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.world.counters.borrow()[counter as usize]
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.world.drops.borrow()[reason as usize]
    }
}

/// The same in both families.
macro_rules! both {
    ($(#[$attr:meta])* fn $name:ident<$family:ident>($($(#[$arg_attr:meta])* $arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$attr])*
        fn $name($($(#[$arg_attr])* $arg: $type,)*) {
            fn in_family<$family: Both>($($arg: $type,)*)
            where
                HostWorld: datapath::World + datapath::Tables<$family>,
            $body
            in_family::<V4>($($arg.clone(),)*);
            in_family::<V6>($($arg,)*);
        }
    };
}

fn web() -> ServiceSketch {
    service("web")
        .cluster_ip("web:80")
        .node_port(30_080)
        .external_ip("eip:80")
        .load_balancer("vip:80")
}

fn served() -> ServiceSketch {
    web().to(&["pod:8080"])
}

/// Where it is dialled, by the host and by a pod.
fn show(rows: &[(&str, &str)], dial: impl Fn(&str) -> String, who: impl Display) {
    for (dialled, expected) in rows {
        assert_eq!(dial(dialled), *expected, "{who} dials {dialled}");
    }
}

both! {
    #[rstest]
    #[case::tcp(Proto::TCP)]
    #[case::udp(Proto::UDP)]
    fn every_frontend_leads_to_an_endpoint<F>(#[case] proto: Proto) {
        let node = || Sockets::<F>::new(proto).given(served()).with(Change::HostAddress("node".into())).with(Change::HostAddress("lo".into())).with(Change::QuietHostAddress("node2".into()));
        let host = node();
        show(
            &[
                ("web:80", "pod:8080"),
                ("eip:80", "pod:8080"),
                ("vip:80", "pod:8080"),
                ("node:30080", "pod:8080"),
                ("lo:30080", "pod:8080"),
                ("node2:30080", "alone"),
                ("node:30081", "alone"),
                ("eip:81", "alone"),
                ("pod:8080", "alone"),
                ("world:80", "alone"),
            ],
            |dialled| host.dial_anew(dialled),
            "the host",
        );
        let pod = node().of_pod();
        show(
            &[("web:80", "pod:8080"), ("node:30080", "pod:8080"), ("lo:30080", "alone"), ("world:80", "alone")],
            |dialled| pod.dial_anew(dialled),
            "a pod",
        );
    }
}

both! {
    #[test]
    fn the_unspecified_address_is_the_loopback_address<F>() {
        let tcp = Sockets::<F>::new(Proto::TCP).given(served()).with(Change::HostAddress("lo".into()));
        let (_, port) = Sockets::<F>::address("lo:30080");
        let dialled = datapath::connect::<F, _>(&tcp.world, F::Addr::default(), port);
        let (address, backend_port) = Sockets::<F>::address("pod:8080");
        assert_eq!(dialled, Dialled::Backend(address, backend_port));
        assert_eq!(tcp.told("pod:8080"), "lo:30080");
        let pod = tcp.of_pod();
        assert_eq!(datapath::connect::<F, _>(&pod.world, F::Addr::default(), port), Dialled::Alone);
    }
}

both! {
    #[rstest]
    #[case::nobody_anywhere(web().nobody(), "web:80", "refused", Some(DropReason::NoEndpoint))]
    #[case::a_port_that_is_not_served(served(), "web:81", "refused", Some(DropReason::UnknownPort))]
    #[case::nobody_here_is_silence(served().nobody_here().internal_local(), "web:80", "alone", None)]
    #[case::nothing_is_known(served().no_list(), "web:80", "alone", None)]
    fn who_finds_nobody<F>(#[case] service: ServiceSketch, #[case] dialled: &str, #[case] expected: &str, #[case] reason: Option<DropReason>) {
        let tcp = Sockets::<F>::new(Proto::TCP).given(service.clone());
        assert_eq!(tcp.dial(dialled), expected);
        assert_eq!(tcp.world.events.borrow().len(), usize::from(reason.is_some()));
        if let Some(reason) = reason {
            assert_eq!(tcp.dropped(reason), 1);
            assert_eq!(tcp.world.events.borrow()[0].reason, reason as u16);
        }
        // Of datagrams the tc tier tells, by ICMP: that is what the process would hear of kube-proxy.
        let udp = Sockets::<F>::new(Proto::UDP).given(service);
        assert_eq!(udp.dial(dialled), "alone");
        assert!(udp.world.drops.borrow().iter().all(|count| *count == 0));
    }
}

both! {
    #[rstest]
    #[case::tcp(Proto::TCP)]
    #[case::udp(Proto::UDP)]
    fn what_a_socket_does_not_tell_is_left_to_tc<F>(#[case] proto: Proto) {
        let node = |service| Sockets::<F>::new(proto).given(service);
        let ranged = node(served().sources(&["clients"]));
        show(&[("vip:80", "alone"), ("web:80", "pod:8080"), ("eip:80", "pod:8080")], |to| ranged.dial_anew(to), "with source ranges");
        let masquerading = || node(served()).with(Change::MasqueradeAll);
        show(&[("web:80", "pod:8080")], |to| masquerading().dial_anew(to), "masqueraded, the host");
        show(&[("web:80", "alone"), ("eip:80", "alone")], |to| masquerading().of_pod().dial_anew(to), "masqueraded, a pod");
        let off = node(served()).ruled(ServiceFlags::NO_SOCKETS);
        assert_eq!(off.dial("web:80"), "alone", "the Service's annotation");
        let left = node(served());
        left.socket().is_left.set(true);
        assert_eq!(left.dial("web:80"), "alone", "the socket is left");
        let poor = node(served());
        poor.socket().has_no_memory.set(true);
        assert_eq!(poor.dial("web:80"), "alone", "no memory");
        assert_eq!(poor.counted(Counter::SocketConnects) + poor.counted(Counter::SocketPeers), 0);
    }
}

both! {
    #[test]
    fn policies_give_each_client_its_list<F>() {
        let both = || web().to(&["pod:8080"]).here(&["pod2:8080 local"]);
        let rows = [
            // Service, detector, who, ClusterIP, ExternalIP.
            (both().internal_local(), true, "host", "pod2:8080", "pod:8080"),
            (both().internal_local(), true, "pod", "pod2:8080", "pod:8080"),
            (both().external_local(), true, "host", "pod:8080", "pod:8080"),
            (both().external_local(), true, "pod", "pod:8080", "pod:8080"),
            // Nobody is known to be a pod: who isn't the host comes from outside.
            (both().external_local(), false, "pod", "pod:8080", "pod2:8080"),
        ];
        for (service, is_detected, who, internal, external) in rows {
            let mut sockets = Sockets::<F>::new(Proto::TCP).given(service);
            if is_detected {
                sockets = sockets.with(Change::DetectPods("pods".into()));
            }
            if who == "pod" {
                sockets = sockets.of_pod();
            }
            show(&[("web:80", internal), ("eip:80", external)], |to| sockets.dial_anew(to), who);
        }
    }
}

both! {
    #[test]
    fn a_namespace_with_affinity_keeps_its_endpoint_and_another_has_its_own<F>() {
        let mut sockets = Sockets::<F>::new(Proto::TCP).given(web().to(&["pod:8080", "pod2:8080", "pod3:8080"]).affinity(60));
        let first = sockets.dial("web:80");
        let mut others = 0;
        for cookie in 5_000..5_100 {
            sockets.socket().cookie.set(cookie);
            sockets.socket().peer.take();
            assert_eq!(sockets.dial("web:80"), first, "whatever socket");
            assert_eq!(sockets.dial("eip:80"), first, "whatever frontend");
            sockets.socket().namespace.set(cookie);
            others += u32::from(sockets.dial("web:80") != first);
            sockets.socket().namespace.set(HostSocket::HOST);
        }
        assert!((40..90).contains(&others), "{others} of 100 namespaces have another of three endpoints");
        assert_eq!(sockets.counted(Counter::AffinityKept), 200);
        sockets.world.age(61_000_000_000);
        sockets.socket().cookie.set(0);
        let later: Vec<String> = (0..20).map(|cookie| {
            sockets.socket().cookie.set(cookie);
            sockets.world.age(61_000_000_000);
            sockets.dial("web:80")
        }).collect();
        assert!(later.iter().any(|one| *one != first), "the time is over");
    }
}

both! {
    #[test]
    fn a_socket_that_connects_again_tries_others<F>() {
        let sockets = Sockets::<F>::new(Proto::TCP).given(web().to(&["pod:8080", "pod2:8080", "pod3:8080"]));
        let tried: std::collections::BTreeSet<String> = (0..20).map(|_| sockets.dial("web:80")).collect();
        assert_eq!(tried.len(), 3, "{tried:?}");
    }
}

both! {
    #[test]
    fn a_connection_is_named_as_it_was_dialled_until_it_leads_elsewhere<F>() {
        let sockets = Sockets::<F>::new(Proto::TCP).given(served());
        assert_eq!(sockets.told("pod:8080"), "the same", "never connected");
        assert_eq!(sockets.dial("web:80"), "pod:8080");
        assert_eq!(sockets.told("pod:8080"), "web:80");
        assert_eq!(sockets.told("pod:8081"), "the same");
        assert_eq!(sockets.told("pod2:8080"), "the same");
        // The socket is closed, so to say, and leads to the endpoint itself.
        assert_eq!(sockets.dial("pod:8080"), "alone");
        assert_eq!(sockets.told("pod:8080"), "the same");
        assert!(sockets.socket().peer.borrow().is_none());
        assert_eq!(sockets.counted(Counter::SocketConnects), 1);
    }
}

both! {
    #[test]
    fn datagrams_leave_an_endpoint_that_no_longer_serves<F>() {
        let mut sockets = Sockets::<F>::new(Proto::UDP).given(served());
        assert_eq!(sockets.dial("web:80"), "pod:8080");
        sockets.change(Change::Service(Box::new(web().to(&["pod2:8080"]))));
        assert_eq!(sockets.dial("web:80"), "pod:8080", "it serves what it has");
        sockets.change(Change::StopServing("pod:8080".into()));
        assert_eq!(sockets.dial("web:80"), "pod2:8080");
        assert_eq!(sockets.told("pod2:8080"), "web:80");
        assert_eq!(sockets.told("pod:8080"), "the same");
        assert_eq!(sockets.counted(Counter::FlowsReselected), 1);
        sockets.change(Change::Service(Box::new(web().nobody())));
        sockets.change(Change::StopServing("pod2:8080".into()));
        assert_eq!(sockets.dial("web:80"), "alone", "tc refuses it");
    }
}

both! {
    #[test]
    fn a_number_that_stands_for_another_endpoint_is_noticed<F>() {
        let sockets = Sockets::<F>::new(Proto::UDP).given(web().to(&["pod:8080", "pod2:8080"]));
        let first = sockets.dial("web:80");
        let other = if first == "pod:8080" { "pod2:8080" } else { "pod:8080" };
        let sockets = sockets.with(Change::Reuse(first, other.into()));
        assert_eq!(sockets.dial("web:80"), other);
    }
}

both! {
    #[test]
    fn a_socket_has_room_for_eight_services_and_the_ninth_is_left_to_tc<F>() {
        let mut sockets = Sockets::<F>::new(Proto::UDP);
        for port in 1..=9 {
            let name = format!("web:{port}");
            sockets.change(Change::serve(&name, &[&format!("pod:{}", 8000 + port)]));
        }
        for port in 1..=8 {
            assert_eq!(sockets.dial(&format!("web:{port}")), format!("pod:{}", 8000 + port));
        }
        assert_eq!(sockets.dial("web:9"), "alone");
        for port in 1..=8 {
            assert_eq!(sockets.told(&format!("pod:{}", 8000 + port)), format!("web:{port}"));
        }
        // Two minutes later all but one are idle.
        sockets.world.now_ns.set(sockets.world.now_ns.get() + SOCKET_PEER_IDLE_NS / 2);
        assert_eq!(sockets.dial("web:3"), "pod:8003");
        sockets.world.now_ns.set(sockets.world.now_ns.get() + SOCKET_PEER_IDLE_NS / 2 + 1);
        assert_eq!(sockets.dial("web:9"), "pod:8009");
        assert_eq!(sockets.told("pod:8003"), "web:3");
        assert_eq!(sockets.told("pod:8009"), "web:9");
    }
}

both! {
    #[test]
    fn two_services_of_one_endpoint_do_not_answer_for_each_other<F>() {
        let sockets = Sockets::<F>::new(Proto::UDP).given(served()).given(service("api").cluster_ip("api:80").to(&["pod:8080"]));
        assert_eq!(sockets.dial("web:80"), "pod:8080");
        assert_eq!(sockets.dial("api:80"), "alone", "tc gives it a port of its own");
        assert_eq!(sockets.told("pod:8080"), "web:80");
        // The same with the endpoint itself.
        assert_eq!(sockets.dial("pod:8080"), "alone");
        assert_eq!(sockets.told("pod:8080"), "the same");
        assert_eq!(sockets.dial("api:80"), "pod:8080");
    }
}

both! {
    #[test]
    fn a_connected_datagram_socket_is_left_to_tc<F>() {
        let sockets = Sockets::<F>::new(Proto::UDP).given(served());
        assert_eq!(sockets.dial("web:80"), "pod:8080");
        sockets.socket().is_connected.set(true);
        assert_eq!(sockets.dial("web:80"), "alone");
        assert_eq!(sockets.told("pod:8080"), "the same");
    }
}

both! {
    #[test]
    fn node_ports_are_guarded_on_the_host<F>() {
        let sockets = Sockets::<F>::new(Proto::TCP).given(served()).with(Change::HostAddress("node".into())).with(Change::QuietHostAddress("node2".into()));
        let guard = |text: &str, proto| {
            let (address, port) = if let Some(port) = text.strip_prefix("*:") {
                (F::Addr::default(), Port::new(port.parse().expect("a port")))
            } else {
                Sockets::<F>::address(text)
            };
            datapath::guard::<F, _>(&sockets.world, address, port, proto)
        };
        assert!(guard("*:30080", Proto::TCP) && guard("node:30080", Proto::TCP));
        assert_eq!(sockets.dropped(DropReason::NodePortTaken), 2);
        for (text, proto) in [("*:30080", Proto::UDP), ("*:30081", Proto::TCP), ("*:0", Proto::TCP), ("node2:30080", Proto::TCP), ("world:30080", Proto::TCP)] {
            assert!(!guard(text, proto), "{text}");
        }
        sockets.socket().namespace.set(POD);
        assert!(!guard("*:30080", Proto::TCP), "a pod has its own ports");
        assert_eq!(sockets.dropped(DropReason::NodePortTaken), 2);
    }
}

#[test]
fn ipv4_addresses_stand_as_mapped_ones() {
    let v4 = |text: &str| Sockets::<V4>::address(text).0;
    let v6 = |text: &str| Sockets::<V6>::address(text).0;
    let wide = V4::wide(&v4("10.96.0.10"));
    assert_eq!(wide, v6("[::ffff:10.96.0.10]"));
    assert_eq!(V4::narrow(&wide), v4("10.96.0.10"));
    assert!(is_mapped(&wide));
    for other in [
        "[::]",
        "[::1]",
        "[::10.96.0.10]",
        "[64:ff9b::10.96.0.10]",
        "[fd00::ffff:10.96.0.10]",
        "[::fffe:10.96.0.10]",
    ] {
        assert!(!is_mapped(&v6(other)), "{other}");
    }
    assert_eq!(V6::loopback(), v6("[::1]"));
    assert_eq!(V6::client_of(0x0123_4567_89ab_cdef), v6("[100::123:4567:89ab:cdef]"));
    assert_eq!(V4::client_of(0x01_2345_6789), v4("0.69.103.137"));
}
