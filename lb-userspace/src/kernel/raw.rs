//! System calls on links and on network namespaces, which no library of ours has: exchanging the program of a cgroup's link in place
//! (`BPF_LINK_UPDATE`, Linux 5.7; aya 0.14 has it for tc and XDP only), asking on which cgroup or device a link is, and a namespace's
//! cookie.

use std::{
    ffi::CString,
    io,
    net::UdpSocket,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// Of the kernel's `enum bpf_cmd` and `enum bpf_link_type`.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;
/// `SO_NETNS_COOKIE` (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A link that is pinned.
pub(super) struct PinnedLink(OwnedFd);

/// Where a link of a cgroup is, and what runs there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CgroupLink {
    /// Number of the program.
    pub program: u32,
    /// Number of the cgroup, which is its folder's inode; 0 if it is gone.
    pub cgroup: u64,
}

/// Where a link of a device is, and what runs there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DeviceLink {
    /// Number of the program.
    pub program: u32,
    /// Index of the device; 0 if the link was taken off, or the device is gone.
    pub ifindex: u32,
}

/// The member of the kernel's `union bpf_attr` for opening a pin.
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The same for asking what is known of an object.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The same for exchanging a link's program.
#[repr(C)]
struct UpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    expected: u32,
}

/// The beginning of the kernel's `struct bpf_link_info`, of a cgroup's link; of a device's link its index is in place of `cgroup`.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    attach_type: u32,
    pad2: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the structure is laid out as the kernel's, as long as said, and outlives the call, as does what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

impl PinnedLink {
    /// Opens a pin; what it is a pin of shows later.
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let mut attr = PinAttr {
            path: path.as_ptr().addr() as u64,
            fd: 0,
            flags: 0,
        };
        let fd = bpf(BPF_OBJ_GET, &mut attr)?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
    }

    /// Where it is, if it is a device's link, of tc or XDP.
    pub(super) fn inspect_device(&self) -> io::Result<DeviceLink> {
        let info = self.info()?;
        if info.kind != BPF_LINK_TYPE_TCX && info.kind != BPF_LINK_TYPE_XDP {
            return Err(io::Error::other("it is not the link of a device"));
        }
        // The index comes first of what is said of such links.
        let [a, b, c, d, ..] = info.cgroup.to_ne_bytes();
        Ok(DeviceLink {
            program: info.program,
            ifindex: u32::from_ne_bytes([a, b, c, d]),
        })
    }

    /// Where it is, if it is a cgroup's link.
    pub(super) fn inspect(&self) -> io::Result<CgroupLink> {
        let info = self.info()?;
        if info.kind != BPF_LINK_TYPE_CGROUP {
            return Err(io::Error::other("it is not the link of a cgroup"));
        }
        Ok(CgroupLink {
            program: info.program,
            cgroup: info.cgroup,
        })
    }

    fn info(&self) -> io::Result<LinkInfo> {
        let mut info = LinkInfo::default();
        let mut attr = InfoAttr {
            fd: self.0.as_raw_fd() as u32,
            len: size_of::<LinkInfo>() as u32,
            info: (&raw mut info).expose_provenance() as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(info)
    }

    /// Gives it another program in place.
    pub(super) fn exchange(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = UpdateAttr {
            link: self.0.as_raw_fd() as u32,
            program: program.as_raw_fd() as u32,
            flags: 0,
            expected: 0,
        };
        bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
    }
}

/// The cookie of the network namespace that this thread is in.
///
/// # Errors
/// If the kernel doesn't tell (before 5.14), or no socket can be made.
pub fn namespace_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open; the kernel writes no more than `len` octets to the word.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = namespace_cookie().expect("Linux 5.14");
        assert_ne!(cookie, 0);
        assert_eq!(namespace_cookie().expect("again"), cookie);
    }
}
