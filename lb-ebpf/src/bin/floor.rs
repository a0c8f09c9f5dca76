//! The floor under a datapath that keeps flows, for `cargo xtask bench packet`: parse, one look-up in an LRU table with
//! our keys and values, one rewrite with checksums. And what the bench needs around it: a program that gives a packet
//! the tuple of another flow before every run and then calls the program under test, and one that does nothing.
//!
//! Nothing here is part of the agent. It leaves out what a balancer can't do without (fragments, options, TCP states,
//! times, checks against recycled entries), so that the distance to it is the price of these.

#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_PSEUDO_HDR, TC_ACT_UNSPEC, xdp_action},
    btf_maps::{Array, LruHashMap, ProgramArray},
    helpers::generated::{bpf_l4_csum_replace, bpf_xdp_adjust_head},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    datapath::updated,
    layout::{Family, Flow, FlowKey, Ip4, Ip6, Port, Proto, V4, V6, limits::FLOWS_DEFAULT},
};

/// Source and destination of a flow as 32-bit words as they lie in a header; IPv4 uses the first of four. Then the
/// ports, source first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tuple {
    /// Source address.
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
    /// Source port in the first two octets, destination port in the others.
    pub ports: u32,
    /// Always zero.
    pub pad: u32,
}

/// Which tuples are next.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cursor {
    /// The tuple of the next packet.
    pub next: u32,
    /// Where it begins anew.
    pub end: u32,
}

const TUPLES: usize = 1 << 20;

#[btf_map]
static BENCH_TUPLES: Array<Tuple, TUPLES, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static BENCH_CURSOR: Array<Cursor, 1> = Array::new();
#[btf_map]
static BENCH_TC: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static BENCH_XDP: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static FLOOR4: LruHashMap<FlowKey<<V4 as Family>::Addr>, Flow<<V4 as Family>::Addr>, { FLOWS_DEFAULT as usize }> =
    LruHashMap::new();
#[btf_map]
static FLOOR6: LruHashMap<FlowKey<<V6 as Family>::Addr>, Flow<<V6 as Family>::Addr>, { FLOWS_DEFAULT as usize }> =
    LruHashMap::new();

/// A packet's octets.
#[derive(Clone, Copy)]
struct Octets {
    start: usize,
    end: usize,
}

impl Octets {
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        let place = self.start + offset;
        (place + size_of::<T>() <= self.end).then(|| ptr::with_exposed_provenance_mut(place))
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: inside the packet as just compared; plain integers, at any alignment.
        Some(unsafe { place.read_unaligned() })
    }

    #[inline(always)]
    fn write<T: Copy>(self, offset: usize, value: T) -> Option<()> {
        let place = self.at::<T>(offset)?;
        // SAFETY: as in `read`, and nobody else has the packet.
        unsafe { place.write_unaligned(value) };
        Some(())
    }
}

const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// Where things stand in a frame without options.
trait Frame: Family {
    /// Time to live, or hop limit.
    const HOPS: usize;
    const SRC: usize;
    const DST: usize;
    const PROTO: usize;
    const L4: usize;
    /// Where the transport header stands in this packet.
    fn l4(packet: Octets) -> Option<usize>;
    /// Addresses in whole words, as the datapath reads them.
    fn load(packet: Octets, at: usize) -> Option<Self::Addr>;
    fn save(packet: Octets, at: usize, address: &Self::Addr) -> Option<()>;
    /// Octets of the header checksum.
    const SUM: Option<usize>;
    fn table() -> &'static LruHashMap<FlowKey<Self::Addr>, Flow<Self::Addr>, { FLOWS_DEFAULT as usize }>;
}

impl Frame for V4 {
    const HOPS: usize = 22;
    const SRC: usize = 26;
    const DST: usize = 30;
    const PROTO: usize = 23;
    const L4: usize = 34;
    const SUM: Option<usize> = Some(24);

