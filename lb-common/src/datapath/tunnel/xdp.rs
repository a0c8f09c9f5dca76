//! Tunnels in XDP: packets of flows whose way is known, into tunnels and out of them. What would open a flow, or must be told or cut, goes up
//! untouched, and tc does it.

use super::{
    overhead,
    receive::{Carries, look},
    send::{lay_out, leads, room},
    write_headers,
};
use crate::{
    datapath::{
        header::Ethernet,
        parse::Parsed,
        path::{PathFamily, checksum_may_be_partial, drop_packet},
        search::Found,
        tagged::{Tagged, readdress},
        verdict::Verdict,
        way::{Ways, act, known, may_send, sent},
    },
    layout::{DropReason, Stage, Tags, TcpSeen, Tunnelled, Way, WayFlags},
};

/// Sends a packet in the tunnel that its way says. Nothing if it was changed in part only.
#[inline(always)]
pub(in crate::datapath) fn enter<F: PathFamily, P: Tagged>(
    packet: &mut P,
    parsed: &Parsed<F::Addr>,
    way: &Way<F::Addr>,
) -> Option<Verdict> {
    let (Some(inner), Some(len)) = (F::first_word(packet), F::ip_len(packet, P::LINK_LEN)) else {
        return Some(Verdict::Pass);
    };
    if len > usize::from(way.mtu) || !may_send(packet, parsed, way) {
        return Some(Verdict::Pass);
    }
    if !packet.wrap(overhead::<F>(way.rewrite.dport)) {
        return Some(Verdict::Pass);
    }
    let is_written = write_headers::<F, P>(packet, &way.rewrite, inner, len)
        && packet.put_front(size_of::<Ethernet>() - 2, &F::ETHERTYPE)
        && readdress(packet, way.link);
    if !is_written {
        return None;
    }
    Some(sent(way))
}

/// The way of a flow that goes in a tunnel to the node that is the desk's `rewrite.dst`: false if there is none for XDP.
#[inline(always)]
pub(in crate::datapath) fn find_tunnel<F: PathFamily, W: Ways<F>>(world: &W) -> bool {
    {
        let Some(mut desk) = world.desk() else { return false };
        let desk = &mut *desk;
        if desk.way.came != Tags::NONE || !lay_out::<F, W>(world, desk) {
            return false;
        }
        desk.way.rewrite.take(&desk.rewrite);
        desk.way.backend = desk.opening.backend;
        desk.way.service = desk.opening.service;
    }
    if world.next_hop().is_none() {
        return false;
    }
    let Some(mut desk) = world.desk() else { return false };
    let desk = &mut *desk;
    desk.way.mtu = room::<F, W>(world, desk, desk.way.mtu);
    let flags = WayFlags::TRANSLATES
        .with(WayFlags::FORWARDS)
        .with(WayFlags::TO_BACKEND)
        .with(WayFlags::TUNNELS);
    desk.way.flags = desk.way.flags.with(flags);
    // The VLAN device's tags are for a packet without a tunnel.
    desk.way.tags == Tags::NONE
}

/// Whether a new flow goes in a tunnel from here: one of TCP, whose first packet is small, to a node that is known.
#[inline(always)]
pub(in crate::datapath) fn may_open<F: PathFamily, W: Ways<F>>(world: &W) -> bool {
    let Some(mut desk) = world.desk() else { return false };
    let desk = &mut *desk;
    desk.opening.tcp.has(TcpSeen::SYN) && leads::<F, W>(world, desk)
}

/// A packet that may be one of a tunnel.
#[inline(always)]
pub fn come_out<F: PathFamily, P: Tagged, W: Ways<F>>(packet: &mut P, world: &W) -> Verdict {
    let behind = match look::<F, P, W>(packet, world) {
        Carries::Nothing => return Verdict::Pass,
        Carries::Bad(reason) => return Verdict::Drop(reason),
        Carries::Behind(behind) => behind,
    };
    if F::is_congested(packet) {
        return Verdict::Pass;
    }
    packet.begin_at(behind);
    let Some(parsed) = F::parse(packet, world, Stage::ARRIVES) else {
        return Verdict::Pass;
    };
    let opens = parsed.tcp.has(TcpSeen::SYN);
    if parsed.fragment.is_some() || opens || checksum_may_be_partial(packet, &parsed) {
        return Verdict::Pass;
    }
    let Some(mut desk) = world.desk() else {
        return Verdict::Pass;
    };
    if !known::<F, W>(world, &parsed, Tags::NONE, &mut desk) {
        desk.old.take(&parsed.key);
        desk.opening.tcp = parsed.tcp;
        desk.opening.tunnelled = Tunnelled::AS_CHOSEN;
        desk.way.came = Tags::NONE;
        drop(desk);
        match world.find(Tags::NONE) {
            Found::None => return Verdict::Pass,
            Found::Drop(reason) => return Verdict::Drop(reason),
            Found::Way => {}
        }
        desk = match world.desk() {
            Some(desk) => desk,
            None => return Verdict::Pass,
        };
    }
    // Into another tunnel it does not go.
    if !desk.way.flags.has(WayFlags::TRANSLATES) || desk.way.flags.has(WayFlags::TUNNELS) {
        return Verdict::Pass;
    }
    packet.begin_at(0);
    let done = if packet.unwrap(behind) {
        act::<F, P>(packet, &parsed, &desk.way)
    } else {
        Some(Verdict::Pass)
    };
    drop(desk);
    match done {
        Some(verdict) => verdict,
        None => drop_packet::<F, W>(world, &parsed, DropReason::RewriteFailed),
    }
}
