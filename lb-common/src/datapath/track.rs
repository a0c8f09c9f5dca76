//! Following flows: making their entries, keeping their times, knowing when they are over.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    checksum,
    follow::is_closed,
    path::{Opens, PathFamily},
    rewrite::deltas,
    select::{flow_hash, pick},
    world::{Bucket, Insert, Refused, Tables},
};
use crate::layout::{
    Address, Counter, Desk, DropReason, Family, Flow, FlowFlags, FlowKey, Port, Proto, Stage, TcpSeen,
    limits::{SOURCE_PORT_MIN, SOURCE_PORT_SEARCHES_PER_SECOND_MAX, SOURCE_PORT_TRIES, SOURCE_PORTS},
};

const SECOND_NS: u64 = 1_000_000_000;
/// See [`is_over`].
const TUNNELLED_FIN_NS: u64 = 120 * SECOND_NS;

/// How long a flow may be silent before it is over, from the TCP flags seen of both sides.
///
/// | state | time | why |
/// |---|---|---|
/// | embryonic (no answer yet) | 60 s | SYN retransmissions end about then (tcp_syn_retries 6: 127 s at most, each renews it) |
/// | established | 24 h | kube-proxy's default `tcpEstablishedTimeout` |
/// | one side has sent FIN | 1 h | kube-proxy's default `tcpCloseWaitTimeout`; what goes on in a tunnel: see [`is_over`] |
/// | both have sent FIN, or one RST | 10 s | late segments and retransmitted FINs |
/// | UDP without an answer | 30 s | netfilter's default `nf_conntrack_udp_timeout` |
/// | UDP with answers | 120 s | netfilter's default `nf_conntrack_udp_timeout_stream` |
/// | SCTP without an answer | 30 s | netfilter's default `nf_conntrack_sctp_timeout_cookie_wait` is 3 s, INIT is sent again until 30 s |
/// | SCTP with answers | 210 s | netfilter's default `nf_conntrack_sctp_timeout_established`; heartbeats come every 30 s |
/// | SCTP aborted or shut down | 10 s | late packets |
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
    } else if proto == Proto::SCTP {
        let over = own.with(peer.unwrap_or_default()).has(TcpSeen::RST);
        match (over, answered) {
            (true, _) => 10,
            (false, true) => 210,
            (false, false) => 30,
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
///
/// Of a flow that goes on in a tunnel ([`FlowFlags::TUNNELS`]) only the client's packets come by, and there is no counterpart. It
/// counts as answered when the client has acknowledged something; without TCP, always. The client's FIN is as a rule the last
/// that is seen of it, and nothing tells whether the server has sent its own: such a flow is over after 120 s, netfilter's default
/// `nf_conntrack_tcp_timeout_fin_wait`. While a half-closed connection carries data, the client's acknowledgements renew it.
#[must_use]
pub fn is_over<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, peer: Option<&Flow<A>>, now_ns: u64) -> bool {
    if flow.flags.has(FlowFlags::TUNNELS) {
        let is_tcp = key.proto == Proto::TCP;
        let limit_ns = if is_tcp && flow.tcp.has(TcpSeen::FIN) && !flow.tcp.has(TcpSeen::RST) {
            TUNNELLED_FIN_NS
        } else {
            idle_limit_ns(key.proto, flow.tcp, None, !is_tcp || flow.tcp.has(TcpSeen::ACK))
        };
        return now_ns.saturating_sub(flow.seen_ns) > limit_ns;
    }
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
    (other_key.stage, other_key.pad) = (flow.flags.stage_of_counterpart(key.stage), 0);
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
pub(super) fn open_pair<F: PathFamily, W: Opens<F>>(world: &W) -> Option<DropReason> {
    if let Some(reason) = world.claim_tuple() {
        return Some(reason);
    }
    match world.write_entry(Side::Forward, Insert::Any) {
        Ok(()) => None,
        Err(_) => Some(DropReason::FlowTableFull),
    }
}

/// The first half of [`open_pair`]: the entry for packets of the `new` tuple reversed, by which others see that it is taken.
#[inline(always)]
pub fn claim_tuple<F: PathFamily, W: Opens<F>>(world: &W) -> Option<DropReason> {
    let first = {
        let Some(mut desk) = world.desk() else {
            return Some(DropReason::FlowTableFull);
        };
        let desk = &mut *desk;
        desk.opening.hash = flow_hash(&desk.old);
        // A pod that dials itself from the very port at which it serves: nothing would tell the directions apart.
        u32::from(desk.new.src == desk.new.dst && desk.new.sport == desk.new.dport)
    };
    let mut claimed = if first == 0 {
        claim::<F, W>(world, 0)
    } else {
        Claim::Taken
    };
    if claimed == Claim::Taken {
        world.count(Counter::PortsTranslated);
        claimed = world.claim_one_of(1, SOURCE_PORT_TRIES);
    }
    if claimed == Claim::Taken {
        let now_ns = world.now_ns();
        let may_search = world
            .bucket(Bucket::Search)
            .is_some_and(|mut bucket| bucket.take(now_ns, SOURCE_PORT_SEARCHES_PER_SECOND_MAX));
        if may_search {
            claimed = world.claim_one_of(1 + SOURCE_PORT_TRIES, SOURCE_PORTS);
        }
    }
    match claimed {
        Claim::Got => None,
        Claim::Taken => Some(DropReason::NoSourcePort),
        Claim::Full => Some(DropReason::FlowTableFull),
    }
}

/// Writes the reply entry only, of a direct connection that keeps its tuple: others see that it is taken. Without room for it, the
/// connection goes on without.
#[inline(always)]
pub(super) fn mark<F: PathFamily, W: Opens<F>>(world: &W) {
    if world.write_entry(Side::Reply, Insert::New) == Err(Refused::Exists) {
        end_holder::<F, W>(world);
        let _ = world.write_entry(Side::Reply, Insert::Any);
    }
}

/// Writes the entry of the packet's own direction only, of a flow whose answers don't come this way.
#[inline(always)]
pub(super) fn put_forward<F: PathFamily, W: Opens<F>>(world: &W) -> Result<(), Refused> {
    world.write_entry(Side::Forward, Insert::Any)
}

/// Whether a source port could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The reply entry is written.
    Got,
    /// Another flow, or a socket of the host, has the tuple.
    Taken,
    /// The table takes no entry.
    Full,
}

/// Tries one source port: attempt 0 is the one that is wanted, then come [`SOURCE_PORT_TRIES`] at random, then all that there are; which,
/// and in which order, depends on the flow.
#[inline(always)]
pub fn claim<F: PathFamily, W: Opens<F>>(world: &W, attempt: u32) -> Claim {
    let closed_is_free = attempt >= CLOSED_FROM_ATTEMPT;
    let (is_put, is_host_client, is_held) = {
        let Some(mut desk) = world.desk() else {
            return Claim::Full;
        };
        let desk = &mut *desk;
        if attempt > 0 {
            desk.new.sport = other_port(desk.opening.hash, attempt);
        }
        // An address of this node's: the host's own sockets use it, too.
        let is_host_client = desk.opening.flags.has(FlowFlags::HOST_CLIENT);
        let is_put = desk.new.src != desk.old.src || attempt > 0 && desk.old.stage == Stage::LEAVES;
        if is_put || is_host_client {
            desk.key.src = desk.new.dst;
            desk.key.dst = desk.new.src;
            desk.key.sport = desk.new.dport;
            desk.key.dport = desk.new.sport;
            desk.key.proto = desk.old.proto;
            (desk.key.stage, desk.key.pad) = (desk.opening.flags.stage_of_counterpart(desk.old.stage), 0);
        }
        // Clients share such an address, and ports meet often. A look costs a fraction of an insertion that is refused.
        (is_put, is_host_client, is_put && world.flow(&desk.key).is_some())
    };
    if is_held && world.held_by(closed_is_free) == Held::Taken {
        return Claim::Taken;
    }
    if is_put || is_host_client {
        let Some(desk) = world.desk() else {
            return Claim::Full;
        };
        // The client's own socket of UDP, which has its port, may be connected to nobody.
        if world.has_socket(&desk.key, !is_put) {
            return Claim::Taken;
        }
    }
    match world.write_entry(Side::Reply, Insert::New) {
        Ok(()) => Claim::Got,
        Err(Refused::Full) => Claim::Full,
        Err(Refused::Exists) => {
            match world.held_by(closed_is_free) {
                Held::Taken => return Claim::Taken,
                Held::Free => end_holder::<F, W>(world),
                Held::Own => {}
            }
            match world.write_entry(Side::Reply, Insert::Any) {
                Ok(()) => Claim::Got,
                Err(_) => Claim::Full,
            }
        }
    }
}

/// From this attempt on the tuple of a connection that both sides have closed may be taken. The server may still remember it
/// (TIME-WAIT, RFC 9293 §3.6.1) and answer a new one late: better a port that nobody had, while there are any.
const CLOSED_FROM_ATTEMPT: u32 = 16;

/// Whose a reply entry is that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Held {
    /// This flow's, from an earlier life of the tuple or before one of its entries was evicted.
    Own = 0,
    /// It may be taken: its flow is over, aborted or, where that is good enough, closed.
    Free = 1,
    /// Of a flow that goes on.
    Taken = 2,
}

