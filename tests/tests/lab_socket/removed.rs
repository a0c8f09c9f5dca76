//! Endpoints that go: nothing stays with them. Datagrams go to another at once; connections are closed where that was asked for, five
//! seconds after the endpoint has left all slices, and behave as under kube-proxy where it wasn't.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use tests::lab::{Host, Lab};
use tests::traffic::Cluster;
use tests::traffic::manifests::Service;

use crate::scene::{PATIENCE, at, ips, start};

const ON: [&str; 2] = ["10.96.0.11", "fd00:10:96::11"];
const OFF: [&str; 2] = ["10.96.0.12", "fd00:10:96::12"];
const BACK: [&str; 2] = ["10.96.0.13", "fd00:10:96::13"];
/// The servers' port that greets and echoes.
const ECHO: u16 = 7000;
const CLOSED_WITHIN: Duration = Duration::from_secs(9);

fn service(name: &str, addresses: [&str; 2]) -> Service {
    Service::new(name, ips(addresses))
        .port("TCP", 80, ECHO)
        .port("UDP", 53, 5353)
}

/// A connection on which something was said.
struct Talk {
    name: String,
    stream: TcpStream,
}

impl Talk {
    fn open(host: &Host, target: SocketAddr) -> Self {
        let mut stream = host
            .run(|| TcpStream::connect_timeout(&target, PATIENCE))
            .expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
        let mut octet = [0];
        while octet != *b"\n" {
            stream.read_exact(&mut octet).expect("a greeting");
        }
        Self {
            name: format!("{} -> {target}", host.name),
            stream,
        }
    }

    /// Waits for something to be heard, as an idle client does: what.
    fn hear(&mut self, end: Instant) -> Option<ErrorKind> {
        while Instant::now() < end {
            self.stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .expect("a time-out is allowed");
            match self.stream.read(&mut [0]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Some(error.kind()),
                Ok(count) => panic!("{}: {count} octets came", self.name),
            }
        }
        None
    }

    fn say(&mut self) {
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time-out is allowed");
        self.stream.write_all(b"hello").expect("sent");
        let mut back = [0; 5];
        self.stream
            .read_exact(&mut back)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }
}

#[rstest]
#[case::switched_on(&["--reset-removed"], true)]
#[case::not_switched_on(&[], false)]
fn connections_to_an_endpoint_that_is_gone_are_closed_where_that_was_asked_for(
    #[case] words: &[&str],
    #[case] by_default: bool,
) {
    let lab = Lab::one_node().backends(2).build().expect("a lab");
    let annotation = (!by_default).to_string();
    let gone = [lab.backend(1)];
    let services = [
        service("default", if by_default { ON } else { OFF }).backends(gone),
        service("annotated", if by_default { OFF } else { ON })
            .backends(gone)
            .annotated("sluice.io/reset-removed", &annotation),
        service("back", BACK)
            .backends([lab.backend(2)])
            .annotated("sluice.io/reset-removed", "true"),
    ];
    let cluster = start(&services, lab, words);
    let lab = &cluster.lab;
    let open = |addresses| -> Vec<Talk> {
        let targets = ips(addresses).map(|ip| at(ip, 80));
        let hosts = [lab.node(), lab.backend(2)];
        hosts
            .into_iter()
            .flat_map(|host| targets.map(|target| Talk::open(host, target)))
            .collect()
    };
    let (closed, staying, back) = (open(ON), open(OFF), open(BACK));
    // Nobody's business but the client's own.
    let direct: Vec<Talk> = lab
        .backend(1)
        .addresses()
        .map(|ip| Talk::open(lab.backend(2), at(ip, ECHO)))
        .into();

    // It only leaves its slices: what stays open can still talk.
    for file in ["default.yaml", "annotated.yaml", "back.yaml"] {
        cluster
            .manifests
            .keep_endpoints(file, |_| false)
            .expect("the folder can be written to");
    }
    let removed = Instant::now();
    thread::sleep(Duration::from_millis(1_500));
    let again = service("back", BACK)
        .backends([lab.backend(2)])
        .annotated("sluice.io/reset-removed", "true");
    cluster.manifests.apply(&again).expect("the folder can be written to");
    thread::scope(|scope| {
        for mut talk in closed {
            scope.spawn(move || {
                let heard = talk.hear(removed + CLOSED_WITHIN);
                assert_eq!(heard, Some(ErrorKind::ConnectionAborted), "{}", talk.name);
                let took = removed.elapsed();
                assert!(
                    took > Duration::from_millis(4_500),
                    "{}: after {took:?} already",
                    talk.name
                );
                println!("{} was closed after {took:?}", talk.name);
            });
        }
        for mut talk in staying.into_iter().chain(back).chain(direct) {
            scope.spawn(move || {
                let heard = talk.hear(removed + CLOSED_WITHIN);
                assert_eq!(heard, None, "{}", talk.name);
                talk.say();
            });
        }
    });
}

#[rstest]
#[case::connected(true)]
#[case::unconnected(false)]
fn datagrams_of_a_socket_go_to_another_endpoint_at_once(#[case] is_connected: bool) {
    let lab = Lab::one_node().backends(3).build().expect("a lab");
    let services = [service("dns", ON).backends([lab.backend(1), lab.backend(2)])];
    let cluster = start(&services, lab, &[]);
    let lab = &cluster.lab;
    for host in [lab.node(), lab.backend(3)] {
        for target in ips(ON).map(|ip| at(ip, 53)) {
            cluster.manifests.apply(&services[0]).expect("written");
            until_both_serve(&cluster, host, target);
            let socket = open(host, target, is_connected);
            let first = ask(&socket, target, is_connected).expect("an answer");
            let number = first.trim_start_matches("backend-").parse::<u8>().expect("its number");
            let goes = lab.backend(number).addresses();
            cluster
                .manifests
                .keep_endpoints("dns.yaml", |ip| !goes.contains(&ip))
                .expect("written");
            let begun = Instant::now();
            let mut who = first.clone();
            while who == first {
                assert!(begun.elapsed() < PATIENCE, "{} -> {target}: stuck", host.name);
                who = ask(&socket, target, is_connected).expect("no datagram is lost");
            }
            println!(
                "{} -> {target}, connected {is_connected}: another after {:?}",
                host.name,
                begun.elapsed()
            );
            for _ in 0..20 {
                assert_eq!(
                    ask(&socket, target, is_connected).expect("an answer"),
                    who,
                    "{} -> {target}",
                    host.name
                );
            }
        }
    }
}

fn open(host: &Host, target: SocketAddr, is_connected: bool) -> UdpSocket {
    host.run(|| {
        let own: IpAddr = if target.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((own, 0)).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a time-out is allowed");
        if is_connected {
            socket.connect(target).expect("connected");
        }
        socket
    })
}

/// Who answers.
fn ask(socket: &UdpSocket, target: SocketAddr, is_connected: bool) -> std::io::Result<String> {
    if is_connected {
        socket.send(b"?")?;
    } else {
        socket.send_to(b"?", target)?;
    }
    let mut buffer = [0; 256];
    let (count, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, target, "the Service answers");
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn until_both_serve(cluster: &Cluster, host: &Host, target: SocketAddr) {
    let mut seen = std::collections::BTreeSet::new();
    let begun = Instant::now();
    while seen.len() < 2 {
        assert!(
            begun.elapsed() < PATIENCE * 3,
            "only {seen:?} serve: {}",
            cluster.agent.log_tail()
        );
        seen.extend(ask(&open(host, target, false), target, false));
    }
}
