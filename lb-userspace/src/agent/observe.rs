//! What the agent tells those who watch it: probes and load balancers (`health`), Prometheus (`metrics`).
//!
//! Here: the servers' start, when a change counts as queued and when as synced, and what is read from the tables when somebody
//! scrapes. Not here: what is answered, and the names of metrics.
//!
//! A family counts as synced when the kernel has taken all that it was told. A port that does not fit, or whose address another
//! Service has, is in `sluice status`, but makes no node unhealthy: to start the agent anew would not help it.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::{Counter, DropReason, V4, V6, limits};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::warn;

use super::KernelReconciler;
use crate::{
    conntrack::{FlowCounts, Swept},
    health::{Health, HealthPortServers, ListenOn, Moment, ProbeCounts, UnknownNode, health_ports, serve_probes},
    http::ListenError,
    metrics::{
        BackendReading, MetricsServer, PortReading, Recorder, SERIES_MAX, ScrapeRequest, Snapshot, SourcePorts,
        SyncKind, TableReading, no_local_endpoints,
    },
    model::{Change, Family, NodeView, Problem, Store},
    plan::NodePortAddresses,
    reconcile::{Fill, Publisher},
    source::{
        devices::Devices,
        kubernetes::{EventCounts, Notice, Reason},
    },
    tables::{KernelTables, Stats, TableFamily, Tables as _},
};

/// A change that is not in the tables after twice this time makes the proxy unhealthy (kube-proxy's `syncPeriod`).
const SYNC_PERIOD: Duration = Duration::from_secs(30);
/// How often health ports that could not be opened are tried again.
const PORTS_EVERY: Duration = Duration::from_secs(5);

/// Where the agent is asked how it goes.
#[derive(Clone, Debug, Default)]
pub struct ObserveOptions {
    /// Where `/healthz` and `/livez` are answered; nowhere if nothing is said.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is answered.
    pub metrics: Option<SocketAddr>,
    /// An address that cannot be listened on ends the agent.
    pub hard_fail: bool,
}

/// The servers, and what they ask.
pub(super) struct Servers {
    /// Scrapes to be answered.
    pub scrapes: mpsc::Receiver<ScrapeRequest>,
    /// They end only where an address cannot be listened on and that is an error.
    pub tasks: JoinSet<Result<Infallible, (Reason, ListenError)>>,
}

/// What is recorded and told.
pub(super) struct Observer {
    health: watch::Sender<Health>,
    recorder: Recorder,
    ports: HealthPortServers,
    ports_seen: Option<Instant>,
    /// What stands in the way of a server, and what that is called.
    problems: Vec<(Reason, watch::Receiver<Option<String>>)>,
    stats: Stats,
    /// Whether all of a family was in the tables at the last look; IPv4, IPv6.
    written: [bool; 2],
    /// What the last sweep has found; IPv4, IPv6.
    swept: [Swept; 2],
}

const fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Observer {
    /// Starts the servers. Needs a tokio runtime.
    pub(super) fn start(
        options: &ObserveOptions,
        unknown: UnknownNode,
        stats: Stats,
        events: Arc<EventCounts>,
    ) -> (Self, Servers) {
        let (health, seen) = watch::channel(Health::new(SYNC_PERIOD, unknown));
        let counts = Arc::new(ProbeCounts::default());
        let (recorder, registry) = Recorder::new(SystemTime::now(), counts.clone(), events);
        let mut tasks = JoinSet::new();
        let mut problems = Vec::new();
        if let Some(address) = options.healthz {
            let reason = Reason::FailedToStartProxierHealthcheck;
            let (problem, seen_problem) = watch::channel(None);
            problems.push((reason, seen_problem));
            let served = serve_probes(address, options.hard_fail, seen.clone(), counts, problem);
            tasks.spawn(async move { served.await.map_err(|error| (reason, error)) });
        }
        let (ask, scrapes) = mpsc::channel(1);
        if let Some(address) = options.metrics {
            let reason = Reason::FailedToStartMetricServer;
            let (problem, seen_problem) = watch::channel(None);
            problems.push((reason, seen_problem));
            let server = MetricsServer {
                address,
                hard_fail: options.hard_fail,
                registry,
                scrapes: ask,
                series_max: SERIES_MAX,
            };
            tasks.spawn(async move { server.run(problem).await.map_err(|error| (reason, error)) });
        }
        let observer = Self {
            health,
            recorder,
            ports: HealthPortServers::new(seen),
            ports_seen: None,
            problems,
            stats,
            written: [true; 2],
            swept: Default::default(),
        };
        (observer, Servers { scrapes, tasks })
    }

    /// Changes came and are about to be applied. Says which families they are of.
    pub(super) fn changes_come(&mut self, store: &Store, changes: &[Change], is_ready: bool) -> [bool; 2] {
        self.recorder.changes_came(store, changes, SystemTime::now());
        let mut touched = [false; 2];
        for family in changes.iter().flat_map(Change::families) {
            touched[place(*family)] = true;
        }
        if is_ready {
            let now = Instant::now();
            let families = Family::BOTH.into_iter().filter(|family| touched[place(*family)]);
            self.health
                .send_modify(|health| families.for_each(|family| health.queued(family, now)));
        }
        touched
    }

    /// Changes of these families were applied, or what had failed was tried again.
    pub(super) fn changes_are_in(
        &mut self,
        reconciler: &KernelReconciler,
        touched: [bool; 2],
        kind: SyncKind,
        took: Duration,
    ) {
        let now = Moment::now();
        for family in Family::BOTH {
            let written = reconciler.is_written(family);
            let before = std::mem::replace(&mut self.written[place(family)], written);
            match (touched[place(family)], written, before) {
                (true, true, _) | (false, true, false) => {
                    self.recorder.synced(family, kind, took, now.wall);
                    self.health.send_modify(|health| health.synced(family, now));
                }
                (true, false, _) => self.recorder.sync_ended(family, kind, took),
                (false, ..) => {}
            }
        }
        if self.written == [true; 2] {
            self.recorder.settled();
        }
        self.health
            .send_modify(|health| health.see_node(reconciler.store().node()));
        self.ports_seen = None;
    }

    /// Since when the source has not been heard of, if it should be.
    pub(super) fn source_away(&mut self, since: Option<std::time::SystemTime>) {
        self.recorder.source_away(since);
    }

    /// Whether the tables hold what they should, and take what is written.
    pub(super) fn tables_are(&self, right: bool) {
        self.health.send_if_modified(|health| health.tables_are(right));
    }

    /// Everything that was there at the start is in force.
    pub(super) fn programmed(&self) {
        self.health.send_if_modified(crate::health::Health::programmed);
    }

    /// Opens and closes health ports, if something has changed or it is time to try again.
    pub(super) async fn follow_ports(&mut self, store: &Store, devices: &Devices, node_ports: &NodePortAddresses) {
        if self.ports_seen.is_some_and(|seen| seen.elapsed() < PORTS_EVERY) {
            return;
        }
        let listen_on = listen_on(devices, node_ports, store.node());
        self.ports.update(&health_ports(store), &listen_on).await;
        self.ports_seen = Some(Instant::now());
    }

    /// Addresses that cannot be listened on.
    pub(super) fn problems(&self) -> Vec<String> {
        let servers = self.problems.iter().filter_map(|(_, problem)| problem.borrow().clone());
        servers.chain(self.ports.problems().map(ToString::to_string)).collect()
    }

    /// The same of the servers of this node, to be told.
    pub(super) fn server_notices(&self) -> impl Iterator<Item = Notice> {
        self.problems.iter().filter_map(|(reason, problem)| {
            let problem = problem.borrow().clone()?;
            Some(Notice::of_node(*reason, problem))
        })
    }

    /// Services whose health port cannot be served.
    pub(super) fn port_problems(&self) -> impl Iterator<Item = &Problem> {
        self.ports.problems()
    }

    /// How many Services have an open health port.
    pub(super) fn open_ports(&self) -> usize {
        self.ports.len()
    }

    /// What the sweep of both families has found.
    pub(super) fn swept(&mut self, v4: Swept, v6: Swept) {
        self.swept = [v4, v6];
    }

    /// What is, for somebody who scrapes.
    pub(super) fn snapshot(&self, reconciler: &KernelReconciler, flow_places: [u32; 2], peers: [usize; 2]) -> Snapshot {
        let mut snapshot = Snapshot {
            no_local_endpoints: no_local_endpoints(reconciler.store()),
            ..Snapshot::default()
        };
        for reason in DropReason::ALL {
            match self.stats.drops(reason) {
                Ok(count) => snapshot.drops.push((reason, count)),
                Err(error) => warn!(error = format!("{error:#}"), "left out of the metrics"),
            }
        }
        for counter in Counter::ALL {
            match self.stats.counter(counter) {
                Ok(count) => snapshot.events.push((counter, count)),
                Err(error) => warn!(error = format!("{error:#}"), "left out of the metrics"),
            }
        }
        let [swept4, swept6] = &self.swept;
        let [places4, places6] = flow_places;
        let (v4, v6) = (reconciler.v4(), reconciler.v6());
        let (fill4, fill6) = reconciler.fill();
        tables(v4, fill4, swept4, places4, &mut snapshot.tables);
        tables(v6, fill6, swept6, places6, &mut snapshot.tables);
        for (table, used) in [(V4::PEERS, peers[0]), (V6::PEERS, peers[1])] {
            let places = limits::PEERS_MAX.into();
            snapshot.tables.push(TableReading {
                table,
                used: used as u64,
                places,
            });
        }
        read(v4, &swept4.flows, &mut snapshot);
        read(v6, &swept6.flows, &mut snapshot);
        for (family, swept) in [(Family::V4, swept4), (Family::V6, swept6)] {
            let used_max = swept.source_ports_max as u64;
            snapshot.source_ports.push(SourcePorts {
                family,
                used_max,
                free_min: u64::from(limits::SOURCE_PORTS).saturating_sub(used_max),
            });
        }
        snapshot
    }
}

