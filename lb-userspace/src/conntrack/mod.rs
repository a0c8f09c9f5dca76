//! Ending flows: a sweep over the flow tables that removes entries whose flow is over. The rule of when a flow is over
//! is `lb_common::datapath::is_over`; here is how a table is walked without disturbing the flows that live. And closing sockets that the
//! socket tier has led to endpoints that are gone for good. And the flows that netfilter has, before a takeover from kube-proxy and after.

mod deferred;
mod diag;
mod hang_up;
mod removed;

use std::collections::HashMap;

use anyhow::Result;
use lb_common::{
    datapath::{idle_limit_ns, is_over},
    layout::{Address, Flow, FlowFlags, FlowKey, Stage, TcpSeen},
};

pub use deferred::{DeferredFlows, Followed, entries};
pub use hang_up::{GonePeer, SocketCloser};
pub use removed::RemovedEndpoints;

use crate::tables::{FlowEntry, Flows, TableFamily};

/// Flows that are tracked, by what they belong to. A flow counts once, however many entries it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// By service number.
    pub services: HashMap<u32, u64>,
    /// By backend number.
    pub backends: HashMap<u32, u64>,
}

impl FlowCounts {
    /// The entry that stands for its flow: of the client's first packet. Connections of the host that only had to give way
    /// to a masqueraded flow belong to no service.
    #[must_use]
    pub fn stands_for_flow<A: Address>(flow: &Flow<A>) -> bool {
        !flow.flags.has(FlowFlags::REPLY) && !flow.flags.has(FlowFlags::MASQUERADE)
    }

    fn add<A: Address>(&mut self, flow: &Flow<A>) {
        if Self::stands_for_flow(flow) {
            *self.services.entry(flow.service).or_default() += 1;
            *self.backends.entry(flow.backend).or_default() += 1;
        }
    }

    fn remove<A: Address>(&mut self, flow: &Flow<A>) {
        if Self::stands_for_flow(flow) {
            for (counts, number) in [(&mut self.services, flow.service), (&mut self.backends, flow.backend)] {
                if let Some(count) = counts.get_mut(&number) {
                    *count = count.saturating_sub(1);
                }
            }
        }
    }
}

/// What a sweep has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries in the table.
    pub entries: usize,
    /// Entries that were removed.
    pub ended: usize,
    /// Entries of flows that are netfilter's.
    pub deferred: usize,
    /// Most source ports that one address of this node has in use towards one endpoint.
    pub source_ports_max: usize,
    /// What is left, by what it belongs to.
    pub flows: FlowCounts,
}

/// Monotonic time as the kernel programs see it, in nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Removes the entries of flows that are over.
///
/// # Errors
/// If the table can't be read.
pub fn sweep<F: TableFamily>(table: &mut impl Flows<F>, now_ns: u64) -> Result<Swept> {
    let mut swept = Swept::default();
    let mut candidates: Vec<FlowEntry<F>> = Vec::new();
    let mut source_ports: HashMap<_, usize> = HashMap::new();
    table.for_each(|key, flow| {
        swept.entries += 1;
        swept.flows.add(flow);
        swept.deferred += usize::from(flow.flags.has(FlowFlags::DEFERRED));
        if holds_source_port(key, flow.flags) {
            *source_ports
                .entry((key.src, key.sport, key.dst, key.proto))
                .or_default() += 1;
        }
        if may_be_over(key, flow, now_ns) {
            candidates.push((*key, *flow));
        }
    })?;
    swept.source_ports_max = source_ports.into_values().max().unwrap_or(0);
    for (key, flow) in candidates {
        let other_key = key.of_counterpart(&flow);
        let has_other = !flow.flags.has(FlowFlags::TUNNELS);
        let other = has_other.then(|| table.get(&other_key)).flatten();
        // Not if it leads elsewhere: the client has another flow by then.
        let other = other.filter(|other| other_key.of_counterpart(other) == key);
        if !is_over(&key, &flow, other.as_ref(), now_ns) {
            continue;
        }
        // What comes between this look and the removal finds no entry and opens the flow anew, with the same backend as long as the
        // Service's backends are the same.
        if !table.remove_if_still(&key, &flow) {
            continue;
        }
        swept.ended += 1;
        swept.flows.remove(&flow);
        if let Some(other) = other
            && table.remove_if_still(&other_key, &other)
        {
            swept.ended += 1;
            swept.flows.remove(&other);
        }
    }
    Ok(swept)
}