impl Held {
    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Own,
            1 => Self::Free,
            _ => Self::Taken,
        }
    }
}

/// Whose the reply entry is that exists. The desk has the wanted entry's key.
#[inline(always)]
pub fn held_by<F: Family, W: Tables<F>>(world: &W, closed_is_free: bool) -> Held {
    let Some(mut desk) = world.desk() else {
        return Held::Taken;
    };
    let desk = &mut *desk;
    let (is_split, is_free, is_netfilters, tcp, seen_ns) = {
        let Some(held) = world.flow(&desk.key) else {
            return Held::Free;
        };
        // In the same form, or whole where it is to be in two steps.
        let flags = desk.opening.flags;
        let is_whole = flags.has(FlowFlags::MASQUERADE) && held.flags.has(FlowFlags::WHOLE);
        if leads_to(&held, &desk.old) || is_whole && leads_to(&held, &desk.arrives) {
            return Held::Own;
        }
        desk.aside.src = held.src;
        desk.aside.dst = held.dst;
        desk.aside.sport = held.sport;
        desk.aside.dport = held.dport;
        desk.aside.proto = desk.key.proto;
        (desk.aside.stage, desk.aside.pad) = (Stage::LEAVES, 0);
        let is_split = flags.has(FlowFlags::WHOLE) && held.flags.has(FlowFlags::MASQUERADE);
        let is_free = is_over(&desk.key, &held, None, desk.opening.now_ns) || held.tcp.has(TcpSeen::RST);
        let is_netfilters = held.flags.has(FlowFlags::DEFERRED);
        (is_split, is_free, is_netfilters, held.tcp, held.seen_ns)
    };
    compiler_fence(Ordering::SeqCst);
    // Or in two steps where it is to be whole: the second one of its answers tells.
    if is_split
        && world
            .flow(&desk.aside)
            .is_some_and(|second| leads_to(&second, &desk.old))
    {
        return Held::Own;
    }
    if is_free {
        return Held::Free;
    }
    // Of netfilter's there is this entry only: conntrack tells the agent when its client has closed, too.
    if !is_closed(tcp) || is_netfilters {
        return Held::Taken;
    }
    // Its server has closed. Has its client, too, and how long ago?
    {
        let Some(held) = world.flow(&desk.key) else {
            return Held::Free;
        };
        desk.aside.src = held.dst;
        desk.aside.dst = held.src;
        desk.aside.sport = held.dport;
        desk.aside.dport = held.sport;
        desk.aside.stage = held.flags.stage_of_counterpart(desk.key.stage);
    }
    compiler_fence(Ordering::SeqCst);
    let Some(flow) = world.flow(&desk.aside) else {
        return Held::Free;
    };
    if !is_closed(flow.tcp) {
        return Held::Taken;
    }
    let last_ns = if flow.seen_ns > seen_ns { flow.seen_ns } else { seen_ns };
    let limit_ns = idle_limit_ns(desk.key.proto, tcp, Some(flow.tcp), true);
    if closed_is_free || desk.opening.now_ns.saturating_sub(last_ns) > limit_ns {
        Held::Free
    } else {
        Held::Taken
    }
}

