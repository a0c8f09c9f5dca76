//! Connections that stay: each sends messages, expects every byte back, and notes the longest pause.
//!
//! A connection that breaks is not replaced: it is lost, and that is the point.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};

use super::pattern::Pattern;
use super::worker::{Stop, Worker};
use crate::lab::Host;

/// Failures kept word for word.
const FAILURES_KEPT: usize = 20;
/// A connection that never opens is in the report this much after its patience has ended.
const SETTLE: Duration = Duration::from_millis(500);

/// How a connection gets to the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The raw echo server: it greets with its name.
    Raw,
    /// The HTTP server: `GET /echo`, upgraded.
    Http,
}

/// How many connections, to where, and how busy.
#[derive(Clone, Debug)]
pub struct LongLivedPlan {
    /// Connected to in turn.
    pub targets: Vec<SocketAddr>,
    /// How many.
    pub connections: usize,
    /// What listens there.
    pub entry: Entry,
    /// Bytes of a message.
    pub message: usize,
    /// From one message to the next.
    pub every: Duration,
    /// A connect, or a message that isn't back after this long, is a lost connection.
    pub patience: Duration,
    /// The connections are closed in order after this time.
    pub time_max: Duration,
}

impl LongLivedPlan {
    /// 32 connections with a message of 1000 bytes every 50 ms, for two minutes at most.
    pub fn to(targets: impl IntoIterator<Item = SocketAddr>, entry: Entry) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            connections: 32,
            entry,
            message: 1000,
            every: Duration::from_millis(50),
            patience: Duration::from_secs(5),
            time_max: Duration::from_secs(120),
        }
    }
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct LongLivedReport {
    /// Connections that were made.
    pub made: usize,
    /// Connections that are open and sound.
    pub open: usize,
    /// Connections that could not be made, were reset, closed, stalled, or brought wrong bytes.
    pub lost: usize,
    /// Of those: by a reset.
    pub resets: usize,
    /// Of those: because a byte was wrong.
    pub wrong: usize,
    /// Bytes sent and come back.
    pub bytes: u64,
    /// The longest time from sending a message to having it back.
    pub longest_pause: Duration,
    /// Open connections of each backend.
    pub backends: BTreeMap<String, usize>,
    /// The addresses that the servers saw, by backend.
    pub seen_from: Vec<(String, SocketAddr)>,
    /// The first failures, word for word.
    pub failures: Vec<String>,
}

/// Running connections.
pub struct LongLived {
    worker: Worker,
    report: Arc<Mutex<LongLivedReport>>,
    wanted: usize,
    patience: Duration,
}

impl LongLived {
    /// Starts them from a host.
    pub fn start(host: &Host, plan: LongLivedPlan) -> Result<Self> {
        ensure!(
            !plan.targets.is_empty(),
            "long-lived connections need at least one address to connect to"
        );
        // Both directions of a message must fit into the socket buffers, since it is read only after it was written.
        ensure!(
            (1..=65_536).contains(&plan.message),
            "a message has 1 to 65536 bytes, not {}",
            plan.message
        );
        let report = Arc::new(Mutex::new(LongLivedReport::default()));
        let (wanted, patience, shared) = (plan.connections, plan.patience, Arc::clone(&report));
        let worker = Worker::start(host, "long-lived", move |stop| async move {
            let mut tasks = tokio::task::JoinSet::new();
            let plan = Arc::new(plan);
            for number in 0..plan.connections {
                tasks.spawn(keep(Arc::clone(&plan), number, Arc::clone(&shared), stop.clone()));
            }
            tasks.join_all().await;
        })?;
        Ok(Self {
            worker,
            report,
            wanted,
            patience,
        })
    }

