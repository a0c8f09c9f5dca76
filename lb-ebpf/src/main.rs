//! The kernel programs: hooks in, verdicts out. Decisions are taken in `lb_common::datapath`; this crate lends them
//! packet memory ([`frame`]), maps and helpers ([`world`], [`socket`], sockets' own in [`cgroup`]) and carries out verdicts that need the kernel ([`route`]).

#![no_std]
#![feature(asm_experimental_arch)]
#![no_main]

mod cgroup;
mod driver;
mod frame;
mod hook;
mod maps;
mod outline;
mod route;
mod socket;
mod world;

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
