//! One exchange at a time, on blocking sockets: send so many bytes, get them back, and learn who answered and whom it saw asking.
//!
//! Many connections at once, with books, are in `http_load`, `long_lived` and `udp_sessions`.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::pattern::Pattern;

/// A greeting is a backend's name and an address: never longer.
const GREETING_MAX: usize = 128;
/// Read and write calls move at most so much.
const PIECE: usize = 64 * 1024;

/// What an exchange goes over. The servers are `echo` and `udp` of [`super::Serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A connection: everything that is sent comes back while sending goes on.
    Tcp,
    /// A datagram, which comes back as one.
    Udp,
}

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The backend's name.
    pub backend: String,
    /// Who asked, as the backend saw it.
    pub seen: SocketAddr,
    /// Who asked, as it knows itself.
    pub own: SocketAddr,
}

impl Over {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Sends `octets` bytes to a server, and fails unless exactly these come back. `patience` is for the connect, and for
    /// every wait after it. The calling thread's namespace is the one that asks.
    ///
    /// # Errors
    /// What the sockets say; `InvalidData` if something else than what was sent comes back.
    pub fn exchange(self, target: SocketAddr, octets: usize, patience: Duration) -> Result<Answer> {
        match self {
            Self::Tcp => stream(TcpStream::connect_timeout(&target, patience)?, octets, patience),
            Self::Udp => datagram(&UdpSocket::bind(any(target))?, target, octets, patience),
        }
    }

    /// As [`Self::exchange`], from an address of the asking host's, and a port if it isn't 0. Another socket may have the
    /// same address and port, as long as it asks somebody else.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn exchange_from(
        self,
        from: SocketAddr,
        target: SocketAddr,
        octets: usize,
        patience: Duration,
    ) -> Result<Answer> {
        match self {
            Self::Tcp => stream(connect_from(from, target, patience)?, octets, patience),
            Self::Udp => {
                let socket = UdpSocket::from(bound(from, SocketType::DGRAM)?);
                datagram(&socket, target, octets, patience)
            }
        }
    }

    /// An exchange of a few bytes.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn ask(self, target: SocketAddr, patience: Duration) -> Result<Answer> {
        self.exchange(target, 16, patience)
    }
}

/// A connection from an address and port of one's choice; see [`Over::exchange_from`].
///
/// # Errors
/// What the sockets say.
pub fn connect_from(from: SocketAddr, target: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let socket = bound(from, SocketType::STREAM)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    match connect(&socket, &target) {
        Ok(()) => Ok(socket.into()),
        // What a connect says whose time has run out.
        Err(Errno::INPROGRESS) => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}

fn bound(from: SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let family = if from.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &from)?;
    Ok(socket)
}

fn any(target: SocketAddr) -> SocketAddr {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(any, 0)
}

fn stream(mut stream: TcpStream, octets: usize, patience: Duration) -> Result<Answer> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let own = stream.local_addr()?;
    let pattern = Pattern::new(u64::from(own.port()));
    let mut sending = stream.try_clone()?;
    let answer = std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            let mut piece = vec![0; PIECE];
            let mut position = 0;
            while position < octets {
                let count = PIECE.min(octets - position);
                pattern.fill(position as u64, &mut piece[..count]);
                sending.write_all(&piece[..count])?;
                position += count;
            }
            sending.shutdown(Shutdown::Write)
        });
        let received = receive(&mut stream, own, pattern, octets);
        if received.is_err() {
            // The sender must not wait for a peer that nobody reads from any more.
            let _already_closed = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().expect("the sender does not panic");
        received.and_then(|answer| sent.map(|()| answer))
    })?;
    Ok(answer)
}

fn receive(stream: &mut TcpStream, own: SocketAddr, pattern: Pattern, octets: usize) -> Result<Answer> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut octet = [0];
        stream.read_exact(&mut octet)?;
        line.extend(octet);
        if line.len() > GREETING_MAX {
            return Err(wrong(format!("greeted with {:?}", String::from_utf8_lossy(&line))));
        }
    }
    let (answer, _) = greeting(line.strip_suffix(b"\n").unwrap_or(&line), own)?;
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        if let Some(place) = pattern.first_wrong(position as u64, &piece[..count]) {
            return Err(wrong(format!("{} sent a wrong byte at {place}", answer.backend)));
        }
        position += count;
    }
    if position != octets {
        return Err(wrong(format!(
            "{} sent {position} bytes back, not {octets}",
            answer.backend
        )));
    }
    Ok(answer)
}

fn datagram(socket: &UdpSocket, target: SocketAddr, octets: usize, patience: Duration) -> Result<Answer> {
    // Only answers from the address that was asked get in: one with another source is a missing answer.
    socket.connect(target)?;
    socket.set_read_timeout(Some(patience))?;
    let own = socket.local_addr()?;
    let mut question = vec![0; octets];
    Pattern::new(u64::from(own.port())).fill(0, &mut question);
    socket.send(&question)?;
    let mut buffer = vec![0; GREETING_MAX + octets];
    let count = socket.recv(&mut buffer)?;
    let (answer, echoed) = greeting(&buffer[..count], own)?;
    if echoed != question {
        return Err(wrong(format!(
            "{} sent back {} bytes, not the {octets} of the question",
            answer.backend,
            echoed.len()
        )));
    }
    Ok(answer)
}

/// `<backend> <client>`, and what follows behind a space.
fn greeting(bytes: &[u8], own: SocketAddr) -> Result<(Answer, &[u8])> {
    let mut words = bytes.splitn(3, |octet| *octet == b' ');
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let (backend, seen) = (word(), word().and_then(|seen| seen.parse().ok()));
    match (backend, seen) {
        (Some(backend), Some(seen)) => {
            let backend = backend.to_owned();
            Ok((Answer { backend, seen, own }, words.next().unwrap_or_default()))
        }
        _ => Err(wrong(format!("answered {:?}", String::from_utf8_lossy(bytes)))),
    }
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
