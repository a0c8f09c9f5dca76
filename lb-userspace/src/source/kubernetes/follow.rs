//! Lists and watches one kind of object, for ever: what is there, then what changes.
//!
//! The first list is streamed where the server does that (KEP-3157, `sendInitialEvents`), else it comes in pages. A watch goes on
//! from the resource version last seen, of an event or a bookmark, so that nothing is lost with a connection; a server that
//! no longer knows that version (410 Gone) is asked for a list again. What could not be understood counts as not seen: it is
//! asked for again. Not here: what follows from it (`relist`), what objects mean (`source::convert`), who is told of failures
//! (`complaints`). Called by `kubernetes`, once for each kind.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime};

use hyper::{Request, Response, StatusCode, header};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::Request as Query;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::failure::Cause;
use super::lines::{Lines, whole};
use super::objects::{self, Name, Object, Wanted};
use crate::source::problem::Closed;

/// Objects in a page of a list.
const PAGE: u32 = 500;
/// What a page may have: that many objects, a few of them as large as objects can be.
const PAGE_LENGTH_MAX: usize = 256 << 20;
/// What is read of an answer that says no.
const REFUSAL_LENGTH_MAX: usize = 64 << 10;
/// How long a server keeps a watch: so long, and up to a quarter less, so that not all watches of a cluster end together.
const WATCH_MAX_S: u32 = 290;
/// Servers send bookmarks about once a minute; from one that has sent some, silence for longer means that it hangs.
const BOOKMARKS_EVERY_MAX: Duration = Duration::from_secs(150);
/// A watch that has lived so long, or brought something, worked.
const WORKS_AFTER: Duration = Duration::from_secs(1);
/// The annotation of the bookmark that ends a streamed list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";
/// How often the same place of a watch may be not understood before everything is listed anew.
const BROKEN_MAX: u32 = 3;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an answer to begin, and for the next part of a list.
    pub answer: Duration,
    /// Before asking again after the first failure; twice that after the next, and so on.
    pub retry_min: Duration,
    /// At most so long before asking again.
    pub retry_max: Duration,
    /// Before asking again for what can be done without, and is refused.
    pub refused: Duration,
    /// Between two Events, after the first few, and between two writes to the same one.
    pub event: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
            refused: Duration::from_secs(600),
            event: Duration::from_secs(10),
        }
    }
}

/// What is followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Kind {
    /// Its path, without a namespace.
    pub(super) path: &'static str,
    pub(super) label_selector: Option<String>,
    pub(super) field_selector: Option<String>,
    /// Where the server does not know that selector, all are asked for.
    pub(super) selector_is_dispensable: bool,
    /// The agent does without it: a refusal (403, 404) is no failure, and it is rarely asked again.
    pub(super) optional: bool,
}

/// What was seen.
pub(super) enum News<T> {
    /// A list begins, the first one or one after an interruption.
    ListStarts,
    /// An object of that list.
    Listed(Object<T>),
    /// The list is complete.
    ListEnds,
    /// An object appeared or changed.
    Applied(Object<T>),
    /// An object is gone, or no longer fits the selectors.
    Deleted(Name),
    /// The server answers.
    Answers,
    /// The server's clock, and ours when it was read.
    Clock { server: SystemTime, own: SystemTime },
    /// It does not; it will be asked again.
    Failed(Cause),
}

/// Why following ends, or begins again.
enum Stop {
    Closed,
    Because(Cause),
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self::Because(cause)
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: Box<str>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
    message: Option<String>,
}

