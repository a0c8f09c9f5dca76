//! Entry points: what the kernel calls, and how each verdict is told to it.
//!
//! | verdict | tc | XDP |
//! |---|---|---|
//! | `Pass` | `TC_ACT_UNSPEC`: on to the next program of the device, or the stack | `XDP_PASS` |
//! | `Route` | FIB look-up, then `bpf_redirect_neigh` or up through loopback | never |
//! | `Deliver` | up as it came, or through loopback where the stack would take its source for forged | never |
//! | `Refuse` | turned into an ICMP error, `bpf_redirect` back to the sender | never |
//! | `Reset` | turned into a TCP reset, `bpf_redirect` back to the sender | never |
//! | `Echo` | turned into an echo reply, `bpf_redirect` back to the sender | never |
//! | `Tunnel` | put into a tunnel, `bpf_redirect_neigh` to the other node | never |
//! | `TooBig` | turned into an ICMP error, `bpf_redirect` back to the sender | never |
//! | `Forward` | never | `bpf_redirect` |
//! | `Turn` | never | `XDP_TX` |
//! | `Drop` | `TC_ACT_SHOT` | `XDP_DROP` |

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    datapath::{self, Errors, Hook, Verdict},
    layout::{V4, V6},
};

use crate::{
    frame::{ETHERNET, NO_LINK, Skb, XdpFrame, is_rerouted, skb_ifindex, skb_is_local, skb_is_tagged, xdp_ifindex},
    outline::{self, OfSkb},
    route,
    world::Kernel,
};

#[inline(always)]
fn tc<const LINK: usize>(ctx: &TcContext, hook: Hook) -> i32
where
    for<'a> Kernel<OfSkb>: Errors<V4, Skb<'a, LINK>> + Errors<V6, Skb<'a, LINK>>,
{
    // The VLAN device's own hook sees it, too.
    if skb_is_tagged(ctx) {
        return TC_ACT_UNSPEC;
    }
    let ifindex = skb_ifindex(ctx);
    match datapath::tc(
        &mut Skb::<LINK>(ctx),
        &Kernel {
            ifindex,
            context: ctx.skb.skb,
        },
        hook,
    ) {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Route => outline::reroute::<LINK>(ctx),
        Verdict::Deliver if ifindex == route::LOOPBACK => TC_ACT_UNSPEC,
        Verdict::Deliver => outline::deliver::<LINK>(ctx),
        Verdict::Refuse => answer::<LINK>(ctx, outline::answer::<LINK>(ctx), ifindex, hook),
        Verdict::Echo => answer::<LINK>(ctx, outline::echoed::<LINK>(ctx), ifindex, hook),
        Verdict::TooBig(mtu) => answer::<LINK>(ctx, outline::too_big_for::<LINK>(ctx, mtu), ifindex, hook),
        Verdict::Reset => answer::<LINK>(ctx, outline::hang_up::<LINK>(ctx), ifindex, hook),
        Verdict::Tunnel => outline::tunnelled::<LINK>(ctx),
        // Not from tc.
        Verdict::Forward(_) | Verdict::Turn => TC_ACT_UNSPEC,
        Verdict::Drop(_) => TC_ACT_SHOT,
    }
}

/// Sends the packet back as an answer, if it was `made` one: without one it is fit for nothing.
#[inline(always)]
fn answer<const LINK: usize>(ctx: &TcContext, made: i32, ifindex: u32, hook: Hook) -> i32 {
    if made != 0 {
        route::answer::<LINK>(ctx, ifindex, hook != Hook::Ingress)
    } else {
        TC_ACT_SHOT
    }
}

#[inline(always)]
fn egress(ctx: &TcContext) -> Hook {
    // What was given a new route has been seen where it left first.
    if skb_is_local(ctx) && !is_rerouted(ctx) {
        Hook::EgressLocal
    } else {
        Hook::EgressForwarded
    }
}

#[classifier]
pub fn lb_tc_ingress(ctx: TcContext) -> i32 {
    tc::<ETHERNET>(&ctx, Hook::Ingress)
}

#[classifier]
pub fn lb_tc_egress(ctx: TcContext) -> i32 {
    tc::<ETHERNET>(&ctx, egress(&ctx))
}

#[classifier]
pub fn lb_tc_l3_in(ctx: TcContext) -> i32 {
    tc::<NO_LINK>(&ctx, Hook::Ingress)
}

#[classifier]
pub fn lb_tc_l3_out(ctx: TcContext) -> i32 {
    tc::<NO_LINK>(&ctx, egress(&ctx))
}

#[xdp(frags)]
pub fn lb_xdp(ctx: XdpContext) -> u32 {
    let ifindex = xdp_ifindex(&ctx);
    match datapath::xdp(
        &mut XdpFrame::new(&ctx),
        &Kernel {
            ifindex,
            context: ctx.ctx,
        },
    ) {
        Verdict::Pass
        | Verdict::Route
        | Verdict::Deliver
        | Verdict::Refuse
        | Verdict::Reset
        | Verdict::Echo
        | Verdict::Tunnel
        | Verdict::TooBig(_) => xdp_action::XDP_PASS,
        Verdict::Forward(ifindex) => route::forward(ifindex),
        Verdict::Turn => xdp_action::XDP_TX,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
    }
}
