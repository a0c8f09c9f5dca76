//! Global functions of the object: the verifier walks each once, for itself, knowing nothing of its callers, instead
//! of on every path that leads to it. That keeps the rare and long parts of the datapath out of the product of all
//! paths through the short ones.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use lb_common::{
    datapath::{Hook, Opened, Opens, open, open_pair, refuse},
    layout::{DropReason, V4, V6},
};

use crate::{frame::Skb, route, world::Kernel};

const XDP: u32 = 0;
const INGRESS: u32 = 1;
const EGRESS_FORWARDED: u32 = 2;

#[inline(always)]
const fn hook_code(hook: Hook) -> u32 {
    match hook {
        Hook::Xdp => XDP,
        Hook::Ingress => INGRESS,
        Hook::EgressForwarded => EGRESS_FORWARDED,
        Hook::EgressLocal => 3,
    }
}

#[inline(always)]
const fn hook_from_code(code: u32) -> Hook {
    match code {
        XDP => Hook::Xdp,
        INGRESS => Hook::Ingress,
        EGRESS_FORWARDED => Hook::EgressForwarded,
        _ => Hook::EgressLocal,
    }
}

macro_rules! opens {
    ($family:ty, $open:ident, $pair:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $open(hook: u32, ifindex: u32) -> u32 {
            open::<$family, Kernel>(&Kernel { ifindex }, hook_from_code(hook)).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $pair() -> u32 {
            match open_pair::<$family, Kernel>(&Kernel { ifindex: 0 }) {
                None => 0,
                Some(reason) => reason as u32 + 1,
            }
        }

        impl Opens<$family> for Kernel {
            #[inline(always)]
            fn open(&self, hook: Hook) -> Opened {
                Opened::from_code($open(hook_code(hook), self.ifindex))
            }

            #[inline(always)]
            fn open_pair(&self) -> Option<DropReason> {
                match $pair() {
                    0 => None,
                    code => DropReason::from_number((code - 1) as u16),
                }
            }
        }
    };
}

opens!(V4, lb_open4, lb_pair4);
opens!(V6, lb_open6, lb_pair6);

/// Turns the packet into an ICMP error, on an Ethernet device.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> bool {
    lb_answer(ctx.skb.skb) != 0
}

/// Turns the packet into an ICMP error, on a device without link header.
#[inline(always)]
pub fn answer_l3(ctx: &TcContext) -> bool {
    lb_answer_l3(ctx.skb.skb) != 0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_answer(skb: *mut __sk_buff) -> u32 {
    u32::from(refuse(&mut Skb::<14>(&TcContext::new(skb))))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_answer_l3(skb: *mut __sk_buff) -> u32 {
    u32::from(refuse(&mut Skb::<0>(&TcContext::new(skb))))
}

/// Gives the packet a new route, on an Ethernet device.
#[inline(always)]
pub fn reroute(ctx: &TcContext) -> i32 {
    lb_reroute(ctx.skb.skb)
}

/// Gives the packet a new route, on a device without link header.
#[inline(always)]
pub fn reroute_l3(ctx: &TcContext) -> i32 {
    lb_reroute_l3(ctx.skb.skb)
}

/// Gives the packet to the host itself, from an Ethernet device.
#[inline(always)]
pub fn deliver(ctx: &TcContext) -> i32 {
    lb_deliver(ctx.skb.skb)
}

/// Gives the packet to the host itself, from a device without link header.
#[inline(always)]
pub fn deliver_l3(ctx: &TcContext) -> i32 {
    lb_deliver_l3(ctx.skb.skb)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_deliver(skb: *mut __sk_buff) -> i32 {
    route::up::<14>(&TcContext::new(skb))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_deliver_l3(skb: *mut __sk_buff) -> i32 {
    route::up::<0>(&TcContext::new(skb))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_reroute(skb: *mut __sk_buff) -> i32 {
    route::anew::<14>(&TcContext::new(skb))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_reroute_l3(skb: *mut __sk_buff) -> i32 {
    route::anew::<0>(&TcContext::new(skb))
}
