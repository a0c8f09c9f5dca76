//! What the flow table says of a packet: an established flow, in one look-up. Entries are made in `open` and `track`.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    path::PathFamily,
    track::counterpart,
    verdict::{Hook, Verdict},
    world::{Insert, Tables, World},
};
use crate::layout::{
    Address, Counter, DeviceFlags, Family, FlowFlags, FlowKey, Proto, Rewrite, TcpSeen,
    limits::{DEFERRED_NS, HEAL_NS_LOG2, REFRESH_NS},
};

/// What the flow table says of a packet.
pub(super) enum Followed<A: Address> {
    /// Write this; the flags are the entry's.
    Rewrite(FlowFlags, Rewrite<A>),
    /// There is nothing to be done here.
    Alone,
    /// No entry.
    Unknown,
    /// The entry of an earlier flow that had this tuple; this one's is to be made.
    Over,
    /// An entry to a backend that no longer serves.
    Left,
    /// An entry to a backend that is gone for good; the sender is to know.
    Reset,
}

/// Whether the first packet of a direct connection may look like this: one that is under way must not change its port.
#[inline(always)]
pub(super) fn may_open(proto: Proto, tcp: TcpSeen) -> bool {
    proto == Proto::UDP || tcp.has(TcpSeen::SYN) && !tcp.has(TcpSeen::ACK)
}

/// Where a packet goes that an entry with these flags has translated.
#[inline(always)]
pub(super) const fn done(flags: FlowFlags) -> Verdict {
    match (flags.has(FlowFlags::HOST_CLIENT), flags.has(FlowFlags::REPLY)) {
        (true, false) => Verdict::Route,
        (true, true) => Verdict::Deliver,
        (false, _) => Verdict::Pass,
    }
}

/// An established flow: one look-up says it all.
#[inline(always)]
pub(super) fn follow<F: PathFamily, W: World + Tables<F>>(
    world: &W,
    key: &FlowKey<F::Addr>,
    seen: TcpSeen,
    hook: Hook,
) -> Followed<F::Addr> {
    let Some(mut flow) = world.flow(key) else {
        return Followed::Unknown;
    };
    let rewrite = flow.rewrite();
    let (flags, backend, service, tcp_before) = (flow.flags, flow.backend, flow.service, flow.tcp);
    // The kernel may recycle an LRU entry while it is read, writing it from the front: `check` comes first there and
    // last here, so a mixture of two entries is noticed.
    compiler_fence(Ordering::SeqCst);
    let check = key.check();
    if flow.check != check {
        return Followed::Unknown;
    }
    let opens = seen.has(TcpSeen::SYN) && !seen.has(TcpSeen::ACK);
    if flags.has(FlowFlags::RESET) {
        return if opens { Followed::Over } else { Followed::Reset };
    }
    // What an earlier hook has translated may look like a direct connection by now.
    let is_direct = flags.has(FlowFlags::DIRECT);
    let anywhere = FlowFlags::REPLY.with(FlowFlags::DEFERRED).with(FlowFlags::FORWARDED);
    if is_direct && !flags.any(anywhere) && !is_first::<W>(world, hook) {
        return Followed::Alone;
    }
    let now_ns = world.now_ns();
    let seen_ns = flow.seen_ns;
    let idle_ns = now_ns.saturating_sub(seen_ns);
    let stale = idle_ns > REFRESH_NS;
    // Each flow at its own time, so that not all are healed at once.
    let phase_ns = u64::from(check) << (HEAL_NS_LOG2 - u32::BITS);
    let heals = stale && (now_ns.wrapping_add(phase_ns) ^ seen_ns.wrapping_add(phase_ns)) >> HEAL_NS_LOG2 != 0;
    if stale {
        flow.seen_ns = now_ns;
    }
    if !flags.has(FlowFlags::SEEN) {
        flow.flags = flags.with(FlowFlags::SEEN);
    }
    let tcp = tcp_before.with(seen);
    if tcp != tcp_before {
        flow.tcp = tcp;
    }
    drop(flow);
    let to_backend = !flags.has(FlowFlags::REPLY) && !flags.has(FlowFlags::MASQUERADE);
    let tunnels = flags.has(FlowFlags::TUNNELS);
    let is_deferred = flags.has(FlowFlags::DEFERRED) && !flags.has(FlowFlags::REPLY);
    if to_backend && key.proto == Proto::UDP {
        // UDP flows leave an endpoint that no longer serves at the next datagram (kube-proxy-behaviour §5.2).
        if !serves::<F, W>(world, backend, service, &rewrite, tunnels) {
            return Followed::Left;
        }
    } else if opens && (to_backend || is_deferred) {
        // A new connection with the tuple of an old one; a retransmitted SYN keeps its backend.
        if is_closed(tcp_before)
            || !tunnels && counterpart_is_closed::<F, W>(world, key, flags, &rewrite)
            || to_backend && !serves::<F, W>(world, backend, service, &rewrite, tunnels)
        {
            return Followed::Over;
        }
    } else if is_deferred && key.proto != Proto::TCP && idle_ns > DEFERRED_NS {
        return Followed::Over;
    }
    if heals && !tunnels {
        heal::<F, W>(world, key);
    }
    if is_direct && rewrite.sport == key.sport && rewrite.dport == key.dport {
        return Followed::Alone;
    }
    Followed::Rewrite(flags, rewrite)
}

