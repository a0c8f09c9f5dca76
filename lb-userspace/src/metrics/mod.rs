//! What Prometheus asks: `/metrics`, with kube-proxy's own names where they make sense (behaviour reference §6.4), and
//! Sluice's. `docs/metrics.md` lists all of them; a test compares it with what is really written.
//!
//! Two kinds of values. What happens is recorded as it happens: syncs, changes, latencies ([`Recorder`], which also follows
//! what triggered a slice, `latency`). What is, is asked for when somebody scrapes: the server sends a [`ScrapeRequest`]
//! over a channel, the agent's loop answers with a [`Snapshot`], plain data that it reads from its tables (`snapshot`,
//! `exposition`). So the tables have one owner and nothing is read that nobody asks for. Not here: reading tables
//! (`crate::tables`), HTTP (`crate::http`), counting answers to probes (`crate::health`).

mod exposition;
mod latency;
mod local;
mod recorder;
mod server;
mod snapshot;

#[cfg(test)]
mod tests;

pub use exposition::{SERIES_MAX, write};
pub use local::{NoLocalEndpoints, no_local_endpoints};
pub use recorder::{Recorder, SyncKind};
pub use server::{MetricsServer, ScrapeRequest};
pub use snapshot::{BackendReading, PortReading, Snapshot, SourcePorts, TableReading};

/// The metrics that are recorded as things happen; the server owns it.
pub use prometheus_client::registry::Registry;
