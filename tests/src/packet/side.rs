//! What a host world and a kernel world have in common: tables can be written, packets can be run, and what is left
//! behind can be looked at. The two are compared by it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use lb_common::{
    datapath::{Hook, Verdict},
    layout::{
        Affinity, AffinityKey, Counter, DropReason, Event, Family, Flow, FlowFlags, FlowKey, FragmentKey,
        FragmentPorts, Peer, ServiceStats, Stage, Way, WayFlags,
    },
};

use super::{
    encode::Link,
    names::{Named, from_16_octets, name_of},
    scene::Write,
};

/// One packet at a hook.
#[derive(Clone, Copy, Debug)]
pub struct Shot<'a> {
    /// The hook.
    pub hook: Hook,
    /// The kind of device.
    pub link: Link,
    /// The frame.
    pub frame: &'a [u8],
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What the kernel was told: `TC_ACT_…` or `XDP_…`.
    pub code: i32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

/// On to the next program, or the stack (`TC_ACT_UNSPEC`).
pub const TC_UNSPEC: i32 = -1;
/// Gone (`TC_ACT_SHOT`).
pub const TC_SHOT: i32 = 2;
/// Elsewhere (`TC_ACT_REDIRECT`).
pub const TC_REDIRECT: i32 = 7;
/// Gone (`XDP_DROP`).
pub const XDP_DROP: i32 = 1;
/// Up to the stack (`XDP_PASS`).
pub const XDP_PASS: i32 = 2;

/// Out by another device (`XDP_REDIRECT`).
pub const XDP_REDIRECT: i32 = 4;
/// Out by the same device (`XDP_TX`).
pub const XDP_TX: i32 = 3;

/// What a program tells the kernel for a verdict.
#[must_use]
pub const fn code(hook: Hook, verdict: Verdict) -> i32 {
    match (hook, verdict) {
        (Hook::Xdp, Verdict::Drop(_)) => XDP_DROP,
        (Hook::Xdp, Verdict::Forward(_)) => XDP_REDIRECT,
        (Hook::Xdp, Verdict::Turn) => XDP_TX,
        (Hook::Xdp, _) => XDP_PASS,
        // Test runs happen on the loopback device, where a packet for the host itself is there already.
        (_, Verdict::Pass | Verdict::Deliver | Verdict::Forward(_) | Verdict::Turn) => TC_UNSPEC,
        (
            _,
            Verdict::Route | Verdict::Refuse | Verdict::Reset | Verdict::Echo | Verdict::Tunnel | Verdict::TooBig(_),
        ) => TC_REDIRECT,
        (_, Verdict::Drop(_)) => TC_SHOT,
    }
}

/// The flow entries of a family.
pub type Flows<F> = BTreeMap<FlowKey<<F as Family>::Addr>, Flow<<F as Family>::Addr>>;

/// The ways of a family.
pub type Ways<F> = BTreeMap<FlowKey<<F as Family>::Addr>, Way<<F as Family>::Addr>>;

/// Everything that packets leave behind in the tables of one family, and in those without a family.
#[derive(Debug)]
pub struct State<F: Named> {
    /// Flow entries. Instead of the time they hold how many seconds ago that was.
    pub flows: Flows<F>,
    /// Ways of forwarded flows. Instead of the time they hold how many seconds ago that was.
    pub ways: Ways<F>,
    /// Datagrams in fragments.
    pub fragments: BTreeMap<FragmentKey<F::Addr>, FragmentPorts>,
    /// Other nodes. Instead of the time they hold how many seconds ago a path MTU was told; those of which none was, have none.
    pub peers: BTreeMap<F::Addr, Peer>,
    /// Counts by [`Counter`].
    pub counters: Vec<u64>,
    /// Counts by [`DropReason`].
    pub drops: Vec<u64>,
    /// Clients that have a backend of their own. Instead of the time they hold how many seconds ago that was.
    pub affinities: BTreeMap<AffinityKey<F::Addr>, Affinity>,
    /// Connections by service number.
    pub service_counts: BTreeMap<u32, ServiceStats>,
    /// Connections by backend number.
    pub backend_counts: BTreeMap<u32, u64>,
    /// Events in order, without their times.
    pub events: Vec<Event>,
}

