//! Masqueraded flows that XDP does alone: one pair of entries says both steps, and costs half of what two pairs do. The stack can't have
//! that, since routing, netfilter and policies between its two hooks are to see the client and the backend. So the first packet
//! that tc sees of such a flow (its neighbour has to be asked for, it comes in fragments or by a device without XDP) splits it in two.
//!
//! ```text
//!                  whole                              split
//! client's packets client  -> frontend => node -> backend     client  -> frontend => client -> backend  arrives
//!                                                             client  -> backend  => node   -> backend  leaves
//! answers          backend -> node => frontend -> client      backend -> node     => backend -> client  arrives
//!                                                             backend -> client   => frontend -> client leaves
//! ```

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    path::{Opens, PathFamily},
    track::{Side, counterpart, open_pair, rewrites_alike},
    world::{Insert, Refused, Tables},
};
use crate::layout::{Address, Counter, Desk, DropReason, Flow, FlowFlags, Stage, TcpSeen};

/// Whether the masqueraded flow that was chosen could be one: to another machine. Then the desk's `way` leads to its backend, for whoever
/// looks for the next hop.
#[inline(always)]
pub(super) fn may_be_whole<F: PathFamily, W: Opens<F>>(world: &W) -> bool {
    let (Some(mut desk), Some(node)) = (world.desk(), world.node()) else {
        return false;
    };
    let desk = &mut *desk;
    if desk.opening.flags.has(FlowFlags::LOCAL_BACKEND) {
        return false;
    }
    desk.source = node.address;
    desk.way.rewrite.src = desk.source;
    desk.way.rewrite.dst = desk.new.dst;
    desk.way.rewrite.sport = desk.new.sport;
    desk.way.rewrite.dport = desk.new.dport;
    true
}

/// The desk's `source` becomes the address for masquerading a flow that is sent by this device, by the same rule as in [`open`]. False if
/// there is none, or if the client has it already.
///
/// [`open`]: super::open
#[inline(always)]
pub(super) fn take_source<F: PathFamily, W: Opens<F>>(world: &W, ifindex: u32) -> bool {
    let Some(mut desk) = world.desk() else { return false };
    let desk = &mut *desk;
    if let Some(address) = world.device_address(ifindex) {
        desk.source = *address;
    }
    desk.source.is_some() && desk.source != desk.old.src
}

/// Makes the pair of entries of a flow that [`may_be_whole`]. The desk's `rewrite` becomes what is to be written.
#[inline(always)]
pub(super) fn make<F: PathFamily, W: Opens<F>>(world: &W) -> Result<(), DropReason> {
    {
        let mut desk = world.desk().ok_or(DropReason::BackendMissing)?;
        let desk = &mut *desk;
        desk.new.src = desk.source;
        desk.opening.flags = desk.opening.flags.with(FlowFlags::WHOLE);
    }
    if let Some(reason) = open_pair::<F, W>(world) {
        return Err(reason);
    }
    let (service, backend) = {
        let mut desk = world.desk().ok_or(DropReason::BackendMissing)?;
        let desk = &mut *desk;
        // The entry of the packet's own direction was written last.
        desk.rewrite = desk.flow.rewrite();
        (desk.opening.service, desk.opening.backend)
    };
    world.count(Counter::FlowsCreated);
    world.count(Counter::FlowsMasqueraded);
    world.count_opened(service, backend);
    Ok(())
}

/// What has been seen of a side, which its new entries are to know.
#[derive(Clone, Copy)]
struct Seen {
    flags: FlowFlags,
    tcp: TcpSeen,
}

impl Seen {
    #[inline(always)]
    fn of<A: Address>(flow: &Flow<A>) -> Self {
        Self {
            flags: flow.flags,
            tcp: flow.tcp,
        }
    }
}

/// Which packet a flow is split for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The client's.
    Client,
    /// An answer.
    Answer,
    /// A late answer, from before the client's packets went elsewhere: their entries are not touched.
    Late,
    /// The client's, and the entry for answers is another flow's by now, or this one's is about to be.
    Robbed,
}

