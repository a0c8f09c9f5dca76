//! Verdicts that need the kernel's help: a new route for what the host itself sends, and the way back for answers.

use core::{
    ffi::c_void,
    mem::{self, offset_of},
    ptr,
};

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, BPF_FIB_LOOKUP_SKIP_NEIGH, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_fib_lookup as FibLookup,
    },
    helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    datapath::{Ethernet, Ipv4, Ipv6, Packet, Tables},
    layout::{Address as _, AddressFlags, DeviceFlags, Family, Ip4, Ip6, Tags, V4, V6, WayFlags},
};

use crate::{
    frame::{Skb, mark_rerouted, skb_ifindex, skb_is_gso, xdp_ifindex},
    outline::{self, OfSkb, OfXdp},
    world::{Context, Kernel, device},
};

/// The loopback device has index 1 in every network namespace.
pub const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends an answer back: out of the device on which the packet came in, or up to the host that wanted to send it.
#[inline(always)]
pub fn answer<const LINK: usize>(ctx: &TcContext, ifindex: u32, to_host: bool) -> i32 {
    // Where there is no link header to turn around, the route says the way: that of some tunnels names the other end.
    if LINK == 0 && !to_host && Skb::<LINK>(ctx).have_link_header() {
        return to_next_hop(ifindex);
    }
    redirect(ifindex, to_host)
}

/// Sends a packet by a device; the kernel resolves the next hop by the packet's own destination.
#[inline(always)]
fn to_next_hop(ifindex: u32) -> i32 {
    // SAFETY: no parameters.
    unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
}

/// Asks the kernel's routing: one of `BPF_FIB_LKUP_RET_…`.
#[inline(always)]
fn look_up(context: *mut c_void, query: &mut FibLookup, flags: u32) -> u32 {
    // SAFETY: context and query are the program's own and of the length given.
    unsafe { bpf_fib_lookup(context, query, size_of::<FibLookup>() as i32, flags) as u32 }
}

/// Whether that is a way, whatever fits through it.
#[inline(always)]
const fn is_known(found: u32) -> bool {
    matches!(found, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_FRAG_NEEDED)
}