impl<F: Named> PartialEq for State<F> {
    fn eq(&self, other: &Self) -> bool {
        self.flows == other.flows
            && self.ways == other.ways
            && self.fragments == other.fragments
            && self.peers_told().eq(other.peers_told())
            && self.counters == other.counters
            && self.drops == other.drops
            && self.affinities == other.affinities
            && self.service_counts == other.service_counts
            && self.backend_counts == other.backend_counts
            && self.events == other.events
    }
}

/// How many seconds ago something was, rounded: a run in the kernel takes some of them, too.
#[must_use]
pub const fn seconds_ago(then_ns: u64, now_ns: u64) -> u64 {
    (now_ns.saturating_sub(then_ns) + 500_000_000) / 1_000_000_000
}

/// A host world or a kernel world.
pub trait Side<F: Named> {
    /// Does a write.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn write(&mut self, write: &Write<F>) -> anyhow::Result<()>;

    /// Lets time pass: everything that has a time in the tables gets older.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn age(&mut self, by: Duration) -> anyhow::Result<()>;

    /// Leaves only so many ICMP answers of this second.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn limit_rejects(&mut self, tokens: u64) -> anyhow::Result<()>;

    /// Runs a packet through a hook.
    ///
    /// # Errors
    /// If the kernel refuses to run it.
    fn run(&mut self, shot: Shot<'_>) -> anyhow::Result<Outcome>;

    /// Looks at everything that was left behind since the world was made.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn state(&mut self) -> anyhow::Result<State<F>>;
}

/// A flow entry for people: `client:40000 > web:80 => client:40000 > pod:8080 | in seen local`.
#[must_use]
pub fn flow_line<F: Named>(key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> String {
    let new = FlowKey::new(flow.src, flow.sport, flow.dst, flow.dport, key.proto);
    let mut words = vec![if key.stage == Stage::LEAVES { "out" } else { "in" }];
    let names = [
        (FlowFlags::REPLY, "reply"),
        (FlowFlags::HOST_CLIENT, "host"),
        (FlowFlags::LOCAL_BACKEND, "local"),
        (FlowFlags::MASQUERADE, "masq"),
        (FlowFlags::DIRECT, "direct"),
        (FlowFlags::RESET, "reset"),
        (FlowFlags::TUNNELS, "tunnels"),
        (FlowFlags::TUNNELLED, "tunnelled"),
        (FlowFlags::WHOLE, "whole"),
        (FlowFlags::DEFERRED, "deferred"),
        (FlowFlags::FORWARDED, "forwarded"),
        (FlowFlags::SEEN, "seen"),
    ];
    words.extend(
        names
            .iter()
            .filter(|(flag, _)| flow.flags.has(*flag))
            .map(|(_, name)| *name),
    );
    format!("{} => {} | {}", F::tuple(key), F::tuple(&new), words.join(" "))
}

/// A way for people: `client:40000 > web:80 => node:4711 > far:8080 | by 77`.
#[must_use]
pub fn way_line<F: Named>(key: &FlowKey<F::Addr>, way: &Way<F::Addr>) -> String {
    let new = FlowKey::new(
        way.rewrite.src,
        way.rewrite.sport,
        way.rewrite.dst,
        way.rewrite.dport,
        key.proto,
    );
    let what = if way.flags.has(WayFlags::TURNS) {
        "back".to_owned()
    } else if way.flags.has(WayFlags::FORWARDS) {
        format!("by {}", way.ifindex)
    } else if way.flags.has(WayFlags::TRANSLATES) {
        "here".to_owned()
    } else {
        return format!("{} | stack", F::tuple(key));
    };
    format!("{} => {} | {what}", F::tuple(key), F::tuple(&new))
}

impl<F: Named> State<F> {
    /// The other nodes of which a path MTU was told.
    fn peers_told(&self) -> impl Iterator<Item = (&F::Addr, &Peer)> {
        self.peers.iter().filter(|(_, peer)| peer.mtu != 0)
    }

    /// The ways for people, sorted.
    #[must_use]
    pub fn way_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.ways.iter().map(|(key, way)| way_line::<F>(key, way)).collect();
        lines.sort();
        lines
    }

    /// The flow entries for people, sorted.
    #[must_use]
    pub fn flow_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.flows.iter().map(|(key, flow)| flow_line::<F>(key, flow)).collect();
        lines.sort();
        lines
    }

