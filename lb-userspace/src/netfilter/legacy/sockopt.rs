//! The system calls of legacy iptables (`getsockopt` and `setsockopt` of an IP socket), which no library of ours has. A socket of any protocol
//! does, so no right to raw packets is needed. What is in a table is not looked at here.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

// Of `linux/netfilter_ipv4/ip_tables.h` and `linux/netfilter_ipv6/ip6_tables.h`, which have the same numbers.
const SO_SET_REPLACE: libc::c_int = 64;
const SO_SET_ADD_COUNTERS: libc::c_int = 65;
const SO_GET_INFO: libc::c_int = 64;
const SO_GET_ENTRIES: libc::c_int = 65;

/// Packets and octets.
pub(super) type Counters = [u64; 2];

/// A socket through which the tables of a family are asked for and replaced.
pub(super) struct Socket {
    fd: OwnedFd,
    level: libc::c_int,
}

impl Socket {
    pub(super) fn open(is_v6: bool) -> io::Result<Self> {
        let (family, level) = if is_v6 {
            (AddressFamily::INET6, libc::IPPROTO_IPV6)
        } else {
            (AddressFamily::INET, libc::IPPROTO_IP)
        };
        let fd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { fd, level })
    }

    /// Has a `struct ipt_getinfo` filled in.
    pub(super) fn info(&self, question: &mut [u8]) -> io::Result<()> {
        self.get(SO_GET_INFO, question)
    }

    /// Has a `struct ipt_get_entries` filled in.
    pub(super) fn entries(&self, question: &mut [u8]) -> io::Result<()> {
        self.get(SO_GET_ENTRIES, question)
    }

    /// Replaces a table by a `struct ipt_replace`, of which `head` is what stands before the pointer to counters. The counters that the old
    /// table's entries had, of which there must be as many as are given room.
    pub(super) fn replace(&self, head: &[u8; 88], block: &[u8], counters: &mut [Counters]) -> io::Result<()> {
        let mut message = head.to_vec();
        // Of what there is room for, not of what the caller has written.
        let count = u32::try_from(counters.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        message[84..88].copy_from_slice(&count.to_ne_bytes());
        message.extend((counters.as_mut_ptr() as usize as u64).to_ne_bytes());
        message.extend(block);
        self.set(SO_SET_REPLACE, &message)
    }

    /// Adds to a table's counters by a `struct xt_counters_info`.
    pub(super) fn add_counters(&self, message: &[u8]) -> io::Result<()> {
        self.set(SO_SET_ADD_COUNTERS, message)
    }

    fn get(&self, name: libc::c_int, question: &mut [u8]) -> io::Result<()> {
        let mut len = libc::socklen_t::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (asked, fd) = (len, self.fd.as_raw_fd());
        // SAFETY: the kernel reads and writes at most `len` octets of the exclusively borrowed slice, and no pointer stands in it.
        let result = unsafe { libc::getsockopt(fd, self.level, name, question.as_mut_ptr().cast(), &raw mut len) };
        match result {
            0 if len == asked => Ok(()),
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn set(&self, name: libc::c_int, message: &[u8]) -> io::Result<()> {
        let len = libc::socklen_t::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel reads `len` octets of the borrowed slice. The only pointer in a message is that of `replace`, which leads to
        // as many counters as the message says, exclusively borrowed there until this call has returned.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), self.level, name, message.as_ptr().cast(), len) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
