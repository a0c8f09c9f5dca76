//! Nearly as many flows as one node address has source ports, at the same time, to one endpoint.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::lab::{Lab, plan};

use crate::scene::{PATIENCE, drops, ip, node_port, service, start};

const WEB: u16 = 11;
/// Of each of the two client addresses.
const PORTS: u16 = 30_000;
const FIRST_PORT: u16 = 2_000;
/// So many are asked before their answers are read.
const BATCH: usize = 100;
/// A sweep comes every ten seconds.
const SWEPT_WITHIN: Duration = Duration::from_secs(15);

#[rstest]
#[case::ipv4(false)]
#[case::ipv6(true)]
fn sixty_thousand_clients_of_one_endpoint(#[case] v6: bool) {
    let cluster = start(Lab::one_node().backends(1), &[], |lab| {
        vec![service("web", WEB, lab.backends())]
    });
    let lab = &cluster.lab;
    let (address, length) = if v6 {
        ("fd00:172:18::10", "64 nodad")
    } else {
        ("172.18.0.10", "24")
    };
    ip(lab.client(), &format!("addr add {address}/{length} dev eth0"));
    let addresses = [
        lab.client().addresses()[usize::from(v6)],
        address.parse().expect("an address"),
    ];
    let target = node_port(WEB, v6);
    let started = Instant::now();
    let clients: Vec<SocketAddr> = (FIRST_PORT..FIRST_PORT + PORTS)
        .flat_map(|port| addresses.map(|address| SocketAddr::new(address, port)))
        .collect();
    let node = plan::of_family(plan::NODE_V4, plan::NODE_V6, v6);
    let mut first = Vec::new();
    // The second time all of them are there, and each has what it had.
    for round in 0..2 {
        let seen = lab.client().run(|| ask_all(&clients, target, round));
        assert!(seen.iter().all(|seen| seen.ip() == node), "they are masqueraded");
        let different: HashSet<u16> = seen.iter().map(SocketAddr::port).collect();
        assert_eq!(different.len(), clients.len(), "each has a port of its own");
        if round == 0 {
            first = seen;
        } else {
            assert_eq!(seen, first, "a flow keeps its port");
        }
    }
    println!("{} flows, asked twice, in {:?}", clients.len(), started.elapsed());
    for reason in ["no_source_port", "flow_table_full"] {
        assert_eq!(drops(&cluster, reason), 0, "{reason}");
    }
    let wanted = clients.len() as u64;
    let counting = Instant::now();
    loop {
        let state = cluster.agent.state().expect("the agent's state");
        let used = state["source_ports_used_max"].as_u64().unwrap_or(0);
        if used == wanted {
            break;
        }
        assert!(
            counting.elapsed() < SWEPT_WITHIN,
            "a sweep has found {used} of {wanted}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whom the endpoint has seen, for each client, which has heard what it said. As many sockets as this process may have are open
/// at the same time; the flows stay, whether or not their sockets do.
fn ask_all(clients: &[SocketAddr], target: SocketAddr, round: u32) -> Vec<SocketAddr> {
    let mut seen = Vec::with_capacity(clients.len());
    for some in clients.chunks(sockets_max()) {
        let socket = |own: &SocketAddr| {
            let socket = UdpSocket::bind(own)?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let sockets: std::io::Result<Vec<UdpSocket>> = some.iter().map(socket).collect();
        for batch in sockets.expect("client sockets").chunks(BATCH) {
            ask(batch, round, &mut seen);
        }
    }
    seen
}

fn ask(sockets: &[UdpSocket], round: u32, seen: &mut Vec<SocketAddr>) {
    let said = |socket: &UdpSocket| format!("{:?} asks, round {round}", socket.local_addr().expect("it is bound"));
    for socket in sockets {
        socket.send(said(socket).as_bytes()).expect("a datagram is sent");
    }
    for socket in sockets {
        let mut answer = [0; 256];
        let len = socket
            .recv(&mut answer)
            .unwrap_or_else(|why| panic!("flow {} of {}: {why}", seen.len(), said(socket)));
        let text = std::str::from_utf8(&answer[..len]).expect("text");
        let mut words = text.splitn(3, ' ');
        assert_eq!(words.next(), Some("backend-1"));
        seen.push(words.next().and_then(|word| word.parse().ok()).expect("an address"));
        assert_eq!(words.next(), Some(said(socket).as_str()));
    }
}

/// How many sockets this process may have, beside those that it has; the limit is raised if that is allowed.
fn sockets_max() -> usize {
    const OTHERS: u64 = 1_000;
    let wanted = 2 * u64::from(PORTS) + OTHERS;
    let limit = |current, maximum| setrlimit(Resource::Nofile, Rlimit { current, maximum });
    let now = getrlimit(Resource::Nofile);
    let raised = limit(Some(wanted), now.maximum.map(|maximum| maximum.max(wanted)));
    if raised.is_err() {
        let _as_it_was = limit(now.maximum, now.maximum);
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    usize::try_from(allowed.min(wanted).saturating_sub(OTHERS))
        .expect("a small number")
        .max(BATCH)
}
