//! What is recorded as it happens, under kube-proxy's names.

use std::time::Duration;

use rstest::rstest;

use super::{after, recorder, text, value};
use crate::metrics::SyncKind;
use crate::model::sample::{apply_service, apply_slice, endpoints, key, service, slice, synced_store};
use crate::model::{Change, Family, NodeFacts, SliceKey};

const PREFIX: &str = "kubeproxy_sync_proxy_rules";

#[test]
fn names_and_types_are_those_of_kube_proxy() {
    let (_, registry) = recorder();
    let text = text(&registry);
    let mut types: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE kubeproxy_"))
        .collect();
    types.sort_unstable();
    assert_eq!(
        types,
        [
            "network_programming_duration_seconds histogram",
            "proxy_healthz_total counter",
            "proxy_livez_total counter",
            "sync_full_proxy_rules_duration_seconds histogram",
            "sync_partial_proxy_rules_duration_seconds histogram",
            "sync_proxy_rules_duration_seconds histogram",
            "sync_proxy_rules_endpoint_changes_pending gauge",
            "sync_proxy_rules_endpoint_changes_total counter",
            "sync_proxy_rules_last_queued_timestamp_seconds gauge",
            "sync_proxy_rules_last_timestamp_seconds gauge",
            "sync_proxy_rules_no_local_endpoints_total gauge",
            "sync_proxy_rules_service_changes_pending gauge",
            "sync_proxy_rules_service_changes_total counter",
        ]
    );
    for series in [
        "kubeproxy_proxy_healthz_total{code=\"503\"} 0",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 0",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
        "process_start_time_seconds 1000000.0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} is missing:\n{text}");
    }
}

/// The upper ends of a histogram's buckets.
fn buckets(name: &str) -> Vec<f64> {
    let (_, registry) = recorder();
    let text = text(&registry);
    let prefix = format!("kubeproxy_{name}_bucket{{");
    let of_v4 = text
        .lines()
        .filter(|line| line.starts_with(&prefix) && line.contains("IPv4"));
    let ends = of_v4.filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok());
    ends.filter(|end: &f64| end.is_finite()).collect()
}

#[test]
fn buckets_are_those_of_kube_proxy() {
    let mut programming = vec![0.25, 0.5];
    programming.extend((1..=59).map(f64::from));
    programming.extend([
        60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0,
    ]);
    programming.extend([120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0]);
    assert_eq!(buckets("network_programming_duration_seconds"), programming);
    let syncs: Vec<f64> = (0..15).map(|step| 0.001 * f64::from(1 << step)).collect();
    assert_eq!(buckets("sync_proxy_rules_duration_seconds"), syncs);
    assert_eq!(buckets("sync_partial_proxy_rules_duration_seconds"), syncs);
}

#[test]
fn syncs_are_recorded_by_family_and_kind() {
    let (mut recorder, registry) = recorder();
    recorder.synced(Family::V4, SyncKind::Full, Duration::from_millis(3), after(5.0));
    recorder.synced(Family::V4, SyncKind::Partial, Duration::from_millis(1), after(6.5));
    recorder.sync_ended(Family::V6, SyncKind::Partial, Duration::from_millis(1));
    let text = text(&registry);
    let of = |name: &str, family: &str| value(&text, &format!("kubeproxy_{name}{{ip_family=\"{family}\"}}"));
    let counts = |family| {
        ["sync", "sync_full", "sync_partial"]
            .map(|kind| of(&format!("{kind}_proxy_rules_duration_seconds_count"), family).unwrap() as u64)
    };
    assert_eq!((counts("IPv4"), counts("IPv6")), ([2, 1, 1], [1, 0, 1]));
    let last = |family| of("sync_proxy_rules_last_timestamp_seconds", family);
    assert_eq!(last("IPv4"), Some(1_000_006.5));
    assert_eq!(last("IPv6"), Some(0.0), "it did not succeed");
}

#[test]
fn changes_are_counted_and_pending_until_they_are_settled() {
    let (mut recorder, registry) = recorder();
    let store = synced_store();
    let changes = [
        apply_service(service("web")),
        apply_slice(slice("web-1", "web", &endpoints("10.0.0.1"))),
        Change::ServiceDelete(key("api")),
        Change::SliceDelete(SliceKey::new("default", "api-1")),
        Change::SliceDelete(SliceKey::new("default", "api-2")),
        Change::Node(Some(NodeFacts::default())),
    ];
    recorder.changes_came(&store, &changes, after(1.0));
    let counts = |text: &str| {
        [
            "endpoint_changes_pending",
            "endpoint_changes_total",
            "service_changes_pending",
            "service_changes_total",
        ]
        .map(|name| value(text, &format!("{PREFIX}_{name}")).unwrap() as u64)
    };
    assert_eq!(counts(&text(&registry)), [3, 3, 2, 2]);
    recorder.settled();
    assert_eq!(counts(&text(&registry)), [0, 3, 0, 2]);
}

#[rstest]
#[case::slice_of_v4("10.0.0.1", [1_000_001.0, 0.0])]
#[case::slice_of_v6("2001:db8::1", [0.0, 1_000_001.0])]
fn a_slice_queues_its_family(#[case] address: &str, #[case] queued: [f64; 2]) {
    let (mut recorder, registry) = recorder();
    let change = apply_slice(slice("web-1", "web", &endpoints(address)));
    recorder.changes_came(&synced_store(), &[change], after(1.0));
    let text = text(&registry);
    let found = ["IPv4", "IPv6"].map(|family| {
        value(
            &text,
            &format!("{PREFIX}_last_queued_timestamp_seconds{{ip_family=\"{family}\"}}"),
        )
    });
    assert_eq!(found, queued.map(Some));
}

#[test]
fn a_source_that_is_away_has_a_time_and_one_that_is_back_has_none() {
    let (mut recorder, registry) = recorder();
    let away = |registry: &_| value(&text(registry), "sluice_source_away_since_timestamp_seconds");
    recorder.source_away(Some(after(5.0)));
    assert_eq!(away(&registry), Some(1_000_005.0));
    recorder.source_away(None);
    assert_eq!(away(&registry), Some(0.0));
}
