//! Tests of metrics, by what they are about: text, what is recorded, latency, missing local endpoints, the server.

mod latency;
mod local;
mod recorder;
mod server;
mod text;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Recorder, Registry, Snapshot, write};

/// When all agents of these tests were started.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn after(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_000_000.0 + seconds)
}

fn recorder() -> (Recorder, Registry) {
    Recorder::new(start(), Arc::default(), Arc::default())
}

fn text(registry: &Registry) -> String {
    write(registry, Snapshot::default(), super::SERIES_MAX)
}

/// The value of this series.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}
