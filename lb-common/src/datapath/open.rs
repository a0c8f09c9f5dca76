//! The first packet of a flow: which entries are made for the packets to come, and what becomes of those that get no backend. Which
//! backend it is, is up to `choose`.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    choose::Chosen,
    follow::is_first,
    path::{Opens, PathFamily, dropped},
    track::{self, Side, is_over, mark, open_pair},
    verdict::Hook,
    whole,
    world::{Bucket, Insert},
};
use crate::layout::{
    Address, AddressFlags, Counter, Desk, DropReason, FlowFlags, Proto, Stage, limits::REJECTS_PER_SECOND_MAX,
};

/// What becomes of the first packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// No frontend.
    NotOurs,
    /// Entries are made; write the new tuple.
    Translate,
    /// The same, and the packet needs a new route.
    TranslateAndRoute,
    /// The entry is made; the packet goes in a tunnel.
    Tunnel,
    /// Tell the sender that nobody listens. Counted and reported already.
    Refuse(DropReason),
    /// Counted and reported already.
    Drop(DropReason),
}

/// Why a packet goes no further: dropped in silence, or its sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In silence.
    Drop(DropReason),
    /// Its sender is told.
    Refuse(DropReason),
}

impl End {
    const DROP: u32 = 0x100;
    const REFUSE: u32 = 0x200;

    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Refuse(reason) => Self::REFUSE + reason as u32,
            Self::Drop(reason) => Self::DROP + reason as u32,
        }
    }

    pub(super) const fn from_code(code: u32) -> Self {
        let reason = match DropReason::from_number((code & 0xff) as u16) {
            Some(reason) => reason,
            None => DropReason::RewriteFailed,
        };
        if code >= Self::REFUSE {
            Self::Refuse(reason)
        } else {
            Self::Drop(reason)
        }
    }
}

impl Opened {
    /// As a number, for the way out of a kernel function.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotOurs => 0,
            Self::Translate => 1,
            Self::TranslateAndRoute => 2,
            Self::Tunnel => 3,
            Self::Refuse(reason) => End::Refuse(reason).code(),
            Self::Drop(reason) => End::Drop(reason).code(),
        }
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::NotOurs,
            1 => Self::Translate,
            2 => Self::TranslateAndRoute,
            3 => Self::Tunnel,
            _ => match End::from_code(code) {
                End::Refuse(reason) => Self::Refuse(reason),
                End::Drop(reason) => Self::Drop(reason),
            },
        }
    }
}

/// Opens a flow as it was chosen by [`choose`]. The desk's `rewrite` becomes what is to be written.
#[inline(always)]
pub fn open<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook, chosen: Chosen) -> Opened {
    let opened = match chosen {
        Chosen::NotOurs if hook != Hook::EgressLocal => Ok(Opened::NotOurs),
        Chosen::NotOurs | Chosen::Direct => direct::<F, W>(world, hook),
        Chosen::Stray => stay::<F, W>(world),
        Chosen::Plain => make::<F, W>(world, hook, false),
        Chosen::Masqueraded => make::<F, W>(world, hook, true),
        Chosen::Tunnelled => make_tunnelled::<F, W>(world),
        Chosen::Whole => whole::make::<F, W>(world)
            .map(|()| Opened::Translate)
            .map_err(End::Drop),
        Chosen::Deferred => {
            defer::<F, W>(world);
            Ok(Opened::NotOurs)
        }
        Chosen::End(end) => Err(end),
    };
    match opened {
        Ok(opened) => opened,
        Err(End::Drop(reason)) => {
            dropped::<F, W>(world, reason);
            Opened::Drop(reason)
        }
        Err(End::Refuse(reason)) => refuse_or_drop::<F, W>(world, reason),
    }
}

/// A stray packet must not leave by the device that it came from: the router that has sent it here would get it back, again
/// and again.
#[inline(always)]
fn stay<F: PathFamily, W: Opens<F>>(world: &W) -> Result<Opened, End> {
    let outgoing = {
        let Some(desk) = world.desk() else {
            return Ok(Opened::NotOurs);
        };
        world.outgoing(&desk.old.dst)
    };
    if outgoing == Some(world.ifindex()) {
        return Err(End::Drop(DropReason::WouldLoop));
    }
    Ok(Opened::NotOurs)
}

/// Refusals are answered only so often.
#[inline(always)]
fn refuse_or_drop<F: PathFamily, W: Opens<F>>(world: &W, reason: DropReason) -> Opened {
    if report_refusal::<F, W>(world, reason) {
        Opened::Refuse(reason)
    } else {
        Opened::Drop(DropReason::RejectLimited)
    }
}

/// Counts and reports a packet that is refused. Whether its sender may be told.
#[inline(always)]
pub(super) fn report_refusal<F: PathFamily, W: Opens<F>>(world: &W, reason: DropReason) -> bool {
    let now_ns = world.now_ns();
    let allowed = world
        .bucket(Bucket::Reject)
        .is_some_and(|mut bucket| bucket.take(now_ns, REJECTS_PER_SECOND_MAX));
    dropped::<F, W>(world, if allowed { reason } else { DropReason::RejectLimited });
    allowed
}

