//! Looking for the way of a packet that XDP has none for: its flow where it arrives, the flow where it leaves, and the next hop, with
//! the same decisions as at the tc hooks. What is done with a way, and for how long one holds, is in `way`.

use super::{
    checksum,
    choose::Chosen,
    follow::{Followed, follow, may_open},
    open::Opened,
    path::PathFamily,
    tunnel::{self, send::go as go_in_tunnel, xdp::find_tunnel},
    verdict::Hook,
    way::Ways,
    whole::{may_be_whole, take_source},
    world::{Tables, World},
};
use crate::layout::{Counter, DropReason, FlowFlags, FlowKey, Hop, Stage, Tags, Tunnelled, WayFlags, limits::REST_NS};

/// What looking for a way has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// None: the stack takes the packet as it is.
    None,
    /// It is on the desk.
    Way,
    /// Counted and reported already.
    Drop(DropReason),
}

impl Found {
    /// As a number, for the way out of a kernel function.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Way => 1,
            Self::Drop(reason) => 2 + reason as u32,
        }
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Way,
            _ => match DropReason::from_number((code - 2) as u16) {
                Some(reason) => Self::Drop(reason),
                None => Self::None,
            },
        }
    }
}

/// What one step on a way has led to: the flow's entry where a packet arrives, or the one where it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    /// The desk's `rewrite` is to be written; its `opening` has flags, backend and service.
    Rewrite = 0,
    /// There is an entry, and nothing to be done.
    Alone = 1,
    /// There is none, or a new one is needed.
    Unknown = 2,
    /// Its backend no longer serves.
    Left = 3,
    /// Its backend is gone for good.
    Reset = 4,
}

impl Step {
    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Rewrite,
            1 => Self::Alone,
            3 => Self::Left,
            4 => Self::Reset,
            _ => Self::Unknown,
        }
    }
}

/// Looks for a way where a frame with these tags belongs: at the device that it came by, or at the VLAN device on top of it. The stack has
/// those that belong nowhere.
#[inline(always)]
pub fn find_at<W: World>(world: &W, tags: Tags, find: impl FnOnce(u32) -> Found) -> Found {
    let ifindex = if tags == Tags::NONE {
        Some(world.ifindex())
    } else {
        world.vlan(tags)
    };
    ifindex.map_or(Found::None, find)
}

/// A packet without a way, of the desk's `old` tuple: looks for one, opening its flow if it has none. The desk's `way` is what there
/// is to be done.
#[inline(always)]
pub fn find<F: PathFamily, W: Ways<F>>(world: &W) -> Found {
    // Not on the stack: it is the kernel's, and short.
    match world.desk() {
        Some(mut desk) => {
            let desk = &mut *desk;
            desk.arrives.take(&desk.old);
            desk.way.forget();
            desk.way.routes = world.routes();
        }
        None => return Found::None,
    }
    let step = world.step(Hook::Xdp);
    let arrived = match arrive::<F, W>(world, step) {
        Ok(arrived) => arrived,
        Err(found) => return found,
    };
    let is_open = step == Step::Rewrite || step == Step::Alone;
    let mut is_sent = false;
    match arrived {
        Arrived::Stack => {}
        Arrived::Here => allow::<F, W>(world, WayFlags::TRANSLATES),
        Arrived::Once => {
            allow::<F, W>(world, WayFlags::TRANSLATES);
            return Found::Way;
        }
        Arrived::Tunnel => {
            is_sent = find_tunnel::<F, W>(world);
            world.count(if is_sent { Counter::WaysFound } else { Counter::WaysLeft });
            if !is_sent && !is_open {
                return Found::None;
            }
            if !is_sent {
                forget::<F, W>(world);
            }
            if !is_open {
                return opened_in_tunnel::<F, W>(world);
            }
        }
        Arrived::Whole => {
            let sent_by = send::<F, W>(world);
            is_sent = sent_by.is_some();
            if !is_open {
                // Without a next hop it is not opened either: tc will do it in two steps.
                return match sent_by {
                    Some(ifindex) if take_source::<F, W>(world, ifindex) => opened_whole::<F, W>(world, step),
                    _ => Found::None,
                };
            }
        }
        Arrived::Goes | Arrived::AsItCame => match leave::<F, W>(world, arrived) {
            Some(goes) => is_sent = goes && send::<F, W>(world).is_some(),
            None => return Found::None,
        },
    }
    // The first packet of a flow leaves none: it may be the last, of somebody who floods.
    if !is_open && arrived != Arrived::AsItCame {
        return Found::Way;
    }
    let now_ns = world.now_ns();
    let Some(mut desk) = world.desk() else {
        return Found::None;
    };
    let desk = &mut *desk;
    desk.way.check = desk.arrives.check();
    desk.way.found_ns = now_ns;
    let stays = match world.way(&desk.arrives) {
        Some(mut known) if known.leads_like(&desk.way) => {
            known.found_ns = now_ns;
            true
        }
        _ => false,
    };
    if !stays {
        // Without room for it, the next packet looks again.
        world.insert_way(&desk.arrives, &desk.way);
    }
    if is_sent && rests(world, &desk.way.hop(), now_ns) {
        Found::None
    } else {
        Found::Way
    }
}

