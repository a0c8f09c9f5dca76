//! A snapshot as text, and the limit on series.

use lb_common::layout::{Counter, DropReason};

use super::{recorder, value};
use crate::metrics::{BackendReading, PortReading, Snapshot, SourcePorts, TableReading, write};
use crate::model::sample::key;
use crate::model::{Family, Protocol};
use crate::plan::PortId;

fn port(name: &str, family: Family) -> PortId {
    PortId {
        service: key(name),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family,
    }
}

fn reading(name: &str, family: Family, connections: u64, flows: u64) -> PortReading {
    PortReading {
        port: port(name, family),
        connections,
        flows,
    }
}

fn backend(name: &str, backend: &str, connections: u64, flows: u64) -> BackendReading {
    let backend: std::net::SocketAddr = backend.parse().unwrap();
    BackendReading {
        port: port(name, Family::of(backend.ip())),
        backend,
        connections,
        flows,
    }
}

fn text(snapshot: Snapshot, series_max: usize) -> String {
    write(&recorder().1, snapshot, series_max)
}

/// Lines of Sluice's own metrics whose names begin so, without comments.
fn lines<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(prefix)).collect()
}

#[test]
fn every_value_has_its_name_and_labels() {
    let snapshot = Snapshot {
        drops: vec![(DropReason::NoEndpoint, 3)],
        events: vec![(Counter::FlowsCreated, 4)],
        tables: vec![TableReading {
            table: "LB4_BACKENDS",
            used: 5,
            places: 6,
        }],
        ports: vec![reading("web", Family::V4, 7, 8)],
        backends: vec![backend("web", "[2001:db8::1]:80", 9, 10)],
        source_ports: vec![SourcePorts {
            family: Family::V6,
            used_max: 11,
            free_min: 12,
        }],
        netfilter_connections: 13,
        drift: vec![("LB4_SLOTS", 14)],
        tables_checked_s: 15,
        ..Snapshot::default()
    };
    let text = text(snapshot, 100);
    let port = "namespace=\"default\",service=\"web\",port=\"http\",protocol=\"TCP\"";
    assert_eq!(
        lines(&text, "sluice_"),
        [
            concat!("sluice_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "sluice_source_away_since_timestamp_seconds 0.0",
            "sluice_kubernetes_events_total{outcome=\"written\"} 0",
            "sluice_kubernetes_events_total{outcome=\"lost\"} 0",
            "sluice_drops_total{reason=\"no_endpoint\"} 3",
            "sluice_events_total{event=\"flows_created\"} 4",
            "sluice_table_entries{table=\"LB4_BACKENDS\"} 5",
            "sluice_table_capacity{table=\"LB4_BACKENDS\"} 6",
            "sluice_drift_total{table=\"LB4_SLOTS\"} 14",
            "sluice_tables_checked_timestamp_seconds 15",
            &format!("sluice_service_connections_total{{{port},ip_family=\"IPv4\"}} 7"),
            &format!("sluice_service_flows{{{port},ip_family=\"IPv4\"}} 8"),
            &format!("sluice_backend_connections_total{{{port},ip_family=\"IPv6\",backend=\"[2001:db8::1]:80\"}} 9"),
            &format!("sluice_backend_flows{{{port},ip_family=\"IPv6\",backend=\"[2001:db8::1]:80\"}} 10"),
            "sluice_metrics_series_dropped 0",
            "sluice_netfilter_connections 13",
            "sluice_snat_ports_used_max{ip_family=\"IPv6\"} 11",
            "sluice_snat_ports_free_min{ip_family=\"IPv6\"} 12",
        ]
    );
    assert!(text.contains("# TYPE sluice_drops_total counter\n"), "{text}");
    assert!(
        text.contains("# HELP sluice_drops_total Packets that were dropped, by reason.\n"),
        "{text}"
    );
    assert!(text.ends_with('\n') && !text.contains("# EOF"), "{text}");
}

#[test]
fn beyond_the_limit_the_rest_is_summed_up() {
    let snapshot = || Snapshot {
        ports: vec![
            reading("c", Family::V4, 4, 40),
            reading("a", Family::V4, 1, 10),
            reading("b", Family::V4, 2, 20),
            reading("d", Family::V6, 8, 80),
        ],
        backends: vec![backend("a", "10.0.0.1:80", 1, 10), backend("b", "10.0.0.2:80", 2, 20)],
        ..Snapshot::default()
    };
    let connections = |text: &str, kind: &str| -> Vec<String> {
        let lines = lines(text, &format!("sluice_{kind}_connections_total{{")).into_iter();
        let short = lines.map(|line| {
            let service = line.split("service=\"").nth(1).and_then(|rest| rest.split('"').next());
            let family = line.split("IPv").nth(1).and_then(|rest| rest.chars().next());
            let value = line.rsplit(' ').next().unwrap();
            format!("{} v{} {value}", service.unwrap(), family.unwrap())
        });
        short.collect()
    };
    let hidden = |text: &str| value(text, "sluice_metrics_series_dropped").unwrap() as usize;

    let all = text(snapshot(), 12);
    assert_eq!(connections(&all, "service"), ["a v4 1", "b v4 2", "c v4 4", "d v6 8"]);
    assert_eq!(connections(&all, "backend"), ["a v4 1", "b v4 2"]);
    assert_eq!(hidden(&all), 0);

    let one_less = text(snapshot(), 11);
    assert_eq!(
        connections(&one_less, "service"),
        ["a v4 1", "b v4 2", "c v4 4", "d v6 8"]
    );
    assert_eq!(connections(&one_less, "backend"), ["a v4 1", "_other v4 2"]);
    assert_eq!(hidden(&one_less), 2, "connections and flows of one backend");
    let other = "namespace=\"_other\",service=\"_other\",port=\"_other\",protocol=\"_other\",ip_family=\"IPv4\",backend=\"_other\"";
    assert_eq!(
        value(&one_less, &format!("sluice_backend_flows{{{other}}}")),
        Some(20.0)
    );

    let few = text(snapshot(), 4);
    assert_eq!(
        connections(&few, "service"),
        ["a v4 1", "b v4 2", "_other v4 4", "_other v6 8"]
    );
    assert_eq!(connections(&few, "backend"), ["_other v4 3"]);
    assert_eq!(hidden(&few), 8);

    let none = text(snapshot(), 0);
    assert_eq!(connections(&none, "service"), ["_other v4 7", "_other v6 8"]);
    assert_eq!(hidden(&none), 12);
}
