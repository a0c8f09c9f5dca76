//! Clients that make new connections and judge who answered: one that is not there for them is a violation.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::lab::Lab;
use tests::traffic::Over;

use crate::churner::Log;
use crate::scene::{SERVICES, cluster_ip, port};
use crate::tables::{Set, View};

/// A connection of any of the four kinds every so often.
const EVERY: Duration = Duration::from_millis(10);
/// Less than a second, after which TCP sends a SYN again: a lost packet is a failed connection.
const PATIENCE: Duration = Duration::from_millis(900);
/// Between two changes of one slice lie 200 ms: during less than that, its tables change once at most.
const JUDGED_MAX: Duration = Duration::from_millis(90);
/// A backend that its file has left out for so long gets no new connection, whatever the tables say.
pub(crate) const CHANGE_MAX: Duration = Duration::from_millis(500);
/// Every UDP flow is new: no port is used twice. Those of the families are apart, as a socket of IPv6 claims both.
const FIRST_PORT: [u16; 2] = [20_000, 40_000];

/// What became of the connections of one kind.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Connections made and answered rightly.
    pub(crate) answered: u32,
    /// Of those: took too long to be judged by the tables.
    pub(crate) unjudged: u32,
    /// The slowest.
    pub(crate) longest: Duration,
    /// Refused, timed out, or answered wrongly.
    pub(crate) failed: Vec<String>,
    /// Answered by a backend that served in the tables neither when the connection started nor when it ended.
    pub(crate) absent: Vec<String>,
    /// Answered by a backend that its file had left out for longer than [`CHANGE_MAX`].
    pub(crate) left_out: Vec<String>,
}

/// Makes connections over one protocol and family until it is told to stop; asks all Services in turn.
pub(crate) fn connect(lab: &Lab, log: &Log, over: Over, v6: bool, stop: &AtomicBool) -> Books {
    let view = View::open(lab);
    let mut books = Books::default();
    let begin = Instant::now();
    for number in 0.. {
        let due = begin + EVERY * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let service = number as usize * 7 % SERVICES;
        let target = SocketAddr::new(cluster_ip(service, v6), port(over));
        let before = view.serving(target, over);
        let start = Instant::now();
        let answer = match over {
            Over::Tcp => over.ask(target, PATIENCE).map(|answer| answer.backend),
            Over::Udp => ask(
                target,
                FIRST_PORT[usize::from(v6)] + u16::try_from(number).expect("some thousand at most"),
            ),
        };
        let end = Instant::now();
        let after = view.serving(target, over);
        let name = match answer {
            Ok(name) => name,
            Err(error) => {
                let what = format!("{target} after {:?}: {error}", end - start);
                books.failed.push(what);
                continue;
            }
        };
        books.answered += 1;
        books.longest = books.longest.max(end - start);
        let backend: u8 = name
            .strip_prefix("backend-")
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{target} was answered by {name}"));
        let what = || format!("{target} by {name}; before {before:?}, after {after:?}");
        if end - start > JUDGED_MAX {
            books.unjudged += 1;
        } else if is_absent(before, after, backend) {
            books.absent.push(what());
        }
        let slice = 2 * service + usize::from(v6);
        let from = start.checked_sub(CHANGE_MAX).expect("the machine has run for longer");
        if log.leaves_out(slice, backend, from, end) {
            books.left_out.push(what());
        }
    }
    books
}

/// The judgement by the tables, as they were before a connection and after it.
pub(crate) fn is_absent(before: Set, after: Set, backend: u8) -> bool {
    !before.has(backend) && !after.has(backend)
}

/// A question from a given port, and the name of who answers.
fn ask(target: SocketAddr, port: u16) -> Result<String> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, port))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who")?;
    let mut buffer = [0; 128];
    let count = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    match text.split_once(' ') {
        Some((name, rest)) if rest.ends_with(" who") => Ok(name.to_owned()),
        _ => Err(Error::new(ErrorKind::InvalidData, text)),
    }
}
