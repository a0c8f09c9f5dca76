//! A snapshot becomes text: names, labels, and the limit on how many series there are.
//!
//! The classic text format (0.0.4) is what every scraper reads. Here: Sluice's own metrics and those of kube-proxy's that
//! are read at the moment of a scrape. Pure. Called by `server`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::snapshot::{BackendReading, PortReading, Snapshot};
use crate::model::Family;
use crate::plan::PortId;

/// Series of single Services and backends that are shown when nothing else is asked for.
pub const SERIES_MAX: usize = 10_000;

/// What stands for all that is not shown singly. No object can have this name.
const OTHER: &str = "_other";
/// Each Service port and each backend has two series: connections and flows.
const SERIES_EACH: usize = 2;

/// Everything as text: what was recorded, then what is. Of Service ports and backends at most `series_max` series are
/// shown, Service ports first, by name; the rest is summed up.
pub fn write(recorded: &Registry, snapshot: Snapshot, series_max: usize) -> String {
    let mut text = String::new();
    let mut now = Registry::default();
    now.register_collector(Box::new(Readings::of(snapshot, series_max)));
    for registry in [recorded, &now] {
        // Writing to a string does not fail.
        let _ = prometheus_text::encode(&mut text, registry);
    }
    text
}

/// Connections and flows.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    connections: u64,
    flows: u64,
}

/// What is hidden of one family.
#[derive(Clone, Copy, Debug, Default)]
struct Hidden {
    count: usize,
    load: Load,
}

impl Hidden {
    fn add(&mut self, load: Load) {
        self.count += 1;
        self.load.connections += load.connections;
        self.load.flows += load.flows;
    }
}

/// A snapshot cut to the limit.
#[derive(Debug)]
struct Readings {
    snapshot: Snapshot,
    /// IPv4, IPv6.
    hidden_ports: [Hidden; 2],
    hidden_backends: [Hidden; 2],
}

impl Readings {
    fn of(mut snapshot: Snapshot, series_max: usize) -> Self {
        let mut left = series_max / SERIES_EACH;
        snapshot.ports.sort_by(|a, b| a.port.cmp(&b.port));
        snapshot
            .backends
            .sort_by(|a, b| (&a.port, a.backend).cmp(&(&b.port, b.backend)));
        let (mut hidden_ports, mut hidden_backends) = <([Hidden; 2], [Hidden; 2])>::default();
        for reading in cut(&mut snapshot.ports, &mut left) {
            hidden_ports[place(reading.port.family)].add(port_load(&reading));
        }
        for reading in cut(&mut snapshot.backends, &mut left) {
            hidden_backends[place(reading.port.family)].add(backend_load(&reading));
        }
        Self {
            snapshot,
            hidden_ports,
            hidden_backends,
        }
    }

    fn series_hidden(&self) -> usize {
        let hidden = self.hidden_ports.iter().chain(&self.hidden_backends);
        hidden.map(|hidden| hidden.count * SERIES_EACH).sum()
    }
}

/// Takes as many as are left, and gives back the others.
fn cut<T>(readings: &mut Vec<T>, left: &mut usize) -> Vec<T> {
    let shown = readings.len().min(*left);
    *left -= shown;
    readings.split_off(shown)
}

fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn port_load(reading: &PortReading) -> Load {
    Load {
        connections: reading.connections,
        flows: reading.flows,
    }
}

fn backend_load(reading: &BackendReading) -> Load {
    Load {
        connections: reading.connections,
        flows: reading.flows,
    }
}

