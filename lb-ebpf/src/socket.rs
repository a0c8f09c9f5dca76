//! The host's own sockets: a masqueraded connection must not take the port of one.

use core::{ffi::c_void, mem};

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use lb_common::layout::{FlowKey, Ip4, Ip6, Proto};

/// A tuple as the helpers want it.
pub trait Tuple {
    /// Its length, by which the helpers know the family.
    const LEN: u32;
    /// Puts it there.
    fn put(&self, tuple: &mut bpf_sock_tuple);
    /// Its protocol.
    fn proto(&self) -> Proto;
}

impl Tuple for FlowKey<Ip4> {
    const LEN: u32 = 12;

    #[inline(always)]
    fn put(&self, tuple: &mut bpf_sock_tuple) {
        // SAFETY: integers, whatever the union holds.
        let to = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
        to.saddr = u32::from_ne_bytes(self.src.octets);
        to.daddr = u32::from_ne_bytes(self.dst.octets);
        to.sport = self.sport.raw();
        to.dport = self.dport.raw();
    }

    #[inline(always)]
    fn proto(&self) -> Proto {
        self.proto
    }
}

impl Tuple for FlowKey<Ip6> {
    const LEN: u32 = 36;

    #[inline(always)]
    fn put(&self, tuple: &mut bpf_sock_tuple) {
        // SAFETY: integers, whatever the union holds.
        let to = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        let mut index = 0;
        while index < 4 {
            to.saddr[index] = lb_common::layout::Address::word(&self.src, index);
            to.daddr[index] = lb_common::layout::Address::word(&self.dst, index);
            index += 1;
        }
        to.sport = self.sport.raw();
        to.dport = self.dport.raw();
    }

    #[inline(always)]
    fn proto(&self) -> Proto {
        self.proto
    }
}

/// The compiler joins two words into one store, which the kernel allows at a multiple of eight only.
#[repr(align(8))]
struct Aligned(bpf_sock_tuple);

/// Whether a socket of this host takes packets of this tuple: a connection, one that is being closed, or one that listens at
/// the port; of those of UDP, if asked so, only one that is connected. There is no such look-up for SCTP.
#[inline(never)]
pub fn takes<T: Tuple>(context: *mut c_void, key: &T, connected: bool) -> bool {
    // SAFETY: the structure is a union of integers, for which zeros are valid.
    let mut aligned: Aligned = unsafe { mem::zeroed() };
    let tuple = &mut aligned.0;
    key.put(tuple);
    let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
    if key.proto() == Proto::TCP {
        // SAFETY: context and tuple are the program's own, and the tuple is of the length given.
        let socket: *mut bpf_sock = unsafe { bpf_skc_lookup_tcp(context, &raw mut *tuple, T::LEN, netns, 0) };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the reference that the look-up has given, and that is given back once.
        unsafe { bpf_sk_release(socket.cast()) };
        return true;
    }
    if key.proto() != Proto::UDP {
        return false;
    }
    // SAFETY: as above.
    let socket: *mut bpf_sock = unsafe { bpf_sk_lookup_udp(context, &raw mut *tuple, T::LEN, netns, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the look-up has given a socket, which stays until it is given back.
    let has_peer = unsafe { (*socket).dst_port } != 0;
    // SAFETY: the reference that the look-up has given, and that is given back once.
    unsafe { bpf_sk_release(socket.cast()) };
    has_peer || !connected
}
