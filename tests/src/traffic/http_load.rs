//! A connection for every request, at a steady rate or as fast as a number of clients can: connect, ask, read the answer, close.
//!
//! What counts as lost: a connect that fails or times out, a reset, an answer cut short or with wrong bytes. The books are in `books`.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::books::{Books, Outcome, Phase, PhaseReport, Window};
use super::pattern::Pattern;
use super::worker::{Stop, Worker};
use crate::lab::Host;

/// How often connections that are due get started.
const TICK: Duration = Duration::from_millis(2);

/// Connections that are due and wait for a place pile up to as many as come in this part of a second.
const JAM_MAX: f64 = 0.1;

/// What to ask for, how often, and how long to wait.
#[derive(Clone, Debug)]
pub struct HttpPlan {
    /// Asked in turn.
    pub targets: Vec<SocketAddr>,
    /// New connections a second; 0 means as many as `at_once` allows.
    pub per_second: u32,
    /// Open connections; one that is due while there are so many waits for its turn, or is left out.
    pub at_once: usize,
    /// `/`, or `/bytes/N`, whose bytes are checked.
    pub path: String,
    /// A connect that takes longer is lost.
    pub connect_within: Duration,
    /// An answer that takes longer, from the connect on, is lost.
    pub answer_within: Duration,
    /// The load ends by itself after this many connections…
    pub connections_max: u64,
    /// …or this time.
    pub time_max: Duration,
}

impl HttpPlan {
    /// 500 connections a second, for a minute at most.
    pub fn to(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            per_second: 500,
            at_once: 256,
            path: "/".to_owned(),
            connect_within: Duration::from_secs(2),
            answer_within: Duration::from_secs(5),
            connections_max: 1_000_000,
            time_max: Duration::from_secs(60),
        }
    }
}

/// A running load.
pub struct HttpLoad {
    worker: Worker,
    books: Arc<Mutex<Books>>,
}

impl HttpLoad {
    /// Starts it from a host, in its first phase.
    pub fn start(host: &Host, plan: HttpPlan, phase: Phase) -> Result<Self> {
        ensure!(
            !plan.targets.is_empty(),
            "a load needs at least one address to connect to"
        );
        ensure!(plan.at_once > 0, "a load needs at least one connection at once");
        let books = Arc::new(Mutex::new(Books::new(phase)));
        let shared = Arc::clone(&books);
        let worker = Worker::start(host, "http-load", move |stop| drive(plan, shared, stop))?;
        Ok(Self { worker, books })
    }

    /// From now on connections belong to another phase.
    pub fn begin(&self, phase: Phase) {
        lock(&self.books).begin(phase);
    }

    /// What happened since the last call; for live displays.
    pub fn window(&self) -> Window {
        lock(&self.books).window()
    }

    /// The current phase so far.
    pub fn report(&self) -> PhaseReport {
        lock(&self.books).report()
    }

    /// Starts no more connections, waits for the open ones, and gives the report of every phase.
    pub fn finish(mut self) -> Vec<PhaseReport> {
        self.worker.finish();
        lock(&self.books).finish()
    }
}

fn lock(books: &Mutex<Books>) -> std::sync::MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drive(plan: HttpPlan, books: Arc<Mutex<Books>>, mut stop: Stop) {
    let at_once = u32::try_from(plan.at_once).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(plan.at_once));
    tokio::select! {
        () = start_connections(Arc::new(plan), &books, &room) => {}
        () = stop.requested() => {}
    }
    // All the room is free again when the last connection has ended; each has its own time limit.
    let _all = room.acquire_many(at_once).await;
}

