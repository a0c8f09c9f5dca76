//! Flows that are netfilter's: it has translated them since before this node was taken over from kube-proxy, or while new flows are left
//! to it. They stand in the flow tables as such, so that their packets are left alone and nobody else gets their tuples.
//!
//! | entry | key | why |
//! |---|---|---|
//! | the client's packets | what the client sends, where it arrives | left as they are |
//! | the answers | the reverse, where they leave | tells when the endpoint has closed |
//! | the claims | what the endpoint sends, where it arrives, and if the flow isn't masqueraded where it leaves, too | no flow of ours gets this tuple |
//!
//! The first two are made by the first packet, too (`datapath/open.rs`); the claim is known to netfilter alone. What of it is still going
//! on, conntrack says: entries that it has are renewed here, entries that it has no longer are removed.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use lb_common::{
    datapath::counterpart,
    layout::{Flow, FlowFlags, FlowKey, Frontend, Port, Stage},
};

use crate::{
    netfilter::{Tracked, Tuple},
    tables::{FlowEntry, Flows, TableFamily},
};

/// Of entries that conntrack still has, the time is written anew when it is this old: well before they count as over.
const RENEW_NS: u64 = 10_000_000_000;
/// A packet may have made its entry after conntrack was read: what was seen so shortly before stays.
const FRESH_NS: u64 = 3_000_000_000;

/// The place of the first claim among [`entries`].
const CLAIM: usize = 2;

/// What bringing a flow table up to date with conntrack has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Flows of netfilter's that are under way.
    pub flows: usize,
    /// Entries that were missing.
    pub added: usize,
    /// Entries that were removed.
    pub removed: usize,
    /// Tuples of netfilter's that a flow of ours has: answers to one of the two go astray.
    pub conflicts: usize,
    /// Which of the connections were not there the last time, by their places.
    pub new: Vec<usize>,
}

/// Which entries of a family are netfilter's, and what was seen of them before.
#[derive(Debug)]
pub struct DeferredFlows<F: TableFamily> {
    /// Not in conntrack the last time: removed if they aren't the next time either.
    missing: HashSet<FlowKey<F::Addr>>,
    /// What the clients of those send that were there the last time.
    seen: HashSet<FlowKey<F::Addr>>,
}

impl<F: TableFamily> Default for DeferredFlows<F> {
    fn default() -> Self {
        Self {
            missing: HashSet::new(),
            seen: HashSet::new(),
        }
    }
}

/// A tuple as the key of an entry, or nothing if it is of the other family.
fn key<F: TableFamily>(tuple: &Tuple, stage: Stage) -> Option<FlowKey<F::Addr>> {
    let (src, dst) = (F::from_ip(tuple.src.ip())?, F::from_ip(tuple.dst.ip())?);
    let (sport, dport) = (Port::new(tuple.src.port()), Port::new(tuple.dst.port()));
    Some(FlowKey::new(src, sport, dst, dport, tuple.proto).at(stage))
}

/// An entry that leaves packets of its key as they are.
fn untouched<F: TableFamily>(key: &FlowKey<F::Addr>, flags: FlowFlags, service: u32, now_ns: u64) -> Flow<F::Addr> {
    Flow {
        check: key.check(),
        src: key.src,
        dst: key.dst,
        sport: key.sport,
        dport: key.dport,
        service,
        flags: flags.with(FlowFlags::OF_NETFILTER),
        seen_ns: now_ns,
        ..Flow::default()
    }
}

/// The entries of a connection that netfilter translates for a service port with this number; nothing if it is of the other family.
#[must_use]
pub fn entries<F: TableFamily>(tracked: &Tracked, service: u32, now_ns: u64) -> Option<Vec<FlowEntry<F>>> {
    let original = key::<F>(&tracked.original, Stage::ARRIVES)?;
    let flow = untouched::<F>(&original, FlowFlags::SEEN, service, now_ns);
    let (mut answers, mut answer) = (FlowKey::default(), Flow::default());
    counterpart(&original, &flow, &mut answers, &mut answer);
    if tracked.answered {
        answer.flags = answer.flags.with(FlowFlags::SEEN);
    }
    let mut entries = vec![(original, flow), (answers, answer)];
    // A connection of the host's own is no other by its addresses: its answers arrive.
    let stages = [Stage::ARRIVES, Stage::LEAVES];
    for stage in &stages[..if tracked.is_masqueraded() { 1 } else { 2 }] {
        let claimed = key::<F>(&tracked.reply, *stage)?;
        let flags = FlowFlags::REPLY.with(FlowFlags::SEEN);
        entries.push((claimed, untouched::<F>(&claimed, flags, service, now_ns)));
    }
    Some(entries)
}