/// Follows a kind until nobody receives its news any more.
pub(super) async fn follow<T: Wanted>(client: Client, kind: Kind, patience: Patience, news: mpsc::Sender<News<T>>) {
    let mut follower = Follower {
        client,
        kind,
        patience,
        news,
        position: None,
        streams: true,
        failures: 0,
        broken: 0,
    };
    loop {
        let began = Instant::now();
        match follower.go_on().await {
            Ok(()) if began.elapsed() >= WORKS_AFTER => follower.failures = 0,
            // The server ends watches as soon as they have begun.
            Ok(()) => sleep(follower.pause(None)).await,
            Err(Stop::Closed) => return,
            Err(Stop::Because(cause)) => {
                if follower.failed(cause).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Follower<T> {
    client: Client,
    kind: Kind,
    patience: Patience,
    news: mpsc::Sender<News<T>>,
    /// The resource version last seen; without one, a list is due.
    position: Option<String>,
    /// The server streams lists, as far as is known.
    streams: bool,
    /// In a row.
    failures: u32,
    /// How often in a row this place was not understood.
    broken: u32,
}

impl<T: Wanted> Follower<T> {
    async fn tell(&self, news: News<T>) -> Result<(), Closed> {
        self.news.send(news).await.map_err(|_| Closed)
    }

    /// One list, one watch, or both in one, until the server ends it.
    async fn go_on(&mut self) -> Result<(), Stop> {
        if self.position.is_some() || self.streams {
            self.watch().await
        } else {
            self.list().await
        }
    }

    /// Draws the conclusions and waits.
    async fn failed(&mut self, cause: Cause) -> Result<(), Closed> {
        if matches!(cause, Cause::NotUnderstood(_) | Cause::TooLong(_)) {
            self.broken += 1;
        }
        if cause.is_gone() || self.broken >= BROKEN_MAX {
            (self.position, self.broken) = (None, 0);
        }
        if cause.code() == Some(400) && self.kind.selector_is_dispensable && self.kind.field_selector.take().is_some() {
            tracing::debug!("{}: {cause}; asking for all of them", self.kind.path);
            return Ok(());
        }
        if cause.is_gone() && self.failures == 0 {
            tracing::debug!("{}: {cause}; listing anew", self.kind.path);
            self.failures = 1;
            return Ok(());
        }
        let wait = if self.kind.optional && cause.is_denied() {
            self.patience.refused
        } else {
            let asked = match &cause {
                Cause::Refused { retry_after, .. } => *retry_after,
                _ => None,
            };
            self.pause(asked)
        };
        self.tell(News::Failed(cause)).await?;
        tokio::select! {
            () = sleep(wait) => Ok(()),
            () = self.news.closed() => Err(Closed),
        }
    }

    /// How long to wait before asking again: longer each time, as long as the server says, and never all agents at once.
    fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let Patience {
            retry_min, retry_max, ..
        } = self.patience;
        let usual = retry_min.saturating_mul(1 << self.failures.min(16)).min(retry_max);
        self.failures += 1;
        let chance = usual.mul_f64(chance());
        (usual / 2 + chance / 2).max(asked.unwrap_or_default().min(Duration::from_secs(60)))
    }

    /// Asks, and gives the answer's body if it is 200.
    async fn ask(&mut self, query: Request<Vec<u8>>) -> Result<Body, Stop> {
        let answer = timeout(self.patience.answer, self.client.send(query.map(Body::from))).await;
        let answer = answer
            .map_err(|_| Cause::Stalled(self.patience.answer))?
            .map_err(|error| Cause::NoAnswer(chain(&error).into()))?;
        if let Some(server) = server_clock(&answer) {
            self.tell(News::Clock {
                server,
                own: SystemTime::now(),
            })
            .await?;
        }
        let code = answer.status();
        if code == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body = whole(answer.into_body(), self.patience.answer, REFUSAL_LENGTH_MAX)
            .await
            .unwrap_or_default();
        let status: Option<Status> = serde_json::from_slice(&body).ok();
        let message = status.and_then(|status| status.message).unwrap_or_default();
        Err(refusal(code.as_u16(), &message, retry_after.map(Duration::from_secs)).into())
    }

    /// What has no name can neither be served nor be complained about in the status, and costs nobody else anything.
    fn nameless(&self, error: &serde_json::Error) {
        tracing::warn!(
            "{}: an object is passed over, it has no name that can be read: {error}",
            self.kind.path
        );
    }

    /// Lists in pages.
    async fn list(&mut self) -> Result<(), Stop> {
        self.tell(News::ListStarts).await?;
        let mut limit = Some(PAGE);
        let mut token = None;
        loop {
            let parameters = ListParams {
                label_selector: self.kind.label_selector.clone(),
                field_selector: self.kind.field_selector.clone(),
                limit,
                continue_token: token.take(),
                ..ListParams::default()
            };
            let continues = parameters.continue_token.is_some();
            let query = Query::new(self.kind.path).list(&parameters).map_err(unasked)?;
            let page = async {
                let body = self.ask(query).await?;
                Ok::<_, Stop>(whole(body, self.patience.answer, PAGE_LENGTH_MAX).await?)
            };
            let page = match page.await {
                // It took too long: the rest of the list can only be had as a part of a newer one.
                Err(Stop::Because(cause)) if cause.is_gone() && continues => {
                    limit = None;
                    self.tell(News::ListStarts).await?;
                    continue;
                }
                page => page?,
            };
            let Page { metadata, items } = serde_json::from_slice(&page).map_err(not_understood)?;
            for item in items.into_iter().flatten() {
                match objects::read(item.get()) {
                    Ok(object) => self.tell(News::Listed(object)).await?,
                    Err(error) => self.nameless(&error),
                }
            }
            token = metadata.r#continue.filter(|token| !token.is_empty());
            if token.is_none() {
                let version = metadata.resource_version.filter(|version| !version.is_empty());
                self.position = Some(version.ok_or(Cause::NoVersion)?);
                (self.failures, self.broken) = (0, 0);
                self.tell(News::Answers).await?;
                self.tell(News::ListEnds).await?;
                return Ok(());
            }
        }
    }

    /// Watches from where it was left, or from a streamed list on.
    async fn watch(&mut self) -> Result<(), Stop> {
        let mut listing = self.position.is_none();
        let keep_s = WATCH_MAX_S - (f64::from(WATCH_MAX_S / 4) * chance()) as u32;
        let parameters = WatchParams {
            label_selector: self.kind.label_selector.clone(),
            field_selector: self.kind.field_selector.clone(),
            timeout: Some(keep_s),
            bookmarks: true,
            send_initial_events: listing,
        };
        let from = self.position.clone().unwrap_or_default();
        let query = Query::new(self.kind.path).watch(&parameters, &from).map_err(unasked)?;
        let body = match self.ask(query).await {
            // Kubernetes before 1.32, or with the feature off, calls the parameters invalid.
            Err(Stop::Because(cause)) if listing && matches!(cause.code(), Some(400 | 422)) => {
                tracing::debug!("{}: no streamed lists ({cause}); listing in pages", self.kind.path);
                self.streams = false;
                return self.list().await;
            }
            body => body?,
        };
        let mut lines = Lines::of(body);
        if listing {
            self.tell(News::ListStarts).await?;
        }
        let (began, mut answers, mut bookmarked) = (Instant::now(), false, false);
        let ends = Duration::from_secs(u64::from(keep_s)) + self.patience.answer;
        loop {
            let silence_max = match (listing, bookmarked) {
                (true, _) => self.patience.answer,
                (false, true) => BOOKMARKS_EVERY_MAX.min(ends.saturating_sub(began.elapsed())),
                (false, false) => ends.saturating_sub(began.elapsed()),
            };
            // What is silent works, too, once it has lived for a while.
            let line = match timeout(WORKS_AFTER, lines.next(silence_max)).await {
                Err(_) if !answers && !listing => {
                    answers = true;
                    self.tell(News::Answers).await?;
                    lines.next(silence_max).await
                }
                Err(_) => lines.next(silence_max).await,
                Ok(line) => line,
            };
            let line = match line {
                Ok(Some(line)) => line,
                // Ended by the server, or cut: what was not seen comes with the next watch.
                Ok(None) | Err(Cause::Cut(_)) if answers && !listing => return Ok(()),
                Ok(None) => return Err(Cause::Cut("it ended at once".into()).into()),
                Err(cause) => {
                    if listing && matches!(cause, Cause::Stalled(_)) {
                        // A server that has never heard of streamed lists may take this for a plain watch.
                        self.streams = false;
                    }
                    return Err(cause.into());
                }
            };
            let event: Event<'_> = serde_json::from_slice(line).map_err(not_understood)?;
            let (version, news) = match event.r#type {
                "ADDED" | "MODIFIED" => match objects::read::<T>(event.object.get()) {
                    Ok(mut object) if listing => (object.version.take(), Some(News::Listed(object))),
                    Ok(mut object) => (object.version.take(), Some(News::Applied(object))),
                    Err(error) => {
                        self.nameless(&error);
                        (None, None)
                    }
                },
                "DELETED" => match objects::title(event.object.get()) {
                    Ok((name, version)) => (version, Some(News::Deleted(name))),
                    Err(error) => {
                        self.nameless(&error);
                        (None, None)
                    }
                },
                "BOOKMARK" => {
                    let Bookmark { metadata } = serde_json::from_str(event.object.get()).map_err(not_understood)?;
                    bookmarked = true;
                    let ends = metadata
                        .annotations
                        .is_some_and(|annotations| annotations.contains_key(LIST_ENDS));
                    let news = (listing && ends).then_some(News::ListEnds);
                    listing &= !ends;
                    (Some(metadata.resource_version), news)
                }
                "ERROR" => {
                    let status: Status = serde_json::from_str(event.object.get()).map_err(not_understood)?;
                    let message = status.message.unwrap_or_default();
                    return Err(refusal(status.code.unwrap_or(500), &message, None).into());
                }
                other => {
                    let shown: String = other.chars().take(20).collect();
                    return Err(Cause::NotUnderstood(format!("an event of type \"{shown}\"").into()).into());
                }
            };
            if !answers && !listing {
                answers = true;
                self.tell(News::Answers).await?;
            }
            if let Some(news) = news {
                self.tell(news).await?;
            }
            // A list that breaks off is begun again.
            if let Some(version) = version.filter(|version| !listing && !version.is_empty()) {
                self.position = Some(version.into());
                (self.failures, self.broken) = (0, 0);
            }
        }
    }
}

fn refusal(code: u16, message: &str, retry_after: Option<Duration>) -> Cause {
    let message: String = message.chars().take(300).collect();
    Cause::Refused {
        code,
        message: message.into(),
        retry_after,
    }
}

fn not_understood(error: serde_json::Error) -> Cause {
    Cause::NotUnderstood(error.to_string().into())
}

fn unasked(error: kube::core::request::Error) -> Cause {
    Cause::NoAnswer(error.to_string().into())
}

/// An error with what led to it: the outermost says the least.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// The `Date` of an answer (RFC 9110 §6.6.1), in whole seconds.
fn server_clock(answer: &Response<Body>) -> Option<SystemTime> {
    let text = answer.headers().get(header::DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.into())
}

/// A number from 0 to 1.
fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}