async fn start_connections(plan: Arc<HttpPlan>, books: &Arc<Mutex<Books>>, room: &Arc<Semaphore>) {
    let begin = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut started, mut last, mut credit) = (0u64, begin, 0.0);
    while started < plan.connections_max && begin.elapsed() < plan.time_max {
        let due = match plan.per_second {
            0 => u64::MAX,
            rate => {
                ticks.tick().await;
                // What could not be started in time is not made up for later: after a jam the rate is the same as before.
                credit = f64::min(
                    credit + last.elapsed().as_secs_f64() * f64::from(rate),
                    f64::from(rate) * JAM_MAX,
                );
                last = Instant::now();
                let due = credit as u64;
                credit -= due as f64;
                due
            }
        };
        let until = started.saturating_add(due).min(plan.connections_max);
        while started < until && begin.elapsed() < plan.time_max {
            let Ok(place) = Arc::clone(room).acquire_owned().await else {
                return;
            };
            let target = plan.targets[(started % plan.targets.len() as u64) as usize];
            let (plan, books) = (Arc::clone(&plan), Arc::clone(books));
            started += 1;
            tokio::spawn(async move {
                let (phase, start) = (lock(&books).current(), Instant::now());
                let outcome = one_connection(&plan, target, start).await;
                lock(&books).record(phase, start, outcome);
                drop(place);
            });
        }
    }
}

async fn one_connection(plan: &HttpPlan, target: SocketAddr, start: Instant) -> Outcome {
    let failed = |why: String| Outcome::Failed {
        why: format!("{target}: {why}"),
    };
    let stream = match timeout(plan.connect_within, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_refusal(&error) => return Outcome::Refused { after: start.elapsed() },
        Ok(Err(error)) => return failed(format!("connecting: {error}")),
        Err(_) => return failed(format!("no connection within {:?}", plan.connect_within)),
    };
    let connect = start.elapsed();
    let _unsupported = stream.set_nodelay(true);
    match timeout(plan.answer_within, ask(stream, &plan.path, target)).await {
        Ok(Ok(backend)) => Outcome::Answered {
            backend,
            connect,
            whole: start.elapsed(),
        },
        Ok(Err(Trouble::Refused)) => Outcome::Refused { after: start.elapsed() },
        Ok(Err(Trouble::Other(why))) => failed(why),
        Err(_) => failed(format!("no complete answer within {:?}", plan.answer_within)),
    }
}

/// Why there was no sound answer.
enum Trouble {
    /// The refusal was heard only when the question was to be sent: a connection that really exists is reset, never refused.
    Refused,
    /// In words.
    Other(String),
}

impl From<hyper::Error> for Trouble {
    fn from(error: hyper::Error) -> Self {
        let inner = std::error::Error::source(&error).and_then(|inner| inner.downcast_ref::<Error>());
        if inner.is_some_and(|inner| inner.kind() == ErrorKind::ConnectionRefused) {
            return Self::Refused;
        }
        Self::Other(format!("{error}{}", cause(&error)))
    }
}

/// Asks once and answers with the name of the backend that gave a sound answer.
async fn ask(stream: TcpStream, path: &str, target: SocketAddr) -> Result<String, Trouble> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, target.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| Trouble::Other(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(Trouble::Other(format!("answered {status}")));
        }
        let backend = response
            .headers()
            .get("x-backend")
            .and_then(|value| value.to_str().ok());
        let backend = backend
            .ok_or_else(|| Trouble::Other("an answer without x-backend: not one of our servers".to_owned()))?
            .to_owned();
        let body = response.into_body().collect().await?.to_bytes();
        check(path, &backend, &body).map_err(Trouble::Other)?;
        Ok(backend)
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The connection ends first when the server has sent all and closed: the answer is in the buffer then.
        _ = &mut connection => exchange.await,
    }
}

fn check(path: &str, backend: &str, body: &[u8]) -> Result<(), String> {
    if let Some(count) = path.strip_prefix("/bytes/").and_then(|text| text.parse::<u64>().ok()) {
        if body.len() as u64 != count {
            return Err(format!("{} bytes of {count} came", body.len()));
        }
        return match Pattern::new(count).first_wrong(0, body) {
            Some(position) => Err(format!("wrong byte at {position} of {count}")),
            None => Ok(()),
        };
    }
    if path == "/" && body.trim_ascii() != backend.as_bytes() {
        return Err(format!(
            "header says {backend}, body says {:?}",
            String::from_utf8_lossy(body)
        ));
    }
    Ok(())
}

/// A refusal is an answer from the network: nobody serves this here.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied
    )
}

fn cause(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map(|inner| format!(": {inner}{}", cause(inner)))
        .unwrap_or_default()
}