/// Whether the stack is to have this packet: the kernel learns nothing of what XDP sends, and must see now and then that a neighbour is in
/// use, so that it asks whether it is still there. One packet to each neighbour, every 17 seconds.
#[inline(always)]
fn rests<W: World>(world: &W, hop: &Hop, now_ns: u64) -> bool {
    let rested_ns = world.rested_ns(hop);
    let rests = rested_ns.is_some_and(|rested_ns| now_ns.saturating_sub(rested_ns) >= REST_NS);
    if rests || rested_ns.is_none() {
        world.put_rested(hop, now_ns);
    }
    rests
}

/// Adds to what becomes of the packets.
#[inline(always)]
fn allow<F: PathFamily, W: Ways<F>>(world: &W, flags: WayFlags) {
    if let Some(mut desk) = world.desk() {
        desk.way.flags = desk.way.flags.with(flags);
    }
}

/// What becomes of a packet where it arrives. The desk's `way` has what is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrived {
    /// It has a flow, and the stack goes on with it as it is.
    Stack,
    /// It is translated for this node, and the stack goes on with it.
    Here,
    /// The same, this time.
    Once,
    /// It is translated, and goes on.
    Goes,
    /// The same, and nothing is to be done where it leaves.
    Whole,
    /// It goes on in a tunnel, to the node that is the desk's `rewrite.dst`.
    Tunnel,
    /// Nothing is done here.
    AsItCame,
}

/// The step where it arrives: its flow's, or that of a flow that is opened.
#[inline(always)]
fn arrive<F: PathFamily, W: Ways<F>>(world: &W, step: Step) -> Result<Arrived, Found> {
    match step {
        Step::Rewrite => {}
        Step::Alone => {
            take_old::<F, W>(world);
            return Ok(Arrived::Stack);
        }
        Step::Reset => return Err(Found::None),
        // What comes out of a tunnel is given to an endpoint by tc.
        Step::Unknown | Step::Left if is_tunnelled::<F, W>(world) => return Err(Found::None),
        Step::Unknown | Step::Left => {
            let chosen = world.choose(Hook::Xdp);
            if chosen == Chosen::NotOurs {
                take_old::<F, W>(world);
                return Ok(Arrived::AsItCame);
            }
            let may = match world.desk() {
                Some(desk) => may_open(desk.old.proto, desk.opening.tcp),
                None => false,
            };
            if chosen == Chosen::Tunnelled && may && tunnel::xdp::may_open::<F, W>(world) {
                return Ok(Arrived::Tunnel);
            }
            if chosen == Chosen::Masqueraded && may_be_whole::<F, W>(world) {
                return Ok(Arrived::Whole);
            }
            if matches!(chosen, Chosen::Stray | Chosen::Tunnelled | Chosen::Deferred)
                || chosen == Chosen::Direct && !may
            {
                return Err(Found::None);
            }
            match world.open(Hook::Xdp, chosen) {
                Opened::Translate => {}
                Opened::Drop(reason) => return Err(Found::Drop(reason)),
                Opened::NotOurs | Opened::TranslateAndRoute | Opened::Tunnel | Opened::Refuse(_) => {
                    return Err(Found::None);
                }
            }
            if step == Step::Left {
                world.count(Counter::FlowsReselected);
            }
            if chosen == Chosen::Direct {
                take_rewrite::<F, W>(world, false);
                return Ok(Arrived::Once);
            }
            // What the flags say of masquerading is of the step where it leaves.
            allow::<F, W>(world, WayFlags::TO_BACKEND);
        }
    }
    let Some(flags) = take_rewrite::<F, W>(world, false) else {
        return Err(Found::None);
    };
    if flags.has(FlowFlags::TUNNELS) {
        return Ok(Arrived::Tunnel);
    }
    Ok(if flags.has(FlowFlags::WHOLE) {
        Arrived::Whole
    } else if flags.has(FlowFlags::HOST_CLIENT) {
        Arrived::Stack
    } else if flags.has(FlowFlags::LOCAL_BACKEND) && !flags.has(FlowFlags::REPLY) {
        Arrived::Here
    } else {
        Arrived::Goes
    })
}

