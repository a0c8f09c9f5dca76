//! The agent: what `sluice run` does. Claims the pin folder, loads or adopts the datapath, attaches it to the devices,
//! and from then on brings every change into the tables as it comes.
//!
//! One loop on one thread owns everything that is written, but for the number of changes of the routing, which `routes` counts
//! up, too; sources, grace periods and the reader of events are beside it. A change that comes while nothing is under way is
//! applied at once; what comes meanwhile is applied together.

mod announce;
mod devices;
mod events;
mod handover;
mod netfilter;
mod node;
mod observe;
mod peers;
mod routes;
mod sockets;
mod state;
mod sysctl;
mod takeover;
mod truth;
mod xdp;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use lb_common::layout::{Ip4, Ip6, Node, V4, V6, limits::FLOWS_MIN, names};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, error, info, warn};

pub use netfilter::NetfilterState;
pub use node::{NodeOptions, TunnelKind, device_records, host_addresses, node_record};
pub use observe::ObserveOptions;
pub use sockets::{Mark, SocketOptions, SocketState};
pub use state::{DeviceState, State, state_file, unix_now_s, unix_s};
pub use sysctl::{ChangedSetting, prepare_host};
pub use takeover::{Half, TakenOver, take_over};
pub use truth::{Found, Truth};

use crate::{
    conntrack::{RemovedEndpoints, SocketCloser, now_ns, sweep},
    health::UnknownNode,
    kernel::{
        Attachments, Datapath, Level, LoadOptions, Pins, RARE_PROGRAMS, RARE_PROGRAMS_WITHOUT_XDP, XdpPolicy,
        open_pinned_map, preflight,
    },
    metrics::{Snapshot, SyncKind},
    model::{Change, NodeView},
    reconcile::Reconciler,
    source::{
        self, SourceStatus,
        devices::{Devices, Listing},
        kubernetes::{Access, EventCounts, Notice, Patience, Reason},
    },
    tables::{
        DefersTable, DeviceTable, EventReader, FlowTable, KernelTables, NodeTable, PeerTable, RoutesTable, SocketTable,
        Stats, VlanTable,
    },
};

use announce::Announcer;
use handover::Ending;
use netfilter::{Deferring, Said};
use observe::{Observer, Servers};

/// Where Services and EndpointSlices come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A directory of YAML or JSON.
    Manifests(PathBuf),
    /// The Kubernetes API.
    Kubernetes(Access),
}

/// What `sluice run` is told.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The pin folder.
    pub pins: Pins,
    /// Another agent that serves the node is waited for, instead of being an error.
    pub waits_for_predecessor: bool,
    /// Where the state file goes.
    pub run_dir: PathBuf,
    /// The node's name: endpoints with it are local.
    pub node_name: String,
    /// Where objects come from.
    pub origin: Origin,
    /// How the XDP tier is wanted.
    pub xdp: XdpPolicy,
    /// How the socket tier is wanted.
    pub sockets: SocketOptions,
    /// Devices that count as outward; those with a default route if none are named.
    pub outward_devices: BTreeSet<String>,
    /// Entries of each flow table.
    pub flows_max: u32,
    /// New flows are left to netfilter until `sluice takeover`.
    pub shadow: bool,
    /// How the node takes part in proxying.
    pub node: NodeOptions,
    /// Where it is asked how it goes.
    pub observe: ObserveOptions,
}

