//! The socket tier's entry points: what the kernel calls on behalf of a process that connects, sends, receives, asks for its peer or listens.
//! Decisions are taken in `lb_common::datapath::socket`; here is what they need of the socket and its storage.
//!
//! These programs run in the context of the process, and packets may come in between: nothing that is kept by CPU is used but counters.
//!
//! | hook | when | may |
//! |---|---|---|
//! | connect4, connect6 | before a socket is connected; an IPv6 socket's IPv4-mapped peers come to connect6 | change the address, refuse |
//! | sendmsg4, sendmsg6 | before a datagram is sent to an address; an IPv6 socket's IPv4-mapped ones come to sendmsg4 | change the address, refuse |
//! | recvmsg4, recvmsg6 | when a process asks where a datagram came from | change the address |
//! | getpeername4, getpeername6 | when it asks for its peer | change the address |
//! | bind4, bind6 | before a socket gets its own address | refuse |

use core::{
    ffi::c_void,
    ops::DerefMut,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use lb_common::{
    datapath::{self, Dialled, Socket, SocketFamily, is_mapped},
    layout::{CGROUP_LEVELS_MAX, Ip4, Ip6, Port, Proto, SocketFlags, SocketPeer, SocketPeers, V4, V6},
};

use crate::{
    maps,
    world::{Context, Kernel},
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
/// Of the kernel's `asm-generic/errno.h`.
const ECONNREFUSED: i32 = 111;
const EADDRINUSE: i32 = 98;
/// `TCP_ESTABLISHED` of the kernel's `net/tcp_states.h`: a datagram socket with a peer has it, too.
const ESTABLISHED: u32 = 1;
/// The first octet of IPv4's loopback range.
const LOOPBACK: u8 = 127;

/// Context of a socket program.
type OfSocket = *mut bpf_sock_addr;

impl Context for OfSocket {
    const INTERRUPTIBLE: bool = true;

    #[inline(always)]
    fn raw(self) -> *mut c_void {
        self.cast()
    }
}

/// Where a field of a socket is.
macro_rules! field {
    ($($field:tt)*) => {
        // SAFETY: only the place is computed.
        |socket: *mut bpf_sock| unsafe { &raw const (*socket).$($field)* }
    };
}

#[inline(always)]
fn kernel(context: &SockAddrContext) -> Kernel<OfSocket> {
    Kernel {
        ifindex: 0,
        context: context.sock_addr,
    }
}

impl Kernel<OfSocket> {
    #[inline(always)]
    fn socket(&self) -> *mut bpf_sock {
        // SAFETY: the kernel's own structure, whose last word is the socket.
        unsafe { (*self.context).__bindgen_anon_1.sk }
    }

    /// A whole word of the socket: the kernel allows no others, so that the compiler must not join two.
    #[inline(always)]
    fn word(&self, of: impl FnOnce(*mut bpf_sock) -> *const u32) -> u32 {
        // SAFETY: a field of the socket that the kernel has passed.
        unsafe { read_volatile(of(self.socket())) }
    }

    #[inline(always)]
    fn proto(&self) -> Proto {
        // SAFETY: a field of the context. Multipath TCP has a number (262) that is none of IP's.
        let number = unsafe { (*self.context).protocol };
        Proto(if number <= 0xff { number as u8 } else { 0 })
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // SAFETY: a field of the context: the port in network order in the first two of four octets.
        let word = unsafe { read_volatile(&raw const (*self.context).user_port) };
        let [a, b, ..] = word.to_ne_bytes();
        Port { octets: [a, b] }
    }

    #[inline(always)]
    fn set_port(&self, port: Port) {
        // SAFETY: as in `port`.
        unsafe { write_volatile(&raw mut (*self.context).user_port, u32::from(port.raw())) };
    }

    #[inline(always)]
    fn address4(&self) -> Ip4 {
        // SAFETY: a field of the context, at hooks of IPv4.
        let word = unsafe { read_volatile(&raw const (*self.context).user_ip4) };
        Ip4 {
            octets: word.to_ne_bytes(),
        }
    }

    #[inline(always)]
    fn set_address4(&self, address: &Ip4) {
        // SAFETY: as in `address4`.
        unsafe { write_volatile(&raw mut (*self.context).user_ip4, u32::from_ne_bytes(address.octets)) };
    }

    #[inline(always)]
    fn address6(&self) -> Ip6 {
        // SAFETY: a field of the context, at hooks of IPv6.
        let field = unsafe { &raw const (*self.context).user_ip6 }.cast::<u32>();
        let mut words = [0_u32; 4];
        let mut index = 0;
        while index < words.len() {
            // SAFETY: one of its four words.
            words[index] = unsafe { read_volatile(field.add(index)) };
            index += 1;
        }
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = words.map(u32::to_ne_bytes);
        Ip6 {
            octets: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p],
        }
    }

    #[inline(always)]
    fn set_address6(&self, address: &Ip6) {
        // SAFETY: as in `address6`.
        let field = unsafe { &raw mut (*self.context).user_ip6 }.cast::<u32>();
        let mut index = 0;
        while index < 4 {
            // SAFETY: one of its four words.
            unsafe { write_volatile(field.add(index), lb_common::layout::Address::word(address, index)) };
            index += 1;
        }
    }

    /// What a hook says to an address that was dialled.
    #[inline(always)]
    fn answer<A>(&self, dialled: Dialled<A>, write: impl FnOnce(&Self, A)) -> i32 {
        match dialled {
            Dialled::Alone => ALLOW,
            Dialled::Backend(address, port) => {
                write(self, address);
                self.set_port(port);
                ALLOW
            }
            Dialled::Refused => deny(ECONNREFUSED),
        }
    }

    /// What a hook says that may only tell another address.
    #[inline(always)]
    fn tell<A>(&self, instead: Option<(A, Port)>, write: impl FnOnce(&Self, A)) -> i32 {
        if let Some((address, port)) = instead {
            write(self, address);
            self.set_port(port);
        }
        ALLOW
    }
}

/// Whether the process is in one of the cgroups that are left to the tc tier, or below one.
#[inline(never)]
fn is_in_left_cgroup() -> bool {
    let mut level = 0;
    while level < CGROUP_LEVELS_MAX {
        // SAFETY: asks about the process that runs.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            return false;
        }
        // SAFETY: nothing is read of the value.
        if unsafe { maps::LEFT_CGROUPS.get(cgroup) }.is_some() {
            return true;
        }
        level += 1;
    }
    false
}

