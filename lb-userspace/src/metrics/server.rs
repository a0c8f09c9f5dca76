//! The server of `/metrics`, `/proxyMode` and a `/healthz` of its own (behaviour reference §6.3).
//!
//! Here: paths, and asking the agent for a snapshot. Not here: what is written (`exposition`). Spawned by the agent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::exposition::write;
use super::snapshot::Snapshot;
use crate::http::{Answer, KeepServing, ListenError};

/// Somebody scrapes: the agent answers with what is.
pub type ScrapeRequest = oneshot::Sender<Snapshot>;

/// How long the agent may take to answer. Prometheus gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the metrics server needs.
pub struct MetricsServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// End with an error if that is not possible, rather than try again?
    pub hard_fail: bool,
    /// What was recorded.
    pub registry: Registry,
    /// The way to the agent.
    pub scrapes: mpsc::Sender<ScrapeRequest>,
    /// Limit on the series of single Services and backends; [`super::SERIES_MAX`] if nothing else is asked for.
    pub series_max: usize,
}

impl MetricsServer {
    /// Serves, for ever. While the address cannot be listened on, `problem` says why.
    ///
    /// # Errors
    /// If the address cannot be listened on and this is to be an error.
    pub async fn run(self, problem: watch::Sender<Option<String>>) -> Result<Infallible, ListenError> {
        let server = KeepServing {
            address: self.address,
            purpose: "metrics".into(),
            hard_fail: self.hard_fail,
        };
        let shared = Arc::new(self);
        let respond = move |path: String| {
            let shared = shared.clone();
            async move { shared.respond(&path).await }
        };
        server.run(respond, problem).await
    }

    async fn respond(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.scrape().await,
            "/proxyMode" => Answer::text(200, "sluice"),
            "/healthz" => Answer::text(200, "ok"),
            _ => Answer::not_found(),
        }
    }

    async fn scrape(&self) -> Answer {
        let (reply, snapshot) = oneshot::channel();
        let asked = async {
            self.scrapes.send(reply).await.ok()?;
            snapshot.await.ok()
        };
        match timeout(PATIENCE, asked).await {
            Ok(Some(snapshot)) => Answer {
                content_type: CONTENT_TYPE,
                ..Answer::text(200, write(&self.registry, snapshot, self.series_max))
            },
            Ok(None) => Answer::text(503, "the agent is stopping\n"),
            Err(_) => Answer::text(
                503,
                format!(
                    "the agent did not answer within {} s; it is busy with changes\n",
                    PATIENCE.as_secs()
                ),
            ),
        }
    }
}