#[inline(always)]
fn redirect(ifindex: u32, to_host: bool) -> i32 {
    let flags = if to_host { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Sends a frame by a device.
#[inline(always)]
pub fn forward(ifindex: u32) -> u32 {
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

/// The next hop of the desk's way, for packets that are not for this host: the kernel's routes and neighbours, and the devices that
/// XDP may send by. The device that the route names, or 0. A function of its own, as [`outgoing`].
#[inline(never)]
pub fn next_hop<F: Family>(context: OfXdp, ifindex: u32) -> u32
where
    F::Addr: Destination,
    Kernel<OfXdp>: Tables<F>,
{
    let kernel = Kernel { ifindex, context };
    let Some(mut desk) = Tables::<F>::desk(&kernel) else {
        return 0;
    };
    let way = &mut desk.way;
    // SAFETY: the structure consists of integers and unions of them, for which zeros are valid.
    let mut query: FibLookup = unsafe { mem::zeroed() };
    query.ifindex = ifindex;
    way.rewrite.dst.put(&mut query);
    way.rewrite.src.put_source(&mut query);
    // One by one: both at once would be a word at an address on the stack that the kernel refuses.
    // SAFETY: references can be written to.
    unsafe {
        ptr::write_volatile(&mut query.sport, way.rewrite.sport.raw());
        ptr::write_volatile(&mut query.dport, way.rewrite.dport.raw());
    }
    if look_up(context.cast(), &mut query, 0) != BPF_FIB_LKUP_RET_SUCCESS {
        return 0;
    }
    let Some(arrives) = device(ifindex) else { return 0 };
    let (mut leaves, mut card, mut tags) = (DeviceFlags::default(), query.ifindex, Tags::NONE);
    if let Some(known) = device(query.ifindex) {
        (leaves, tags) = (known.flags, known.tags);
        if known.lower != 0 {
            card = known.lower;
        }
    }
    let sends = arrives.flags.has(DeviceFlags::GENERIC) || leaves.has(DeviceFlags::FORWARDS);
    // Frames to an unknown address of this device's can't be told from those to others.
    if !sends || arrives.link == [0; 2] {
        return 0;
    }
    way.ifindex = card;
    way.tags = tags;
    way.own = arrives.link;
    // SAFETY: integers, whatever the union holds.
    way.mtu = unsafe { query.__bindgen_anon_1.mtu_result };
    way.link = frame_addresses(&query);
    if leaves.has(DeviceFlags::SCATTERS) || arrives.flags.has(DeviceFlags::GENERIC) {
        way.flags = way.flags.with(WayFlags::SCATTERS);
    }
    if card == xdp_ifindex(&XdpContext::new(context)) && arrives.flags.has(DeviceFlags::TURNS) {
        way.flags = way.flags.with(WayFlags::TURNS);
    }
    query.ifindex
}

/// Destination and source of a frame to the next hop. Read in halves: the destination's whole words lie at addresses on the
/// stack that the kernel refuses.
#[inline(always)]
fn frame_addresses(query: &FibLookup) -> [u32; 3] {
    // SAFETY: six octets each, at even offsets of a structure that is aligned for words.
    let half = |address: &[u8; 6], index: usize| unsafe { address.as_ptr().cast::<u16>().add(index).read_volatile() };
    let word = |first: u16, second: u16| {
        let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    };
    let (to, from) = (&query.dmac, &query.smac);
    [
        word(half(to, 0), half(to, 1)),
        word(half(to, 2), half(from, 0)),
        word(half(from, 1), half(from, 2)),
    ]
}

/// An address as a query of the routing table wants it.
pub trait Destination {
    /// Puts it there.
    fn put(&self, query: &mut FibLookup);
    /// Puts it there as the source.
    fn put_source(&self, query: &mut FibLookup);
}

impl Destination for Ip4 {
    #[inline(always)]
    fn put(&self, query: &mut FibLookup) {
        query.family = AF_INET;
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(self.octets);
    }

    #[inline(always)]
    fn put_source(&self, query: &mut FibLookup) {
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(self.octets);
    }
}

impl Destination for Ip6 {
    #[inline(always)]
    fn put(&self, query: &mut FibLookup) {
        query.family = AF_INET6;
        // SAFETY: integers, whatever the union holds.
        put(unsafe { &mut query.__bindgen_anon_4.ipv6_dst }, &self.octets);
    }

    #[inline(always)]
    fn put_source(&self, query: &mut FibLookup) {
        // SAFETY: integers, whatever the union holds.
        put(unsafe { &mut query.__bindgen_anon_3.ipv6_src }, &self.octets);
    }
}

/// The device by which packets of this host to an address leave, if the routing table has a way. A function of its own:
/// the query takes 64 octets of the stack.
#[inline(never)]
pub fn outgoing<A: Destination>(context: *mut c_void, address: &A) -> Option<u32> {
    // SAFETY: the structure consists of integers and unions of them, for which zeros are valid.
    let mut query: FibLookup = unsafe { mem::zeroed() };
    query.ifindex = LOOPBACK;
    address.put(&mut query);
    is_known(look_up(context, &mut query, BPF_FIB_LOOKUP_SKIP_NEIGH)).then_some(query.ifindex)
}

/// The way of a tunnel's packets to the desk's `rewrite.dst`: device and MTU, which the desk's `way` gets. A function of its own, as
/// [`outgoing`].
#[inline(never)]
pub fn path<C: Context, F: Family>(context: C) -> bool
where
    F::Addr: Destination,
    Kernel<C>: Tables<F>,
{
    let kernel = Kernel { ifindex: 0, context };
    let Some(mut desk) = Tables::<F>::desk(&kernel) else {
        return false;
    };
    let desk = &mut *desk;
    // SAFETY: the structure consists of integers and unions of them, for which zeros are valid.
    let mut query: FibLookup = unsafe { mem::zeroed() };
    query.ifindex = LOOPBACK;
    desk.rewrite.dst.put(&mut query);
    // Any length: with one, the kernel tells the path's MTU rather than the device's.
    query.__bindgen_anon_1.tot_len = 1;
    if look_up(context.raw(), &mut query, BPF_FIB_LOOKUP_SKIP_NEIGH) != BPF_FIB_LKUP_RET_SUCCESS {
        return false;
    }
    desk.way.ifindex = query.ifindex;
    // SAFETY: integers, whatever the union holds.
    desk.way.mtu = unsafe { query.__bindgen_anon_1.mtu_result };
    true
}

/// Sends a packet of a tunnel by a device: the kernel resolves the next hop by its destination.
#[inline(always)]
pub fn send<const LINK: usize>(mut skb: Skb<'_, LINK>, ifindex: u32) -> i32 {
    if !skb.have_link_header() {
        return TC_ACT_SHOT;
    }
    to_next_hop(ifindex)
}

/// Gives a translated packet of a host process a route to its backend: the one on which the kernel has put it leads
/// to the service address. Leaves the packet on it when the host doesn't forward and the kernel won't tell a better.
#[inline(always)]
pub fn anew<const LINK: usize>(mut skb: Skb<'_, LINK>) -> i32 {
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
        // SAFETY: both are integers, whatever the union holds.
        let (src, dst) = unsafe {
            (
                &mut query.__bindgen_anon_3.ipv6_src,
                &mut query.__bindgen_anon_4.ipv6_dst,
            )
        };
        put(src, &ip.src);
        put(dst, &ip.dst);
    } else {
        return TC_ACT_SHOT;
    }
    // What the stack has left whole for a device will be cut by the way's device.
    if !skb_is_gso(skb.0) {
        query.__bindgen_anon_1.tot_len = (skb.len() - LINK) as u16;
    }
    let found = look_up(skb.0.skb.skb.cast(), &mut query, 0);
    mark_rerouted(skb.0);
    match found {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH if skb.have_link_header() => to_next_hop(query.ifindex),
        BPF_FIB_LKUP_RET_NOT_FWDED => up(skb),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // The socket thought of the way to the service address. What it is told now comes by our own hook, which says
            // that of the packet as the socket has sent it.
            // SAFETY: integers, whatever the union holds.
            let mtu = unsafe { query.__bindgen_anon_1.mtu_result };
            if outline::too_big_for::<LINK>(skb.0, mtu) != 0 {
                up(skb)
            } else {
                TC_ACT_SHOT
            }
        }
        _ => TC_ACT_UNSPEC,
    }
}

/// Gives a translated reply to the host itself. Its source is now a service address. Where that is routed through the
/// device that the reply came by, as it is on most nodes' outward device, the stack takes it as it is. Elsewhere (a pod's
/// device) the stack would take it for forged (RFC 3704 §2.2), and it comes up through loopback; so does what has an address
/// of the host itself as its source now (a NodePort's), which the stack takes from no other device.
#[inline(always)]
pub fn deliver<const LINK: usize>(skb: Skb<'_, LINK>) -> i32 {
    let ifindex = skb_ifindex(skb.0);
    let kernel = Kernel {
        ifindex,
        context: skb.0.skb.skb,
    };
    // SAFETY: the structure consists of integers and unions of them, for which zeros are valid.
    let mut query: FibLookup = unsafe { mem::zeroed() };
    query.ifindex = ifindex;
    if let Some(ip) = skb.header::<Ipv4>(LINK).filter(|ip| ip.version_ihl[0] >> 4 == 4) {
        if is_host::<V4>(&kernel, &Ip4::from_wire(&ip.src)) {
            return up(skb);
        }
        query.family = AF_INET;
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(ip.src);
    } else if let Some(ip) = skb.header::<Ipv6>(LINK) {
        if is_host::<V6>(&kernel, &Ip6::from_wire(&ip.src)) {
            return up(skb);
        }
        query.family = AF_INET6;
        // SAFETY: integers, whatever the union holds.
        put(unsafe { &mut query.__bindgen_anon_4.ipv6_dst }, &ip.src);
    }
    const FLAGS: u32 = BPF_FIB_LOOKUP_OUTPUT | BPF_FIB_LOOKUP_SKIP_NEIGH;
    // The packet's own size is no matter here.
    let has_route = is_known(look_up(skb.0.skb.skb.cast(), &mut query, FLAGS));
    if has_route && query.ifindex == ifindex {
        TC_ACT_UNSPEC
    } else {
        up(skb)
    }
}

/// Whether an address is one of the host's.
#[inline(always)]
fn is_host<F: Family>(kernel: &Kernel<OfSkb>, address: &F::Addr) -> bool
where
    Kernel<OfSkb>: Tables<F>,
{
    let flags = Tables::<F>::address(kernel, &address.looked_up());
    flags.is_some_and(|flags| flags.has(AddressFlags::HOST))
}

/// Gives the packet to the host itself: it arrives on the loopback device.
#[inline(always)]
pub fn up<const LINK: usize>(mut skb: Skb<'_, LINK>) -> i32 {
    // Four octets: the verifier doesn't follow a comparison for a single one.
    let is_v6 = skb.header::<[u8; 4]>(LINK).is_some_and(|first| first[0] >> 4 == 6);
    let ethertype = if is_v6 { Ethernet::IPV6 } else { Ethernet::IPV4 };
    // The stack takes only what is addressed to the device, and the address of loopback is zero.
    let addressed = skb.have_link_header() && skb.store(0, &[0_u8; 6]);
    if addressed && (LINK != 0 || skb.store(offset_of!(Ethernet, ethertype), &ethertype)) {
        redirect(LOOPBACK, true)
    } else {
        TC_ACT_UNSPEC
    }
}

/// Puts an IPv6 address into a query, word by word: the compiler would make two long stores of it, which the kernel refuses
/// at an address on the stack that is not a multiple of eight.
#[inline(always)]
fn put(address: &mut [u32; 4], octets: &[u8; 16]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *octets;
    let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]];
    let mut index = 0;
    while index < 4 {
        // SAFETY: a reference can be written to.
        unsafe { ptr::write_volatile(&mut address[index], u32::from_ne_bytes(words[index])) };
        index += 1;
    }
}