/// Changes that may wait while others are applied; a source that is faster waits.
const CHANGES_QUEUE: usize = 65_536;
/// Changes applied together at most, so that the loop stays responsive.
const BATCH_MAX: usize = 16_384;
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often drop events are read (the kernel limits them, so the ring buffer can't overflow meanwhile) and the state
/// file is written.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const RETRY_EVERY: Duration = Duration::from_secs(1);

type KernelReconciler = Reconciler<KernelTables<V4>, KernelTables<V6>>;

/// Everything the loop owns.
struct Agent {
    options: AgentOptions,
    datapath: Datapath,
    attachments: Attachments,
    reconciler: KernelReconciler,
    flows4: FlowTable<V4>,
    flows6: FlowTable<V6>,
    node4: NodeTable<V4>,
    node6: NodeTable<V6>,
    /// What the two tables hold.
    record4: Node<Ip4>,
    record6: Node<Ip6>,
    peers4: PeerTable<V4>,
    peers6: PeerTable<V6>,
    device_table: DeviceTable,
    vlan_table: VlanTable,
    socket_table: SocketTable,
    routes: RoutesTable,
    deferring: Deferring,
    /// Why changes of the routing are not followed, if they aren't.
    routes_problem: Option<String>,
    /// The kernel refused some of what it is to know about the node: tried again.
    node_is_refused: bool,
    /// The devices last heard of.
    devices: Devices,
    /// When XDP was last attached to any.
    xdp_attached_at: Option<Instant>,
    removed: RemovedEndpoints,
    /// Some Service asks for what other nodes are needed for.
    wants_other_nodes: watch::Sender<bool>,
    closer: SocketCloser,
    observer: Observer,
    pass: truth::Pass,
    announcer: Announcer,
    state: State,
    /// The state file says less than `state` and the reconciler know. Written a few times a second at most, since
    /// changes may come by the thousand.
    state_is_old: bool,
    /// The devices that were there at the start have their programs: before that no packet is translated.
    devices_followed: bool,
}

/// Runs until a signal asks to stop. The datapath goes on serving afterwards: that is what pins are for.
///
/// # Errors
/// If the machine lacks something, another agent serves the node, or a source fails for good.
pub async fn run(options: AgentOptions) -> Result<()> {
    check_machine(&options)?;
    let mut ending = Ending::listen()?;
    let Some(_lock) = handover::claim(&options.pins, options.waits_for_predecessor, &mut ending).await? else {
        return Ok(());
    };
    let (mut agent, mut servers, mut netfilter_said) = Agent::start(options)?;

    let (device_sender, mut device_updates) = mpsc::channel::<Listing>(4);
    let mut device_task = tokio::spawn(source::devices::follow(device_sender));
    let (change_sender, mut changes) = mpsc::channel::<Change>(CHANGES_QUEUE);
    let (status_sender, mut status) = watch::channel(SourceStatus::default());
    let mut source_task = match agent.options.origin.clone() {
        Origin::Manifests(directory) => {
            let node_name = agent.options.node_name.clone();
            tokio::spawn(async move {
                source::manifests::run(directory, node_name, change_sender, status_sender)
                    .await
                    .map_err(Into::into)
            })
        }
        Origin::Kubernetes(access) => {
            let node_name = agent.options.node_name.clone();
            let wants_others = agent.wants_other_nodes.subscribe();
            tokio::spawn(async move {
                source::kubernetes::run(
                    access,
                    Patience::default(),
                    node_name,
                    wants_others,
                    change_sender,
                    status_sender,
                )
                .await
                .map_err(anyhow::Error::from)
            })
        }
    };
    let routes_again = open_pinned_map(&agent.options.pins.maps(), names::ROUTES)?;
    let mut routes_problems = routes::follow(agent.routes.another(routes_again)?)?;
    let mut events = EventReader::open(agent.datapath.take_map(names::EVENTS)?)?;
    let mut looks = interval(LOOK_EVERY);
    let mut sweeps = interval(SWEEP_EVERY);
    let mut retries = interval(RETRY_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    agent.write_state();
    let version = concat!("sluice ", env!("CARGO_PKG_VERSION"));
    agent.announcer.say(Notice::of_node(Reason::Starting, version));

    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = ending.asked() => break,
            received = changes.recv_many(&mut batch, BATCH_MAX) => {
                if received == 0 {
                    bail!(source_end(&mut source_task).await);
                }
                agent.apply(&mut batch);
            }
            Some(listing) = device_updates.recv() => agent.follow_devices(&listing),
            ended = &mut device_task => {
                return Err(ended.map_err(anyhow::Error::from).and_then(|result| result).err()
                    .unwrap_or_else(|| anyhow!("following the devices ended")));
            }
            Ok(()) = routes_problems.changed() => {
                agent.routes_problem.clone_from(&routes_problems.borrow_and_update());
                agent.follow_node();
            }
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().clone();
                agent.note_source(&now);
            }
            _ = looks.tick() => {
                while let Some(event) = events.next_event() {
                    events::report(&event, &agent.reconciler);
                }
                // Backends that are gone for good stop serving UDP flows with the end of their grace period.
                agent.reconciler.collect();
                agent.follow_health().await;
                agent.take_over_if_due();
                agent.check_truth();
                agent.write_state();
            }
            Some(scrape) = servers.scrapes.recv() => {
                // Whoever has asked may have gone.
                drop(scrape.send(agent.snapshot()));
            }
            Some(ended) = servers.tasks.join_next() => match ended {
                Ok(Err((reason, error))) => {
                    agent.announcer.say_and_end(Notice::of_node(reason, error.to_string())).await;
                    bail!("{error}. Without --bind-address-hard-fail the agent goes on and tries again");
                }
                Err(error) => return Err(anyhow!(error).context("a server of health or metrics")),
            },
            Some(said) = netfilter_said.recv() => agent.netfilter_said(said),
            _ = sweeps.tick() => {
                agent.sweep();
                agent.follow_sockets();
            }
            _ = retries.tick() => {
                agent.retry();
                agent.announce();
            }
        }
    }
    info!("stopped; the datapath goes on serving (end it with: sluice cleanup)");
    Ok(())
}