#[inline(always)]
fn deny(errno: i32) -> i32 {
    // SAFETY: sets what the system call returns (Linux 5.18).
    unsafe { bpf_set_retval(-errno) };
    DENY
}

/// Whether an address of IPv4, as the kernel has it, is one of its loopback range.
#[inline(always)]
fn is_loopback4(address: u32) -> bool {
    address.to_ne_bytes()[0] == LOOPBACK
}

/// Whether one of IPv6, of which this reads the words, is the loopback address.
#[inline(always)]
fn is_loopback6(word: impl Fn(usize) -> u32) -> bool {
    word(0) | word(1) | word(2) == 0 && word(3) == 1_u32.to_be()
}

#[inline(always)]
fn wide<F: SocketFamily>(kernel: &Kernel<OfSocket>, address: F::Addr) {
    kernel.set_address6(&F::wide(&address));
}

impl Socket for Kernel<OfSocket> {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_socket_cookie(self.context.raw()) }
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_netns_cookie(self.context.raw()) }
    }

    #[inline(always)]
    fn is_host(&self) -> bool {
        maps::SOCKET_TIER
            .get(0)
            .is_some_and(|tier| tier.host == self.namespace())
    }

    #[inline(always)]
    fn is_left(&self) -> bool {
        // A backend is behind another device than the service address, and can't answer the loopback address.
        let device = self.word(field!(bound_dev_if));
        let is_loopback =
            is_loopback4(self.word(field!(src_ip4))) || is_loopback6(|index| self.word(field!(src_ip6[index])));
        if device != 0 || is_loopback {
            return true;
        }
        let Some(tier) = maps::SOCKET_TIER.get(0) else {
            return true;
        };
        let mark = self.word(field!(mark));
        tier.mask != 0 && mark & tier.mask == tier.mark
            || tier.flags.has(SocketFlags::HOST_ONLY) && tier.host != self.namespace()
            || tier.flags.has(SocketFlags::CGROUPS) && is_in_left_cgroup()
    }

    #[inline(always)]
    fn is_connected(&self) -> bool {
        if self.word(field!(state)) == ESTABLISHED {
            return true;
        }
        // An IPv6 socket that was connected and is no longer hears its former peer only: the kernel (`__udp_disconnect`) forgets IPv4's
        // peer and port.
        let mut peer = 0;
        let mut index = 0;
        while index < 4 {
            peer |= self.word(field!(dst_ip6[index]));
            index += 1;
        }
        peer != 0
    }

    #[inline(always)]
    fn socket_peer(&self) -> Option<impl DerefMut<Target = SocketPeer>> {
        let context = SockAddrContext::new(self.context);
        // SAFETY: the socket's own storage, which lives as long as the socket; the kernel holds the socket's lock.
        unsafe { maps::SK_PEER.get_ptr_mut(&context).as_mut() }
    }

    #[inline(always)]
    fn peer_or_new(&self) -> Option<impl DerefMut<Target = SocketPeer>> {
        let context = SockAddrContext::new(self.context);
        // SAFETY: as in `peer`.
        unsafe { maps::SK_PEER.get_or_insert_ptr_mut(&context, None).as_mut() }
    }

    #[inline(always)]
    fn forget_peer(&self) {
        // SAFETY: the socket that the kernel has passed. Fails if there is nothing to forget.
        let _ = unsafe { maps::SK_PEER.delete(self.socket()) };
    }

    #[inline(always)]
    fn peers(&self) -> Option<impl DerefMut<Target = SocketPeers>> {
        let context = SockAddrContext::new(self.context);
        // SAFETY: as in `peer`.
        unsafe { maps::SK_PEERS.get_ptr_mut(&context).as_mut() }
    }

    #[inline(always)]
    fn peers_or_new(&self) -> Option<impl DerefMut<Target = SocketPeers>> {
        let context = SockAddrContext::new(self.context);
        // SAFETY: as in `peer`.
        unsafe { maps::SK_PEERS.get_or_insert_ptr_mut(&context, None).as_mut() }
    }
}

