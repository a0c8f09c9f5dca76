//! What of the agent's troubles is told as Kubernetes Events: its start, and what is wrong with single Services and with its servers.
//!
//! What is wrong is looked at once a second and told when it is new, and again before a server forgets it. Nobody waits: what finds no
//! room in the queue is told with a later look. Not here: how Events look and are written (`source::kubernetes`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{AgentOptions, KernelReconciler, Observer, Origin};
use crate::model::{ObjectRef, Severity};
use crate::source::SourceProblem;
use crate::source::kubernetes::{EventCounts, Notice, Patience, Reason, write_events};

/// Notices that may wait to be written.
const QUEUE: usize = 64;
/// So much of what is wrong is told; `sluice status` has the rest.
const PRESENT_MAX: usize = 100;
/// What lasts is told again: API servers keep Events for an hour unless they are told otherwise.
const AGAIN_EVERY: Duration = Duration::from_secs(30 * 60);
/// How long an agent that has to end waits for its last notice to be written.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Tells what is worth it.
pub(super) struct Announcer {
    /// None without an API server.
    writer: Option<(mpsc::Sender<Notice>, JoinHandle<()>)>,
    /// What is wrong and was told, and when it is to be told again.
    told: HashMap<Notice, Instant>,
    /// What is wrong with objects.
    pub(super) of_source: Arc<[SourceProblem]>,
}

impl Announcer {
    /// Needs a tokio runtime.
    pub(super) fn start(options: &AgentOptions, counts: Arc<EventCounts>) -> Self {
        let writer = match options.origin.clone() {
            Origin::Manifests(_) => None,
            Origin::Kubernetes(access) => {
                let (sender, notices) = mpsc::channel(QUEUE);
                let node = options.node_name.clone();
                let writing = write_events(access, Patience::default(), node, notices, counts);
                Some((sender, tokio::spawn(writing)))
            }
        };
        Self {
            writer,
            told: HashMap::new(),
            of_source: Arc::default(),
        }
    }

    /// Whether anybody hears it.
    pub(super) fn is_heard(&self) -> bool {
        self.writer.is_some()
    }

    /// Tells it once.
    pub(super) fn say(&self, notice: Notice) {
        if let Some((sender, _)) = &self.writer {
            // The queue is empty when an agent begins, and full only if nobody would read it anyhow.
            drop(sender.try_send(notice));
        }
    }

    /// Tells what is wrong now, as far as it was not told lately.
    pub(super) fn tell(&mut self, present: impl Iterator<Item = Notice>) {
        let Some((sender, _)) = &self.writer else {
            return;
        };
        let (before, now) = (std::mem::take(&mut self.told), Instant::now());
        for notice in present.take(PRESENT_MAX) {
            let waits = before.get(&notice).filter(|again| **again > now);
            if let Some(again) = waits {
                self.told.insert(notice, *again);
            } else if sender.try_send(notice.clone()).is_ok() {
                self.told.insert(notice, now + AGAIN_EVERY);
            }
        }
    }

    /// Tells it and waits until it is written, for a while.
    pub(super) async fn say_and_end(&mut self, notice: Notice) {
        self.say(notice);
        if let Some((sender, writing)) = self.writer.take() {
            drop(sender);
            drop(tokio::time::timeout(LAST_WORDS, writing).await);
        }
    }
}

/// What is wrong now with single Services and with the node's servers. Health ports
/// that kube-proxy has, as long as it serves, are not.
pub(super) fn present<'a>(
    of_source: &'a [SourceProblem],
    reconciler: &'a KernelReconciler,
    observer: &'a Observer,
    node_name: &'a str,
    kube_proxy_serves: bool,
) -> impl Iterator<Item = Notice> + 'a {
    let of_health_ports = observer.port_problems().filter(move |_| !kube_proxy_serves);
    let of_health_ports = of_health_ports.filter_map(move |problem| {
        let note = format!("node {node_name}: {}", what(&problem.field, &problem.reason));
        of_object(Reason::FailedToStartServiceHealthcheck, Some(&problem.object), note)
    });
    let of_ports = reconciler.problems().map(|problem| {
        let note = format!("{}: {}", problem.port, problem.reason);
        Notice::of_service(Reason::FailedToProgramServicePort, &problem.port.service, note)
    });
    let left_out = reconciler.left_out();
    let left_out = left_out.map(|problem| (problem.severity, Some(&problem.object), &problem.field, &problem.reason));
    let of_source = of_source.iter();
    let of_source = of_source.map(|problem| {
        (
            problem.severity,
            problem.object.as_ref(),
            &problem.field,
            &problem.reason,
        )
    });
    let of_objects = left_out
        .chain(of_source)
        .filter(|(severity, ..)| *severity != Severity::Info);
    let of_objects = of_objects
        .filter_map(|(_, object, field, reason)| of_object(Reason::NotServedAsWritten, object, what(field, reason)));
    let of_servers = observer.server_notices();
    of_servers.chain(of_health_ports).chain(of_ports).chain(of_objects)
}

fn what(field: &str, reason: &str) -> String {
    match field {
        "" => reason.to_owned(),
        field => format!("{field}: {reason}"),
    }
}

/// About a Service; of other objects nothing is told.
fn of_object(reason: Reason, object: Option<&ObjectRef>, note: String) -> Option<Notice> {
    match object {
        Some(ObjectRef::Service(service)) => Some(Notice::of_service(reason, service, note)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceKey;

    fn announcer(room: usize) -> (Announcer, mpsc::Receiver<Notice>) {
        let (sender, notices) = mpsc::channel(room);
        let announcer = Announcer {
            writer: Some((sender, tokio::spawn(std::future::pending()))),
            told: HashMap::new(),
            of_source: Arc::default(),
        };
        (announcer, notices)
    }

    fn notices(numbers: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Notice> {
        let web = ServiceKey::new("shop", "web");
        let numbers = numbers.into_iter();
        numbers.map(move |number| Notice::of_service(Reason::NotServedAsWritten, &web, number.to_string()))
    }

    fn heard(notices: &mut mpsc::Receiver<Notice>) -> Vec<usize> {
        std::iter::from_fn(|| notices.try_recv().ok()?.note.parse().ok()).collect()
    }

    #[tokio::test]
    async fn what_lasts_is_told_once_and_what_comes_back_once_more() {
        let (mut announcer, mut queue) = announcer(10);
        announcer.tell(notices([1, 2]));
        announcer.tell(notices([1, 2]));
        assert_eq!(heard(&mut queue), [1, 2]);
        announcer.tell(notices([2, 3]));
        announcer.tell(notices([1, 2, 3]));
        assert_eq!(heard(&mut queue), [3, 1]);
        announcer.told.values_mut().for_each(|again| *again = Instant::now());
        announcer.tell(notices([2]));
        assert_eq!(heard(&mut queue), [2], "before the server forgets it");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_told_later_and_of_too_much_the_first() {
        let (mut announcer, mut queue) = announcer(3);
        announcer.tell(notices(0..5));
        assert_eq!(heard(&mut queue), [0, 1, 2]);
        announcer.tell(notices(0..5));
        assert_eq!(heard(&mut queue), [3, 4]);
        let (mut announcer, mut queue) = self::announcer(10 * PRESENT_MAX);
        announcer.tell(notices(0..5 * PRESENT_MAX));
        assert_eq!(heard(&mut queue).len(), PRESENT_MAX);
    }
}
