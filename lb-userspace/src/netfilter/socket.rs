//! A conversation over netlink, about the network namespace that this thread is in: with netfilter (`NETLINK_NETFILTER`), generic netlink and
//! rtnetlink. The messages are those of the crates netlink-packet-netfilter, genetlink and netlink-packet-route.

use std::{io, os::fd::OwnedFd, time::Duration};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
    none::ControlMessage,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force, set_socket_timeout},
};

/// The kernel answers at once, but for rule sets of thousands of Services.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest message of a dump; the kernel makes them as large as the reader's buffer, up to 32 KiB.
const BUFFER_LEN: usize = 1 << 16;
/// What a transaction may have: two messages for each chain of thousands of Services. More than a socket may have without `CAP_NET_ADMIN`.
const BATCH_LEN: usize = 1 << 24;
/// Of a message's flags (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// What a conversation is made of.
pub(super) trait Message: NetlinkSerializable + NetlinkDeserializable {}

impl<M: NetlinkSerializable + NetlinkDeserializable> Message for M {}

/// The conversation.
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Begins one with netfilter.
    pub(super) fn open() -> io::Result<Self> {
        Self::with(Some(netlink::NETFILTER))
    }

    /// Begins one with families of generic netlink.
    pub(super) fn generic() -> io::Result<Self> {
        Self::with(Some(netlink::GENERIC))
    }

    /// Begins one about devices and addresses.
    pub(super) fn route() -> io::Result<Self> {
        Self::with(None)
    }

    /// `NETLINK_ROUTE` is the protocol without a number.
    fn with(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        set_socket_recv_buffer_size_force(&fd, BATCH_LEN)?;
        set_socket_send_buffer_size_force(&fd, BATCH_LEN)?;
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    /// Asks netfilter for all there is of something, and has each answer read.
    pub(super) fn dump(
        &mut self,
        family: NetfilterProtoFamily,
        what: impl Into<NetfilterMessageInner>,
        mut read: impl FnMut(NetfilterMessageInner),
    ) -> io::Result<()> {
        let question = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), what);
        self.list(question, |message| read(message.inner))
    }

    /// Asks for all there is of something, and has each answer read.
    pub(super) fn list<M: Message>(&mut self, question: M, read: impl FnMut(M)) -> io::Result<()> {
        self.ask(question, NLM_F_DUMP, read)
    }

    /// Has something done, and hears what came of it.
    pub(super) fn act<M: Message>(&mut self, message: M) -> io::Result<()> {
        self.ask(message, NLM_F_ACK, |_| {})
    }

    /// Asks for one thing, which is told before all is well.
    pub(super) fn get<M: Message>(&mut self, question: M, read: impl FnMut(M)) -> io::Result<()> {
        self.ask(question, NLM_F_ACK, read)
    }

    fn ask<M: Message>(&mut self, question: M, flags: u16, mut read: impl FnMut(M)) -> io::Result<()> {
        send(&self.fd, &octets(question, flags, 0), SendFlags::empty())?;
        loop {
            let len = recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?.0;
            let ended = each(&self.buffer[..len], |header, payload| match payload {
                // What was asked for has changed under the answer, of which some may be missing.
                _ if header.flags & NLM_F_DUMP_INTR != 0 => Err(io::ErrorKind::Interrupted.into()),
                NetlinkPayload::Done(done) => refused(&io::Error::from_raw_os_error(done.code)).map(|()| true),
                NetlinkPayload::Error(error) => refused(&error.to_io()).map(|()| true),
                NetlinkPayload::InnerMessage(message) => {
                    read(message);
                    Ok(false)
                }
                _ => Ok(false),
            })?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Does changes of nftables, all or none.
    pub(super) fn transact(
        &mut self,
        changes: impl IntoIterator<Item = (NetfilterProtoFamily, u16, NetfilterMessageInner)>,
    ) -> io::Result<()> {
        let subsystem = u16::from(u8::from(NetfilterSubsystem::NfTables));
        let control = |control| message(NetfilterProtoFamily::Unspec, subsystem, control, 0, 0);
        let mut batch = control(ControlMessage::BatchBegin);
        let (mut changes, mut last) = (changes.into_iter().peekable(), 0);
        while let Some((family, flags, change)) = changes.next() {
            last += 1;
            // Refusals are told unasked; that all is well, once.
            let asks = if changes.peek().is_none() { NLM_F_ACK } else { 0 };
            batch.extend(message(family, 0, change, flags | asks, last));
        }
        if last == 0 {
            return Ok(());
        }
        batch.extend(control(ControlMessage::BatchEnd));
        send(&self.fd, &batch, SendFlags::empty())?;
        loop {
            let len = recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?.0;
            let ended = each::<NetfilterMessage>(&self.buffer[..len], |header, payload| match payload {
                // One that is refused undoes all.
                NetlinkPayload::Error(error) => refused(&error.to_io()).map(|()| header.sequence_number == last),
                _ => Ok(false),
            })?;
            if ended {
                return Ok(());
            }
        }
    }
}

/// Whether that is how a kernel answers that has nothing of the kind.
#[must_use]
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)
    )
}

fn refused(error: &io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(number) if number != 0 => Err(io::Error::from_raw_os_error(number.abs())),
        _ => Ok(()),
    }
}

fn message(
    family: NetfilterProtoFamily,
    resource: u16,
    what: impl Into<NetfilterMessageInner>,
    flags: u16,
    number: u32,
) -> Vec<u8> {
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), what);
    octets(payload, flags, number)
}

fn octets<M: Message>(payload: M, flags: u16, number: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = number;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    // Messages begin at multiples of four.
    let mut octets = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut octets);
    octets
}

/// Reads all messages of a datagram, until one says that it is the last.
fn each<M: Message>(
    mut datagram: &[u8],
    mut read: impl FnMut(&NetlinkHeader, NetlinkPayload<M>) -> io::Result<bool>,
) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<M>::deserialize(datagram)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason.to_string()))?;
        let len = (message.header.length as usize).next_multiple_of(4).max(16);
        datagram = datagram.get(len..).unwrap_or_default();
        if read(&message.header, message.payload)? {
            return Ok(true);
        }
    }
    Ok(false)
}