    /// Everything for people, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .flows
            .iter()
            .map(|(key, flow)| {
                format!(
                    "flow {} {} | backend {} service {} TCP {:#04x} deltas {:#06x} {:#06x} check {} | {} s ago",
                    key.proto,
                    flow_line::<F>(key, flow),
                    flow.backend,
                    flow.service,
                    flow.tcp.0,
                    flow.address_delta,
                    flow.port_delta,
                    if flow.check == key.check() { "good" } else { "bad" },
                    flow.seen_ns,
                )
            })
            .collect();
        lines.extend(
            self.ways
                .iter()
                .map(|(key, way)| format!("way {} | {way:?}", way_line::<F>(key, way))),
        );
        lines.extend(self.fragments.iter().map(|(key, ports)| {
            let [src, dst] = [key.src, key.dst].map(|address| name_of(F::to_ip(address)));
            format!(
                "datagram {} {src}:{} > {dst}:{} {:#x}",
                key.proto, ports.sport, ports.dport, key.id
            )
        }));
        lines.extend(self.peers_told().map(|(address, peer)| {
            let name = name_of(F::to_ip(*address));
            format!("peer {name} takes {} octets | {} s ago", peer.mtu, peer.told_ns)
        }));
        lines.extend(self.affinities.iter().map(|(key, affinity)| {
            format!(
                "affinity {} of {:#x} backend {} slot {} | {} s ago",
                name_of(F::to_ip(key.client)),
                key.affinity,
                affinity.backend,
                affinity.place,
                affinity.seen_ns
            )
        }));
        lines.extend(
            self.service_counts
                .iter()
                .map(|(number, stats)| format!("service {number} opened {} refused {}", stats.opened, stats.refused)),
        );
        lines.extend(
            self.backend_counts
                .iter()
                .map(|(number, opened)| format!("backend {number} opened {opened}")),
        );
        let counted = Counter::ALL.iter().zip(&self.counters).filter(|(_, count)| **count > 0);
        lines.extend(counted.map(|(counter, count)| format!("counter {} {count}", counter.name())));
        let dropped = DropReason::ALL.iter().zip(&self.drops).filter(|(_, count)| **count > 0);
        lines.extend(dropped.map(|(reason, count)| format!("drops {} {count}", reason.name())));
        lines.extend(self.events.iter().map(event_line));
        lines
    }

    /// What is only in this one (`-`) and only in the other (`+`).
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let (here, there) = (self.lines(), other.lines());
        let mut text = String::new();
        for (sign, lines, others) in [('-', &here, &there), ('+', &there, &here)] {
            for line in lines.iter().filter(|line| !others.contains(line)) {
                let _ = writeln!(text, "  {sign} {line}");
            }
        }
        text
    }
}

fn event_line(event: &Event) -> String {
    let [src, dst] = [event.src, event.dst].map(|octets| name_of(from_16_octets(octets, event.family)));
    let reason = DropReason::from_number(event.reason).map_or("unknown", DropReason::name);
    let Event {
        sport,
        dport,
        service,
        ifindex,
        proto,
        ..
    } = event;
    format!("event {reason} {proto} {src}:{sport} > {dst}:{dport} service {service} device {ifindex}")
}
