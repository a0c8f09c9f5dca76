//! Puts every packet that leaves a device into VLAN 100: for `tests/tests/lab_vlan.rs`, since not every kernel has VLAN
//! devices. Nothing here is part of the agent.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC, helpers::generated::bpf_skb_vlan_push, macros::classifier, programs::TcContext,
};

/// IEEE 802.1Q.
const PROTOCOL: u16 = 0x8100_u16.to_be();
const IDENTIFIER: u16 = 100;

#[classifier]
pub fn tag(ctx: TcContext) -> i32 {
    // SAFETY: the context is the program's own; nothing refers to the packet.
    unsafe { bpf_skb_vlan_push(ctx.skb.skb, PROTOCOL, IDENTIFIER) };
    TC_ACT_UNSPEC
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
