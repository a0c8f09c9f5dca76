//! Global functions of the object: the verifier walks each once, for itself, knowing nothing of its callers, instead
//! of on every path that leads to it. That keeps the rare and long parts of the datapath out of the product of all
//! paths through the short ones.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, xdp_md},
    helpers::generated::bpf_loop,
    programs::TcContext,
};
use lb_common::{
    datapath::{
        Chosen, Claim, Errors, Fit, Held, Hook, Insert, Opened, Opens, Quoted, Refused, Side, Taken, Verdict, choose,
        claim, claim_tuple, clamp, crc32c_of_change, echo, enter_tunnel, error, fit, held_by, open, place, refuse,
        reset, split, stray, take_out, too_big, translate, write_entry,
    },
    layout::{DropReason, FlowKey, Ip4, Ip6, Scope, V4, V6},
};

use crate::{
    frame::{ETHERNET, NO_LINK, Skb, skb_ifindex, skb_mtu},
    maps, route, socket,
    world::{Context, Kernel},
};

/// Context of a tc program.
pub type OfSkb = *mut __sk_buff;
/// Context of an XDP program.
pub type OfXdp = *mut xdp_md;

impl Context for OfSkb {
    #[inline(always)]
    fn raw(self) -> *mut c_void {
        self.cast()
    }
}

impl Context for OfXdp {
    #[inline(always)]
    fn raw(self) -> *mut c_void {
        self.cast()
    }
}

/// What a packet's bare context says of where it is.
#[inline(always)]
fn kernel_of(skb: OfSkb) -> Kernel<OfSkb> {
    Kernel {
        ifindex: skb_ifindex(&TcContext::new(skb)),
        context: skb,
    }
}

const XDP: u32 = 0;
const INGRESS: u32 = 1;
const EGRESS_FORWARDED: u32 = 2;

#[inline(always)]
pub const fn hook_code(hook: Hook) -> u32 {
    match hook {
        Hook::Xdp => XDP,
        Hook::Ingress => INGRESS,
        Hook::EgressForwarded => EGRESS_FORWARDED,
        Hook::EgressLocal => 3,
    }
}

#[inline(always)]
pub const fn hook_from_code(code: u32) -> Hook {
    match code {
        XDP => Hook::Xdp,
        INGRESS => Hook::Ingress,
        EGRESS_FORWARDED => Hook::EgressForwarded,
        _ => Hook::EgressLocal,
    }
}

/// What a loop over source ports is told, and tells.
struct Search<C> {
    context: C,
    first: u32,
    claim: Claim,
}

const GO_ON: i64 = 0;
const ENOUGH: i64 = 1;