    #[inline(always)]
    fn l4(packet: Octets) -> Option<usize> {
        Some(14 + usize::from(packet.read::<u8>(14)? & 0x0f) * 4)
    }

    #[inline(always)]
    fn load(packet: Octets, at: usize) -> Option<Ip4> {
        Some(Ip4 {
            octets: packet.read(at)?,
        })
    }

    #[inline(always)]
    fn save(packet: Octets, at: usize, address: &Ip4) -> Option<()> {
        packet.write(at, address.octets)
    }

    #[inline(always)]
    fn table() -> &'static LruHashMap<FlowKey<Self::Addr>, Flow<Self::Addr>, { FLOWS_DEFAULT as usize }> {
        &FLOOR4
    }
}

impl Frame for V6 {
    const HOPS: usize = 21;
    const SRC: usize = 22;
    const DST: usize = 38;
    const PROTO: usize = 20;
    const L4: usize = 54;
    const SUM: Option<usize> = None;

    #[inline(always)]
    fn l4(_packet: Octets) -> Option<usize> {
        Some(Self::L4)
    }

    #[inline(always)]
    fn load(packet: Octets, at: usize) -> Option<Ip6> {
        let halves = packet.at::<[u8; 16]>(at)?;
        // SAFETY: inside the packet, octets, and nobody writes to it meanwhile.
        Some(Ip6::from_wire(unsafe { &*halves }))
    }

    #[inline(always)]
    fn save(packet: Octets, at: usize, address: &Ip6) -> Option<()> {
        let place = packet.at::<[u8; 16]>(at)?;
        // SAFETY: inside the packet, octets, and nobody else has it.
        address.write_to(unsafe { &mut *place });
        Some(())
    }

    #[inline(always)]
    fn table() -> &'static LruHashMap<FlowKey<Self::Addr>, Flow<Self::Addr>, { FLOWS_DEFAULT as usize }> {
        &FLOOR6
    }
}

#[inline(always)]
fn key<F: Frame>(packet: Octets) -> Option<FlowKey<F::Addr>> {
    let proto = packet.read::<u8>(F::PROTO)?;
    if proto != Proto::TCP.0 && proto != Proto::UDP.0 {
        return None;
    }
    let l4 = F::l4(packet)?;
    Some(FlowKey::new(
        F::load(packet, F::SRC)?,
        Port {
            octets: packet.read(l4)?,
        },
        F::load(packet, F::DST)?,
        Port {
            octets: packet.read(l4 + 2)?,
        },
        Proto(proto),
    ))
}

/// What the checksum has to follow: where it is, what the addresses and the ports have added.
struct Sum {
    at: usize,
    addresses: u16,
    ports: u16,
}

#[inline(always)]
fn rewrite<F: Frame>(packet: Octets) -> Option<Sum> {
    let key = key::<F>(packet)?;
    let flow = F::table().get_ptr(key)?;
    // SAFETY: the kernel keeps the element's memory until the program ends.
    write::<F>(packet, &key, unsafe { &*flow })
}

/// The same of the first packet of a flow: there is no entry, and both directions' are made.
#[inline(always)]
fn open<F: Frame>(packet: Octets) -> Option<Sum> {
    let key = key::<F>(packet)?;
    if F::table().get_ptr(key).is_some() {
        return None;
    }
    let flow = Flow {
        src: key.src,
        dst: key.src,
        sport: key.sport,
        dport: key.dport,
        address_delta: 1,
        port_delta: 1,
        ..Flow::default()
    };
    F::table().insert(key.of_counterpart(&flow), flow, 0).ok()?;
    F::table().insert(key, flow, 0).ok()?;
    write::<F>(packet, &key, &flow)
}

