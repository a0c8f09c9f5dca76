//! A conversation with the echo server of a pod that stays open: every byte that comes back is checked.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use tests::lab::Host;
use tests::traffic::{Over, Pattern, connect_from};

use crate::scene::PATIENCE;

const MESSAGE: usize = 1_000;
const GREETING_MAX: usize = 128;

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// An open conversation.
pub(crate) struct Talk {
    socket: Socket,
    said: u64,
    /// Who answers.
    pub(crate) pod: String,
    /// Whom the pod sees.
    pub(crate) seen: SocketAddr,
}

impl Talk {
    /// Opens one from a host, from this address and port.
    pub(crate) fn open(from: &Host, own: SocketAddr, to: SocketAddr, over: Over) -> Self {
        let talk = from.run(|| Self::try_open(own, to, over));
        talk.unwrap_or_else(|why| panic!("{own} -> {to}, {over:?}: {why}"))
    }

    fn try_open(own: SocketAddr, to: SocketAddr, over: Over) -> Result<Self> {
        let mut talk = Self {
            socket: match over {
                Over::Tcp => Socket::Tcp(connect_from(own, to, PATIENCE)?),
                Over::Udp => {
                    let socket = UdpSocket::bind(own)?;
                    socket.connect(to)?;
                    Socket::Udp(socket)
                }
            },
            said: 0,
            pod: String::new(),
            seen: own,
        };
        match &mut talk.socket {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut line = Vec::new();
                while line.last() != Some(&b'\n') && line.len() < GREETING_MAX {
                    let mut octet = [0];
                    stream.read_exact(&mut octet)?;
                    line.extend(octet);
                }
                talk.greeted(&line)?;
            }
            Socket::Udp(socket) => socket.set_read_timeout(Some(PATIENCE))?,
        }
        talk.try_say()?;
        Ok(talk)
    }

    fn greeted(&mut self, line: &[u8]) -> Result<()> {
        let wrong = || Error::new(ErrorKind::InvalidData, "not greeted by one of our servers");
        let text = std::str::from_utf8(line).map_err(|_| wrong())?.trim_end();
        let (pod, seen) = text.split_once(' ').ok_or_else(wrong)?;
        (self.pod, self.seen) = (pod.to_owned(), seen.parse().map_err(|_| wrong())?);
        Ok(())
    }

    /// Says something that was not said before, and hears exactly that.
    pub(crate) fn say(&mut self) {
        self.try_say()
            .unwrap_or_else(|why| panic!("{}: {why}", self.describe()));
    }

    /// As [`Self::say`].
    pub(crate) fn try_say(&mut self) -> Result<()> {
        let mut message = vec![0; MESSAGE];
        Pattern::new(u64::from(self.own()?.port())).fill(self.said, &mut message);
        self.said += MESSAGE as u64;
        let heard = match &mut self.socket {
            Socket::Tcp(stream) => {
                stream.write_all(&message)?;
                let mut heard = vec![0; MESSAGE];
                stream.read_exact(&mut heard)?;
                heard
            }
            Socket::Udp(socket) => {
                socket.send(&message)?;
                let mut answer = vec![0; GREETING_MAX + MESSAGE];
                let len = socket.recv(&mut answer)?;
                answer.truncate(len);
                let begin = len.saturating_sub(MESSAGE);
                let heard = answer.split_off(begin);
                self.greeted(&answer)?;
                heard
            }
        };
        if heard == message {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::InvalidData, "wrong bytes came back"))
        }
    }

    /// How long an answer is waited for from now on.
    pub(crate) fn wait_at_most(&self, patience: Duration) {
        let set = match &self.socket {
            Socket::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Socket::Udp(socket) => socket.set_read_timeout(Some(patience)),
        };
        set.expect("a time-out is allowed");
    }

    /// The socket of a conversation over TCP.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        match &mut self.socket {
            Socket::Tcp(stream) => stream,
            Socket::Udp(_) => panic!("not over TCP"),
        }
    }

    fn own(&self) -> Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.local_addr(),
            Socket::Udp(socket) => socket.local_addr(),
        }
    }

    /// For messages.
    pub(crate) fn describe(&self) -> String {
        format!("{:?}, which {} sees as {}", self.own(), self.pod, self.seen)
    }
}