impl<F: TableFamily> DeferredFlows<F> {
    /// Brings a flow table up to date with what conntrack has: `tracked`, each with its frontend, as it was read at `now_ns`. While new
    /// flows are `ours` nothing becomes netfilter's any more: what conntrack lacks twice is over, whatever its client sends.
    ///
    /// # Errors
    /// If the table can't be read or written.
    pub fn follow(
        &mut self,
        table: &mut impl Flows<F>,
        tracked: &[(Tracked, Frontend)],
        now_ns: u64,
        is_ours: bool,
    ) -> Result<Followed> {
        let (mut followed, unknown) = self.write(table, tracked, now_ns)?;
        let is_old = |flow: &Flow<F::Addr>| is_ours || now_ns.saturating_sub(flow.seen_ns) > FRESH_NS;
        let missing = unknown.iter().filter(|(_, flow)| is_old(flow));
        let (gone, missing): (Vec<_>, Vec<_>) = missing.partition(|(key, _)| self.missing.contains(key));
        self.missing = missing.into_iter().map(|(key, _)| *key).collect();
        for (key, flow) in gone {
            followed.removed += usize::from(table.remove_if_still(key, flow));
        }
        let now: HashSet<_> = tracked
            .iter()
            .filter_map(|(tracked, _)| key::<F>(&tracked.original, Stage::ARRIVES))
            .collect();
        self.seen = now;
        Ok(followed)
    }

