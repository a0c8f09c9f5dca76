//! From the trigger of a slice to the sync of its family; the last line of §1.5.

use std::time::Duration;

use rstest::rstest;

use super::{after, start};
use crate::metrics::latency::ProgrammingLatency;
use crate::model::sample::{apply_slice, endpoints, slice, synced_store};
use crate::model::{Change, EndpointSlice, Family, SliceKey, Store};

fn triggered(seconds: f64, lines: &str) -> EndpointSlice {
    EndpointSlice {
        triggered: Some(after(seconds)),
        ..slice("web-1", "web", &endpoints(lines))
    }
}

/// Changes, each applied before the next comes.
fn follow(store: &mut Store, latency: &mut ProgrammingLatency, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        latency.note(store, &change);
        store.apply(change);
    }
}

fn v4(latency: &mut ProgrammingLatency, seconds: f64) -> Vec<f64> {
    let took = latency.synced(Family::V4, after(seconds));
    took.iter().map(Duration::as_secs_f64).collect()
}

#[test]
fn each_trigger_is_measured_once_when_its_family_is_synced() {
    let (mut store, mut latency) = (synced_store(), ProgrammingLatency::since(start()));
    let changes = [triggered(10.0, "10.0.0.1"), triggered(11.5, "10.0.0.2")].map(apply_slice);
    follow(&mut store, &mut latency, changes);
    assert!(latency.synced(Family::V6, after(12.0)).is_empty());
    assert_eq!(v4(&mut latency, 12.0), [2.0, 0.5]);
    assert_eq!(v4(&mut latency, 13.0), [0.0; 0], "once");
}

#[rstest]
#[case::older_than_the_process(triggered(-1.0, "10.0.0.1"))]
#[case::as_old_as_the_process(triggered(0.0, "10.0.0.1"))]
#[case::no_annotation(EndpointSlice { triggered: None, ..triggered(1.0, "10.0.0.1") })]
#[case::no_owner(EndpointSlice { service: None, ..triggered(1.0, "10.0.0.1") })]
fn not_measured(#[case] slice: EndpointSlice) {
    let (mut store, mut latency) = (synced_store(), ProgrammingLatency::since(start()));
    follow(&mut store, &mut latency, [apply_slice(slice)]);
    assert_eq!(v4(&mut latency, 12.0), [0.0; 0]);
}

#[test]
fn a_slice_that_says_the_same_is_no_change() {
    let (mut store, mut latency) = (synced_store(), ProgrammingLatency::since(start()));
    let changes = [triggered(10.0, "10.0.0.1"), triggered(11.0, "10.0.0.1")].map(apply_slice);
    follow(&mut store, &mut latency, changes);
    assert_eq!(v4(&mut latency, 12.0), [2.0]);
}

#[test]
fn a_slice_that_goes_takes_the_times_of_its_service_with_it() {
    let (mut store, mut latency) = (synced_store(), ProgrammingLatency::since(start()));
    let gone = Change::SliceDelete(SliceKey::new("default", "web-1"));
    let changes = [apply_slice(triggered(10.0, "10.0.0.1")), gone];
    follow(&mut store, &mut latency, changes);
    assert_eq!(v4(&mut latency, 12.0), [0.0; 0]);
}

#[test]
fn a_trigger_of_a_faster_clock_took_no_time() {
    let (mut store, mut latency) = (synced_store(), ProgrammingLatency::since(start()));
    follow(&mut store, &mut latency, [apply_slice(triggered(10.0, "10.0.0.1"))]);
    assert_eq!(v4(&mut latency, 9.0), [0.0]);
}

#[test]
fn memory_does_not_grow_while_nothing_gets_through() {
    let (mut store, mut latency) = (synced_store(), ProgrammingLatency::since(start()));
    let changes = (0..300).map(|number| {
        let address = ["10.0.0.1", "10.0.0.2"][number % 2];
        apply_slice(triggered(10.0, address))
    });
    follow(&mut store, &mut latency, changes);
    assert_eq!(v4(&mut latency, 12.0).len(), 100);
}
