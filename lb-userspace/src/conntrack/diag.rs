//! The TCP sockets of a network namespace by `sock_diag` (netlink): which of them the socket tier has led to a backend, as their storage says,
//! and how they are closed (`SOCK_DESTROY`, Linux 4.5). No library of ours asks for a socket's storage (Linux 5.7).
//!
//! Lengths and numbers are those of the kernel's `linux/netlink.h`, `linux/inet_diag.h` and `linux/sock_diag.h`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use lb_common::layout::{Ip6, Port, SocketPeer};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const SK_DIAG_BPF_STORAGE: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
/// Of an attribute's type: it is nested.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Connecting, connected, and closed by one side: others end by themselves.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8;
const HEADER_LEN: usize = 16;
/// `struct inet_diag_sockid`: ports, addresses, device, cookie.
const ID_LEN: usize = 48;
/// Where it is in `struct inet_diag_msg`, and how long that is.
const ID_AT: usize = 4;
const MESSAGE_LEN: usize = 72;
const IPPROTO_TCP: u8 = 6;
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];
/// The kernel answers at once.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A socket as the kernel tells it apart, with what its storage says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    family: u8,
    id: [u8; ID_LEN],
    /// What it stands for.
    pub peer: SocketPeer,
}

/// A conversation with the kernel about the network namespace that this thread is in.
pub(super) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    /// Begins it.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            buffer: vec![0; 1 << 17],
        })
    }

    /// All TCP sockets that have something in this storage.
    pub(super) fn sockets(&mut self, storage: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for family in FAMILIES {
            let mut request = request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family, &[0; ID_LEN]);
            let fd = attribute(
                SK_DIAG_BPF_STORAGE_REQ_MAP_FD,
                &(storage.as_raw_fd() as u32).to_ne_bytes(),
            );
            request.extend(attribute(INET_DIAG_REQ_SK_BPF_STORAGES, &fd));
            self.send(request)?;
            while self.receive(|kind, body| {
                if kind == SOCK_DIAG_BY_FAMILY {
                    found.extend(read_socket(family, body));
                }
            })? {}
        }
        Ok(found)
    }

    /// Closes a socket: its process hears `ECONNABORTED`, its peer a reset. False if it is gone already.
    pub(super) fn destroy(&mut self, found: &Found) -> io::Result<bool> {
        self.send(request(
            SOCK_DESTROY,
            NLM_F_REQUEST | NLM_F_ACK,
            found.family,
            &found.id,
        ))?;
        match self.receive(|_, _| {}) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&self, mut message: Vec<u8>) -> io::Result<()> {
        let len = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&len);
        send(self.socket.as_fd(), &message, SendFlags::empty())?;
        Ok(())
    }

    /// One datagram of the answer. True if there is more to come.
    fn receive(&mut self, mut visit: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let (len, _) = recv(self.socket.as_fd(), self.buffer.as_mut_slice(), RecvFlags::empty())?;
        read_messages(&self.buffer[..len], &mut visit)
    }
}

/// Reads the messages of a datagram. True if the end of the answer is not among them.
fn read_messages(mut octets: &[u8], visit: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
    while octets.len() >= HEADER_LEN {
        let len = word(octets, 0) as usize;
        let kind = half(octets, 4);
        if len < HEADER_LEN || len > octets.len() {
            return Err(io::Error::other("the kernel's answer is cut short"));
        }
        let body = &octets[HEADER_LEN..len];
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR if body.len() >= 4 => {
                let code = (word(body, 0) as i32).saturating_neg();
                return if code == 0 {
                    Ok(false)
                } else {
                    Err(io::Error::from_raw_os_error(code))
                };
            }
            _ => visit(kind, body),
        }
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

fn half(octets: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([octets[at], octets[at + 1]])
}

/// A header, whose length is set when it is sent, and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID_LEN]) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, IPPROTO_TCP, 0, 0]);
    message.extend(STATES.to_ne_bytes());
    message.extend(id);
    message
}