/// Whether a reply entry's packets become answers to packets of this tuple.
#[inline(always)]
fn leads_to<A: Address>(reply: &Flow<A>, tuple: &FlowKey<A>) -> bool {
    reply.dst == tuple.src && reply.dport == tuple.sport && reply.src == tuple.dst && reply.sport == tuple.dport
}

/// Whether an entry's packets get this tuple.
#[inline(always)]
fn rewrites_to<A: Address>(flow: &Flow<A>, tuple: &FlowKey<A>) -> bool {
    flow.src == tuple.src && flow.dst == tuple.dst && flow.sport == tuple.sport && flow.dport == tuple.dport
}

#[inline(always)]
pub(super) fn rewrites_alike<A: Address>(one: &Flow<A>, other: &Flow<A>) -> bool {
    one.dst == other.dst && one.dport == other.dport && one.src == other.src && one.sport == other.sport
}

/// Takes the client's way away from the flow whose reply entry is about to be taken over. Else the client's next packet would
/// go on into the new flow, and be answered to somebody else; so it finds nothing, and opens a flow of its own.
#[inline(never)]
fn end_holder<F: Family, W: Tables<F>>(world: &W) {
    let Some(mut desk) = world.desk() else { return };
    // Key and entry are laid out anew behind this: until then they are the room that the kernel's stack doesn't have.
    let desk = &mut *desk;
    let masqueraded = {
        let Some(held) = world.flow(&desk.key) else { return };
        if rewrites_alike(&held, &desk.flow) {
            return;
        }
        take_rewrite(&mut desk.flow, &held);
        desk.flow.flags = held.flags;
        held.flags.has(FlowFlags::MASQUERADE)
    };
    turn_to_counterpart(desk);
    match world.flow(&desk.key) {
        // The client has gone elsewhere since.
        Some(flow) if !rewrites_to(&flow, &desk.new) => return,
        Some(mut flow) => flow.check = !desk.key.check(),
        None => {}
    }
    if !masqueraded {
        return;
    }
    // In front of this pair is the one that has the frontend.
    desk.key.src = desk.flow.src;
    desk.key.dst = desk.flow.dst;
    desk.key.sport = desk.flow.sport;
    desk.key.dport = desk.flow.dport;
    compiler_fence(Ordering::SeqCst);
    match world.flow(&desk.key) {
        Some(front) => take_rewrite(&mut desk.flow, &front),
        None => return,
    }
    turn_to_counterpart(desk);
    if let Some(mut flow) = world.flow(&desk.key) {
        flow.check = !desk.key.check();
    }
}