#[cgroup_sock_addr(connect4)]
pub fn lb_connect4(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    if kernel.proto() != Proto::TCP {
        return ALLOW;
    }
    let dialled = datapath::connect::<V4, _>(&kernel, kernel.address4(), kernel.port());
    kernel.answer(dialled, |kernel, address| kernel.set_address4(&address))
}

#[cgroup_sock_addr(connect6)]
pub fn lb_connect6(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    if kernel.proto() != Proto::TCP {
        return ALLOW;
    }
    let (address, port) = (kernel.address6(), kernel.port());
    if is_mapped(&address) {
        let dialled = datapath::connect::<V4, _>(&kernel, V4::narrow(&address), port);
        kernel.answer(dialled, wide::<V4>)
    } else {
        kernel.answer(datapath::connect::<V6, _>(&kernel, address, port), wide::<V6>)
    }
}

#[cgroup_sock_addr(sendmsg4)]
pub fn lb_sendmsg4(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    // SAFETY: a field of the context at this hook: the source that the process asks for with this datagram, or zero.
    let source = unsafe { read_volatile(&raw const (*kernel.context).msg_src_ip4) };
    if kernel.proto() != Proto::UDP || is_loopback4(source) {
        return ALLOW;
    }
    let dialled = datapath::send::<V4, _>(&kernel, kernel.address4(), kernel.port());
    kernel.answer(dialled, |kernel, address| kernel.set_address4(&address))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn lb_sendmsg6(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    // SAFETY: as in `lb_sendmsg4`.
    let source = unsafe { &raw const (*kernel.context).msg_src_ip6 }.cast::<u32>();
    // SAFETY: one of its four words.
    let word = |index| unsafe { read_volatile(source.add(index)) };
    if kernel.proto() != Proto::UDP || is_loopback6(word) {
        return ALLOW;
    }
    let dialled = datapath::send::<V6, _>(&kernel, kernel.address6(), kernel.port());
    kernel.answer(dialled, wide::<V6>)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn lb_recvmsg4(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    let instead = datapath::received::<V4, _>(&kernel, kernel.address4(), kernel.port());
    kernel.tell(instead, |kernel, address| kernel.set_address4(&address))
}

#[cgroup_sock_addr(recvmsg6)]
pub fn lb_recvmsg6(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    // Of mapped addresses it is the same: they stand so in the socket's storage.
    let instead = datapath::received::<V6, _>(&kernel, kernel.address6(), kernel.port());
    kernel.tell(instead, wide::<V6>)
}

#[cgroup_sock_addr(getpeername4)]
pub fn lb_getpeer4(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    let instead = datapath::peer_name::<V4, _>(&kernel, kernel.address4(), kernel.port());
    kernel.tell(instead, |kernel, address| kernel.set_address4(&address))
}

#[cgroup_sock_addr(getpeername6)]
pub fn lb_getpeer6(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    let instead = datapath::peer_name::<V6, _>(&kernel, kernel.address6(), kernel.port());
    kernel.tell(instead, wide::<V6>)
}

#[cgroup_sock_addr(bind4)]
pub fn lb_bind4(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    if datapath::guard::<V4, _>(&kernel, kernel.address4(), kernel.port(), kernel.proto()) {
        return deny(EADDRINUSE);
    }
    ALLOW
}

#[cgroup_sock_addr(bind6)]
pub fn lb_bind6(context: SockAddrContext) -> i32 {
    let kernel = kernel(&context);
    let (address, port, proto) = (kernel.address6(), kernel.port(), kernel.proto());
    // A socket at `::` takes IPv4's packets, too, unless it was told not to, which it doesn't tell.
    let is_everywhere = address == Ip6::default();
    let is_taken = if is_mapped(&address) || is_everywhere {
        datapath::guard::<V4, _>(&kernel, V4::narrow(&address), port, proto)
    } else {
        false
    };
    if is_taken || !is_mapped(&address) && datapath::guard::<V6, _>(&kernel, address, port, proto) {
        return deny(EADDRINUSE);
    }
    ALLOW
}
