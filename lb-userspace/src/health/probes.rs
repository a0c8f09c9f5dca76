//! The server of `/healthz`, `/livez` and `/readyz`.
//!
//! Here: paths, and counting answers. Not here: what is answered (`state`). Spawned by the agent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::state::{Health, Moment, Page};
use crate::http::{Answer, KeepServing, ListenError};

/// How often each page was answered with each code, of those that kube-proxy counts. Read by metrics.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    healthz_ok: AtomicU64,
    healthz_unavailable: AtomicU64,
    livez_ok: AtomicU64,
    livez_unavailable: AtomicU64,
}

impl ProbeCounts {
    /// The codes that are counted.
    pub const CODES: [u16; 2] = [200, 503];

    /// How often this page was answered with this code.
    pub fn get(&self, page: Page, code: u16) -> u64 {
        self.counter(page, code)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn count(&self, page: Page, code: u16) {
        if let Some(count) = self.counter(page, code) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, page: Page, code: u16) -> Option<&AtomicU64> {
        match (page, code) {
            (Page::Healthz, 200) => Some(&self.healthz_ok),
            (Page::Healthz, _) => Some(&self.healthz_unavailable),
            (Page::Livez, 200) => Some(&self.livez_ok),
            (Page::Livez, _) => Some(&self.livez_unavailable),
            (Page::Readyz, _) => None,
        }
    }
}

/// Serves `/healthz`, `/livez` and `/readyz`, for ever. While the address cannot be listened on, `problem` says why.
///
/// # Errors
/// If the address cannot be listened on and `hard_fail` asks to end then.
pub async fn serve_probes(
    address: SocketAddr,
    hard_fail: bool,
    health: watch::Receiver<Health>,
    counts: Arc<ProbeCounts>,
    problem: watch::Sender<Option<String>>,
) -> Result<Infallible, ListenError> {
    let server = KeepServing {
        address,
        purpose: "/healthz and /livez".into(),
        hard_fail,
    };
    let respond = move |path: String| std::future::ready(respond(&path, &health.borrow(), &counts, Moment::now()));
    server.run(respond, problem).await
}

pub(super) fn respond(path: &str, health: &Health, counts: &ProbeCounts, now: Moment) -> Answer {
    let page = match path {
        "/healthz" => Page::Healthz,
        "/livez" => Page::Livez,
        "/readyz" => Page::Readyz,
        _ => return Answer::not_found(),
    };
    let answer = health.answer(page, now);
    counts.count(page, answer.code);
    answer
}