/// The desk's `source` becomes the address for masquerading a connection to its `new.dst`: that of the device that it
/// leaves by, or else the node's. False if there is none.
#[inline(always)]
fn source<F: PathFamily, W: Opens<F>>(world: &W, desk: &mut Desk<F::Addr>) -> bool {
    let Some(node) = world.node() else { return false };
    desk.source = node.address;
    if let Some(ifindex) = world.outgoing(&desk.new.dst)
        && let Some(address) = world.device_address(ifindex)
    {
        desk.source = *address;
    }
    desk.source.is_some()
}

/// Makes the flow's entries.
#[inline(always)]
fn make<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook, masqueraded: bool) -> Result<Opened, End> {
    let mut in_two_steps = false;
    if masqueraded {
        let mut desk = world.desk().ok_or(End::Drop(DropReason::BackendMissing))?;
        let desk = &mut *desk;
        if source::<F, W>(world, desk) {
            world.count(Counter::FlowsMasqueraded);
            if hook.is_egress() {
                // One entry says all: it is applied where the packet leaves.
                desk.new.src = desk.source;
            } else {
                // A client that has that address already stays as it is.
                in_two_steps = desk.source != desk.old.src;
            }
        }
    }
    refused(open_pair::<F, W>(world))?;
    let (service, backend) = {
        let mut desk = world.desk().ok_or(End::Drop(DropReason::BackendMissing))?;
        let desk = &mut *desk;
        // The entry of the packet's own direction was written last.
        desk.rewrite = desk.flow.rewrite();
        (desk.opening.service, desk.opening.backend)
    };
    if in_two_steps && masquerade_on_desk::<F, W>(world) {
        refused(open_pair::<F, W>(world))?;
    }
    world.count(Counter::FlowsCreated);
    world.count_opened(service, backend);
    Ok(if hook.is_egress() {
        Opened::TranslateAndRoute
    } else {
        Opened::Translate
    })
}

/// The desk's `new` tuple becomes its `old` one. Field by field: whole tuples would be copied over the stack.
#[inline(always)]
fn keep_tuple<A: Address>(desk: &mut Desk<A>) {
    desk.new.src = desk.old.src;
    desk.new.dst = desk.old.dst;
    desk.new.sport = desk.old.sport;
    desk.new.dport = desk.old.dport;
    desk.new.proto = desk.old.proto;
}

/// Makes the entries of a flow that is netfilter's: nothing is done to its packets, now and when new flows are Sluice's again. Without
/// room for them its next packet is chosen for anew.
#[inline(always)]
fn defer<F: PathFamily, W: Opens<F>>(world: &W) {
    let (service, backend) = {
        let Some(mut desk) = world.desk() else { return };
        let desk = &mut *desk;
        keep_tuple(desk);
        let backend = desk.opening.backend;
        // As of a direct connection: what happens to Services doesn't concern it.
        desk.opening.backend = 0;
        desk.opening.flags = FlowFlags::SEEN.with(FlowFlags::OF_NETFILTER);
        (desk.opening.service, backend)
    };
    let _ = world.write_entry(Side::Reply, Insert::Any);
    let _ = world.write_entry(Side::Forward, Insert::Any);
    world.count(Counter::FlowsDeferred);
    world.count_opened(service, backend);
}

/// Makes the only entry of a flow that goes in a tunnel.
#[inline(always)]
fn make_tunnelled<F: PathFamily, W: Opens<F>>(world: &W) -> Result<Opened, End> {
    let (service, backend) = {
        let mut desk = world.desk().ok_or(End::Drop(DropReason::BackendMissing))?;
        let desk = &mut *desk;
        desk.opening.flags = desk.opening.flags.with(FlowFlags::TUNNELS);
        (desk.opening.service, desk.opening.backend)
    };
    if track::put_forward::<F, W>(world).is_err() {
        return Err(End::Drop(DropReason::FlowTableFull));
    }
    world.count(Counter::FlowsCreated);
    world.count(Counter::FlowsTunnelled);
    world.count_opened(service, backend);
    Ok(Opened::Tunnel)
}

/// Lays out the second pair of entries: where the packet leaves towards the backend, its source becomes the desk's
/// `source`, and where the reply arrives, its destination becomes the client again.
#[inline(never)]
fn masquerade_on_desk<F: PathFamily, W: Opens<F>>(world: &W) -> bool {
    let Some(mut desk) = world.desk() else { return false };
    let desk = &mut *desk;
    // Whose the flow is, as others see it.
    desk.arrives.take(&desk.old);
    desk.old.dst = desk.new.dst;
    desk.old.sport = desk.new.sport;
    desk.old.dport = desk.new.dport;
    desk.new.src = desk.source;
    desk.old.stage = Stage::LEAVES;
    desk.opening.flags = desk.opening.flags.with(FlowFlags::MASQUERADE);
    true
}

