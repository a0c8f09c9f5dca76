//! Verdicts that need the kernel's help: a new route for what the host itself sends, and the way back for answers.

use core::mem;

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT,
        TC_ACT_UNSPEC, bpf_fib_lookup as FibLookup,
    },
    helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use lb_common::datapath::{Ipv4, Ipv6, Packet};

use crate::frame::Skb;

/// The loopback device has index 1 in every network namespace.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends an answer back: out of the device on which the packet came in, or up to the host that wanted to send it.
#[inline(always)]
pub fn back(ifindex: u32, to_host: bool) -> i32 {
    let flags = if to_host { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Gives a translated packet of a host process a route to its backend: the one on which the kernel has put it leads
/// to the service address. Leaves the packet on it when the host doesn't forward and the kernel won't tell a better.
#[inline(always)]
pub fn anew<const LINK: usize>(ctx: &TcContext) -> i32 {
    let skb = Skb::<LINK>(ctx);
    // SAFETY: the structure consists of integers and unions of them, for which zeros are valid.
    let mut query: FibLookup = unsafe { mem::zeroed() };
    query.ifindex = LOOPBACK;
    if let Some(ip) = skb.header::<Ipv4>(LINK).filter(|ip| ip.version_ihl[0] >> 4 == 4) {
        query.family = AF_INET;
        query.l4_protocol = ip.proto[0];
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(ip.src);
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(ip.dst);
    } else if let Some(ip) = skb.header::<Ipv6>(LINK) {
        query.family = AF_INET6;
        query.l4_protocol = ip.next[0];
        query.__bindgen_anon_3.ipv6_src = words(&ip.src);
        query.__bindgen_anon_4.ipv6_dst = words(&ip.dst);
    } else {
        return TC_ACT_SHOT;
    }
    // SAFETY: context and query are the program's own and of the length given.
    let found = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut query, size_of::<FibLookup>() as i32, 0) };
    match found as u32 {
        // SAFETY: no parameters: the kernel resolves the next hop by the packet's own destination.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => unsafe {
            bpf_redirect_neigh(query.ifindex, core::ptr::null_mut(), 0, 0) as i32
        },
        BPF_FIB_LKUP_RET_NOT_FWDED => back(LOOPBACK, true),
        _ => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn words(octets: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
