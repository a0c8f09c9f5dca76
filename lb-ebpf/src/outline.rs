//! Global functions of the object: the verifier walks each once, for itself, knowing nothing of its callers, instead
//! of on every path that leads to it. That keeps the rare and long parts of the datapath out of the product of all
//! paths through the short ones.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use lb_common::{
    datapath::{Errors, Hook, Opened, Opens, Verdict, error, open, open_pair, refuse},
    layout::{DropReason, V4, V6},
};

use crate::{
    frame::{ETHERNET, NO_LINK, Skb, XdpFrame},
    route,
    world::Kernel,
};

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

/// ICMP errors on devices with this link header.
macro_rules! errors {
    ($family:ty, $link:ident, $error:ident) => {
        impl Errors<$family, Skb<'_, $link>> for Kernel {
            #[inline(always)]
            fn error(&self, packet: &mut Skb<'_, $link>, hook: Hook) -> Verdict {
                match $error(packet.0.skb.skb, hook_code(hook)) {
                    1 => Verdict::Route,
                    2 => Verdict::Deliver,
                    _ => Verdict::Pass,
                }
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $error(skb: *mut __sk_buff, hook: u32) -> u32 {
            let mut packet = Skb::<$link>(&TcContext::new(skb));
            match error::<$family, _, _>(&mut packet, &Kernel { ifindex: 0 }, hook_from_code(hook)) {
                Verdict::Route => 1,
                Verdict::Deliver => 2,
                _ => 0,
            }
        }
    };
}

errors!(V4, ETHERNET, lb_error4);
errors!(V6, ETHERNET, lb_error6);
errors!(V4, NO_LINK, lb_error4_l3);
errors!(V6, NO_LINK, lb_error6_l3);

// Never asked for: XDP leaves ICMP to tc.
impl Errors<V4, XdpFrame<'_>> for Kernel {}
impl Errors<V6, XdpFrame<'_>> for Kernel {}

/// A function on socket buffers with a link header of `LINK` octets, and the two global functions behind it.
macro_rules! outlined {
    ($(#[$attr:meta])* $name:ident($ethernet:ident, $bare:ident) $body:expr) => {
        $(#[$attr])*
        #[inline(always)]
        pub fn $name<const LINK: usize>(ctx: &TcContext) -> i32 {
            if LINK == ETHERNET {
                $ethernet(ctx.skb.skb)
            } else {
                $bare(ctx.skb.skb)
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $ethernet(skb: *mut __sk_buff) -> i32 {
            let body: fn(Skb<'_, ETHERNET>) -> i32 = $body;
            body(Skb(&TcContext::new(skb)))
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $bare(skb: *mut __sk_buff) -> i32 {
            let body: fn(Skb<'_, NO_LINK>) -> i32 = $body;
            body(Skb(&TcContext::new(skb)))
        }
    };
}

outlined! {
    /// Turns the packet into an ICMP error. Zero if that failed.
    answer(lb_answer, lb_answer_l3) |mut skb| i32::from(refuse(&mut skb))
}

outlined! {
    /// Gives the packet a new route. The action to be taken.
    reroute(lb_reroute, lb_reroute_l3) |skb| route::anew(skb)
}

outlined! {
    /// Gives the packet to the host itself. The action to be taken.
    deliver(lb_deliver, lb_deliver_l3) |skb| route::deliver(skb)
}
