//! The servers of a backend: HTTP, TCP echo and UDP echo, each of which says which backend it is and whom it saw asking.
//!
//! What HTTP answers is in `http_server`.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::http_server;
use super::worker::{Stop, Worker};
use crate::lab::Host;

/// Connections that wait for `accept`.
const BACKLOG: i32 = 4096;

/// Which servers a backend has, and on which ports.
#[derive(Clone, Copy, Debug)]
pub struct Serve {
    /// HTTP/1.1.
    pub http: Option<u16>,
    /// TCP: a line `<backend> <client address>`, then everything comes back.
    pub echo: Option<u16>,
    /// UDP: a datagram `<backend> <client address> <what was sent>` for every one.
    pub udp: Option<u16>,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            http: Some(8080),
            echo: Some(7000),
            udp: Some(5353),
        }
    }
}

/// The servers of one backend. They end when this is dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    counts: Arc<Counts>,
    // Ends the thread when dropped.
    _worker: Worker,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    datagrams: AtomicU64,
}

impl Server {
    /// Starts the servers of a host: every socket listens when this returns, on both families.
    pub fn start(host: &Host, serve: &Serve) -> Result<Self> {
        let listen = |port: u16| -> Result<std::net::TcpListener> {
            let listener = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            rustix::net::listen(listener.as_fd(), BACKLOG)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        // One socket for each address, as servers on hosts with several do it: what a socket of all addresses sends comes from the
        // one that the route prefers, and the client doesn't know it.
        let datagrams = |port: u16| -> Result<Vec<std::net::UdpSocket>> {
            let sockets = host.addresses().map(|address| {
                let socket = std::net::UdpSocket::bind((address, port))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            sockets.into_iter().collect()
        };
        let (http, echo, udp) = host
            .run(|| -> Result<_> {
                let tcp = |port: Option<u16>| port.map(|port| listen(port).with_context(|| format!("TCP port {port}")));
                let udp = serve
                    .udp
                    .map(|port| datagrams(port).with_context(|| format!("UDP port {port}")));
                Ok((
                    tcp(serve.http).transpose()?,
                    tcp(serve.echo).transpose()?,
                    udp.transpose()?,
                ))
            })
            .with_context(|| format!("starting the servers of {}", host.name))?;
        let counts = Arc::new(Counts::default());
        let (name, tally): (Arc<str>, _) = (host.name.as_str().into(), Arc::clone(&counts));
        let worker = Worker::start(host, &host.name, move |mut stop: Stop| async move {
            let in_runtime = "a listening socket is accepted by the runtime that this runs in";
            if let Some(listener) = http {
                let listener = TcpListener::from_std(listener).expect(in_runtime);
                let name = Arc::clone(&name);
                tokio::spawn(accept(listener, Arc::clone(&tally), move |stream, peer| {
                    http_server::serve(Arc::clone(&name), stream, peer)
                }));
            }
            if let Some(listener) = echo {
                let listener = TcpListener::from_std(listener).expect(in_runtime);
                let name = Arc::clone(&name);
                tokio::spawn(accept(listener, Arc::clone(&tally), move |stream, peer| {
                    greet_and_echo(Arc::clone(&name), stream, peer)
                }));
            }
            for socket in udp.into_iter().flatten() {
                let socket = UdpSocket::from_std(socket).expect(in_runtime);
                tokio::spawn(answer_datagrams(Arc::clone(&name), socket, Arc::clone(&tally)));
            }
            stop.requested().await;
        })?;
        Ok(Self {
            name: host.name.clone(),
            counts,
            _worker: worker,
        })
    }

    /// Starts the same servers on several hosts.
    pub fn start_on<'a>(hosts: impl IntoIterator<Item = &'a Host>, serve: &Serve) -> Result<Vec<Self>> {
        hosts.into_iter().map(|host| Self::start(host, serve)).collect()
    }

    /// The host's name, which is what it answers with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// TCP connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Datagrams answered so far.
    pub fn datagrams(&self) -> u64 {
        self.counts.datagrams.load(Ordering::Relaxed)
    }
}

/// Sends back whatever comes, until the client has finished sending.
pub(super) async fn echo(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn accept<F>(listener: TcpListener, counts: Arc<Counts>, serve: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        // Running out of descriptors passes when connections end; anything else shows as a connection lost at the client.
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        let _unsupported = stream.set_nodelay(true);
        tokio::spawn(serve(stream, plain(peer)));
    }
}

async fn greet_and_echo(name: Arc<str>, mut stream: TcpStream, peer: SocketAddr) {
    let greeting = format!("{name} {peer}\n");
    if stream.write_all(greeting.as_bytes()).await.is_ok() {
        // The client keeps the books: a connection that breaks is counted there.
        let _broken = echo(stream).await;
    }
}

async fn answer_datagrams(name: Arc<str>, socket: UdpSocket, counts: Arc<Counts>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // An error here is an ICMP message about an earlier answer: nothing to do with the next question.
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let mut answer = format!("{name} {} ", plain(peer)).into_bytes();
        answer.extend_from_slice(&buffer[..count]);
        if socket.send_to(&answer, peer).await.is_ok() {
            counts.datagrams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An IPv4 client of an IPv6 socket, written as the IPv4 address that it has.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
