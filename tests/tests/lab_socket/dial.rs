//! Who dials what, and what it is told.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Instant;

use rstest::rstest;
use tests::lab::{Host, Lab};
use tests::traffic::Over;

use crate::scene::{EMPTY, NODE_PORT, NODE_PORT_UDP, PATIENCE, WEB, at, count, ips, served};

/// The address of a socket's peer as it is on the wire: what the backend's own name for the connection says.
fn greeting(stream: &TcpStream) -> String {
    use std::io::Read as _;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
    let mut text = String::new();
    let mut octet = [0];
    let mut stream = stream;
    while stream.read(&mut octet).expect("a greeting") == 1 && octet[0] != b'\n' {
        text.push(char::from(octet[0]));
    }
    text
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        v6 => v6,
    }
}

/// Everything that a host may dial to reach the Service by TCP.
fn targets(lab: &Lab, host: &Host, ports: [u16; 2]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = ips(WEB).map(|ip| at(ip, ports[0])).into();
    all.extend(lab.node().addresses().map(|ip| at(ip, ports[1])));
    if host.name == "node" {
        let own: [IpAddr; 4] = [
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            Ipv4Addr::new(127, 0, 0, 9).into(),
            Ipv4Addr::UNSPECIFIED.into(),
        ];
        all.extend(own.map(|ip| at(ip, ports[1])));
    }
    all
}

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
fn a_connection_goes_to_an_endpoint_and_knows_its_peer_as_it_was_dialled(#[case] builder: tests::lab::LabBuilder) {
    let cluster = served(builder.backends(2).build().expect("a lab"), &[]);
    let lab = &cluster.lab;
    for host in [lab.node(), lab.backend(1), lab.backend(2)] {
        for target in targets(lab, host, [80, NODE_PORT]) {
            let before = count(&cluster, "counters", "socket_connects");
            let (said, peer) = host.run(|| {
                let stream = TcpStream::connect_timeout(&target, PATIENCE);
                let stream = stream.unwrap_or_else(|error| panic!("{} -> {target}: {error}", host.name));
                (greeting(&stream), stream.peer_addr().expect("a peer"))
            });
            assert!(said.starts_with("backend-"), "{} -> {target}: {said}", host.name);
            let dialled = if target.ip().is_unspecified() {
                at(Ipv4Addr::LOCALHOST, target.port())
            } else {
                target
            };
            assert_eq!(peer, dialled, "{} -> {target}", host.name);
            let after = count(&cluster, "counters", "socket_connects");
            assert_eq!(
                after,
                before + 1,
                "{} -> {target} was translated by its socket",
                host.name
            );
        }
        // An IPv6 socket whose peer is of IPv4.
        for target in [at(ips(WEB)[0], 80), at(lab.node().v4, NODE_PORT)] {
            let (said, peer) = host.run(|| {
                let stream = TcpStream::connect_timeout(&mapped(target), PATIENCE).expect("connected");
                (greeting(&stream), stream.peer_addr().expect("a peer"))
            });
            assert!(said.starts_with("backend-"), "{said}");
            assert_eq!(peer, mapped(target));
        }
    }
    let seen_by_pods =
        |host: &Host, target: SocketAddr| host.run(|| Over::Tcp.ask(target, PATIENCE).expect("an answer"));
    for (pod, family) in [(lab.backend(1), 0), (lab.backend(1), 1)] {
        let answer = seen_by_pods(pod, at(ips(WEB)[family], 80));
        assert_eq!(answer.seen, answer.own, "endpoints see the pod that asks");
    }
}

#[rstest]
#[case::routed(Lab::one_node())]
#[case::bridge(Lab::bridge_node())]
fn datagrams_go_to_an_endpoint_and_their_answers_come_from_the_service(#[case] builder: tests::lab::LabBuilder) {
    let cluster = served(builder.backends(2).build().expect("a lab"), &[]);
    let lab = &cluster.lab;
    for host in [lab.node(), lab.backend(1), lab.backend(2)] {
        for target in targets(lab, host, [53, NODE_PORT_UDP]) {
            let dialled = if target.ip().is_unspecified() {
                at(Ipv4Addr::LOCALHOST, target.port())
            } else {
                target
            };
            for is_connected in [false, true] {
                let before = count(&cluster, "counters", "socket_peers");
                let (said, from) = host.run(|| {
                    let own: IpAddr = if target.is_ipv4() {
                        Ipv4Addr::UNSPECIFIED.into()
                    } else {
                        Ipv6Addr::UNSPECIFIED.into()
                    };
                    let socket = UdpSocket::bind((own, 0)).expect("a socket");
                    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
                    let mut buffer = [0; 256];
                    let mut last = None;
                    if is_connected {
                        socket.connect(target).expect("connected");
                        assert_eq!(socket.peer_addr().expect("a peer"), dialled);
                    }
                    for _ in 0..3 {
                        if is_connected {
                            socket.send(b"hello")
                        } else {
                            socket.send_to(b"hello", target)
                        }
                        .unwrap_or_else(|error| panic!("{} -> {target}: {error}", host.name));
                        let (count, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| {
                            panic!("{} -> {target}, connected {is_connected}: {error}", host.name)
                        });
                        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                        let who = text.split(' ').next().unwrap_or_default().to_owned();
                        if let Some((before, _)) = last.replace((who.clone(), from)) {
                            assert_eq!(before, who, "a flow keeps its endpoint");
                        }
                    }
                    last.expect("answers")
                });
                assert!(said.starts_with("backend-"), "{said}");
                assert_eq!(from, dialled, "{} -> {target}, connected {is_connected}", host.name);
                let after = count(&cluster, "counters", "socket_peers");
                assert_eq!(
                    after - before,
                    u64::from(!is_connected),
                    "{} -> {target}, connected {is_connected}",
                    host.name
                );
            }
        }
        // An IPv6 socket whose peer is of IPv4.
        let target = at(ips(WEB)[0], 53);
        let from = host.run(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
            socket.send_to(b"hello", mapped(target)).expect("sent");
            socket.recv_from(&mut [0; 256]).expect("an answer").1
        });
        assert_eq!(from, mapped(target));
    }
}

#[test]
fn nobody_serves_is_refused_at_once() {
    let cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    let lab = &cluster.lab;
    for host in [lab.node(), lab.backend(1)] {
        for (target, reason) in [
            (at(ips(EMPTY)[0], 80), "no_endpoint"),
            (at(ips(EMPTY)[1], 80), "no_endpoint"),
            (at(ips(WEB)[0], 81), "unknown_port"),
            (at(ips(WEB)[1], 81), "unknown_port"),
        ] {
            let before = count(&cluster, "drops", reason);
            let begun = Instant::now();
            let error = host.run(|| TcpStream::connect_timeout(&target, PATIENCE).expect_err("nobody serves"));
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "{} -> {target}: {error}",
                host.name
            );
            assert!(
                begun.elapsed().as_millis() < 100,
                "{} -> {target}: {:?}",
                host.name,
                begun.elapsed()
            );
            assert_eq!(
                count(&cluster, "drops", reason),
                before + 1,
                "{} -> {target}",
                host.name
            );
        }
    }
}
