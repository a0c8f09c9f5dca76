//! A thousand endpoint changes a second under new connections: none fails, and none meets a backend that isn't there.
//!
//! 200 EndpointSlices in a file each lose and gain one endpoint at a time, while clients make new connections over TCP and UDP, IPv4
//! and IPv6. All servers listen all the time, so a connection that is sent to a backend that has left succeeds, and is found out by
//! who answered:
//!
//! - by the tables: a backend that serves neither at the connection's start nor at its end in the kernel's own memory, with no time
//!   allowed for anything;
//! - by the files: a backend that its file has left out for longer than `CHANGE_MAX` before the start.
//!
//! How many changes were made is shown by the agent's own count and, from outside, by what is seen to change in the tables.

mod churner;
mod clients;
mod scene;
mod tables;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_userspace::tables::Tables as _;
use tests::lab::Lab;
use tests::traffic::manifests::ManifestFolder;
use tests::traffic::{Cluster, Over};

use churner::Log;
use clients::{Books, CHANGE_MAX, is_absent};
use scene::{BACKENDS, SERVICES, Slice, cluster_ip, port};
use tables::{Seen, View};

/// What the issue asks for.
const PER_SECOND: u32 = 1_000;
const SECONDS: u32 = 10;
/// Agents that die in turn.
const KILLS: u32 = 7;
const CHANGES_PER_KILL: u32 = 400;
/// How long the last changes may take to be in the tables.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// What a time of churn has brought.
struct Outcome {
    wrote_in: Duration,
    seen: Seen,
    books: Vec<Books>,
}