/// Makes two steps of the flow of a packet with the desk's `old` tuple, with the backend, the source port and all else that it had. The
/// desk's `rewrite` becomes the packet's first step, and `old` is the packet's again. Nothing is returned when it is done, else the reason
/// why it can't be.
///
/// The entry for the client's packets is written last: whoever finds it finds the others.
#[inline(always)]
pub fn split<F: PathFamily, W: Opens<F>>(world: &W) -> Option<DropReason> {
    const GONE: Option<DropReason> = Some(DropReason::BackendMissing);
    let now_ns = world.now_ns();
    let (cause, answered, ends) = {
        let Some(mut desk) = world.desk() else { return GONE };
        let desk = &mut *desk;
        desk.opening.now_ns = now_ns;
        match lay_out::<F, W>(world, desk) {
            Some(found) => found,
            // Another packet has split it.
            None => return retake::<F, W>(world, desk),
        }
    };
    if cause == Cause::Robbed {
        let Some(desk) = world.desk() else { return GONE };
        // The client's next packet opens a flow anew.
        if let Some(mut flow) = world.flow(&desk.old) {
            flow.check = !desk.old.check();
        }
        return Some(DropReason::FlowTableFull);
    }
    if let Some(reason) = world.claim_tuple() {
        return Some(reason);
    }
    tell::<F, W>(world, answered);
    {
        let Some(mut desk) = world.desk() else { return GONE };
        let desk = &mut *desk;
        desk.old.sport = desk.new.sport;
        desk.old.dst = desk.new.dst;
        desk.old.dport = desk.new.dport;
        desk.old.stage = Stage::LEAVES;
        desk.new.src = desk.source;
        desk.new.sport = desk.opening.put;
        desk.opening.flags = desk.opening.flags.with(FlowFlags::MASQUERADE);
    }
    if world.write_entry(Side::Reply, Insert::Any).is_err() {
        return Some(DropReason::FlowTableFull);
    }
    tell::<F, W>(world, answered);
    let how = if cause == Cause::Late { Insert::New } else { Insert::Any };
    if world.write_entry(Side::Forward, how) == Err(Refused::Full) {
        return Some(DropReason::FlowTableFull);
    }
    if cause != Cause::Late {
        let Some(mut desk) = world.desk() else { return GONE };
        let desk = &mut *desk;
        desk.new.src = desk.old.src;
        desk.new.sport = desk.old.sport;
        desk.old.take(&desk.arrives);
        desk.opening.flags = desk.opening.flags.without(FlowFlags::MASQUERADE).with(ends);
    }
    if cause != Cause::Late && world.write_entry(Side::Forward, Insert::Any).is_err() {
        return Some(DropReason::FlowTableFull);
    }
    world.count(Counter::FlowsSplit);
    let Some(mut desk) = world.desk() else { return GONE };
    let desk = &mut *desk;
    if cause != Cause::Client {
        desk.old.src = desk.new.dst;
        desk.old.dst = desk.source;
        desk.old.sport = desk.new.dport;
        desk.old.dport = desk.opening.put;
        desk.old.stage = Stage::ARRIVES;
    }
    retake::<F, W>(world, desk)
}

/// The desk's `rewrite` becomes what the flow of its `old` tuple says.
#[inline(always)]
fn retake<F: PathFamily, W: Opens<F>>(world: &W, desk: &mut Desk<F::Addr>) -> Option<DropReason> {
    compiler_fence(Ordering::SeqCst);
    match world.flow(&desk.old) {
        Some(flow) => desk.rewrite = flow.rewrite(),
        None => return Some(DropReason::BackendMissing),
    }
    None
}

/// Lays the flow's first step out on the desk, which gets the client's tuple as `old` and `arrives`, and what the server's side of the flow
/// is, and whether its client's entry says that it is to end. Nothing if the flow is whole no more.
#[inline(always)]
fn lay_out<F: PathFamily, W: Tables<F>>(world: &W, desk: &mut Desk<F::Addr>) -> Option<(Cause, Seen, FlowFlags)> {
    let (own, is_answer) = {
        let own = world.flow(&desk.old)?;
        if !own.flags.has(FlowFlags::WHOLE) {
            return None;
        }
        // What the other entry says follows from this one.
        counterpart(&desk.old, &own, &mut desk.key, &mut desk.flow);
        if own.check != desk.old.check() {
            return Some((Cause::Robbed, Seen::of(&own), FlowFlags::default()));
        }
        let is_answer = own.flags.has(FlowFlags::REPLY);
        if !is_answer {
            desk.source = own.src;
            desk.opening.put = own.sport;
            desk.new.dst = own.dst;
            desk.new.dport = own.dport;
        }
        desk.opening.backend = own.backend;
        desk.opening.service = own.service;
        (Seen::of(&own), is_answer)
    };
    compiler_fence(Ordering::SeqCst);
    let (other, is_others) = match world.flow(&desk.key) {
        Some(other) => {
            // Or another packet is about to split it.
            let is_split = !is_answer && other.flags.has(FlowFlags::MASQUERADE) && other.dst == desk.flow.dst;
            (Seen::of(&other), !is_split && !rewrites_alike(&other, &desk.flow))
        }
        None => (Seen::of(&desk.flow), false),
    };
    if is_answer {
        desk.source = desk.flow.src;
        desk.opening.put = desk.flow.sport;
        desk.new.dst = desk.flow.dst;
        desk.new.dport = desk.flow.dport;
        desk.old.take(&desk.key);
    }
    desk.arrives.take(&desk.old);
    desk.new.src = desk.old.src;
    desk.new.sport = desk.old.sport;
    desk.new.proto = desk.old.proto;
    let cause = match (is_answer, is_others) {
        (false, true) => Cause::Robbed,
        (false, false) => Cause::Client,
        (true, false) => Cause::Answer,
        (true, true) => Cause::Late,
    };
    let (client, server) = match (is_answer, cause) {
        (false, _) => (own, other),
        (true, Cause::Late) => (Seen::of(&desk.flow), own),
        (true, _) => (other, own),
    };
    desk.opening.tcp = client.tcp;
    desk.opening.flags = client.flags.only(FlowFlags::SEEN);
    Some((cause, server, client.flags.only(FlowFlags::RESET)))
}

/// The entry for answers that was written last gets to know what has been seen of them.
#[inline(always)]
fn tell<F: PathFamily, W: Opens<F>>(world: &W, answered: Seen) {
    let Some(desk) = world.desk() else { return };
    if let Some(mut reply) = world.flow(&desk.key) {
        if answered.flags.has(FlowFlags::SEEN) {
            reply.flags = reply.flags.with(FlowFlags::SEEN);
        }
        reply.tcp = answered.tcp;
    }
}
