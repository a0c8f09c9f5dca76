//! Following flows: making their entries, keeping their times, knowing when they are over.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    checksum,
    rewrite::deltas,
    select::{flow_hash, pick},
    world::{Insert, Refused, Tables, World},
};
use crate::layout::{
    Address, Counter, DropReason, Family, Flow, FlowFlags, FlowKey, Port, Proto, TcpSeen,
    limits::{SOURCE_PORT_MIN, SOURCE_PORT_TRIES_MAX},
};

const SECOND_NS: u64 = 1_000_000_000;

/// How long a flow may be silent before it is over, from the TCP flags seen of both sides.
///
/// | state | time | why |
/// |---|---|---|
/// | embryonic (no answer yet) | 60 s | SYN retransmissions end about then (tcp_syn_retries 6: 127 s at most, each renews it) |
/// | established | 24 h | kube-proxy's default `tcpEstablishedTimeout` |
/// | one side has sent FIN | 1 h | kube-proxy's default `tcpCloseWaitTimeout` |
/// | both have sent FIN, or one RST | 10 s | late segments and retransmitted FINs |
/// | UDP without an answer | 30 s | netfilter's default `nf_conntrack_udp_timeout` |
/// | UDP with answers | 120 s | netfilter's default `nf_conntrack_udp_timeout_stream` |
#[must_use]
pub fn idle_limit_ns(proto: Proto, own: TcpSeen, peer: Option<TcpSeen>, answered: bool) -> u64 {
    let seconds = if proto == Proto::TCP {
        let peer = peer.unwrap_or_default();
        if own.has(TcpSeen::RST) || peer.has(TcpSeen::RST) || own.has(TcpSeen::FIN) && peer.has(TcpSeen::FIN) {
            10
        } else if own.has(TcpSeen::FIN) || peer.has(TcpSeen::FIN) {
            60 * 60
        } else if answered {
            24 * 60 * 60
        } else {
            60
        }
    } else if answered {
        120
    } else {
        30
    };
    seconds * SECOND_NS
}

/// Whether a flow is over, from one of its entries and, if there is one, its counterpart.
///
/// An entry whose own direction carried nothing yet has no TCP flags and the time at which it was made.
#[must_use]
pub fn is_over<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, peer: Option<&Flow<A>>, now_ns: u64) -> bool {
    let last_ns = peer.map_or(flow.seen_ns, |peer| peer.seen_ns.max(flow.seen_ns));
    let reply = if flow.flags.has(FlowFlags::REPLY) {
        Some(flow)
    } else {
        peer
    };
    // Without its reply entry a flow counts as answered: rather keep an entry too long than end a live flow.
    let answered = reply.is_none_or(|reply| reply.flags.has(FlowFlags::SEEN));
    let limit_ns = idle_limit_ns(key.proto, flow.tcp, peer.map(|peer| peer.tcp), answered);
    now_ns.saturating_sub(last_ns) > limit_ns
}

/// The entry of the opposite direction: its key and its contents follow from this one's.
#[inline(always)]
pub fn counterpart<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, other_key: &mut FlowKey<A>, other: &mut Flow<A>) {
    other_key.src = flow.dst;
    other_key.dst = flow.src;
    other_key.sport = flow.dport;
    other_key.dport = flow.sport;
    other_key.proto = key.proto;
    (other_key.pad, other_key.pad2) = (0, 0);
    other.check = other_key.check();
    other.backend = flow.backend;
    other.src = key.dst;
    other.dst = key.src;
    other.sport = key.dport;
    other.dport = key.sport;
    other.address_delta = checksum::negate(flow.address_delta);
    other.port_delta = checksum::negate(flow.port_delta);
    other.service = flow.service;
    other.flags = flow.flags.of_counterpart();
    other.tcp = TcpSeen(0);
    other.pad = 0;
    other.seen_ns = flow.seen_ns;
}