/// Whether no hook of this node has seen a packet before.
#[inline(always)]
pub(super) fn is_first<W: World>(world: &W, hook: Hook) -> bool {
    match hook {
        Hook::Xdp | Hook::EgressLocal => true,
        Hook::Ingress => world.device_is(world.ifindex(), DeviceFlags::FIRST),
        Hook::EgressForwarded => false,
    }
}

/// Whether a sender has ended its direction.
#[inline(always)]
pub(super) const fn is_closed(tcp: TcpSeen) -> bool {
    tcp.any(TcpSeen::FIN.with(TcpSeen::RST))
}

#[inline(always)]
fn counterpart_is_closed<F: PathFamily, W: Tables<F>>(
    world: &W,
    key: &FlowKey<F::Addr>,
    flags: FlowFlags,
    rewrite: &Rewrite<F::Addr>,
) -> bool {
    let other = FlowKey::new(rewrite.dst, rewrite.dport, rewrite.src, rewrite.sport, key.proto)
        .at(flags.stage_of_counterpart(key.stage));
    world.flow(&other).is_none_or(|flow| is_closed(flow.tcp))
}

/// Whether the backend number still stands for the backend that the flow goes to, or for one on the node to which its tunnel goes, and
/// it serves.
#[inline(always)]
pub(super) fn serves<F: Family, W: Tables<F>>(
    world: &W,
    number: u32,
    service: u32,
    rewrite: &Rewrite<F::Addr>,
    tunnels: bool,
) -> bool {
    match world.backend(number) {
        Some(backend) => {
            let leads_there = if tunnels {
                backend.node == rewrite.dst
            } else {
                backend.address == rewrite.dst && backend.port == rewrite.dport
            };
            backend.serves(service) && leads_there
        }
        None => false,
    }
}

/// Every 17 seconds per flow: keeps the opposite entry from being evicted, and writes it anew if it was.
#[inline(never)]
fn heal<F: PathFamily, W: World + Tables<F>>(world: &W, key: &FlowKey<F::Addr>) {
    let Some(mut desk) = world.desk() else { return };
    let desk = &mut *desk;
    match world.flow(key) {
        Some(flow) => {
            counterpart(key, &flow, &mut desk.key, &mut desk.flow);
            // As in `follow`: an entry that was recycled meanwhile has no counterpart to be healed.
            compiler_fence(Ordering::SeqCst);
            if flow.check != key.check() {
                return;
            }
        }
        None => return,
    }
    if world.flow(&desk.key).is_none() && world.insert_flow(&desk.key, &desk.flow, Insert::New).is_ok() {
        world.count(Counter::FlowsHealed);
    }
}