/// Makes changes under load, with something else meanwhile, and goes on to watch until the tables are as the files, or until the
/// patience ends.
fn run(
    (lab, manifests): (&Lab, &ManifestFolder),
    slices: &[Slice],
    log: &Log,
    changes: u32,
    meanwhile: impl FnOnce(),
) -> Outcome {
    let stop = AtomicBool::new(false);
    let view = View::open(lab);
    std::thread::scope(|scope| {
        let stop = &stop;
        let watching = scope.spawn(move || tables::watch(&View::open(lab), log, stop));
        let combinations = Over::BOTH.into_iter().flat_map(|over| [(over, false), (over, true)]);
        let clients: Vec<_> = combinations
            .map(|(over, v6)| scope.spawn(move || lab.client().run(|| clients::connect(lab, log, over, v6, stop))))
            .collect();
        let churning = scope.spawn(|| {
            let begin = Instant::now();
            churner::churn(manifests, slices, log, changes, PER_SECOND);
            begin.elapsed()
        });
        meanwhile();
        let wrote_in = churning.join().expect("the files can be written");
        let written = Instant::now();
        while !tables::unlike_files(&view, log).is_empty() && written.elapsed() < SETTLE_MAX {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        let books = clients
            .into_iter()
            .map(|client| client.join().expect("a client says what is wrong"));
        let books = books.collect();
        let seen = watching.join().expect("the watch says what is wrong");
        Outcome { wrote_in, seen, books }
    })
}

fn all(books: &[Books], what: impl Fn(&Books) -> &Vec<String>) -> Vec<String> {
    books.iter().flat_map(|books| what(books).iter().cloned()).collect()
}

fn changes_applied(cluster: &Cluster) -> u64 {
    // The state is written a few times a second.
    std::thread::sleep(Duration::from_millis(300));
    let state = cluster.agent.state().expect("a healthy agent");
    state["changes_total"].as_u64().expect("a number")
}

#[test]
fn a_thousand_changes_a_second_are_not_noticed_by_new_connections() {
    let (cluster, slices) = scene::start();
    let log = Log::new();
    let applied_before = changes_applied(&cluster);
    let changes = PER_SECOND * SECONDS;
    let outcome = run((&cluster.lab, &cluster.manifests), &slices, &log, changes, || ());
    let applied = changes_applied(&cluster) - applied_before;
    let delay = |part: usize| outcome.seen.delays[(outcome.seen.delays.len() - 1) * part / 100];
    println!(
        "{changes} changes written in {:?}; {applied} applied by the agent, {} seen in the tables; from file to table: \
         median {:?}, 99 of 100 {:?}, longest {:?}",
        outcome.wrote_in,
        outcome.seen.changes,
        delay(50),
        delay(99),
        delay(100),
    );
    for books in &outcome.books {
        println!(
            "{} connections, longest {:?}, {} not judged",
            books.answered, books.longest, books.unjudged
        );
    }
    assert_eq!(
        all(&outcome.books, |books| &books.failed),
        [""; 0],
        "failed connections"
    );
    assert_eq!(
        all(&outcome.books, |books| &books.absent),
        [""; 0],
        "sent to a backend that is not in the tables"
    );
    assert_eq!(
        all(&outcome.books, |books| &books.left_out),
        [""; 0],
        "sent to a backend that no file names"
    );
    assert_eq!(tables::unlike_files(&View::open(&cluster.lab), &log), [""; 0]);
    // It was the test that was meant.
    assert!(
        outcome.wrote_in < Duration::from_secs(1) * SECONDS * 11 / 10,
        "written too slowly"
    );
    assert!(
        applied >= u64::from(changes) * 97 / 100,
        "only {applied} of {changes} changes reached the agent one by one"
    );
    assert!(
        outcome.seen.changes >= changes as usize * 97 / 100,
        "only {} of {changes} changes were seen in the tables",
        outcome.seen.changes
    );
    for books in &outcome.books {
        assert!(books.answered >= 80 * SECONDS, "only {} connections", books.answered);
        assert!(
            books.unjudged <= books.answered / 20,
            "{} of {} were too slow to be judged",
            books.unjudged,
            books.answered
        );
    }
}

/// Agents that die while they write, one after the other: new connections don't notice, and the last agent makes the tables as the
/// files are, with nothing left of the others.
#[test]
fn agents_that_are_killed_in_the_midst_of_changes_leave_sound_tables() {
    let (mut cluster, slices) = scene::start();
    let log = Log::new();
    let (lab, manifests, agent) = (&cluster.lab, &cluster.manifests, &mut cluster.agent);
    let outcome = run((lab, manifests), &slices, &log, 0, || {
        for kill in 0..KILLS {
            std::thread::scope(|scope| {
                scope.spawn(|| churner::churn(manifests, &slices, &log, CHANGES_PER_KILL, PER_SECOND));
                // Each somewhere else in its work.
                std::thread::sleep(Duration::from_millis(150 + u64::from(kill) * 17));
                agent.kill9().expect("it runs");
            });
            agent.restart().expect("it can be started again");
            agent.wait_ready().expect("it gets ready");
        }
    });
    let connections: u32 = outcome.books.iter().map(|books| books.answered).sum();
    println!(
        "{connections} connections, {} changes seen in the tables",
        outcome.seen.changes
    );
    assert!(connections > KILLS * 100, "only {connections} connections");
    assert!(
        outcome.seen.changes > (KILLS * CHANGES_PER_KILL / 2) as usize,
        "the agents had little to do"
    );
    assert_eq!(
        all(&outcome.books, |books| &books.failed),
        [""; 0],
        "failed connections"
    );
    assert_eq!(
        all(&outcome.books, |books| &books.absent),
        [""; 0],
        "sent to a backend that is not in the tables"
    );
    let view = View::open(&cluster.lab);
    assert_eq!(tables::unlike_files(&view, &log), [""; 0]);
    // Records and frontends of what nobody serves any more go with the next grace period.
    let begin = Instant::now();
    let (named, kept) = loop {
        let (named, kept) = (view.named(), View::open(&cluster.lab).kept());
        if named == kept || begin.elapsed() > SETTLE_MAX {
            break (named, kept);
        }
    };
    assert_eq!(
        named, kept,
        "backends that the Services name, and backends that have a record"
    );
}

/// The same measurements where what they look for is there.
#[test]
fn an_agent_that_is_dead_and_a_writer_without_care_are_noticed() {
    let (mut cluster, slices) = scene::start();
    let log = Log::new();
    an_established_connection_is_no_new_one(&cluster, &slices[0], &log);

    // Nobody brings the changes into the tables.
    cluster.agent.kill9().expect("it runs");
    let mut view = View::open(&cluster.lab);
    let stale = run((&cluster.lab, &cluster.manifests), &slices, &log, PER_SECOND, || ());
    assert_eq!(stale.seen.changes, 0);
    assert!(
        all(&stale.books, |books| &books.left_out).len() > 100,
        "connections to backends that no file names"
    );
    assert_eq!(
        all(&stale.books, |books| &books.failed),
        [""; 0],
        "the datapath serves without an agent"
    );
    let unlike = tables::unlike_files(&view, &log).len();
    assert!(unlike > slices.len(), "only {unlike} are unlike their files");

    // A Service that is taken away and put back, instead of being changed in place.
    let careless = run((&cluster.lab, &cluster.manifests), &slices, &log, 0, || {
        std::thread::sleep(Duration::from_millis(100));
        take_away_for_a_moment(&mut view);
    });
    let failed = all(&careless.books, |books| &books.failed);
    assert!(!failed.is_empty(), "the moment was not noticed");
    assert!(
        failed
            .iter()
            .all(|what| what.starts_with("10.96.1.") && what.contains(":80 ")),
        "{failed:?}"
    );
}

/// It stays with its backend when that has left: as a new one it would be found out.
fn an_established_connection_is_no_new_one(cluster: &Cluster, slice: &Slice, log: &Log) {
    let view = View::open(&cluster.lab);
    let target = SocketAddr::new(cluster_ip(0, false), port(Over::Tcp));
    let connect = || {
        let stream = cluster
            .lab
            .client()
            .run(|| TcpStream::connect_timeout(&target, CHANGE_MAX));
        let mut stream = BufReader::new(stream.expect("the Service is there"));
        let mut greeting = String::new();
        stream.read_line(&mut greeting).expect("a greeting");
        let name = greeting
            .split(' ')
            .next()
            .and_then(|name| name.strip_prefix("backend-"));
        (stream, name.and_then(|number| number.parse().ok()).expect("a backend"))
    };
    let (mut stream, backend): (_, u8) = std::iter::repeat_with(connect)
        .take(100)
        .find(|(_, backend)| *backend > 1)
        .expect("of 100 connections some get to others than backend-1");
    let all = view.serving(target, Over::Tcp);
    assert!(all.len() == BACKENDS && !is_absent(all, all, backend));
    log.say(0, 1);
    cluster
        .manifests
        .write(&slice.file, slice.text(1))
        .expect("the folder can be written to");
    let written = Instant::now();
    while view.serving(target, Over::Tcp).len() > 1 {
        assert!(
            written.elapsed() < SETTLE_MAX,
            "the change does not get into the tables"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = view.serving(target, Over::Tcp);
    stream.get_mut().write_all(b"x").expect("it is open");
    stream.read_exact(&mut [0]).expect("its backend answers");
    assert!(is_absent(now, view.serving(target, Over::Tcp), backend));
    assert!(!is_absent(now, all, backend), "it may have come or gone meanwhile");
}

/// The IPv4 frontends of TCP.
fn take_away_for_a_moment(view: &mut View) {
    let keys = (0..SERVICES).map(|service| {
        let target = SocketAddr::new(cluster_ip(service, false), port(Over::Tcp));
        tables::frontend_v4(target, Over::Tcp)
    });
    let keys: Vec<_> = keys.collect();
    let frontends = view.v4.frontends().expect("the table can be read");
    for key in &keys {
        view.v4.remove_frontend(key).expect("the table can be written");
    }
    std::thread::sleep(Duration::from_millis(50));
    for (key, number) in frontends.iter().filter(|(key, _)| keys.contains(key)) {
        view.v4.put_frontend(key, *number).expect("the table can be written");
    }
}