#[inline(always)]
fn is_tunnelled<F: PathFamily, W: Ways<F>>(world: &W) -> bool {
    world.desk().is_none_or(|desk| desk.opening.tunnelled != Tunnelled::NOT)
}

/// The desk's way leads nowhere: the stack has its packets.
#[inline(always)]
fn forget<F: PathFamily, W: Ways<F>>(world: &W) {
    if let Some(mut desk) = world.desk() {
        desk.way.forget();
    }
}

/// Opens the flow whose tunnel was found.
#[inline(always)]
fn opened_in_tunnel<F: PathFamily, W: Ways<F>>(world: &W) -> Found {
    if let Some(mut desk) = world.desk() {
        go_in_tunnel(&mut *desk);
    }
    match world.open(Hook::Xdp, Chosen::Tunnelled) {
        Opened::Drop(reason) => Found::Drop(reason),
        _ => Found::Way,
    }
}

/// Opens the flow whose next hop was found.
#[inline(always)]
fn opened_whole<F: PathFamily, W: Ways<F>>(world: &W, step: Step) -> Found {
    match world.open(Hook::Xdp, Chosen::Whole) {
        Opened::Translate => {}
        Opened::Drop(reason) => return Found::Drop(reason),
        _ => return Found::None,
    }
    if step == Step::Left {
        world.count(Counter::FlowsReselected);
    }
    match take_rewrite::<F, W>(world, false) {
        Some(_) => Found::Way,
        None => Found::None,
    }
}

/// The step where it leaves. Whether XDP may send it; nothing if it is not ours.
#[inline(always)]
fn leave<F: PathFamily, W: Ways<F>>(world: &W, arrived: Arrived) -> Option<bool> {
    {
        let mut desk = world.desk()?;
        let desk = &mut *desk;
        desk.old.src = desk.way.rewrite.src;
        desk.old.dst = desk.way.rewrite.dst;
        desk.old.sport = desk.way.rewrite.sport;
        desk.old.dport = desk.way.rewrite.dport;
        desk.old.proto = desk.arrives.proto;
        (desk.old.stage, desk.old.pad) = (Stage::LEAVES, 0);
    }
    match world.step(Hook::EgressForwarded) {
        Step::Rewrite => {
            let flags = take_rewrite::<F, W>(world, arrived == Arrived::Goes)?;
            Some(!flags.has(FlowFlags::HOST_CLIENT))
        }
        Step::Unknown if arrived == Arrived::AsItCame => None,
        Step::Unknown => Some(true),
        Step::Alone | Step::Left | Step::Reset => Some(false),
    }
}

