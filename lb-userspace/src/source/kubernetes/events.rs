//! Writes Kubernetes Events: the one thing that is written to the API server, and only where its access rules allow it.
//!
//! Nothing waits for it. What is said again becomes a series of one Event; what is said too fast waits its turn; a server that is
//! away is asked again for a minute; one that refuses is left alone for a while. Nothing follows from an Event that could not be
//! written but a count. Not here: what Events say (`notice`), when something is worth one (`crate::agent`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::access::Access;
use super::follow::{Patience, chain};
use super::notice::Notice;
use crate::model::ServiceKey;

/// Events that are written without a wait between them.
const AT_ONCE: u32 = 20;
/// How often a server is asked that does not answer, or asks for patience.
const TRIES_MAX: u32 = 10;
/// Series that are remembered.
const SERIES_MAX: usize = 1000;

/// What became of notices. Read by metrics.
#[derive(Debug, Default)]
pub struct EventCounts {
    written: AtomicU64,
    lost: AtomicU64,
}

impl EventCounts {
    /// Notices that were written, by this node or by another that had the same to say.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Notices that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Writes notices until nobody has any more.
pub async fn write_events(
    access: Access,
    patience: Patience,
    node_name: String,
    mut notices: mpsc::Receiver<Notice>,
    counts: Arc<EventCounts>,
) {
    // Whoever reads objects says why there is no way to the server.
    let Ok(connection) = access.connection().await else {
        while notices.recv().await.is_some() {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        return;
    };
    let mut writer = Writer {
        client: connection.client,
        patience,
        node_name,
        series: HashMap::new(),
        due: Instant::now(),
        refused: None,
    };
    while let Some(notice) = notices.recv().await {
        let count = match writer.say(&notice).await {
            Ok(()) => &counts.written,
            Err(Lost) => &counts.lost,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A notice was not written.
struct Lost;

/// Why a request came to nothing.
enum Failure {
    /// The server answered with an error.
    Refused(Box<Status>),
    /// It did not answer.
    NoAnswer(String),
}

/// An Event that this writer has made.
struct Series {
    event: String,
    /// The Service that it is about: another of the same name is another object.
    uid: Option<String>,
    count: i32,
    written: Instant,
}

struct Writer {
    client: Client,
    patience: Patience,
    node_name: String,
    series: HashMap<Notice, Series>,
    /// When all that was written so far would have been, had each waited its turn.
    due: Instant,
    /// The server does not let us write, and was last asked then.
    refused: Option<Instant>,
}

impl Writer {
    async fn say(&mut self, notice: &Notice) -> Result<(), Lost> {
        if self.refused.is_some_and(|at| at.elapsed() < self.patience.refused) {
            return Err(Lost);
        }
        if let Some(series) = self.series.get_mut(notice) {
            series.count = series.count.saturating_add(1);
            // The next one tells of it.
            if series.written.elapsed() < self.patience.event {
                return Ok(());
            }
        }
        self.take_turn().await;
        let mut pause = self.patience.retry_min;
        let now = Timestamp::now();
        for _ in 0..TRIES_MAX {
            let failure = match self.write(notice, now).await {
                Ok(()) => {
                    self.refused = None;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            match failure {
                // It, or its namespace, is gone: there is nobody to tell.
                Failure::Refused(status) if status.code == 404 || is_of_ending_namespace(&status) => return Err(Lost),
                Failure::Refused(status) if status.code == 403 => {
                    if self.refused.is_none() {
                        tracing::info!(
                            "Kubernetes Events are not written: {}. The agent does without them; to have them, let its service \
                             account create and patch events.events.k8s.io",
                            status.message
                        );
                    }
                    self.refused = Some(Instant::now());
                    return Err(Lost);
                }
                Failure::Refused(status) if !matches!(status.code, 401 | 429 | 500..) => {
                    tracing::warn!("a Kubernetes Event was refused: {} ({notice:?})", status.message);
                    return Err(Lost);
                }
                Failure::Refused(status) => tracing::debug!("a Kubernetes Event waits: {}", status.message),
                Failure::NoAnswer(reason) => tracing::debug!("a Kubernetes Event waits: {reason}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.patience.retry_max);
        }
        Err(Lost)
    }

    /// Waits until one more may be written.
    async fn take_turn(&mut self) {
        let ahead = self.due.saturating_duration_since(Instant::now());
        sleep(ahead.saturating_sub(self.patience.event * (AT_ONCE - 1))).await;
        self.due = self.due.max(Instant::now()) + self.patience.event;
    }

    async fn write(&mut self, notice: &Notice, now: Timestamp) -> Result<(), Failure> {
        let uid = match &notice.service {
            Some(service) => self.uid(service).await?,
            None => None,
        };
        if self.series.get(notice).is_some_and(|series| series.uid == uid) && self.repeat(notice, now).await? {
            return Ok(());
        }
        let event = notice.event(&self.node_name, uid.clone(), now);
        let api = self.events(notice);
        match self.ask(api.create(&PostParams::default(), &event)).await {
            Ok(_) => {}
            // Another node has said it, or this one, and its answer was lost.
            Err(Failure::Refused(status)) if status.code == 409 => return Ok(()),
            Err(failure) => return Err(failure),
        }
        if self.series.len() >= SERIES_MAX {
            self.series.clear();
        }
        let series = Series {
            event: event.metadata.name.unwrap_or_default(),
            uid,
            count: 1,
            written: Instant::now(),
        };
        self.series.insert(notice.clone(), series);
        Ok(())
    }

    /// Counts in the Event that there is already. False if there is none any more: a server keeps them for an hour or so.
    async fn repeat(&mut self, notice: &Notice, now: Timestamp) -> Result<bool, Failure> {
        let Some(series) = self.series.get(notice) else {
            return Ok(false);
        };
        let at = format!("{now:.6}");
        let patch = Patch::Merge(json!({"series": {"count": series.count, "lastObservedTime": at}}));
        let api = self.events(notice);
        match self
            .ask(api.patch(&series.event, &PatchParams::default(), &patch))
            .await
        {
            Ok(_) => {}
            Err(Failure::Refused(status)) if status.code == 404 => return Ok(false),
            Err(failure) => return Err(failure),
        }
        if let Some(series) = self.series.get_mut(notice) {
            series.written = Instant::now();
        }
        Ok(true)
    }

    /// By which `kubectl describe` finds the Events of a Service.
    async fn uid(&self, service: &ServiceKey) -> Result<Option<String>, Failure> {
        let services = Api::<Service>::namespaced(self.client.clone(), service.namespace());
        let found = self.ask(services.get_metadata(service.name())).await?;
        Ok(found.metadata.uid)
    }

    fn events(&self, notice: &Notice) -> Api<Event> {
        Api::namespaced(self.client.clone(), notice.namespace())
    }

    async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        match timeout(self.patience.answer, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(Failure::Refused(status)),
            Ok(Err(error)) => Err(Failure::NoAnswer(chain(&error))),
            Err(_) => Err(Failure::NoAnswer("no answer in time".to_owned())),
        }
    }
}

/// In a namespace that is being deleted nothing new can be made, whoever asks.
fn is_of_ending_namespace(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