fn attribute(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::from(((4 + body.len()) as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(body);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Attributes by type.
fn attributes(mut octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if octets.len() < 4 {
            return None;
        }
        let len = usize::from(half(octets, 0));
        let kind = half(octets, 2) & NLA_TYPE_MASK;
        let body = octets.get(4..len)?;
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn read_socket(family: u8, body: &[u8]) -> Option<Found> {
    let id = body.get(ID_AT..ID_AT + ID_LEN)?.try_into().ok()?;
    let find = |octets, wanted| {
        attributes(octets)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, body)| body)
    };
    let storages = find(body.get(MESSAGE_LEN..)?, INET_DIAG_SK_BPF_STORAGES)?;
    let storage = find(storages, SK_DIAG_BPF_STORAGE)?;
    let value = find(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE)?;
    Some(Found {
        family,
        id,
        peer: read_peer(value)?,
    })
}

/// A [`SocketPeer`] from its octets.
fn read_peer(octets: &[u8]) -> Option<SocketPeer> {
    let address = |at: usize| -> Option<Ip6> {
        let octets = octets.get(at..at + 16)?.try_into().ok()?;
        Some(Ip6 { octets })
    };
    let port = |at: usize| -> Option<Port> {
        let octets = octets.get(at..at + 2)?.try_into().ok()?;
        Some(Port { octets })
    };
    if octets.len() < size_of::<SocketPeer>() {
        return None;
    }
    let seen = octets[48..56].try_into().ok()?;
    Some(SocketPeer {
        dialled: address(0)?,
        address: address(16)?,
        dialled_port: port(32)?,
        port: port(34)?,
        backend: word(octets, 36),
        service: word(octets, 40),
        turn: word(octets, 44),
        seen_ns: u64::from_ne_bytes(seen),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_from_where_it_stands() {
        let octets: Vec<u8> = (0..56).collect();
        let peer = read_peer(&octets).expect("as many octets as it has");
        assert_eq!(peer.address.octets[0], 16);
        assert_eq!((peer.dialled_port.octets, peer.port.octets), ([32, 33], [34, 35]));
        assert_eq!(peer.service, u32::from_ne_bytes([40, 41, 42, 43]));
        assert_eq!(peer.seen_ns.to_ne_bytes(), [48, 49, 50, 51, 52, 53, 54, 55]);
        assert_eq!(read_peer(&octets[..55]), None);
        assert_eq!(std::mem::offset_of!(SocketPeer, service), 40);
        assert_eq!(std::mem::offset_of!(SocketPeer, seen_ns), 48);
    }

    #[test]
    fn answers_are_read_to_their_end_and_no_further() {
        let message = |kind: u16, body: &[u8]| {
            let mut octets = Vec::from(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
            octets.extend(kind.to_ne_bytes());
            octets.extend([0; 10]);
            octets.extend(body);
            octets.resize(octets.len().next_multiple_of(4), 0);
            octets
        };
        let read = |octets: &[u8]| {
            let mut seen = Vec::new();
            let more = read_messages(octets, &mut |kind, body: &[u8]| seen.push((kind, body.len())));
            (more.map_err(|error| error.raw_os_error()), seen)
        };
        let two = [message(20, &[1; 5]), message(20, &[])].concat();
        assert_eq!(read(&two), (Ok(true), vec![(20, 5), (20, 0)]));
        let done = [message(20, &[]), message(NLMSG_DONE, &[0; 4]), message(20, &[])].concat();
        assert_eq!(read(&done), (Ok(false), vec![(20, 0)]));
        assert_eq!(read(&message(NLMSG_ERROR, &0_i32.to_ne_bytes())), (Ok(false), vec![]));
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refused), (Err(Some(libc::EPERM)), vec![]));
        assert_eq!(read(&message(20, &[1; 8])[..20]).0, Err(None), "cut short");
        assert_eq!(read(&[0; 20]).0, Err(None), "no length");
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its head");
        assert_eq!(
            attributes(&[200, 0, 1, 0, 5, 6, 7, 8]).count(),
            0,
            "longer than there is"
        );
        let socket = [0_u8; MESSAGE_LEN];
        assert_eq!(read_socket(2, &socket), None, "no storage");
        assert_eq!(read_socket(2, &socket[..10]), None);
    }
}
