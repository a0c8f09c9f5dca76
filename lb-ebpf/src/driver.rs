//! Global functions of the XDP program alone, as those in [`outline`](crate::outline): ways, tunnels, VLAN tags.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    datapath::{Found, Hook, Step, Tagged, Verdict, Ways, come_out, find, find_at, go, retag, step},
    layout::{Tags, V4, V6},
};

use crate::{
    frame::{RETAG_FAILED, RETAG_NO_ROOM, XdpFrame, xdp_ifindex},
    outline::{OfXdp, hook_code, hook_from_code},
    route,
    world::Kernel,
};

/// What a frame's bare context says of where it is.
#[inline(always)]
fn kernel_of(context: OfXdp) -> Kernel<OfXdp> {
    Kernel {
        ifindex: xdp_ifindex(&XdpContext::new(context)),
        context,
    }
}

/// See [`retag`]. The length of the tags that the frame has then, or one of [`RETAG_NO_ROOM`] and [`RETAG_FAILED`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn lb_retag(context: OfXdp, from: u32, to: u32) -> u32 {
    match retag(&mut XdpFrame::new(&XdpContext::new(context)), Tags(from), Tags(to)) {
        Some(true) => Tags(to).octets() as u32,
        Some(false) => RETAG_NO_ROOM,
        None => RETAG_FAILED,
    }
}

macro_rules! ways {
    ($family:ty, $find:ident, $step:ident, $come_out:ident, $goes:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $find(context: OfXdp, tags: u32) -> u32 {
            let found = find_at(&kernel_of(context), Tags(tags), |ifindex| {
                find::<$family, _>(&Kernel { ifindex, context })
            });
            found.code()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $step(context: OfXdp, hook: u32) -> u32 {
            step::<$family, _>(&kernel_of(context), hook_from_code(hook)) as u32
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $come_out(context: OfXdp) -> u64 {
            come_out::<$family, _, _>(&mut XdpFrame::new(&XdpContext::new(context)), &kernel_of(context)).code()
        }

        // Not global, as those of tc.
        #[inline(never)]
        fn $goes(context: OfXdp, tags: Tags) -> u64 {
            let context_of = XdpContext::new(context);
            let mut packet = XdpFrame::new(&context_of);
            packet.begin_at(tags.octets());
            go::<$family, _, _>(&mut packet, &kernel_of(context), tags).code()
        }

        impl Ways<$family> for Kernel<OfXdp> {
            #[inline(always)]
            fn find(&self, tags: Tags) -> Found {
                Found::from_code($find(self.context, tags.0))
            }

            #[inline(always)]
            fn go<P: Tagged>(&self, _packet: &mut P, tags: Tags) -> Verdict {
                Verdict::from_code($goes(self.context, tags))
            }

            #[inline(always)]
            fn come_out<P: Tagged>(&self, _packet: &mut P) -> Verdict {
                Verdict::from_code($come_out(self.context))
            }

            #[inline(always)]
            fn step(&self, hook: Hook) -> Step {
                Step::from_code($step(self.context, hook_code(hook)))
            }

            #[inline(always)]
            fn next_hop(&self) -> Option<u32> {
                match route::next_hop::<$family>(self.context, self.ifindex) {
                    0 => None,
                    ifindex => Some(ifindex),
                }
            }
        }
    };
}

ways!(V4, lb_find4, lb_step4, lb_come_out4, goes4);
ways!(V6, lb_find6, lb_step6, lb_come_out6, goes6);
