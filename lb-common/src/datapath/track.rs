//! Following flows: making their entries, keeping their times, knowing when they are over.

use super::{
    checksum,
    rewrite::Rewrite,
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
    let reply = if flow.flags.has(FlowFlags::REPLY) { Some(flow) } else { peer };
    // Without its reply entry a flow counts as answered: rather keep an entry too long than end a live flow.
    let answered = reply.is_none_or(|reply| reply.flags.has(FlowFlags::SEEN));
    let limit_ns = idle_limit_ns(key.proto, flow.tcp, peer.map(|peer| peer.tcp), answered);
    now_ns.saturating_sub(last_ns) > limit_ns
}

/// The entry of the opposite direction: its key and its contents follow from this one's.
#[must_use]
#[inline(always)]
pub fn counterpart<A: Address>(key: &FlowKey<A>, flow: &Flow<A>) -> (FlowKey<A>, Flow<A>) {
    let other_key = FlowKey::new(flow.dst, flow.dport, flow.src, flow.sport, key.proto);
    let other = Flow {
        check: other_key.check(),
        backend: flow.backend,
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        address_delta: checksum::negate(flow.address_delta),
        port_delta: checksum::negate(flow.port_delta),
        service: flow.service,
        flags: flow.flags.of_counterpart(),
        tcp: TcpSeen(0),
        pad: 0,
        opened_s: flow.opened_s,
        seen_ns: flow.seen_ns,
    };
    (other_key, other)
}

/// What all entries of a new flow have in common.
#[derive(Clone, Copy)]
pub struct Opening {
    /// Backend number.
    pub backend: u32,
    /// Service number.
    pub service: u32,
    /// Flags of the client-to-backend entry.
    pub flags: FlowFlags,
    /// TCP flags of the packet that opens it.
    pub tcp: TcpSeen,
    /// Now.
    pub now_ns: u64,
}

/// Makes the two entries that turn `old` into `new` and back. The source port of `new` is changed when another flow
/// has the tuple. Nothing is returned when it is done, else the reason why it can't be: no source port is left, or the
/// table takes no entry.
///
/// A function of its own in the kernel, as all that is needed only once per flow: 512 octets of stack are shared by
/// all frames.
#[inline(never)]
pub fn open_pair<F: Family, W: World + Tables<F>>(
    world: &W,
    old: &FlowKey<F::Addr>,
    new: &mut FlowKey<F::Addr>,
    opening: &Opening,
) -> Option<DropReason> {
    let hash = flow_hash(old);
    let wanted = new.sport;
    let reply_to = old.reversed();
    let reply = Opening { flags: opening.flags.of_counterpart(), tcp: TcpSeen(0), ..*opening };
    let mut attempt = 0;
    while attempt < SOURCE_PORT_TRIES_MAX {
        if attempt > 0 {
            new.sport = other_port(hash, wanted, attempt);
        }
        let reply_from = new.reversed();
        let claimed = match write_entry::<F, W>(world, &reply_from, &reply_to, &reply, Insert::New) {
            Ok(()) => true,
            Err(Refused::Exists) => {
                // Ours from an earlier life of the tuple, or of a flow that is over: take it.
                let free = world.flow(&reply_from, |held| {
                    held.dst == reply_to.dst
                        && held.dport == reply_to.dport
                        && held.src == reply_to.src
                        && held.sport == reply_to.sport
                        || is_over(&reply_from, held, None, opening.now_ns)
                });
                free != Some(false)
                    && write_entry::<F, W>(world, &reply_from, &reply_to, &reply, Insert::Any).is_ok()
            }
            Err(Refused::Full) => return Some(DropReason::FlowTableFull),
        };
        if claimed {
            if attempt > 0 {
                world.count(Counter::PortsTranslated);
            }
            return match write_entry::<F, W>(world, old, new, opening, Insert::Any) {
                Ok(()) => None,
                Err(_) => Some(DropReason::FlowTableFull),
            };
        }
        attempt += 1;
    }
    Some(DropReason::NoSourcePort)
}

/// Writes the entry that turns packets of `old` into packets of `new`.
#[inline(never)]
fn write_entry<F: Family, W: Tables<F>>(
    world: &W,
    old: &FlowKey<F::Addr>,
    new: &FlowKey<F::Addr>,
    opening: &Opening,
    how: Insert,
) -> Result<(), Refused> {
    let rewrite = Rewrite::between(old, new);
    let flow = Flow {
        check: old.check(),
        backend: opening.backend,
        src: rewrite.src,
        dst: rewrite.dst,
        sport: rewrite.sport,
        dport: rewrite.dport,
        address_delta: rewrite.address_delta,
        port_delta: rewrite.port_delta,
        service: opening.service,
        flags: opening.flags,
        tcp: opening.tcp,
        pad: 0,
        opened_s: (opening.now_ns / SECOND_NS) as u32,
        seen_ns: opening.now_ns,
    };
    world.insert_flow(old, &flow, how)
}

/// A source port to try instead of `wanted`: the sequence depends on the flow, so that two flows that collide once
/// don't collide again.
#[inline(always)]
fn other_port(hash: u32, wanted: Port, attempt: u32) -> Port {
    const SPAN: u32 = u16::MAX as u32 - SOURCE_PORT_MIN as u32 + 1;
    let spread = (hash ^ u32::from(wanted.get())).wrapping_add(attempt).wrapping_mul(0x9e37_79b1);
    Port::new(SOURCE_PORT_MIN + pick(spread ^ spread >> 15, SPAN) as u16)
}
