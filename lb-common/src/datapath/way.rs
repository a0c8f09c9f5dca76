//! The XDP tier: packets of a known way are translated and sent, or given to the stack, in one step; for others the way is
//! looked for (`search`), with the same decisions as at the tc hooks.
//!
//! ```text
//! parse -> way? ------------------------------------------------> write, next hop, send
//!           no, too old, SYN FIN RST                          |
//!            -> flow where it arrives, or choose and open     |
//!            -> flow where it leaves -> route, neighbour -> way
//! ```
//!
//! What can't be finished goes up untouched, and tc finishes it: fragments, ICMP, refusals, no neighbour yet, a local client.
//!
//! A frame with VLAN tags is what it would be if it came by the VLAN device without them; its way says with which tags it came, and with
//! which it leaves.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    follow::serves,
    header::Ethernet,
    parse::{Network, Parsed, network_in_place},
    path::{Opens, PathFamily, checksum_may_be_partial, drop_packet},
    rewrite::apply,
    search::{Found, Step, step},
    tagged::{Tagged, readdress, tags_of},
    tunnel::{
        receive::may_be,
        xdp::{come_out, enter},
    },
    verdict::{Hook, Verdict},
};
use crate::layout::{
    Address, Desk, DropReason, Proto, Stage, Tags, TcpSeen, Tunnelled, V4, V6, Way, WayFlags, limits::WAY_NS,
};

/// A world in which ways can be found. The kernel programs put the steps into functions that are verified once, each for itself.
pub trait Ways<F: PathFamily>: Opens<F> {
    /// See [`find`](super::search::find), for a frame with these tags: in the world of the device that
    /// [`find_at`](super::search::find_at) says.
    fn find(&self, tags: Tags) -> Found;

    /// See [`go`].
    #[inline(always)]
    fn go<P: Tagged>(&self, packet: &mut P, tags: Tags) -> Verdict {
        go::<F, P, Self>(packet, self, tags)
    }

    /// See [`come_out`].
    #[inline(always)]
    fn come_out<P: Tagged>(&self, packet: &mut P) -> Verdict {
        come_out::<F, P, Self>(packet, self)
    }

    /// See [`step`].
    #[inline(always)]
    fn step(&self, hook: Hook) -> Step {
        step::<F, Self>(self, hook)
    }

    /// The next hop for a packet that the desk's way has rewritten: fills in the way's device, MTU and link addresses. The device that
    /// the route names, which is another if that is a VLAN's; nothing if there is no route or no neighbour, or if the device is not one
    /// that XDP sends by.
    fn next_hop(&self) -> Option<u32>;
}

/// The XDP datapath.
#[inline(always)]
pub fn xdp<P: Tagged, W: Ways<V4> + Ways<V6>>(packet: &mut P, world: &W) -> Verdict {
    let Some(tags) = tags_of(packet) else {
        return Verdict::Pass;
    };
    match network_in_place(packet) {
        Network::V4 => arrive_in_driver::<V4, P, W>(packet, world, tags),
        Network::V6 => arrive_in_driver::<V6, P, W>(packet, world, tags),
        Network::Other => Verdict::Pass,
    }
}

#[inline(always)]
fn arrive_in_driver<F: PathFamily, P: Tagged, W: Ways<F>>(packet: &mut P, world: &W, tags: Tags) -> Verdict {
    if !may_be::<F, P>(packet, P::LINK_LEN) {
        return world.go(packet, tags);
    }
    if tags == Tags::NONE {
        world.come_out(packet)
    } else {
        Verdict::Pass
    }
}

/// The XDP datapath of a family, without tunnels: offsets count from behind the tags.
#[inline(always)]
pub fn go<F: PathFamily, P: Tagged, W: Ways<F>>(packet: &mut P, world: &W, tags: Tags) -> Verdict {
    let Some(parsed) = F::parse(packet, world, Stage::ARRIVES) else {
        return Verdict::Pass;
    };
    if parsed.fragment.is_some() || checksum_may_be_partial(packet, &parsed) {
        return Verdict::Pass;
    }
    let Some(mut desk) = world.desk() else {
        return Verdict::Pass;
    };
    if !known::<F, W>(world, &parsed, tags, &mut desk) {
        desk.old.take(&parsed.key);
        desk.opening.tcp = parsed.tcp;
        desk.opening.tunnelled = Tunnelled::NOT;
        desk.way.came = tags;
        drop(desk);
        match world.find(tags) {
            Found::None => return Verdict::Pass,
            Found::Drop(reason) => return Verdict::Drop(reason),
            Found::Way => {}
        }
        desk = match world.desk() {
            Some(desk) => desk,
            None => return Verdict::Pass,
        };
    }
    let done = act::<F, P>(packet, &parsed, &desk.way);
    drop(desk);
    match done {
        Some(verdict) => verdict,
        None => drop_packet::<F, W>(world, &parsed, DropReason::RewriteFailed),
    }
}