async fn source_end(task: &mut tokio::task::JoinHandle<Result<()>>) -> String {
    match task.await {
        Ok(Ok(())) => "the source of Services ended".to_owned(),
        Ok(Err(error)) => format!("the source of Services failed: {error:#}"),
        Err(error) => format!("the source of Services failed: {error}"),
    }
}

fn check_machine(options: &AgentOptions) -> Result<()> {
    let missing: Vec<String> = preflight(options.pins.root())
        .into_iter()
        .filter(|finding| finding.level == Level::Missing)
        .map(|finding| format!("  {}: {}. {}", finding.subject, finding.found, finding.remedy))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine can't run the datapath:\n{}\nSee also: sluice doctor",
        missing.join("\n")
    )
}

impl Agent {
    fn start(options: AgentOptions) -> Result<(Self, Servers, mpsc::Receiver<Said>)> {
        let adopting = options.pins.exist();
        let load = LoadOptions {
            maps: Some(options.pins.maps()),
            flows_max: options.flows_max,
            ways_max: match options.xdp {
                XdpPolicy::Off => FLOWS_MIN,
                _ => (options.flows_max / 2).max(FLOWS_MIN),
            },
            later: match options.xdp {
                XdpPolicy::Off => RARE_PROGRAMS_WITHOUT_XDP,
                _ => RARE_PROGRAMS,
            },
        };
        let began = Instant::now();
        let mut datapath = Datapath::load(&load)?;
        let mut take = |name: &str| datapath.take_map(name);
        let v4 = KernelTables::<V4>::open(&mut take)?;
        let v6 = KernelTables::<V6>::open(&mut take)?;
        let flows4 = FlowTable::<V4>::open(take(names::CT4_FLOWS)?)?;
        let flows6 = FlowTable::<V6>::open(take(names::CT6_FLOWS)?)?;
        let node4 = NodeTable::open(take(names::LB4_NODE)?)?;
        let node6 = NodeTable::open(take(names::LB6_NODE)?)?;
        let peers4 = PeerTable::open(take(names::LB4_PEERS)?)?;
        let peers6 = PeerTable::open(take(names::LB6_PEERS)?)?;
        let device_table = DeviceTable::open(names::DEVICES, take(names::DEVICES)?)?;
        let vlan_table = VlanTable::open(names::VLANS, take(names::VLANS)?)?;
        let socket_table = SocketTable::open(&mut take)?;
        let closer = SocketCloser::start(socket_table.storage()?)?;
        let routes = RoutesTable::open(take(names::ROUTES)?)?;
        let defers = DefersTable::open(take(names::DEFERS)?)?;
        let (deferring, netfilter_said) = Deferring::start(defers, options.shadow)?;
        let stats = Stats::open(&mut take)?;
        if adopting && flows4.capacity != options.flows_max {
            warn!(
                found = flows4.capacity,
                wanted = options.flows_max,
                "the flow tables of the running datapath have another size; they stay as they are so that no flow is lost"
            );
        }
        let node = NodeView {
            bind_address: options.node.bind_address,
            resets_removed: options.node.resets_removed,
            dsr_protocols: options.node.dsr_protocols.clone(),
            ..NodeView::named(&options.node_name)
        };
        let mut reconciler = Reconciler::adopt(node, v4, v6, true)?;
        if matches!(options.origin, Origin::Manifests(_)) {
            // Until files say otherwise there are none; they are told before anything is planned.
            reconciler.apply([Change::OtherNodes(Arc::default())]);
        }
        let (fill4, fill6) = reconciler.fill();
        info!(
            adopted = adopting,
            services = fill4.services + fill6.services,
            took_ms = began.elapsed().as_millis(),
            "datapath loaded"
        );
        let state = State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_s: unix_now_s(),
            // What an earlier agent has changed is still to be put back one day.
            settings_changed: State::read(&options.run_dir)
                .ok()
                .flatten()
                .unwrap_or_default()
                .settings_changed,
            ..State::default()
        };
        let attachments = Attachments::new(options.pins.links());
        let unknown_node = match options.origin {
            Origin::Kubernetes(_) => UnknownNode::NotEligible,
            Origin::Manifests(_) => UnknownNode::Eligible,
        };
        let event_counts = Arc::new(EventCounts::default());
        let announcer = Announcer::start(&options, event_counts.clone());
        let (observer, servers) = Observer::start(&options.observe, unknown_node, stats, event_counts);
        let agent = Self {
            options,
            datapath,
            attachments,
            reconciler,
            flows4,
            flows6,
            node4,
            node6,
            record4: Node::default(),
            record6: Node::default(),
            peers4,
            peers6,
            device_table,
            vlan_table,
            socket_table,
            routes,
            deferring,
            routes_problem: None,
            node_is_refused: false,
            devices: Devices::new(),
            xdp_attached_at: None,
            removed: RemovedEndpoints::default(),
            wants_other_nodes: watch::channel(false).0,
            closer,
            observer,
            pass: truth::Pass::default(),
            announcer,
            state,
            state_is_old: true,
            devices_followed: false,
        };
        Ok((agent, servers, netfilter_said))
    }

    fn apply(&mut self, batch: &mut Vec<Change>) {
        let count = batch.len();
        let was_ready = self.reconciler.is_ready();
        let about_node = batch.iter().any(|change| {
            matches!(
                change,
                Change::Node(_) | Change::OtherNodes(_) | Change::ServiceCidrs(_)
            )
        });
        let store = self.reconciler.store();
        let zone_before = store.node().zone.clone();
        let touched = self.observer.changes_come(store, batch, was_ready);
        let began = Instant::now();
        let planned = self.reconciler.apply(batch.drain(..));
        let took = began.elapsed();
        let asks_for_dsr = self.reconciler.store().asks_for_dsr();
        self.wants_other_nodes
            .send_if_modified(|wants| asks_for_dsr && !std::mem::replace(wants, true));
        if about_node || self.reconciler.is_ready() != was_ready {
            self.follow_node();
        }
        if self.reconciler.is_ready() {
            let all = !was_ready || self.reconciler.store().node().zone != zone_before;
            let kind = if all { SyncKind::Full } else { SyncKind::Partial };
            let touched = if was_ready { touched } else { [true; 2] };
            self.observer.changes_are_in(&self.reconciler, touched, kind, took);
        }
        self.removed.note(&mut self.reconciler);
        self.state.changes_total += count as u64;
        if planned > 0 || self.reconciler.is_ready() != was_ready {
            self.state.last_sync_s = unix_now_s();
            self.state.last_sync_us = took.as_micros() as u64;
            debug!(
                changes = count,
                services = planned,
                took_us = took.as_micros(),
                "brought into the tables"
            );
        }
        if self.reconciler.is_ready() && !was_ready {
            info!(
                services = planned,
                took_ms = took.as_millis(),
                "ready: everything that was there at the start is in the tables"
            );
            self.follow_sockets();
            self.state_is_old = true;
            self.write_state();
        }
        self.state_is_old = true;
    }

    fn retry(&mut self) {
        let pending = self.reconciler.collect();
        if self.reconciler.is_ready() && !pending && !self.reconciler.is_settled() {
            let began = Instant::now();
            self.reconciler.retry();
            self.observer
                .changes_are_in(&self.reconciler, [false; 2], SyncKind::Partial, began.elapsed());
            self.removed.note(&mut self.reconciler);
            self.state_is_old = true;
        }
        if self.node_is_refused {
            self.follow_node();
        }
        let gone = self
            .removed
            .hang_up(&self.reconciler, &mut self.flows4, &mut self.flows6);
        self.closer.close(gone);
    }

    fn sweep(&mut self) {
        let now = now_ns();
        let (v4, v6) = match (sweep(&mut self.flows4, now), sweep(&mut self.flows6, now)) {
            (Ok(v4), Ok(v6)) => (v4, v6),
            (Err(error), _) | (_, Err(error)) => return error!(%error, "flows that are over could not be ended"),
        };
        self.state.flow_entries = [
            v4.entries - v4.ended.min(v4.entries),
            v6.entries - v6.ended.min(v6.entries),
        ];
        self.state.flows_ended_total += (v4.ended + v6.ended) as u64;
        self.follow_netfilter(v4.deferred + v6.deferred);
        self.state.source_ports_used_max = v4.source_ports_max.max(v6.source_ports_max);
        self.observer.swept(v4, v6);
        self.state_is_old = true;
    }

    /// Brings health ports up to date, and what is wrong with them and the other servers.
    async fn follow_health(&mut self) {
        if self.reconciler.is_ready() && self.devices_followed {
            let node_ports = &self.options.node.node_ports;
            self.observer
                .follow_ports(self.reconciler.store(), &self.devices, node_ports)
                .await;
        }
        let (problems, open) = (self.observer.problems(), self.observer.open_ports());
        if problems != self.state.health_problems || open != self.state.health_ports {
            self.state.health_problems = problems;
            self.state.health_ports = open;
            self.state_is_old = true;
        }
    }

    /// Tells by Events what is wrong.
    fn announce(&mut self) {
        if !self.announcer.is_heard() {
            return;
        }
        let of_source = self.announcer.of_source.clone();
        let node_name = &self.options.node_name;
        let kube_proxy_serves = !self.deferring.is_serving();
        let present = announce::present(
            &of_source,
            &self.reconciler,
            &self.observer,
            node_name,
            kube_proxy_serves,
        );
        self.announcer.tell(present);
    }

    fn snapshot(&self) -> Snapshot {
        let flow_places = [self.flows4.capacity, self.flows6.capacity];
        let peers = [self.peers4.len(), self.peers6.len()];
        Snapshot {
            drift: self
                .pass
                .by_table
                .iter()
                .map(|(table, count)| (*table, *count))
                .collect(),
            tables_checked_s: self.state.truth.checked_s,
            netfilter_connections: self.state.netfilter.flows as u64,
            ..self.observer.snapshot(&self.reconciler, flow_places, peers)
        }
    }

    fn note_source(&mut self, status: &SourceStatus) {
        self.state.source = status.origin.to_string();
        self.observer.source_away(status.away_since);
        self.state.source_away_since_s = status.away_since.map_or(0, unix_s);
        self.announcer.of_source = status.problems.clone();
        self.state.source_problems = status.problems.iter().map(ToString::to_string).collect();
        self.state_is_old = true;
    }

    /// Writes the state if it has changed since the last time.
    fn write_state(&mut self) {
        if !std::mem::take(&mut self.state_is_old) {
            return;
        }
        self.state.ready = self.reconciler.is_ready() && self.devices_followed;
        if self.state.ready {
            self.observer.programmed();
        }
        self.state.services = self.reconciler.store().services().count();
        self.state.left_out = self.reconciler.left_out().map(ToString::to_string).collect();
        self.state.port_problems = self
            .reconciler
            .problems()
            .map(|problem| format!("{}: {}", problem.port, problem.reason))
            .collect();
        if let Err(error) = self.state.write(&self.options.run_dir) {
            error!(%error, folder = %self.options.run_dir.display(), "the state file could not be written; `sluice status` shows an old one");
        }
    }
}
