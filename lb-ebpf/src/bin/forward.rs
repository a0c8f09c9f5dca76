//! What `cargo xtask bench forward` needs around the program under test: `send` makes each frame the next of a list and
//! sends it out of a device, `swap` forwards by exchanging the MAC addresses and does nothing else, `count` looks at what
//! comes back, counts it and lets it go.
//!
//! Nothing here is part of the agent.

#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::generated::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// A frame, all of it.
type Frame = [u64; 10];
/// The two addresses of a link header, in pieces that lie in place.
type Mac = [u16; 3];

const FRAMES: usize = 1 << 14;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// Which frames are next, and where they go.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cursor {
    /// The next frame.
    pub next: u32,
    /// Where the list begins anew.
    pub end: u32,
    /// Index of the device that sends.
    pub device: u32,
}

/// What a frame has to look like that comes back, and how often one is kept.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Expected {
    /// Destination of the link header.
    pub mac: Mac,
    /// Always zero.
    pub pad: u16,
    /// The first three octets of the destination address and a zero; in IPv6, octets 4 to 7.
    pub net: [u16; 2],
    /// A frame is kept whose number has none of these bits.
    pub mask: u32,
}

/// What came back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counts {
    /// Frames as they have to look.
    pub right: u64,
    /// All others.
    pub other: u64,
}

#[btf_map]
static FWD_FRAMES: Array<Frame, FRAMES> = Array::new();
#[btf_map]
static FWD_CURSOR: Array<Cursor, 1> = Array::new();
#[btf_map]
static FWD_EXPECTED: Array<Expected, 1> = Array::new();
#[btf_map]
static FWD_COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();
#[btf_map]
static FWD_KEPT: PerCpuArray<Frame, FRAMES> = PerCpuArray::new();

/// Where something lies in a frame, if the frame is long enough. The offset is a multiple of its alignment: a frame begins at a
/// multiple of eight where the kernel has made it for a test run, and at an even address anywhere.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let place = ctx.data() + offset;
    (place + size_of::<T>() <= ctx.data_end()).then(|| ptr::with_exposed_provenance_mut(place))
}

/// Copies word by word: the compiler would call a function that moves octet by octet.
#[inline(always)]
fn copy<T: Copy, const N: usize>(from: &[T; N], to: &mut [T; N]) {
    let mut index = 0;
    while index < N {
        // SAFETY: a reference can be written to.
        unsafe { ptr::write_volatile(&mut to[index], from[index]) };
        index += 1;
    }
}

/// Makes the frame the next one, and tells the device for it.
#[inline(always)]
fn next(ctx: &XdpContext) -> Option<u32> {
    let cursor = FWD_CURSOR.get_ptr_mut(0)?;
    // SAFETY: the bench sends from one thread.
    let cursor = unsafe { &mut *cursor };
    let this = cursor.next;
    cursor.next = if this + 1 < cursor.end { this + 1 } else { 0 };
    let frame = FWD_FRAMES.get(this)?;
    let place = at::<Frame>(ctx, 0)?;
    // SAFETY: inside the frame as just compared; nobody else has it.
    copy(frame, unsafe { &mut *place });
    Some(cursor.device)
}

#[xdp]
pub fn send(ctx: XdpContext) -> u32 {
    match next(&ctx) {
        // SAFETY: a helper without pointers.
        Some(device) => unsafe { bpf_redirect(device, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

#[xdp]
pub fn swap(ctx: XdpContext) -> u32 {
    let Some(place) = at::<[Mac; 2]>(&ctx, 0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: inside the frame as just compared; nobody else has it.
    let macs = unsafe { &mut *place };
    let [to, from] = *macs;
    *macs = [from, to];
    xdp_action::XDP_TX
}

/// Whether a frame goes where it should.
#[inline(always)]
fn is_right(ctx: &XdpContext, expected: &Expected) -> Option<bool> {
    // SAFETY: inside the frame, integers, and nobody writes to them meanwhile.
    let word = |offset| at::<[u16; 2]>(ctx, offset).map(|place| unsafe { *place });
    // SAFETY: as above.
    let (mac, kind) = unsafe { (*at::<Mac>(ctx, 0)?, *at::<u16>(ctx, 12)?) };
    let net = match kind {
        IPV4 => {
            let [first, second] = word(30)?;
            [first, second & u16::from_ne_bytes([0xff, 0])]
        }
        IPV6 => word(42)?,
        _ => return Some(false),
    };
    Some(mac == expected.mac && net == expected.net)
}

/// Counts a frame, and keeps it if it is its turn.
#[inline(always)]
fn tally(ctx: &XdpContext) -> Option<()> {
    let expected = FWD_EXPECTED.get(0)?;
    let counts = FWD_COUNTS.get_ptr_mut(0)?;
    // SAFETY: every CPU has its own, and a program on it is not interrupted by itself.
    let counts = unsafe { &mut *counts };
    if !is_right(ctx, expected).unwrap_or(false) {
        counts.other += 1;
        return Some(());
    }
    let number = counts.right as u32;
    if number & expected.mask == 0 {
        let place = FWD_KEPT.get_ptr_mut(number & (FRAMES as u32 - 1))?;
        let frame = at::<[u16; 40]>(ctx, 0)?;
        // SAFETY: inside the frame, and inside the element, which is as long and every CPU's own; integers.
        let (frame, place) = unsafe { (&*frame, &mut *place.cast::<[u16; 40]>()) };
        copy(frame, place);
    }
    // Last, since whoever reads the number looks for the frame.
    counts.right += 1;
    Some(())
}

#[xdp]
pub fn count(ctx: XdpContext) -> u32 {
    match tally(&ctx) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_ABORTED,
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