type Labels<const N: usize> = [(&'static str, String); N];

fn port_labels(port: &PortId) -> Labels<5> {
    [
        ("namespace", port.service.namespace().to_owned()),
        ("service", port.service.name().to_owned()),
        ("port", port.port_name.to_string()),
        ("protocol", port.protocol.to_string()),
        ("ip_family", port.family.api_name().to_owned()),
    ]
}

fn other_labels(family: Family) -> Labels<5> {
    let other = |name| (name, OTHER.to_owned());
    [
        other("namespace"),
        other("service"),
        other("port"),
        other("protocol"),
        ("ip_family", family.api_name().to_owned()),
    ]
}

fn with_backend(port: Labels<5>, backend: String) -> Labels<6> {
    let [namespace, service, name, protocol, family] = port;
    [namespace, service, name, protocol, family, ("backend", backend)]
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let drops = self.snapshot.drops.iter();
        let drops = drops.map(|(reason, count)| ([("reason", reason.name())], *count));
        counter(encoder, "sluice_drops", "Packets that were dropped, by reason.", drops)?;
        let events = self.snapshot.events.iter();
        let events = events.map(|(event, count)| ([("event", event.name())], *count));
        counter(encoder, "sluice_events", "What else the datapath counts.", events)?;
        let tables = || self.snapshot.tables.iter();
        let used = tables().map(|table| ([("table", table.table)], table.used));
        gauge(encoder, "sluice_table_entries", "Entries in a table.", used)?;
        let places = tables().map(|table| ([("table", table.table)], table.places));
        gauge(
            encoder,
            "sluice_table_capacity",
            "Entries that fit into a table.",
            places,
        )?;
        let drift = self.snapshot.drift.iter();
        let drift = drift.map(|(table, count)| ([("table", *table)], *count));
        let help = "Entries that were not as they should be, and were put right, by table; programs taken off devices count, too.";
        counter(encoder, "sluice_drift", help, drift)?;
        let help =
            "When all tables had last been compared with what they should hold, in unix time; 0 if they have not yet.";
        let unlabelled: [(&str, &str); 0] = [];
        let checked = [(unlabelled, self.snapshot.tables_checked_s)];
        gauge(encoder, "sluice_tables_checked_timestamp_seconds", help, checked)?;
        self.encode_ports(encoder)?;
        self.encode_backends(encoder)?;
        let help = "Series of single Services and backends that are not shown but summed up.";
        let no_labels: [(&str, &str); 0] = [];
        let hidden = [(no_labels, self.series_hidden() as u64)];
        gauge(encoder, "sluice_metrics_series_dropped", help, hidden)?;
        let help = "Connections of Services that go on with netfilter until they end.";
        let connections = [(no_labels, self.snapshot.netfilter_connections)];
        gauge(encoder, "sluice_netfilter_connections", help, connections)?;
        self.encode_source_ports(encoder)?;
        self.encode_no_local(encoder)
    }
}

impl Readings {
    fn encode_ports(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = |value: fn(Load) -> u64| {
            let shown = self.snapshot.ports.iter();
            let shown = shown.map(move |reading| (port_labels(&reading.port), value(port_load(reading))));
            let hidden = Family::BOTH.into_iter().zip(&self.hidden_ports);
            let hidden = hidden.filter(|(_, hidden)| hidden.count > 0);
            shown.chain(hidden.map(move |(family, hidden)| (other_labels(family), value(hidden.load))))
        };
        let help = "Connections of a Service port that were given a backend.";
        let name = "sluice_service_connections";
        counter(encoder, name, help, series(|load| load.connections))?;
        let help = "Flows of a Service port that are tracked now.";
        gauge(encoder, "sluice_service_flows", help, series(|load| load.flows))
    }

    fn encode_backends(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = |value: fn(Load) -> u64| {
            let shown = self.snapshot.backends.iter().map(move |reading| {
                let labels = with_backend(port_labels(&reading.port), reading.backend.to_string());
                (labels, value(backend_load(reading)))
            });
            let hidden = Family::BOTH.into_iter().zip(&self.hidden_backends);
            let hidden = hidden.filter(|(_, hidden)| hidden.count > 0);
            shown.chain(hidden.map(move |(family, hidden)| {
                let labels = with_backend(other_labels(family), OTHER.to_owned());
                (labels, value(hidden.load))
            }))
        };
        let help = "Connections that a backend was given for a Service port.";
        let name = "sluice_backend_connections";
        counter(encoder, name, help, series(|load| load.connections))?;
        let help = "Flows from a Service port to a backend that are tracked now.";
        gauge(encoder, "sluice_backend_flows", help, series(|load| load.flows))
    }

    fn encode_source_ports(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ports = || self.snapshot.source_ports.iter();
        let label = |family: Family| [("ip_family", family.api_name())];
        let used = ports().map(|ports| (label(ports.family), ports.used_max));
        let help = "Source ports of masqueraded connections in use towards the backend that uses most.";
        gauge(encoder, "sluice_snat_ports_used_max", help, used)?;
        let free = ports().map(|ports| (label(ports.family), ports.free_min));
        let help = "Source ports for masqueraded connections left towards the backend that has fewest.";
        gauge(encoder, "sluice_snat_ports_free_min", help, free)
    }

    fn encode_no_local(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counted = &self.snapshot.no_local_endpoints;
        let series = Family::BOTH.into_iter().flat_map(|family| {
            let label = |policy| [("ip_family", family.api_name()), ("traffic_policy", policy)];
            [
                (label("internal"), counted.internal[place(family)]),
                (label("external"), counted.external[place(family)]),
            ]
        });
        let help = "Service ports with this policy Local that have endpoints, but none on this node.";
        // A gauge, whatever its name says: that is how kube-proxy has it.
        gauge(
            encoder,
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            help,
            series,
        )
    }
}

fn counter<const N: usize, V>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'static str, V); N], u64)>,
) -> fmt::Result
where
    V: prometheus_client::encoding::EncodeLabelValue,
{
    family(encoder, name, help, series, ConstCounter::new)
}

fn gauge<const N: usize, V>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'static str, V); N], u64)>,
) -> fmt::Result
where
    V: prometheus_client::encoding::EncodeLabelValue,
{
    family(encoder, name, help, series, ConstGauge::new)
}

/// One metric with all its series; nothing, not even its name, if there are none.
fn family<const N: usize, V, M>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'static str, V); N], u64)>,
    metric: fn(u64) -> M,
) -> fmt::Result
where
    V: prometheus_client::encoding::EncodeLabelValue,
    M: EncodeMetric + TypedMetric,
{
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let kind: MetricType = M::TYPE;
    let mut encoder = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in series {
        metric(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}
