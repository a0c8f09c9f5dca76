//! A conversation with netfilter in the kernel, about the network namespace that this thread is in (`NETLINK_NETFILTER`). The messages
//! are those of the crate netlink-packet-netfilter.

use std::{io, os::fd::OwnedFd, time::Duration};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
    none::ControlMessage,
};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
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

/// The conversation.
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Begins it.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        set_socket_recv_buffer_size_force(&fd, BATCH_LEN)?;
        set_socket_send_buffer_size_force(&fd, BATCH_LEN)?;
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    /// Asks for all there is of something, and has each answer read.
    pub(super) fn dump(
        &mut self,
        family: NetfilterProtoFamily,
        what: impl Into<NetfilterMessageInner>,
        mut read: impl FnMut(NetfilterMessageInner),
    ) -> io::Result<()> {
        let request = message(family, 0, what, NLM_F_DUMP, 0);
        send(&self.fd, &request, SendFlags::empty())?;
        loop {
            let len = recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?.0;
            let ended = each(&self.buffer[..len], |header, payload| match payload {
                // What was asked for has changed under the answer, of which some may be missing.
                _ if header.flags & NLM_F_DUMP_INTR != 0 => Err(io::ErrorKind::Interrupted.into()),
                NetlinkPayload::Done(done) => refused(&io::Error::from_raw_os_error(done.code)).map(|()| true),
                NetlinkPayload::Error(error) => refused(&error.to_io()).map(|()| true),
                NetlinkPayload::InnerMessage(message) => {
                    read(message.inner);
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
            let ended = each(&self.buffer[..len], |header, payload| match payload {
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
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = number;
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), what);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    message.finalize();
    // Messages begin at multiples of four.
    let mut octets = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut octets);
    octets
}

/// Reads all messages of a datagram, until one says that it is the last.
fn each(
    mut datagram: &[u8],
    mut read: impl FnMut(&NetlinkHeader, NetlinkPayload<NetfilterMessage>) -> io::Result<bool>,
) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(datagram)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason.to_string()))?;
        let len = (message.header.length as usize).next_multiple_of(4).max(16);
        datagram = datagram.get(len..).unwrap_or_default();
        if read(&message.header, message.payload)? {
            return Ok(true);
        }
    }
    Ok(false)
}