/// How full the tables of a family are.
fn tables<F: TableFamily>(
    publisher: &Publisher<F, KernelTables<F>>,
    fill: Fill,
    swept: &Swept,
    flow_places: u32,
    into: &mut Vec<TableReading>,
) {
    let capacity = publisher.tables().capacity();
    let flows = swept.entries.saturating_sub(swept.ended);
    let mut say = |table, used, places: u32| {
        into.push(TableReading {
            table,
            used,
            places: places.into(),
        });
    };
    say(F::ADDRESSES, fill.addresses as u64, limits::ADDRESSES_MAX);
    say(F::FRONTENDS, fill.frontends as u64, limits::FRONTENDS_MAX);
    say(F::SERVICES, fill.services.into(), capacity.services);
    say(F::SLOTS, fill.slots.into(), capacity.slots);
    say(F::MAGLEV, fill.chunks.into(), capacity.chunks);
    say(F::BACKENDS, fill.backends.into(), capacity.backends.saturating_sub(1));
    say(F::SOURCES, fill.sources as u64, limits::SOURCES_MAX);
    say(F::FLOWS, flows as u64, flow_places);
}

/// Connections and flows of Service ports and backends.
fn read<F: TableFamily>(publisher: &Publisher<F, KernelTables<F>>, flows: &FlowCounts, into: &mut Snapshot) {
    let tables = publisher.tables();
    let of = |counts: &HashMap<u32, u64>, number: u32| counts.get(&number).copied().unwrap_or(0);
    into.ports.extend(publisher.numbers().map(|(number, port)| PortReading {
        port: port.clone(),
        connections: tables.service_counts(number).opened,
        flows: of(&flows.services, number),
    }));
    into.backends
        .extend(publisher.backends().map(|(number, port, record)| BackendReading {
            port: port.clone(),
            backend: SocketAddr::new(F::to_ip(record.address), record.port.get()),
            connections: tables.backend_counts(number),
            flows: of(&flows.backends, number),
        }));
}

/// Where health ports are open: where NodePorts are (behaviour reference §2.6, §6.2). NodePorts on loopback alone are for this
/// node's own processes; a health port there would tell no load balancer anything.
fn listen_on(devices: &Devices, node_ports: &NodePortAddresses, node: &NodeView) -> ListenOn {
    if Family::BOTH
        .into_iter()
        .all(|family| node_ports.match_all(family, node))
    {
        return ListenOn::EveryAddress;
    }
    let served = |address: &IpAddr| !address.is_loopback() && node_ports.serve_on(*address, node);
    let all = devices.values().flat_map(|device| &device.addresses).copied();
    let addresses: BTreeSet<IpAddr> = all.filter(served).collect();
    let mut loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].into_iter();
    if addresses.is_empty() && loopback.any(|address| node_ports.serve_on(address, node)) {
        return ListenOn::EveryAddress;
    }
    ListenOn::Addresses(addresses)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::source::devices::Device;

    #[rstest]
    #[case::by_default("", &[])]
    #[case::row_122_localhost_only("localhost", &[])]
    #[case::one_range("192.168.0.0/24,::1/128", &["192.168.0.2"])]
    #[case::the_other_family_is_served_everywhere("192.168.0.0/24", &["192.168.0.2", "2001:db8::2"])]
    #[case::beside_localhost("localhost,100.64.0.0/10", &["100.64.0.1"])]
    fn health_ports_are_open_where_node_ports_are(#[case] list: &str, #[case] expected: &[&str]) {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let device = Device {
            ifindex: 2,
            name: "eth0".to_owned(),
            has_default_route: true,
            addresses: ["127.0.0.1", "192.168.0.2", "100.64.0.1", "2001:db8::2"]
                .map(address)
                .into(),
            ..Device::default()
        };
        let node_ports = list.parse().expect("a list");
        let found = listen_on(&Devices::from([(2, device)]), &node_ports, &NodeView::named("here"));
        let expected = match expected {
            [] => ListenOn::EveryAddress,
            texts => ListenOn::Addresses(texts.iter().map(|text| address(text)).collect()),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_list_that_selects_no_address_opens_none() {
        let node_ports = "192.168.7.0/24,2001:db8:7::/64".parse().expect("a list");
        let found = listen_on(&Devices::new(), &node_ports, &NodeView::named("here"));
        assert_eq!(found, ListenOn::Addresses(BTreeSet::new()));
    }
}
