//! UDP conversations from fixed source ports: question after question, noting who answers and when that changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};

use super::worker::{Stop, Worker};
use crate::lab::Host;

/// Moves and failures kept word for word.
const KEPT: usize = 1000;

/// How many sessions, to where, and how busy.
#[derive(Clone, Debug)]
pub struct UdpPlan {
    /// Asked by the sessions in turn.
    pub targets: Vec<SocketAddr>,
    /// How many.
    pub sessions: u16,
    /// The source port of the first; the others follow.
    pub first_port: u16,
    /// From one question to the next.
    pub every: Duration,
    /// An answer that takes longer is missing.
    pub answer_within: Duration,
    /// The sessions end by themselves after this time.
    pub time_max: Duration,
}

impl UdpPlan {
    /// 16 sessions with a question every 50 ms, for two minutes at most.
    pub fn to(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            sessions: 16,
            first_port: 5000,
            every: Duration::from_millis(50),
            answer_within: Duration::from_secs(1),
            time_max: Duration::from_secs(120),
        }
    }
}

/// A session was answered by another backend than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// When the question was asked.
    pub at: Instant,
    /// The session's source port.
    pub port: u16,
    /// Who answered until then.
    pub from: String,
    /// Who answers now.
    pub to: String,
}

/// What became of the sessions.
#[derive(Clone, Debug, Default)]
pub struct UdpReport {
    /// Questions asked whose fate is known.
    pub asked: u64,
    /// Questions answered rightly.
    pub answered: u64,
    /// Questions that nobody answered in time.
    pub missing: u64,
    /// Questions that were refused by ICMP.
    pub refused: u64,
    /// Answers to something else, or from nobody we know.
    pub wrong: u64,
    /// Which backend each session is with, by source port.
    pub sessions: BTreeMap<u16, String>,
    /// The address from which each session was last seen by its backend.
    pub seen_from: BTreeMap<u16, SocketAddr>,
    /// Changes of backend.
    pub moves: Vec<Move>,
    /// The first failures, word for word.
    pub failures: Vec<String>,
}

/// Running sessions.
pub struct UdpSessions {
    worker: Worker,
    report: Arc<Mutex<UdpReport>>,
}

impl UdpSessions {
    /// Starts them from a host.
    pub fn start(host: &Host, plan: UdpPlan) -> Result<Self> {
        ensure!(
            !plan.targets.is_empty(),
            "UDP sessions need at least one address to ask"
        );
        ensure!(
            plan.first_port.checked_add(plan.sessions).is_some(),
            "source ports end at 65535"
        );
        let report = Arc::new(Mutex::new(UdpReport::default()));
        let shared = Arc::clone(&report);
        let worker = Worker::start(host, "udp-sessions", move |stop| async move {
            let mut tasks = tokio::task::JoinSet::new();
            let plan = Arc::new(plan);
            for number in 0..plan.sessions {
                tasks.spawn(converse(Arc::clone(&plan), number, Arc::clone(&shared), stop.clone()));
            }
            tasks.join_all().await;
        })?;
        Ok(Self { worker, report })
    }

    /// How they are now.
    pub fn report(&self) -> UdpReport {
        lock(&self.report).clone()
    }

    /// Ends them and gives the last report.
    pub fn finish(mut self) -> UdpReport {
        self.worker.finish();
        self.report()
    }
}

fn lock(report: &Mutex<UdpReport>) -> MutexGuard<'_, UdpReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(plan: Arc<UdpPlan>, number: u16, shared: Arc<Mutex<UdpReport>>, mut stop: Stop) {
    let target = plan.targets[usize::from(number) % plan.targets.len()];
    let port = plan.first_port + number;
    let socket = match connected(target, port).await {
        Ok(socket) => socket,
        Err(error) => {
            let mut report = lock(&shared);
            report.wrong += 1;
            return note(&mut report, format!("port {port}: no socket to {target}: {error}"));
        }
    };
    let end = TokioInstant::now() + plan.time_max;
    let mut next = TokioInstant::now() + plan.every.mul_f64(f64::from(number) / f64::from(plan.sessions));
    let mut sequence: u64 = 0;
    while next < end {
        tokio::select! {
            () = stop.requested() => return,
            () = sleep_until(next) => {}
        }
        sequence += 1;
        let at = Instant::now();
        let outcome = timeout(plan.answer_within, ask(&socket, sequence)).await;
        next = next.max(TokioInstant::now() - plan.every) + plan.every;
        let mut report = lock(&shared);
        report.asked += 1;
        match outcome {
            Ok(Ok((backend, seen))) => {
                report.answered += 1;
                report.seen_from.insert(port, seen);
                let before = report.sessions.insert(port, backend.clone());
                if let Some(from) = before.filter(|from| *from != backend)
                    && report.moves.len() < KEPT
                {
                    report.moves.push(Move {
                        at,
                        port,
                        from,
                        to: backend,
                    });
                }
            }
            Ok(Err(error)) if super::http_load::is_refusal(&error) => report.refused += 1,
            Ok(Err(error)) => {
                report.wrong += 1;
                note(
                    &mut report,
                    format!("port {port} to {target}, question {sequence}: {error}"),
                );
            }
            Err(_) => {
                report.missing += 1;
                let patience = plan.answer_within;
                note(
                    &mut report,
                    format!("port {port} to {target}, question {sequence}: no answer within {patience:?}"),
                );
            }
        }
    }
}

async fn connected(target: SocketAddr, port: u16) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, port)).await?;
    // Only answers from the address that was asked get in: one with another source is a missing answer.
    socket.connect(target).await?;
    Ok(socket)
}

async fn ask(socket: &UdpSocket, sequence: u64) -> std::io::Result<(String, SocketAddr)> {
    socket.send(sequence.to_string().as_bytes()).await?;
    let mut buffer = [0; 512];
    loop {
        let count = socket.recv(&mut buffer).await?;
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let parts: Vec<_> = text.split(' ').collect();
        let sound = match parts.as_slice() {
            [backend, seen, number] => seen
                .parse()
                .ok()
                .zip(number.parse::<u64>().ok())
                .map(|rest| (*backend, rest)),
            _ => None,
        };
        match sound {
            Some((backend, (seen, number))) if number == sequence => return Ok((backend.to_owned(), seen)),
            // An answer that came too late for its question.
            Some((_, (_, number))) if number < sequence => {}
            _ => return Err(std::io::Error::other(format!("answered {text:?}"))),
        }
    }
}

fn note(report: &mut UdpReport, failure: String) {
    if report.failures.len() < KEPT {
        report.failures.push(failure);
    }
}
