//! Metrics of what happens: changes, syncs, latencies, under kube-proxy's names (behaviour reference §6.4).
//!
//! Names are registered without `_total`, which the encoding adds to counters. Not here: values that are read when
//! somebody scrapes (`exposition`), answers to probes (counted by `health`, shown here), Kubernetes Events (counted by
//! the source). Owned by the agent's loop.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::latency::ProgrammingLatency;
use crate::health::{Page, ProbeCounts};
use crate::model::{Change, Family, Store};
use crate::source::kubernetes::EventCounts;

/// How much of the tables a sync looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// All of it: the first one, one for another zone.
    Full,
    /// What changed, or what failed before.
    Partial,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFamily {
    ip_family: &'static str,
}

impl From<Family> for ByFamily {
    fn from(family: Family) -> Self {
        Self {
            ip_family: family.api_name(),
        }
    }
}

type Histograms = Labelled<ByFamily, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// Records what happens.
#[derive(Debug)]
pub struct Recorder {
    latency: ProgrammingLatency,
    syncs: Histograms,
    full_syncs: Histograms,
    partial_syncs: Histograms,
    programming: Histograms,
    last_sync: Labelled<ByFamily, Seconds>,
    last_queued: Labelled<ByFamily, Seconds>,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
    service_changes: Counter,
    service_changes_pending: Gauge,
    source_away_since: Seconds,
}

impl Recorder {
    /// A recorder and the registry that the server writes out. `started` is when the process began.
    pub fn new(started: SystemTime, probes: Arc<ProbeCounts>, events: Arc<EventCounts>) -> (Self, Registry) {
        let recorder = Self {
            latency: ProgrammingLatency::since(started),
            syncs: by_family(Labelled::new_with_constructor(sync_histogram)),
            full_syncs: by_family(Labelled::new_with_constructor(sync_histogram)),
            partial_syncs: by_family(Labelled::new_with_constructor(sync_histogram)),
            programming: by_family(Labelled::new_with_constructor(programming_histogram)),
            last_sync: by_family(Labelled::default()),
            last_queued: by_family(Labelled::default()),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            source_away_since: Seconds::default(),
        };
        let registry = recorder.registry(started, probes, events);
        (recorder, registry)
    }