/// A connection past all frontends: to an endpoint, whoever dials it, or a process of this host to anybody. If a flow through a
/// Service has its tuple, answers would go astray, and it gets another source port. If nobody has the tuple of a connection to an
/// endpoint, it is taken, so that no such flow gets it later.
#[inline(always)]
fn direct<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook) -> Result<Opened, End> {
    let is_forwarded = hook == Hook::EgressForwarded;
    if !is_first::<W>(world, hook) && !is_forwarded {
        return Ok(Opened::NotOurs);
    }
    match holder::<F, W>(world, is_forwarded) {
        Holder::Itself => Ok(Opened::NotOurs),
        Holder::Nobody => {
            if !hook.is_egress() {
                take::<F, W>(world);
            } else if is_forwarded {
                claim_for_netfilter::<F, W>(world);
            }
            Ok(Opened::NotOurs)
        }
        Holder::Another => {
            refused(open_pair::<F, W>(world))?;
            let mut desk = world.desk().ok_or(End::Drop(DropReason::BackendMissing))?;
            let desk = &mut *desk;
            desk.rewrite = desk.flow.rewrite();
            Ok(Opened::Translate)
        }
    }
}

/// Who has a tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// The direct connection; or it is answers that are on their way.
    Itself,
    /// A flow that its answers would be taken for.
    Another,
}

/// Whose the answers to the desk's `old` tuple are. If they may become the direct connection's, the desk has what there is to
/// be written. What is forwarded has been masqueraded by netfilter.
#[inline(never)]
fn holder<F: PathFamily, W: Opens<F>>(world: &W, is_forwarded: bool) -> Holder {
    let Some(mut desk) = world.desk() else {
        return Holder::Itself;
    };
    let desk = &mut *desk;
    desk.key.src = desk.old.dst;
    desk.key.dst = desk.old.src;
    desk.key.sport = desk.old.dport;
    desk.key.dport = desk.old.sport;
    desk.key.proto = desk.old.proto;
    (desk.key.stage, desk.key.pad) = (desk.old.stage.other(), 0);
    let now_ns = desk.opening.now_ns;
    let is_taken = match world.flow(&desk.key) {
        Some(mut held) => {
            // The host's own flow through a frontend leaves once more, on its new route.
            let is_the_hosts = is_forwarded && held.flags.has(FlowFlags::HOST_CLIENT);
            if !held.flags.has(FlowFlags::REPLY) || is_the_hosts {
                return Holder::Itself;
            }
            let is_over = is_over(&desk.key, &held, None, now_ns);
            if !is_over && held.flags.has(FlowFlags::DIRECT) && held.dport == desk.key.dport {
                if desk.old.proto == Proto::UDP {
                    held.seen_ns = now_ns;
                }
                return Holder::Itself;
            }
            !is_over
        }
        None => false,
    };
    keep_tuple(desk);
    desk.opening.backend = 0;
    // Not towards a backend: it is left alone by what happens to Services. Only a port changes: XDP may do it.
    desk.opening.flags = FlowFlags::SEEN
        .with(FlowFlags::DIRECT)
        .with(FlowFlags::MASQUERADE)
        .with(FlowFlags::LOCAL_BACKEND);
    if is_forwarded {
        desk.opening.flags = desk.opening.flags.with(FlowFlags::FORWARDED);
    }
    if is_taken { Holder::Another } else { Holder::Nobody }
}

/// Takes the desk's tuple for the direct connection, unless the packet is itself an answer.
#[inline(always)]
fn take<F: PathFamily, W: Opens<F>>(world: &W) {
    {
        let Some(mut desk) = world.desk() else { return };
        let desk = &mut *desk;
        if desk.old.proto == Proto::UDP {
            desk.old.stage = Stage::LEAVES;
            compiler_fence(Ordering::SeqCst);
            if world
                .flow(&desk.old)
                .is_some_and(|flow| flow.flags.has(FlowFlags::REPLY))
            {
                return;
            }
            desk.old.stage = Stage::ARRIVES;
        }
    }
    mark::<F, W>(world);
}

/// Takes the tuple that netfilter has chosen for a connection to an endpoint, as `sluice takeover` does with those that conntrack tells
/// of: a flow of ours that comes later, when new ones are ours, gets another. What goes elsewhere can't meet one.
#[inline(always)]
fn claim_for_netfilter<F: PathFamily, W: Opens<F>>(world: &W) {
    {
        let Some(mut desk) = world.desk() else { return };
        let desk = &mut *desk;
        let is = world.address(&desk.old.dst.looked_up());
        if !is.is_some_and(|is| is.has(AddressFlags::ENDPOINT)) {
            return;
        }
        desk.opening.flags = FlowFlags::SEEN.with(FlowFlags::OF_NETFILTER);
    }
    mark::<F, W>(world);
}

#[inline(always)]
const fn refused(reason: Option<DropReason>) -> Result<(), End> {
    match reason {
        Some(reason) => Err(End::Drop(reason)),
        None => Ok(()),
    }
}