/// Looks for the next hop. By which device it is, if there is one.
#[inline(always)]
fn send<F: PathFamily, W: Ways<F>>(world: &W) -> Option<u32> {
    let may = world.desk().is_some_and(|desk| F::may_come_from(&desk.arrives.src));
    let found = if may { world.next_hop() } else { None };
    world.count(match found {
        Some(_) => Counter::WaysFound,
        None => Counter::WaysLeft,
    });
    if found.is_some() {
        allow::<F, W>(world, WayFlags::TRANSLATES.with(WayFlags::FORWARDS));
    }
    found
}

/// The desk's tuple as it came becomes its way.
#[inline(always)]
fn take_old<F: PathFamily, W: Ways<F>>(world: &W) {
    let Some(mut desk) = world.desk() else { return };
    let desk = &mut *desk;
    desk.way.rewrite.src = desk.old.src;
    desk.way.rewrite.dst = desk.old.dst;
    desk.way.rewrite.sport = desk.old.sport;
    desk.way.rewrite.dport = desk.old.dport;
    (desk.way.rewrite.address_delta, desk.way.rewrite.port_delta) = (0, 0);
    (desk.way.backend, desk.way.service) = (0, u32::MAX);
}

/// The desk's `rewrite` becomes its way, or goes on top of what the way says already. The flags of the flow.
#[inline(always)]
fn take_rewrite<F: PathFamily, W: Ways<F>>(world: &W, on_top: bool) -> Option<FlowFlags> {
    let mut desk = world.desk()?;
    let desk = &mut *desk;
    let flags = desk.opening.flags;
    let before = (desk.way.rewrite.address_delta, desk.way.rewrite.port_delta);
    desk.way.rewrite.take(&desk.rewrite);
    if on_top {
        let sum = |a: u16, b: u16| checksum::fold(u64::from(a) + u64::from(b));
        desk.way.rewrite.address_delta = sum(before.0, desk.rewrite.address_delta);
        desk.way.rewrite.port_delta = sum(before.1, desk.rewrite.port_delta);
        return Some(flags);
    }
    desk.way.backend = desk.opening.backend;
    desk.way.service = desk.opening.service;
    if !flags.has(FlowFlags::REPLY) && !flags.has(FlowFlags::MASQUERADE) {
        desk.way.flags = desk.way.flags.with(WayFlags::TO_BACKEND);
    }
    Some(flags)
}

/// Ends the way of a flow whose tuple is another's from now on. That one may get none: the stack has it, or its first packet has not been
/// followed by a second yet.
#[inline(always)]
fn end_way<F: PathFamily, W: Tables<F>>(world: &W, key: &FlowKey<F::Addr>, hook: Hook) {
    if hook == Hook::Xdp
        && let Some(mut way) = world.way(key)
    {
        way.check = !key.check();
    }
}

/// Follows the flow of the desk's `old` tuple at a hook.
#[inline(always)]
pub fn step<F: PathFamily, W: World + Tables<F>>(world: &W, hook: Hook) -> Step {
    let (key, tcp) = match world.desk() {
        Some(desk) => (desk.old, desk.opening.tcp),
        None => return Step::Unknown,
    };
    let rewrite = match follow::<F, W>(world, &key, tcp, hook) {
        Followed::Rewrite(_, rewrite) => rewrite,
        Followed::Alone => return Step::Alone,
        Followed::Unknown => return Step::Unknown,
        Followed::Over => {
            end_way::<F, W>(world, &key, hook);
            return Step::Unknown;
        }
        Followed::Left => {
            end_way::<F, W>(world, &key, hook);
            return Step::Left;
        }
        Followed::Reset => return Step::Reset,
    };
    let Some((backend, service, flags)) = world.flow(&key).map(|flow| (flow.backend, flow.service, flow.flags)) else {
        return Step::Unknown;
    };
    let Some(mut desk) = world.desk() else {
        return Step::Unknown;
    };
    let desk = &mut *desk;
    desk.rewrite = rewrite;
    desk.opening.backend = backend;
    desk.opening.service = service;
    desk.opening.flags = flags;
    Step::Rewrite
}
