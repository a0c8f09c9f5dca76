//! A masqueraded flow and the node's own sockets never get into each other's way: neither where the node's socket was first,
//! nor where it comes later.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use tests::lab::{Host, Lab};
use tests::traffic::{Cluster, Over, connect_from};

use crate::scene::{COMBINATIONS, PATIENCE, server, service, start, vip};
use crate::talk::Talk;

const WEB: u16 = 11;

fn begin() -> Cluster {
    start(Lab::one_node().backends(1), &[], |lab| {
        vec![service("web", WEB, lab.backends())]
    })
}

fn at(host: &Host, port: u16, v6: bool) -> SocketAddr {
    SocketAddr::new(host.addresses()[usize::from(v6)], port)
}

#[test]
fn a_client_does_not_get_the_port_of_a_server_of_the_node() {
    let cluster = begin();
    let (lab, pod) = (&cluster.lab, cluster.lab.backend(1));
    for (index, (over, v6)) in (0..).zip(COMBINATIONS) {
        let port = 41_000 + index;
        let own = at(lab.node(), port, v6);
        let server = Listening::start(lab.node(), own, over);
        server.answers(pod);
        let from = at(lab.client(), port, v6);
        let mut talk = Talk::open(lab.client(), from, vip(WEB, over, v6), over);
        assert_eq!(talk.seen.ip(), own.ip(), "{over:?}: it is masqueraded");
        assert_ne!(talk.seen.port(), port, "{over:?}: the node listens there");
        for _ in 0..3 {
            talk.say();
            server.answers(pod);
            server.answers(lab.client());
        }
    }
}

#[test]
fn a_client_does_not_get_the_port_of_a_connection_of_the_node() {
    let cluster = begin();
    let (lab, pod) = (&cluster.lab, cluster.lab.backend(1));
    for (index, (over, v6)) in (0..).zip(COMBINATIONS) {
        let port = 42_000 + index;
        let own = at(lab.node(), port, v6);
        let mut direct = Talk::open(lab.node(), own, server(pod, over, v6), over);
        assert_eq!(direct.seen, own, "{over:?}: nothing is translated");
        let from = at(lab.client(), port, v6);
        let mut talk = Talk::open(lab.client(), from, vip(WEB, over, v6), over);
        assert_eq!(talk.seen.ip(), own.ip(), "{over:?}: it is masqueraded");
        assert_ne!(talk.seen.port(), port, "{over:?}: the node is connected from there");
        for _ in 0..20 {
            direct.say();
            talk.say();
        }
    }
}

#[test]
fn a_connection_of_the_node_gives_way_to_a_client() {
    let cluster = begin();
    let (lab, pod) = (&cluster.lab, cluster.lab.backend(1));
    for (index, (over, v6)) in (0..).zip(COMBINATIONS) {
        let port = 43_000 + index;
        let own = at(lab.node(), port, v6);
        let from = at(lab.client(), port, v6);
        let mut talk = Talk::open(lab.client(), from, vip(WEB, over, v6), over);
        assert_eq!(talk.seen, own, "{over:?}: a port that is free is kept");
        let mut direct = Talk::open(lab.node(), own, server(pod, over, v6), over);
        assert_eq!(direct.seen.ip(), own.ip(), "{over:?}");
        assert_ne!(
            direct.seen.port(),
            port,
            "{over:?}: that would be the client's connection"
        );
        for _ in 0..20 {
            direct.say();
            talk.say();
        }
        // Each ends for itself.
        drop(talk);
        direct.say();
    }
}

/// A server of the node's own: it sends back one message for each that comes.
struct Listening<'a> {
    node: &'a Host,
    own: SocketAddr,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl<'a> Listening<'a> {
    fn start(node: &'a Host, own: SocketAddr, over: Over) -> Self {
        let socket = node.run(|| match over {
            Over::Tcp => TcpListener::bind(own).map(Socket::Tcp),
            Over::Udp => UdpSocket::bind(own).map(Socket::Udp),
        });
        let socket = socket.unwrap_or_else(|why| panic!("{} listens on {own}: {why}", node.name));
        Self { node, own, socket }
    }

    /// Whether somebody is answered.
    fn answers(&self, client: &Host) {
        let own = self.own;
        let from = SocketAddr::new(client.addresses()[usize::from(own.is_ipv6())], 0);
        let (asked, heard) = (b"hello from outside", &mut [0; 18]);
        let answered = match &self.socket {
            Socket::Tcp(listener) => client.run(|| {
                let mut stream = connect_from(from, own, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(asked)?;
                let (mut accepted, _) = listener.accept()?;
                accepted.set_read_timeout(Some(PATIENCE))?;
                accepted.read_exact(heard)?;
                accepted.write_all(heard)?;
                stream.read_exact(heard)
            }),
            Socket::Udp(socket) => client.run(|| {
                let stream = UdpSocket::bind(from)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.connect(own)?;
                stream.send(asked)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let (_, peer) = socket.recv_from(heard)?;
                socket.send_to(heard, peer)?;
                stream.recv(heard).map(drop)
            }),
        };
        answered.unwrap_or_else(|why| panic!("{} -> {} at {own}: {why}", client.name, self.node.name));
        assert_eq!(heard, asked);
    }
}