    /// Waits until all of them are connected.
    pub fn wait_open(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let report = self.report();
            if report.open == self.wanted {
                return Ok(());
            }
            if report.lost > 0 || start.elapsed() > self.patience + SETTLE {
                bail!(
                    "only {} of {} long-lived connections are open after {:?}:\n  {}",
                    report.open,
                    self.wanted,
                    start.elapsed(),
                    report.failures.join("\n  ")
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How they are now.
    pub fn report(&self) -> LongLivedReport {
        lock(&self.report).clone()
    }

    /// The longest pause since the last call: for a report per phase.
    pub fn take_longest_pause(&self) -> Duration {
        std::mem::take(&mut lock(&self.report).longest_pause)
    }

    /// Closes them and gives the last report; `open` is how many were sound to the end.
    pub fn finish(mut self) -> LongLivedReport {
        self.worker.finish();
        self.report()
    }
}

fn lock(report: &Mutex<LongLivedReport>) -> MutexGuard<'_, LongLivedReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Loss {
    Broken(std::io::Error),
    Wrong(u64),
    Stalled(Duration),
}

async fn keep(plan: Arc<LongLivedPlan>, number: usize, shared: Arc<Mutex<LongLivedReport>>, mut stop: Stop) {
    let target = plan.targets[number % plan.targets.len()];
    let opened = timeout(plan.patience, open(target, plan.entry)).await;
    let (stream, backend) = match opened {
        Ok(Ok((stream, backend, seen))) => {
            let mut report = lock(&shared);
            report.made += 1;
            report.open += 1;
            *report.backends.entry(backend.clone()).or_default() += 1;
            report.seen_from.push((backend.clone(), seen));
            (stream, backend)
        }
        Ok(Err(error)) => return lost(&shared, None, target, &Loss::Broken(error)),
        Err(_) => return lost(&shared, None, target, &Loss::Stalled(plan.patience)),
    };
    tokio::select! {
        () = stop.requested() => {}
        loss = exchange(stream, number, &plan, &shared) => {
            if let Err(loss) = loss {
                lost(&shared, Some(&backend), target, &loss);
            }
        }
    }
}

async fn open(target: SocketAddr, entry: Entry) -> std::io::Result<(BufReader<TcpStream>, String, SocketAddr)> {
    let unexpected =
        |line: &str| std::io::Error::new(ErrorKind::InvalidData, format!("not one of our servers: {line:?}"));
    let mut stream = BufReader::new(TcpStream::connect(target).await?);
    stream.get_ref().set_nodelay(true)?;
    let mut line = String::new();
    if entry == Entry::Raw {
        stream.read_line(&mut line).await?;
        let (backend, seen) = line.trim().split_once(' ').ok_or_else(|| unexpected(&line))?;
        return Ok((stream, backend.to_owned(), seen.parse().map_err(|_| unexpected(&line))?));
    }
    let request = format!("GET /echo HTTP/1.1\r\nhost: {target}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (mut backend, mut seen, mut switched) = (None, None, false);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim();
        switched |= text.starts_with("HTTP/1.1 101");
        match text.split_once(": ") {
            Some(("x-backend", value)) => backend = Some(value.to_owned()),
            Some(("x-client", value)) => seen = value.parse().ok(),
            _ if text.is_empty() => break,
            _ => {}
        }
    }
    match (backend, seen) {
        (Some(backend), Some(seen)) if switched => Ok((stream, backend, seen)),
        _ => Err(unexpected("no 101 with x-backend and x-client")),
    }
}

async fn exchange(
    mut stream: BufReader<TcpStream>,
    number: usize,
    plan: &LongLivedPlan,
    shared: &Mutex<LongLivedReport>,
) -> Result<(), Loss> {
    let pattern = Pattern::new(number as u64);
    let end = TokioInstant::now() + plan.time_max;
    let (mut position, mut message, mut back) = (0u64, vec![0; plan.message], vec![0; plan.message]);
    // Spread over the interval, so that they don't all speak at once.
    let mut next = TokioInstant::now() + plan.every.mul_f64(number as f64 / plan.connections as f64);
    while next < end {
        sleep_until(next).await;
        pattern.fill(position, &mut message);
        let sent = Instant::now();
        let round_trip = async {
            stream.write_all(&message).await?;
            stream.read_exact(&mut back).await.map(drop)
        };
        timeout(plan.patience, round_trip)
            .await
            .map_err(|_| Loss::Stalled(plan.patience))?
            .map_err(Loss::Broken)?;
        if let Some(wrong) = pattern.first_wrong(position, &back) {
            return Err(Loss::Wrong(wrong));
        }
        position += message.len() as u64;
        next = next.max(TokioInstant::now() - plan.every) + plan.every;
        let mut report = lock(shared);
        report.bytes += message.len() as u64;
        report.longest_pause = report.longest_pause.max(sent.elapsed());
    }
    Ok(())
}

fn lost(shared: &Mutex<LongLivedReport>, backend: Option<&str>, target: SocketAddr, loss: &Loss) {
    let mut report = lock(shared);
    report.lost += 1;
    if let Some(backend) = backend {
        report.open -= 1;
        report
            .backends
            .entry(backend.to_owned())
            .and_modify(|count| *count -= 1);
    }
    let what = match loss {
        Loss::Broken(error) => {
            report.resets += usize::from(error.kind() == ErrorKind::ConnectionReset);
            error.to_string()
        }
        Loss::Wrong(position) => {
            report.wrong += 1;
            format!("wrong byte at {position}")
        }
        Loss::Stalled(patience) => format!("silent for {patience:?}"),
    };
    if report.failures.len() < FAILURES_KEPT {
        report
            .failures
            .push(format!("{target} ({}): {what}", backend.unwrap_or("not connected")));
    }
}