/// Puts the way of a packet onto the desk, if there is one and it still holds.
#[inline(always)]
pub(super) fn known<F: PathFamily, W: Ways<F>>(
    world: &W,
    parsed: &Parsed<F::Addr>,
    tags: Tags,
    desk: &mut Desk<F::Addr>,
) -> bool {
    // What opens or closes a connection changes its flow.
    if parsed.tcp.any(TcpSeen::SYN.with(TcpSeen::FIN).with(TcpSeen::RST)) {
        return false;
    }
    let Some(way) = world.way(&parsed.key) else {
        return false;
    };
    desk.way.take(&way);
    // As in `follow`: the kernel may recycle the entry while it is read.
    compiler_fence(Ordering::SeqCst);
    if way.check != parsed.key.check() || desk.way.routes != world.routes() || desk.way.came != tags {
        return false;
    }
    if world.now_ns().wrapping_sub(desk.way.found_ns) > WAY_NS {
        return false;
    }
    let must_serve = desk.way.flags.has(WayFlags::TO_BACKEND) && parsed.key.proto == Proto::UDP;
    let tunnels = desk.way.flags.has(WayFlags::TUNNELS);
    !must_serve || serves::<F, W>(world, desk.way.backend, desk.way.service, &desk.way.rewrite, tunnels)
}

/// Does what a way says. Nothing if the packet was changed in part only.
#[inline(always)]
pub(super) fn act<F: PathFamily, P: Tagged>(
    packet: &mut P,
    parsed: &Parsed<F::Addr>,
    way: &Way<F::Addr>,
) -> Option<Verdict> {
    if way.flags.has(WayFlags::TUNNELS) {
        return enter::<F, P>(packet, parsed, way);
    }
    let forwards = way.flags.has(WayFlags::FORWARDS);
    let may = !forwards || may_send(packet, parsed, way) && F::may_forward(packet, way.mtu);
    if !way.flags.has(WayFlags::TRANSLATES) || !may {
        return Some(Verdict::Pass);
    }
    if forwards && way.tags != way.came && !packet.retag(way.came, way.tags)? {
        return Some(Verdict::Pass);
    }
    if !apply::<F, P>(packet, parsed, &way.rewrite) {
        return None;
    }
    if !forwards {
        return Some(Verdict::Pass);
    }
    if !F::take_hop(packet) || !readdress(packet, way.link) {
        return None;
    }
    Some(sent(way))
}

/// Whether a way's device sends the frame, as far as its buffers and its link address go.
#[inline(always)]
pub(super) fn may_send<A: Address, P: Tagged>(packet: &P, parsed: &Parsed<A>, way: &Way<A>) -> bool {
    // A jumbo frame may lie in several buffers, which not all drivers send.
    let fits = way.flags.has(WayFlags::SCATTERS) || packet.has_in_place(parsed.l4 + parsed.l4_len);
    fits && is_for(packet, &way.own)
}

/// What becomes of a frame that is ready to be sent by a way's device.
#[inline(always)]
pub(super) fn sent<A: Address>(way: &Way<A>) -> Verdict {
    if way.flags.has(WayFlags::TURNS) {
        Verdict::Turn
    } else {
        Verdict::Forward(way.ifindex)
    }
}

/// Whether a frame is addressed to this link address, and not to all or to somebody else's.
#[inline(always)]
fn is_for<P: Tagged>(packet: &P, own: &[u32; 2]) -> bool {
    packet.front::<Ethernet>(0).is_some_and(|ethernet| {
        let [a, b, c, d, e, f] = ethernet.dst;
        u32::from_ne_bytes([a, b, c, d]) == own[0] && u32::from_ne_bytes([e, f, 0, 0]) == own[1]
    })
}