    /// The same at the end of a takeover, when no flow is left to netfilter any more: what conntrack doesn't have now is not netfilter's,
    /// such as the first packet of a connection to a Service that it doesn't know.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn settle(
        &mut self,
        table: &mut impl Flows<F>,
        tracked: &[(Tracked, Frontend)],
        now_ns: u64,
    ) -> Result<Followed> {
        let (mut followed, unknown) = self.write(table, tracked, now_ns)?;
        for (key, flow) in &unknown {
            followed.removed += usize::from(table.remove_if_still(key, flow));
        }
        Ok(followed)
    }

    /// Adds and renews. What else there is of netfilter's.
    #[allow(clippy::type_complexity, reason = "it is named in one place")]
    fn write(
        &self,
        table: &mut impl Flows<F>,
        tracked: &[(Tracked, Frontend)],
        now_ns: u64,
    ) -> Result<(Followed, HashMap<FlowKey<F::Addr>, Flow<F::Addr>>)> {
        let mut known = HashMap::new();
        table.for_each(|key, flow| {
            if flow.flags.has(FlowFlags::DEFERRED) {
                known.insert(*key, *flow);
            }
        })?;
        let mut followed = Followed::default();
        for (place, (tracked, frontend)) in tracked.iter().enumerate().filter(|(_, (tracked, _))| !tracked.closed) {
            let Some(entries) = entries::<F>(tracked, frontend.number(), now_ns) else {
                continue;
            };
            followed.flows += 1;
            if entries
                .first()
                .is_some_and(|(original, _)| !self.seen.contains(original))
            {
                followed.new.push(place);
            }
            for (index, (key, flow)) in entries.into_iter().enumerate() {
                match known.remove(&key) {
                    Some(before) if now_ns.saturating_sub(before.seen_ns) > RENEW_NS => {
                        // Flags of TCP that a packet adds meanwhile would be lost: the next one of the flow says them again, or conntrack
                        // that it is over.
                        let renewed = Flow {
                            seen_ns: now_ns,
                            ..before
                        };
                        table.insert(&key, &renewed).context("renew a flow of netfilter's")?;
                    }
                    Some(_) => {}
                    None if table.insert_new(&key, &flow).context("write a flow of netfilter's")? => {
                        followed.added += 1;
                    }
                    None => {
                        let is_ours = |held: Flow<F::Addr>| !held.flags.has(FlowFlags::DEFERRED);
                        followed.conflicts += usize::from(index == CLAIM && table.get(&key).is_some_and(is_ours));
                    }
                }
            }
        }
        Ok((followed, known))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::layout::{Ip4, Proto, TcpSeen, V4, V6};
    use rstest::rstest;

    use super::*;

    fn tracked(original: [&str; 2], reply: [&str; 2]) -> Tracked {
        let tuple = |[src, dst]: [&str; 2]| Tuple {
            src: src.parse().expect("an address"),
            dst: dst.parse().expect("an address"),
            proto: Proto::TCP,
        };
        Tracked {
            original: tuple(original),
            reply: tuple(reply),
            answered: true,
            closed: false,
        }
    }

    fn line<F: TableFamily>((key, flow): &FlowEntry<F>) -> String {
        let stage = if key.stage == Stage::ARRIVES { "in" } else { "out" };
        let reply = if flow.flags.has(FlowFlags::REPLY) { " reply" } else { "" };
        assert_eq!(
            (flow.src, flow.dst, flow.sport, flow.dport),
            (key.src, key.dst, key.sport, key.dport),
            "left alone"
        );
        assert_eq!(flow.check, key.check());
        format!("{}:{} > {}:{} {stage}{reply}", key.src, key.sport, key.dst, key.dport)
    }

    /// A table into which packets write right after it was read.
    #[derive(Default)]
    struct Busy {
        entries: BTreeMap<String, FlowEntry<V4>>,
        packets: Vec<FlowEntry<V4>>,
    }

    impl Busy {
        fn put(&mut self, (key, flow): FlowEntry<V4>) {
            self.entries.insert(format!("{key:?}"), (key, flow));
        }
    }

    impl Flows<V4> for std::cell::RefCell<Busy> {
        fn for_each(&self, mut visit: impl FnMut(&FlowKey<Ip4>, &Flow<Ip4>)) -> Result<()> {
            let mut busy = self.borrow_mut();
            busy.entries.values().for_each(|(key, flow)| visit(key, flow));
            for packet in std::mem::take(&mut busy.packets) {
                busy.put(packet);
            }
            Ok(())
        }

        fn get(&self, key: &FlowKey<Ip4>) -> Option<Flow<Ip4>> {
            self.borrow().entries.get(&format!("{key:?}")).map(|(_, flow)| *flow)
        }

        fn remove(&mut self, key: &FlowKey<Ip4>) -> bool {
            self.get_mut().entries.remove(&format!("{key:?}")).is_some()
        }

        fn insert_new(&mut self, key: &FlowKey<Ip4>, flow: &Flow<Ip4>) -> Result<bool> {
            let is_new = self.get(key).is_none();
            if is_new {
                self.get_mut().put((*key, *flow));
            }
            Ok(is_new)
        }

        fn insert(&mut self, key: &FlowKey<Ip4>, flow: &Flow<Ip4>) -> Result<()> {
            self.get_mut().put((*key, *flow));
            Ok(())
        }
    }

    const S: u64 = 1_000_000_000;

    /// What conntrack has no longer is removed, but not if the tuple is another flow's since the table was read.
    #[rstest]
    #[case::nobodys(None, false)]
    #[case::of_a_flow_of_ours(Some((FlowFlags::REPLY.with(FlowFlags::MASQUERADE), 0, 20 * S)), true)]
    #[case::of_another_of_netfilters(Some((FlowFlags::REPLY.with(FlowFlags::OF_NETFILTER), 0, 20 * S)), true)]
    #[case::sent_again(Some((FlowFlags::REPLY.with(FlowFlags::OF_NETFILTER).with(FlowFlags::SEEN), 0x10, 10 * S)), true)]
    fn what_is_over_is_removed(#[case] packet: Option<(FlowFlags, u8, u64)>, #[case] stays: bool) {
        let over = tracked(
            ["10.1.0.9:40000", "10.96.0.10:80"],
            ["10.244.1.7:8080", "192.168.3.4:1234"],
        );
        let entries = entries::<V4>(&over, 7, 10 * S).expect("of this family");
        let (claim, flow) = entries[CLAIM];
        let packets = packet.map(|(flags, tcp, seen_ns)| {
            let tcp = TcpSeen(tcp);
            (
                claim,
                Flow {
                    flags,
                    tcp,
                    seen_ns,
                    ..flow
                },
            )
        });
        let busy = |packets: Option<FlowEntry<V4>>| {
            let mut busy = Busy::default();
            entries.iter().for_each(|entry| busy.put(*entry));
            busy.packets.extend(packets);
            std::cell::RefCell::new(busy)
        };
        let mut table = busy(packets);
        let settled = DeferredFlows::<V4>::default().settle(&mut table, &[], 20 * S);
        assert_eq!(table.get(&claim).is_some(), stays);
        assert_eq!(
            settled.expect("nothing fails").removed,
            entries.len() - usize::from(stays)
        );
        // And while new flows are netfilter's, the second time that it is missing.
        let (mut table, mut deferred) = (busy(None), DeferredFlows::<V4>::default());
        let first = deferred.follow(&mut table, &[], 20 * S, false);
        assert_eq!(first.expect("nothing fails").removed, 0);
        table.get_mut().packets.extend(packets);
        let second = deferred.follow(&mut table, &[], 20 * S, false);
        assert_eq!(table.get(&claim).is_some(), stays);
        assert_eq!(
            second.expect("nothing fails").removed,
            entries.len() - usize::from(stays)
        );
    }

    #[rstest]
    #[case::client_kept(
        tracked(["10.1.0.9:40000", "10.96.0.10:80"], ["10.244.1.7:8080", "10.1.0.9:40000"]),
        &["10.1.0.9:40000 > 10.96.0.10:80 in", "10.96.0.10:80 > 10.1.0.9:40000 out reply", "10.244.1.7:8080 > 10.1.0.9:40000 in reply", "10.244.1.7:8080 > 10.1.0.9:40000 out reply"]
    )]
    #[case::masqueraded(
        tracked(["10.1.0.9:40000", "10.96.0.10:80"], ["10.244.1.7:8080", "192.168.3.4:1234"]),
        &["10.1.0.9:40000 > 10.96.0.10:80 in", "10.96.0.10:80 > 10.1.0.9:40000 out reply", "10.244.1.7:8080 > 192.168.3.4:1234 in reply"]
    )]
    fn entries_of_a_flow_of_netfilters(#[case] tracked: Tracked, #[case] expected: &[&str]) {
        let entries = entries::<V4>(&tracked, 7, 5).expect("of this family");
        assert_eq!(entries.iter().map(line::<V4>).collect::<Vec<_>>(), expected);
        assert!(super::entries::<V6>(&tracked, 7, 5).is_none(), "of the other family");
    }
}