    fn registry(&self, started: SystemTime, probes: Arc<ProbeCounts>, events: Arc<EventCounts>) -> Registry {
        let mut registry = Registry::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("sluice_build", "The agent's version; the value is always 1", version);
        let start = Seconds::default();
        start.set(unix(started));
        let help = "When the agent was started, in unix time";
        registry.register("process_start_time_seconds", help, start);

        let help = "How long it takes to bring changes into the tables";
        registry.register("kubeproxy_sync_proxy_rules_duration_seconds", help, self.syncs.clone());
        let help = "The same, where all Services were looked at: at the start, for another zone";
        registry.register(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            help,
            self.full_syncs.clone(),
        );
        let help = "The same, where only changed Services were looked at";
        registry.register(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            help,
            self.partial_syncs.clone(),
        );
        let help = "From the change of a pod or Service, as its EndpointSlice says, until it is in the tables";
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            help,
            self.programming.clone(),
        );
        let help = "When the tables last said all that was known, in unix time";
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            help,
            self.last_sync.clone(),
        );
        let help = "When a change last came, in unix time";
        registry.register(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            help,
            self.last_queued.clone(),
        );
        let help = "Changes of EndpointSlices that are not in the tables yet";
        registry.register(
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            help,
            self.endpoint_changes_pending.clone(),
        );
        let help = "Changes of EndpointSlices that came";
        registry.register(
            "kubeproxy_sync_proxy_rules_endpoint_changes",
            help,
            self.endpoint_changes.clone(),
        );
        let help = "Changes of Services that are not in the tables yet";
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            help,
            self.service_changes_pending.clone(),
        );
        let help = "Changes of Services that came";
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes",
            help,
            self.service_changes.clone(),
        );
        let help = "Since when the API server has not been heard of, in unix time; 0 if it is";
        registry.register(
            "sluice_source_away_since_timestamp_seconds",
            help,
            self.source_away_since.clone(),
        );
        registry.register_collector(Box::new(Probes(probes)));
        registry.register_collector(Box::new(Events(events)));
        registry
    }

    /// Changes came and are to be applied; `store` does not know them yet.
    pub fn changes_came(&mut self, store: &Store, changes: &[Change], now: SystemTime) {
        for change in changes {
            match change {
                Change::ServiceApply(_) | Change::ServiceDelete(_) => {
                    self.service_changes.inc();
                    self.service_changes_pending.inc();
                }
                Change::SliceApply(_) | Change::SliceDelete(_) => {
                    self.endpoint_changes.inc();
                    self.endpoint_changes_pending.inc();
                }
                Change::Node(_) | Change::OtherNodes(_) | Change::ServiceCidrs(_) | Change::Synced(_) => {}
            }
            for family in change.families() {
                self.last_queued.get_or_create(&(*family).into()).set(unix(now));
            }
            self.latency.note(store, change);
        }
    }

    /// A sync of one family ended, with everything that is known in the tables.
    pub fn synced(&mut self, family: Family, kind: SyncKind, took: Duration, now: SystemTime) {
        self.sync_ended(family, kind, took);
        self.last_sync.get_or_create(&family.into()).set(unix(now));
        let programming = self.programming.get_or_create(&family.into());
        for took in self.latency.synced(family, now) {
            programming.observe(took.as_secs_f64());
        }
    }

    /// A sync of one family ended, but not everything is in the tables.
    pub fn sync_ended(&mut self, family: Family, kind: SyncKind, took: Duration) {
        let by_kind = match kind {
            SyncKind::Full => &self.full_syncs,
            SyncKind::Partial => &self.partial_syncs,
        };
        for histograms in [&self.syncs, by_kind] {
            histograms.get_or_create(&family.into()).observe(took.as_secs_f64());
        }
    }

    /// Since when the source has not been heard of, if it should be.
    pub fn source_away(&mut self, since: Option<SystemTime>) {
        self.source_away_since.set(since.map_or(0.0, unix));
    }

    /// Everything that came is in the tables of both families.
    pub fn settled(&mut self) {
        self.service_changes_pending.set(0);
        self.endpoint_changes_pending.set(0);
    }
}

/// Both families are there from the start, so that a rate has a first value.
fn by_family<M: TypedMetric, C: prometheus_client::metrics::family::MetricConstructor<M>>(
    labelled: Labelled<ByFamily, M, C>,
) -> Labelled<ByFamily, M, C> {
    for family in Family::BOTH {
        drop(labelled.get_or_create(&family.into()));
    }
    labelled
}

/// From 1 ms on, each bucket twice as wide as the one before, 15 in all.
fn sync_histogram() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
        0.001, 2.0, 15,
    ))
}

/// kube-proxy's buckets: 0.25 s, 0.5 s, every second to 59 s, every 5 s to 115 s, every 30 s to 300 s.
fn programming_histogram() -> Histogram {
    let whole = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    Histogram::new([0.25, 0.5].into_iter().chain(whole.map(f64::from)))
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// How often the pages of `health` were answered with what.
#[derive(Debug)]
struct Probes(Arc<ProbeCounts>);

impl Collector for Probes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pages = [
            ("kubeproxy_proxy_healthz", "Answers of /healthz.", Page::Healthz),
            ("kubeproxy_proxy_livez", "Answers of /livez.", Page::Livez),
        ];
        for (name, help, page) in pages {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for code in ProbeCounts::CODES {
                let labels = [("code", code.to_string())];
                ConstCounter::new(self.0.get(page, code)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// What became of Kubernetes Events.
#[derive(Debug)]
struct Events(Arc<EventCounts>);

impl Collector for Events {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Kubernetes Events, by what became of them.";
        let mut metric = encoder.encode_descriptor("sluice_kubernetes_events", help, None, MetricType::Counter)?;
        for (outcome, count) in [("written", self.0.written()), ("lost", self.0.lost())] {
            let labels = [("outcome", outcome)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