#[inline(always)]
fn take_rewrite<A: Address>(to: &mut Flow<A>, from: &Flow<A>) {
    to.src = from.src;
    to.dst = from.dst;
    to.sport = from.sport;
    to.dport = from.dport;
    compiler_fence(Ordering::SeqCst);
}

/// The desk's key becomes that of the counterpart of its entry, whose rewrite the desk's `flow` has.
#[inline(always)]
fn turn_to_counterpart<A: Address>(desk: &mut Desk<A>) {
    desk.key.src = desk.flow.dst;
    desk.key.dst = desk.flow.src;
    desk.key.sport = desk.flow.dport;
    desk.key.dport = desk.flow.sport;
    desk.key.stage = desk.flow.flags.stage_of_counterpart(desk.key.stage);
    compiler_fence(Ordering::SeqCst);
}

/// Which of a pair of entries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From `old` to `new`.
    Forward,
    /// From `new` reversed to `old` reversed.
    Reply,
}

/// Lays out an entry on the desk and writes it.
#[inline(always)]
pub fn write_entry<F: Family, W: Tables<F>>(world: &W, side: Side, how: Insert) -> Result<(), Refused> {
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
        desk.key.stage = desk.old.stage;
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
        desk.key.stage = opening.flags.stage_of_counterpart(desk.old.stage);
        desk.flow.flags = opening.flags.of_counterpart();
        desk.flow.tcp = TcpSeen(0);
    }
    desk.key.proto = desk.old.proto;
    desk.key.pad = 0;
    // The key is read again from the desk: the kernel's stack has no room to keep it.
    compiler_fence(Ordering::SeqCst);
    desk.flow.check = desk.key.check();
    world.insert_flow(&desk.key, &desk.flow, how)
}