/// Makes the two entries that turn packets of the desk's `old` tuple into packets of its `new` one and back. The
/// source port of `new` is changed when another flow has the tuple. Nothing is returned when it is done, else the
/// reason why it can't be: no source port is left, or the table takes no entry.
#[inline(always)]
pub fn open_pair<F: Family, W: World + Tables<F>>(world: &W) -> Option<DropReason> {
    let (hash, wanted, own_reverse) = match world.desk() {
        Some(desk) => {
            let new = &desk.new;
            (
                flow_hash(&desk.old),
                new.sport,
                new.src == new.dst && new.sport == new.dport,
            )
        }
        None => return Some(DropReason::FlowTableFull),
    };
    // A pod that dials itself from the very port at which it serves: nothing would tell the directions apart.
    let mut attempt = u32::from(own_reverse);
    while attempt < SOURCE_PORT_TRIES_MAX {
        if attempt > 0
            && let Some(mut desk) = world.desk()
        {
            desk.new.sport = other_port(hash, wanted, attempt);
        }
        let claimed = match write_entry::<F, W>(world, Side::Reply, Insert::New) {
            Ok(()) => true,
            Err(Refused::Exists) => {
                reply_is_free::<F, W>(world) && write_entry::<F, W>(world, Side::Reply, Insert::Any).is_ok()
            }
            Err(Refused::Full) => return Some(DropReason::FlowTableFull),
        };
        if claimed {
            if attempt > 0 {
                world.count(Counter::PortsTranslated);
            }
            return match write_entry::<F, W>(world, Side::Forward, Insert::Any) {
                Ok(()) => None,
                Err(_) => Some(DropReason::FlowTableFull),
            };
        }
        attempt += 1;
    }
    Some(DropReason::NoSourcePort)
}

/// Whether the reply entry that exists may be taken: it is this flow's from an earlier life of the tuple, or belongs
/// to a flow that is over. The desk has the wanted entry and its key.
#[inline(always)]
fn reply_is_free<F: Family, W: World + Tables<F>>(world: &W) -> bool {
    let Some(desk) = world.desk() else { return false };
    world.flow(&desk.key).is_none_or(|held| {
        held.dst == desk.flow.dst
            && held.dport == desk.flow.dport
            && held.src == desk.flow.src
            && held.sport == desk.flow.sport
            || is_over(&desk.key, &held, None, desk.opening.now_ns)
    })
}

/// Which of a pair of entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// From `old` to `new`.
    Forward,
    /// From `new` reversed to `old` reversed.
    Reply,
}

/// Lays out an entry on the desk and writes it.
#[inline(never)]
fn write_entry<F: Family, W: Tables<F>>(world: &W, side: Side, how: Insert) -> Result<(), Refused> {
    let Some(mut desk) = world.desk() else {
        return Err(Refused::Full);
    };
    let desk = &mut *desk;
    let opening = &desk.opening;
    let (address_delta, port_delta) = deltas(&desk.old, &desk.new);
    desk.flow.backend = opening.backend;
    desk.flow.service = opening.service;
    desk.flow.pad = 0;
    desk.flow.seen_ns = opening.now_ns;
    // Field by field: whole tuples would be copied over the stack.
    if side == Side::Forward {
        desk.key.src = desk.old.src;
        desk.key.dst = desk.old.dst;
        desk.key.sport = desk.old.sport;
        desk.key.dport = desk.old.dport;
        desk.flow.src = desk.new.src;
        desk.flow.dst = desk.new.dst;
        desk.flow.sport = desk.new.sport;
        desk.flow.dport = desk.new.dport;
        desk.flow.address_delta = address_delta;
        desk.flow.port_delta = port_delta;
        desk.flow.flags = opening.flags;
        desk.flow.tcp = opening.tcp;
    } else {
        desk.key.src = desk.new.dst;
        desk.key.dst = desk.new.src;
        desk.key.sport = desk.new.dport;
        desk.key.dport = desk.new.sport;
        desk.flow.src = desk.old.dst;
        desk.flow.dst = desk.old.src;
        desk.flow.sport = desk.old.dport;
        desk.flow.dport = desk.old.sport;
        desk.flow.address_delta = checksum::negate(address_delta);
        desk.flow.port_delta = checksum::negate(port_delta);
        desk.flow.flags = opening.flags.of_counterpart();
        desk.flow.tcp = TcpSeen(0);
    }
    desk.key.proto = desk.old.proto;
    (desk.key.pad, desk.key.pad2) = (0, 0);
    // The key is read again from the desk: the kernel's stack has no room to keep it.
    compiler_fence(Ordering::SeqCst);
    desk.flow.check = desk.key.check();
    world.insert_flow(&desk.key, &desk.flow, how)
}

/// A source port to try instead of `wanted`: the sequence depends on the flow, so that two flows that collide once
/// don't collide again.
#[inline(always)]
fn other_port(hash: u32, wanted: Port, attempt: u32) -> Port {
    const SPAN: u32 = u16::MAX as u32 - SOURCE_PORT_MIN as u32 + 1;
    let spread = (hash ^ u32::from(wanted.get()))
        .wrapping_add(attempt)
        .wrapping_mul(0x9e37_79b1);
    Port::new(SOURCE_PORT_MIN + pick(spread ^ spread >> 15, SPAN) as u16)
}