#[inline(always)]
fn write<F: Frame>(packet: Octets, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Option<Sum> {
    F::save(packet, F::SRC, &flow.src)?;
    F::save(packet, F::DST, &flow.dst)?;
    let l4 = F::l4(packet)?;
    packet.write(l4, flow.sport.octets)?;
    packet.write(l4 + 2, flow.dport.octets)?;
    if let Some(at) = F::SUM {
        packet.write(at, updated(packet.read(at)?, flow.address_delta.into()))?;
    }
    Some(Sum {
        at: l4 + if key.proto == Proto::TCP { 16 } else { 6 },
        addresses: flow.address_delta,
        ports: flow.port_delta,
    })
}

#[inline(always)]
fn open_and_translate(packet: Octets) -> Option<Sum> {
    match packet.read::<u16>(12)? {
        IPV4 => open::<V4>(packet),
        IPV6 => open::<V6>(packet),
        _ => None,
    }
}

#[inline(always)]
fn translate(packet: Octets) -> Option<Sum> {
    match packet.read::<u16>(12)? {
        IPV4 => rewrite::<V4>(packet),
        IPV6 => rewrite::<V6>(packet),
        _ => None,
    }
}

/// Makes an entry for the packet's flow.
#[inline(always)]
fn remember<F: Frame>(packet: Octets) -> Option<()> {
    let key = key::<F>(packet)?;
    let flow = Flow {
        src: key.src,
        dst: key.src,
        sport: key.sport,
        dport: key.dport,
        address_delta: 1,
        port_delta: 1,
        ..Flow::default()
    };
    F::table().insert(key, flow, 0).ok()
}

/// The link address of the bench's frames, which forwarding changes.
const LINK: ([u8; 4], [u8; 2]) = ([2, 0, 0, 0], [0, 1]);
const HOPS: u8 = 64;
/// What stands in the checksum of every packet. Going on from what the run before has left, it would come by the sum over the pseudo header
/// alone sooner or later, which XDP leaves to the stack.
const CHECKSUM: [u8; 2] = [0x12, 0x34];

#[inline(always)]
fn put<F: Frame>(packet: Octets, tuple: &Tuple) -> Option<()> {
    let checksum = if packet.read::<u8>(F::PROTO)? == Proto::TCP.0 {
        F::L4 + 16
    } else {
        F::L4 + 6
    };
    packet.write(checksum, CHECKSUM)?;
    packet.write(0, LINK.0)?;
    packet.write(4, LINK.1)?;
    packet.write(F::HOPS, HOPS)?;
    if F::SUM.is_some() {
        packet.write(F::SRC, tuple.src[0])?;
        packet.write(F::DST, tuple.dst[0])?;
    } else {
        packet.write(F::SRC, tuple.src)?;
        packet.write(F::DST, tuple.dst)?;
    }
    packet.write(F::L4, tuple.ports)
}

/// Gives the packet the next tuple.
#[inline(always)]
fn restore(packet: Octets) -> Option<()> {
    let cursor = BENCH_CURSOR.get_ptr_mut(0)?;
    // SAFETY: the bench runs one packet at a time.
    let cursor = unsafe { &mut *cursor };
    let this = cursor.next;
    cursor.next = if this + 1 < cursor.end { this + 1 } else { 0 };
    let tuple = BENCH_TUPLES.get(this)?;
    match packet.read::<u16>(12)? {
        IPV4 => put::<V4>(packet, tuple),
        IPV6 => put::<V6>(packet, tuple),
        _ => None,
    }
}

#[inline(always)]
fn skb(ctx: &TcContext) -> Octets {
    Octets {
        start: ctx.data(),
        end: ctx.data_end(),
    }
}

#[inline(always)]
fn frame(ctx: &XdpContext) -> Octets {
    Octets {
        start: ctx.data(),
        end: ctx.data_end(),
    }
}

/// Restores and calls the program under test. Reached again only when there is none.
#[classifier]
pub fn bench_tc(ctx: TcContext) -> i32 {
    if restore(skb(&ctx)).is_some() {
        // SAFETY: nothing is left to be done here.
        unsafe { BENCH_TC.tail_call(&ctx, 0) };
    }
    -2
}

/// Octets of a tunnel's headers, if the frame is in one.
#[inline(always)]
fn tunnel_len(packet: Octets) -> Option<usize> {
    const GUE: u16 = 6080_u16.to_be();
    const IPIP: (u8, u8) = (4, 41);
    match packet.read::<u16>(12)? {
        IPV4 => match packet.read::<u8>(V4::PROTO)? {
            proto if proto == IPIP.0 => Some(20),
            17 if packet.read::<u16>(V4::L4 + 2)? == GUE => Some(28),
            _ => None,
        },
        IPV6 => match packet.read::<u8>(V6::PROTO)? {
            proto if proto == IPIP.1 => Some(40),
            17 if packet.read::<u16>(V6::L4 + 2)? == GUE => Some(48),
            _ => None,
        },
        _ => None,
    }
}

/// Takes the frame out of the tunnel in which the run before has put it. What that costs counts for who has put it there.
#[inline(always)]
fn take_out(ctx: &XdpContext) -> Option<()> {
    let Some(len) = tunnel_len(frame(ctx)) else {
        return Some(());
    };
    let ethertype = frame(ctx).read::<u16>(12)?;
    // SAFETY: the context is the program's own; nothing refers to the packet any longer.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, len as i32) } != 0 {
        return None;
    }
    frame(ctx).write(12, ethertype)
}