/// The source port of an attempt from 1 on. The first are drawn at random, each by itself: ports are taken in runs (clients
/// that count upwards), and who walks starts in a run and stays in it. The others walk over all that there are, in long steps.
#[inline(always)]
fn other_port(hash: u32, attempt: u32) -> Port {
    let at = if attempt <= SOURCE_PORT_TRIES {
        pick(scatter(hash ^ attempt.wrapping_mul(0x9e37_79b1)), SOURCE_PORTS)
    } else {
        let start = pick(scatter(hash), SOURCE_PORTS);
        start.wrapping_add(SOURCE_PORT_STEP.wrapping_mul(attempt)) % SOURCE_PORTS
    };
    Port::new(SOURCE_PORT_MIN + at as u16)
}

/// Makes every bit of a number count in every bit.
#[inline(always)]
const fn scatter(number: u32) -> u32 {
    let number = (number ^ number >> 16).wrapping_mul(0x7feb_352d);
    let number = (number ^ number >> 15).wrapping_mul(0x846c_a68b);
    number ^ number >> 16
}

/// About the golden section of the number of source ports: every step comes as far as can be from those before. It has no factor
/// in common with the number, and so comes by all ports.
const SOURCE_PORT_STEP: u32 = 39_869;
const _: () = assert!(
    SOURCE_PORTS == 1024 * 9 * 7
        && !(SOURCE_PORT_STEP.is_multiple_of(2)
            || SOURCE_PORT_STEP.is_multiple_of(3)
            || SOURCE_PORT_STEP.is_multiple_of(7)),
    "the step is to come by all ports"
);
const _: () = assert!(
    SOURCE_PORT_STEP.checked_mul(SOURCE_PORT_TRIES + SOURCE_PORTS).is_some(),
    "attempts are multiplied in 32 bits"
);

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_flow_comes_by_every_source_port() {
        for hash in [0_u32, 1, 0x1ff, 0xdead_beef, u32::MAX] {
            let ports: BTreeSet<u16> = (1 + SOURCE_PORT_TRIES..=SOURCE_PORT_TRIES + SOURCE_PORTS)
                .map(|attempt| other_port(hash, attempt).get())
                .collect();
            assert_eq!(ports.len() as u32, SOURCE_PORTS, "hash {hash:#x}");
            assert_eq!(ports.first(), Some(&SOURCE_PORT_MIN));
        }
    }

    #[test]
    fn ports_taken_in_runs_are_no_trap() {
        // What one client took that counts upwards, and one that does so by twos, as Linux does.
        let is_taken = |port: u16| (2_000..32_000).contains(&port) || port >= 32_768 && port.is_multiple_of(2);
        // No more than 3/4 are taken: 64 tries would do.
        for hash in (0..200_000_u32).map(|number| number.wrapping_mul(0x9e37_79b1)) {
            assert!(
                (1..=SOURCE_PORT_TRIES).any(|attempt| !is_taken(other_port(hash, attempt).get())),
                "hash {hash:#x}"
            );
        }
    }
}