/// Whether an entry stands for a source port of this node's: answers to it arrive.
fn holds_source_port<A: Address>(key: &FlowKey<A>, flags: FlowFlags) -> bool {
    let is_masqueraded = flags.any(FlowFlags::MASQUERADE.with(FlowFlags::WHOLE));
    is_masqueraded && flags.has(FlowFlags::REPLY) && key.stage == Stage::ARRIVES
}

/// Whether an entry is worth a look at its counterpart: by itself it would be over. Spares the look for the many
/// flows that live.
fn may_be_over<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, now_ns: u64) -> bool {
    if flow.flags.has(FlowFlags::TUNNELS) {
        return is_over(key, flow, None, now_ns);
    }
    let answered = if flow.flags.has(FlowFlags::REPLY) {
        flow.flags.has(FlowFlags::SEEN)
    } else {
        // A client that acknowledges has had an answer; for UDP only the reply entry knows.
        flow.tcp.has(TcpSeen::ACK)
    };
    // A side that has sent FIN may have had the other's: then the flow is over soon.
    let peer = flow.tcp.has(TcpSeen::FIN).then_some(TcpSeen::FIN);
    now_ns.saturating_sub(flow.seen_ns) > idle_limit_ns(key.proto, flow.tcp, peer, answered)
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{Ip4, Port, Proto};
    use rstest::rstest;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn entry(proto: Proto, flags: FlowFlags, tcp: u8) -> (FlowKey<Ip4>, Flow<Ip4>) {
        let address = |last| Ip4 {
            octets: [10, 0, 0, last],
        };
        let key = FlowKey::new(address(1), Port::new(1234), address(2), Port::new(80), proto);
        (
            key,
            Flow {
                flags,
                tcp: TcpSeen(tcp),
                seen_ns: 1_000 * S,
                ..Flow::default()
            },
        )
    }

    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    #[rstest]
    #[case::syn_without_answer(Proto::TCP, SYN, false, 0, 60)]
    #[case::established(Proto::TCP, SYN | ACK, true, SYN | ACK, 24 * 3600)]
    #[case::client_has_closed(Proto::TCP, SYN | ACK | FIN, true, SYN | ACK, 3600)]
    #[case::server_has_closed(Proto::TCP, SYN | ACK, true, SYN | ACK | FIN, 3600)]
    #[case::both_have_closed(Proto::TCP, SYN | ACK | FIN, true, SYN | ACK | FIN, 10)]
    #[case::client_has_reset(Proto::TCP, SYN | ACK | RST, true, SYN | ACK, 10)]
    #[case::server_has_refused(Proto::TCP, SYN, true, RST | ACK, 10)]
    #[case::datagram_without_answer(Proto::UDP, 0, false, 0, 30)]
    #[case::datagrams_both_ways(Proto::UDP, 0, true, 0, 120)]
    fn a_flow_is_over_after_its_idle_time_and_not_before(
        #[case] proto: Proto,
        #[case] client_tcp: u8,
        #[case] answered: bool,
        #[case] server_tcp: u8,
        #[case] limit_s: u64,
    ) {
        let seen = |yes: bool| if yes { FlowFlags::SEEN } else { FlowFlags::default() };
        let (key, forward) = entry(proto, FlowFlags::SEEN, client_tcp);
        let (_, reply) = entry(proto, FlowFlags::REPLY.with(seen(answered)), server_tcp);
        let at = |idle_s: u64| forward.seen_ns + idle_s * S;
        assert!(!is_over(&key, &forward, Some(&reply), at(limit_s)));
        assert!(is_over(&key, &forward, Some(&reply), at(limit_s) + 1));
        // Seen from the other entry it is the same flow.
        assert!(is_over(&key.reversed(), &reply, Some(&forward), at(limit_s) + 1));
        // One of the two entries brings the sweep to look.
        assert!(may_be_over(&key, &forward, at(limit_s) + 1) || may_be_over(&key, &reply, at(limit_s) + 1));
    }

    /// Only the client's packets come by. What the bogus entry at the counterpart's place says doesn't matter.
    #[rstest]
    #[case::syn(Proto::TCP, SYN, 60)]
    #[case::established(Proto::TCP, SYN | ACK, 24 * 3600)]
    #[case::found_without_its_syn(Proto::TCP, ACK, 24 * 3600)]
    #[case::client_has_closed(Proto::TCP, SYN | ACK | FIN, 120)]
    #[case::client_has_reset(Proto::TCP, SYN | ACK | RST, 10)]
    #[case::client_has_closed_and_reset(Proto::TCP, SYN | ACK | FIN | RST, 10)]
    #[case::datagrams(Proto::UDP, 0, 120)]
    #[case::sctp(Proto::SCTP, 0, 210)]
    #[case::sctp_aborted(Proto::SCTP, RST, 10)]
    fn a_flow_in_a_tunnel_has_one_entry(#[case] proto: Proto, #[case] tcp: u8, #[case] limit_s: u64) {
        let (key, flow) = entry(proto, FlowFlags::SEEN.with(FlowFlags::TUNNELS), tcp);
        let (_, mut stranger) = entry(proto, FlowFlags::REPLY, 0);
        stranger.seen_ns += 500 * S;
        let at = |idle_s: u64| flow.seen_ns + idle_s * S;
        for other in [None, Some(&stranger)] {
            assert!(!is_over(&key, &flow, other, at(limit_s)));
            assert!(is_over(&key, &flow, other, at(limit_s) + 1));
        }
        assert!(!may_be_over(&key, &flow, at(limit_s)) && may_be_over(&key, &flow, at(limit_s) + 1));
    }

    #[rstest]
    #[case::client_arrives(FlowFlags::default(), Stage::ARRIVES, false)]
    #[case::client_leaves(FlowFlags::MASQUERADE, Stage::LEAVES, false)]
    #[case::answer_arrives(FlowFlags::MASQUERADE.with(FlowFlags::REPLY), Stage::ARRIVES, true)]
    #[case::answer_leaves(FlowFlags::REPLY, Stage::LEAVES, false)]
    #[case::client_of_a_whole_flow(FlowFlags::WHOLE, Stage::ARRIVES, false)]
    #[case::answer_of_a_whole_flow(FlowFlags::WHOLE.with(FlowFlags::REPLY), Stage::ARRIVES, true)]
    #[case::direct_connection(FlowFlags::DIRECT.with(FlowFlags::MASQUERADE).with(FlowFlags::REPLY), Stage::LEAVES, false)]
    fn one_entry_of_a_masqueraded_flow_holds_its_source_port(
        #[case] flags: FlowFlags,
        #[case] stage: Stage,
        #[case] holds: bool,
    ) {
        let (key, flow) = entry(Proto::TCP, flags, 0);
        assert_eq!(holds_source_port(&key.at(stage), flow.flags), holds);
    }

    #[test]
    fn a_flow_counts_once_however_many_entries_it_has() {
        let masquerade = FlowFlags::MASQUERADE;
        let pairs = [FlowFlags::default(), masquerade];
        let mut counts = FlowCounts::default();
        for flags in pairs.into_iter().flat_map(|flags| [flags, flags.of_counterpart()]) {
            let (_, flow) = entry(Proto::TCP, flags, 0);
            counts.add(&Flow {
                service: 3,
                backend: 7,
                ..flow
            });
        }
        assert_eq!((counts.services.get(&3), counts.backends.get(&7)), (Some(&1), Some(&1)));
        let (_, ended) = entry(Proto::TCP, FlowFlags::SEEN, 0);
        counts.remove(&Flow {
            service: 3,
            backend: 7,
            ..ended
        });
        assert_eq!((counts.services.get(&3), counts.backends.get(&7)), (Some(&0), Some(&0)));
    }

    #[test]
    fn traffic_in_one_direction_keeps_both_entries() {
        let (key, forward) = entry(Proto::UDP, FlowFlags::SEEN, 0);
        let (_, mut reply) = entry(Proto::UDP, FlowFlags::REPLY.with(FlowFlags::SEEN), 0);
        reply.seen_ns += 500 * S;
        assert!(!is_over(&key, &forward, Some(&reply), reply.seen_ns + 60 * S));
    }
}