/// As [`bench_tc`].
#[xdp(frags)]
pub fn bench_xdp(ctx: XdpContext) -> u32 {
    if take_out(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    if restore(frame(&ctx)).is_some() {
        // SAFETY: nothing is left to be done here.
        unsafe { BENCH_XDP.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[classifier]
pub fn nothing_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[xdp(frags)]
pub fn nothing_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[classifier]
pub fn fill_tc(ctx: TcContext) -> i32 {
    let packet = skb(&ctx);
    let done = match packet.read::<u16>(12) {
        Some(IPV4) => remember::<V4>(packet),
        Some(IPV6) => remember::<V6>(packet),
        _ => None,
    };
    if done.is_some() { TC_ACT_UNSPEC } else { -2 }
}

#[classifier]
pub fn floor_tc(ctx: TcContext) -> i32 {
    let Some(sum) = translate(skb(&ctx)) else { return -2 };
    // The checksum by the kernel's helper: a socket buffer's may be partial, which only the helper knows.
    // SAFETY: the helper checks the packet's bounds itself; nothing refers to the packet any longer.
    let done = unsafe {
        bpf_l4_csum_replace(
            ctx.skb.skb,
            sum.at as u32,
            0,
            sum.addresses.into(),
            u64::from(BPF_F_PSEUDO_HDR),
        ) == 0
            && bpf_l4_csum_replace(ctx.skb.skb, sum.at as u32, 0, sum.ports.into(), 0) == 0
    };
    if done { TC_ACT_UNSPEC } else { -2 }
}

/// Brings the checksum up to date.
#[inline(always)]
fn follow(packet: Octets, sum: &Sum) -> Option<()> {
    let new = updated(packet.read(sum.at)?, u64::from(sum.addresses) + u64::from(sum.ports));
    packet.write(sum.at, new)
}

#[xdp(frags)]
pub fn floor_new_xdp(ctx: XdpContext) -> u32 {
    let packet = frame(&ctx);
    if open_and_translate(packet)
        .and_then(|sum| follow(packet, &sum))
        .is_some()
    {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_ABORTED
    }
}

#[xdp(frags)]
pub fn floor_xdp(ctx: XdpContext) -> u32 {
    let packet = frame(&ctx);
    let done = translate(packet).and_then(|sum| follow(packet, &sum));
    if done.is_some() {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_ABORTED
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: code that could panic does not pass the verifier, which refuses endless loops.
    loop {}
}

/// The kernel lends its GPL-only helpers to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