macro_rules! opens {
    ($family:ty, $addr:ty, $context:ty, $open:ident, $choose:ident, $claim:ident, $write:ident, $held:ident, $one:ident $(, $split:ident)?) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $open(context: $context, ifindex: u32, hook: u32, chosen: u32) -> u32 {
            let chosen = Chosen::from_code(chosen);
            open::<$family, _>(&Kernel { ifindex, context }, hook_from_code(hook), chosen).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $choose(context: $context, ifindex: u32, hook: u32) -> u32 {
            // Asked for, so that callers give it: the kernel wants to see it, whether it is used or not.
            let context = black_box(context);
            choose::<$family, _>(&Kernel { ifindex, context }, hook_from_code(hook)).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $claim(context: $context) -> u32 {
            match claim_tuple::<$family, _>(&Kernel { ifindex: 0, context }) {
                None => 0,
                Some(reason) => reason as u32 + 1,
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $held(context: $context, closed_is_free: u32) -> u32 {
            let kernel = Kernel {
                ifindex: 0,
                context: black_box(context),
            };
            held_by::<$family, _>(&kernel, closed_is_free != 0) as u32
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $write(context: $context, is_reply: u32, is_new: u32) -> u32 {
            // Asked for, so that callers give it: the kernel wants to see it, whether it is used or not.
            let kernel = Kernel {
                ifindex: 0,
                context: black_box(context),
            };
            let side = if is_reply != 0 { Side::Reply } else { Side::Forward };
            let how = if is_new != 0 { Insert::New } else { Insert::Any };
            match write_entry::<$family, _>(&kernel, side, how) {
                Ok(()) => 0,
                Err(Refused::Exists) => 1,
                Err(Refused::Full) => 2,
            }
        }

        $(
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $split(context: $context) -> u32 {
                match split::<$family, _>(&Kernel { ifindex: 0, context }) {
                    None => 0,
                    Some(reason) => reason as u32 + 1,
                }
            }
        )?

        /// Tries one source port.
        extern "C" fn $one(index: u32, search: *mut Search<$context>) -> i64 {
            // SAFETY: the structure on the stack of `claim_one_of`, which waits for the loop to end.
            let search = unsafe { &mut *search };
            let kernel = Kernel {
                ifindex: 0,
                context: search.context,
            };
            search.claim = claim::<$family, _>(&kernel, search.first.wrapping_add(index));
            if search.claim == Claim::Taken {
                GO_ON
            } else {
                ENOUGH
            }
        }

        impl Opens<$family> for Kernel<$context> {
            #[inline(always)]
            fn open(&self, hook: Hook, chosen: Chosen) -> Opened {
                Opened::from_code($open(self.context, self.ifindex, hook_code(hook), chosen.code()))
            }

            #[inline(always)]
            fn choose(&self, hook: Hook) -> Chosen {
                Chosen::from_code($choose(self.context, self.ifindex, hook_code(hook)))
            }

            #[inline(always)]
            fn claim_tuple(&self) -> Option<DropReason> {
                match $claim(self.context) {
                    0 => None,
                    code => DropReason::from_number((code - 1) as u16),
                }
            }

            #[inline(always)]
            fn held_by(&self, closed_is_free: bool) -> Held {
                Held::from_code($held(self.context, closed_is_free.into()))
            }

            #[inline(always)]
            fn write_entry(&self, side: Side, how: Insert) -> Result<(), Refused> {
                match $write(self.context, (side == Side::Reply).into(), (how == Insert::New).into()) {
                    0 => Ok(()),
                    1 => Err(Refused::Exists),
                    _ => Err(Refused::Full),
                }
            }

            $(
                #[inline(always)]
                fn split(&self) -> Option<DropReason> {
                    match $split(self.context) {
                        0 => None,
                        code => DropReason::from_number((code - 1) as u16),
                    }
                }
            )?

            #[inline(always)]
            fn claim_one_of(&self, first: u32, count: u32) -> Claim {
                let mut search = Search {
                    context: self.context,
                    first,
                    claim: Claim::Taken,
                };
                let one: extern "C" fn(u32, *mut Search<$context>) -> i64 = $one;
                // SAFETY: the function has the signature that the helper asks for, and gets a structure that outlives
                // the loop.
                unsafe { bpf_loop(count, one as *mut c_void, (&raw mut search).cast(), 0) };
                search.claim
            }

            #[inline(always)]
            fn path(&self) -> bool {
                route::path::<$context, $family>(self.context)
            }

            #[inline(always)]
            fn outgoing(&self, address: &$addr) -> Option<u32> {
                route::outgoing(self.context.raw(), address)
            }

            #[inline(always)]
            fn has_socket(&self, key: &FlowKey<$addr>, connected: bool) -> bool {
                socket::takes(self.context.raw(), key, connected)
            }
        }
    };
}

opens!(
    V4, Ip4, OfSkb, lb_open4, lb_choose4, lb_claim4, lb_write4, lb_held4, try_port4, lb_split4
);
opens!(
    V6, Ip6, OfSkb, lb_open6, lb_choose6, lb_claim6, lb_write6, lb_held6, try_port6, lb_split6
);
opens!(
    V4,
    Ip4,
    OfXdp,
    lb_open4_xdp,
    lb_choose4_xdp,
    lb_claim4_xdp,
    lb_write4_xdp,
    lb_held4_xdp,
    try_port4_xdp
);
opens!(
    V6,
    Ip6,
    OfXdp,
    lb_open6_xdp,
    lb_choose6_xdp,
    lb_claim6_xdp,
    lb_write6_xdp,
    lb_held6_xdp,
    try_port6_xdp
);

/// What a loop over slots is told, and tells.
struct Slots {
    place: u32,
    backend: u32,
    found: bool,
}

macro_rules! place_of {
    ($place_of:ident, $one:ident, $slots:ident) => {
        extern "C" fn $one(_index: u32, slots: *mut Slots) -> i64 {
            // SAFETY: the structure on the stack of the function below, which waits for the loop to end.
            let slots = unsafe { &mut *slots };
            slots.found = maps::$slots.get(slots.place).copied() == Some(slots.backend);
            if slots.found {
                ENOUGH
            } else {
                slots.place = slots.place.wrapping_add(1);
                GO_ON
            }
        }

        /// The first slot of a range that has a backend.
        #[inline(always)]
        pub fn $place_of(base: u32, len: u32, backend: u32) -> Option<u32> {
            let mut slots = Slots {
                place: base,
                backend,
                found: false,
            };
            let one: extern "C" fn(u32, *mut Slots) -> i64 = $one;
            // SAFETY: as in `claim_one_of`.
            unsafe { bpf_loop(len, one as *mut c_void, (&raw mut slots).cast(), 0) };
            slots.found.then_some(slots.place)
        }
    };
}

place_of!(place_of4, is_slot4, LB4_SLOTS);
place_of!(place_of6, is_slot6, LB6_SLOTS);

macro_rules! place {
    ($family:ty, $place:ident, $outline:ident) => {
        /// See [`place`].
        #[inline(always)]
        pub fn $place(list: Scope, by_table: bool, hash: u32) -> Option<u32> {
            match $outline(list.0, by_table.into(), hash) {
                u32::MAX => None,
                place => Some(place),
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $outline(list: u64, by_table: u32, hash: u32) -> u32 {
            let kernel = Kernel {
                ifindex: 0,
                context: core::ptr::null_mut::<__sk_buff>(),
            };
            place::<$family, _>(&kernel, Scope(list), by_table != 0, hash).unwrap_or(u32::MAX)
        }
    };
}

place!(V4, place4, lb_place4);
place!(V6, place6, lb_place6);

/// See [`crc32c_of_change`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn lb_crc32c(change: u32, following: u32) -> u32 {
    crc32c_of_change(change, following)
}

/// ICMP errors on devices with this link header.
macro_rules! errors {
    ($family:ty, $link:ident, $error:ident, $stray:ident, $fit:ident, $take_out:ident, $clamp:ident, $arrives:ident, $leaves:ident) => {
        impl Errors<$family, Skb<'_, $link>> for Kernel<OfSkb> {
            #[inline(always)]
            fn translate(&self, packet: &mut Skb<'_, $link>, hook: Hook) -> Verdict {
                Verdict::from_code(if hook == Hook::Ingress {
                    $arrives(packet.0.skb.skb)
                } else {
                    $leaves(packet.0.skb.skb, hook == Hook::EgressLocal)
                })
            }

            #[inline(always)]
            fn error(&self, packet: &mut Skb<'_, $link>, hook: Hook) -> Quoted {
                match $error(packet.0.skb.skb, hook_code(hook)) {
                    1 => Quoted::Known(Verdict::Route),
                    2 => Quoted::Known(Verdict::Deliver),
                    3 => Quoted::Known(Verdict::Tunnel),
                    4 => Quoted::Known(Verdict::Pass),
                    5 => Quoted::Whole,
                    _ => Quoted::Stranger,
                }
            }

            #[inline(always)]
            fn fit(&self, packet: &mut Skb<'_, $link>, is_first: bool) -> Fit {
                Fit::from_code($fit(packet.0.skb.skb, is_first.into()))
            }

            #[inline(always)]
            fn take_out(&self, packet: &mut Skb<'_, $link>) -> Taken {
                Taken::from_code($take_out(packet.0.skb.skb))
            }

            #[inline(always)]
            fn clamp(&self, packet: &mut Skb<'_, $link>, l4: usize) -> bool {
                $clamp(packet.0.skb.skb, l4 as u32) != 0
            }

            #[inline(always)]
            fn mtu(&self) -> u32 {
                skb_mtu(&TcContext::new(self.context))
            }

            #[inline(always)]
            fn stray(&self, packet: &mut Skb<'_, $link>, hook: Hook) -> Verdict {
                Verdict::from_code($stray(packet.0.skb.skb, hook_code(hook)))
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $stray(skb: *mut __sk_buff, hook: u32) -> u64 {
            let kernel = kernel_of(skb);
            let mut packet = Skb::<$link>(&TcContext::new(skb));
            stray::<$family, _, _>(&mut packet, &kernel, hook_from_code(hook)).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $error(skb: *mut __sk_buff, hook: u32) -> u32 {
            let mut packet = Skb::<$link>(&TcContext::new(skb));
            match error::<$family, _, _>(
                &mut packet,
                &Kernel {
                    ifindex: 0,
                    context: skb,
                },
                hook_from_code(hook),
            ) {
                Quoted::Stranger => 0,
                Quoted::Known(Verdict::Route) => 1,
                Quoted::Known(Verdict::Deliver) => 2,
                Quoted::Known(Verdict::Tunnel) => 3,
                Quoted::Known(_) => 4,
                Quoted::Whole => 5,
            }
        }

        // Not global: what the programs know of the hook is known here, too. The families in functions of their own share the stack.
        #[inline(never)]
        fn $arrives(skb: *mut __sk_buff) -> u64 {
            let kernel = kernel_of(skb);
            translate::<$family, _, _>(&mut Skb::<$link>(&TcContext::new(skb)), &kernel, Hook::Ingress).code()
        }

        #[inline(never)]
        fn $leaves(skb: *mut __sk_buff, is_local: bool) -> u64 {
            let kernel = kernel_of(skb);
            let hook = if is_local {
                Hook::EgressLocal
            } else {
                Hook::EgressForwarded
            };
            translate::<$family, _, _>(&mut Skb::<$link>(&TcContext::new(skb)), &kernel, hook).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $fit(skb: *mut __sk_buff, is_first: u32) -> u32 {
            let kernel = kernel_of(skb);
            let mut packet = Skb::<$link>(&TcContext::new(skb));
            fit::<$family, _, _>(&mut packet, &kernel, is_first != 0).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $take_out(skb: *mut __sk_buff) -> u32 {
            let kernel = kernel_of(skb);
            take_out::<$family, _, _>(&mut Skb::<$link>(&TcContext::new(skb)), &kernel).code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $clamp(skb: *mut __sk_buff, l4: u32) -> u32 {
            let kernel = Kernel {
                ifindex: 0,
                context: skb,
            };
            let mut packet = Skb::<$link>(&TcContext::new(skb));
            // No header begins further behind.
            clamp::<$family, _, _>(&mut packet, &kernel, (l4 & 0xff) as usize).into()
        }
    };
}

errors!(
    V4,
    ETHERNET,
    lb_error4,
    lb_stray4,
    lb_fit4,
    lb_untunnel4,
    lb_clamp4,
    arrives4,
    leaves4
);
errors!(
    V6,
    ETHERNET,
    lb_error6,
    lb_stray6,
    lb_fit6,
    lb_untunnel6,
    lb_clamp6,
    arrives6,
    leaves6
);
errors!(
    V4,
    NO_LINK,
    lb_error4_l3,
    lb_stray4_l3,
    lb_fit4_l3,
    lb_untunnel4_l3,
    lb_clamp4_l3,
    arrives4_l3,
    leaves4_l3
);
errors!(
    V6,
    NO_LINK,
    lb_error6_l3,
    lb_stray6_l3,
    lb_fit6_l3,
    lb_untunnel6_l3,
    lb_clamp6_l3,
    arrives6_l3,
    leaves6_l3
);

/// A function on socket buffers with a link header of `LINK` octets, and the two global functions behind it; with an argument, if it has one.
macro_rules! outlined {
    ($(#[$attr:meta])* $name:ident($ethernet:ident, $bare:ident $(, $argument:ident: $type:ty)?) $body:expr) => {
        $(#[$attr])*
        #[inline(always)]
        pub fn $name<const LINK: usize>(ctx: &TcContext $(, $argument: $type)?) -> i32 {
            if LINK == ETHERNET {
                $ethernet(ctx.skb.skb $(, $argument.into())?)
            } else {
                $bare(ctx.skb.skb $(, $argument.into())?)
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $ethernet(skb: *mut __sk_buff $(, $argument: u32)?) -> i32 {
            let body: fn(Skb<'_, ETHERNET> $(, $type)?) -> i32 = $body;
            body(Skb(&TcContext::new(skb)) $(, $argument as $type)?)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $bare(skb: *mut __sk_buff $(, $argument: u32)?) -> i32 {
            let body: fn(Skb<'_, NO_LINK> $(, $type)?) -> i32 = $body;
            body(Skb(&TcContext::new(skb)) $(, $argument as $type)?)
        }
    };
}

outlined! {
    /// Turns the packet into an ICMP error. Zero if that failed.
    answer(lb_answer, lb_answer_l3) |mut skb| i32::from(refuse(&mut skb))
}

outlined! {
    /// Turns an echo request into its answer. Zero if that failed.
    echoed(lb_echo, lb_echo_l3) |mut skb| i32::from(echo(&mut skb))
}

outlined! {
    /// Turns the packet into a TCP reset. Zero if that failed.
    hang_up(lb_reset, lb_reset_l3) |mut skb| i32::from(reset(&mut skb))
}

outlined! {
    /// Turns the packet into an ICMP error that says how much fits on its way. Zero if that failed.
    too_big_for(lb_too_big, lb_too_big_l3, mtu: u16) |mut skb, mtu| i32::from(too_big(&mut skb, mtu))
}

outlined! {
    /// Puts the packet into a tunnel, and sends it. The action to be taken.
    tunnelled(lb_tunnel, lb_tunnel_l3) |mut skb| {
        let kernel = Kernel {
            ifindex: 0,
            context: skb.0.skb.skb,
        };
        match enter_tunnel(&mut skb, &kernel) {
            Some(ifindex) => route::send(skb, ifindex),
            None => TC_ACT_SHOT,
        }
    }
}

outlined! {
    /// Gives the packet a new route. The action to be taken.
    reroute(lb_reroute, lb_reroute_l3) |skb| route::anew(skb)
}

outlined! {
    /// Gives the packet to the host itself. The action to be taken.
    deliver(lb_deliver, lb_deliver_l3) |skb| route::deliver(skb)
}
