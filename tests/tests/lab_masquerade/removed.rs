//! TCP connections to an endpoint that dies in silence and then leaves its slice: where that was asked for, their clients hear
//! it by a reset at their next write; else they go on waiting. One that only changes its slice keeps its connections.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use tests::lab::Lab;
use tests::traffic::Over;

use crate::scene::{drops, ip, service, start, vip};
use crate::talk::Talk;

/// The Services: what holds by default, what the annotation says otherwise, and one whose endpoint comes back.
const DEFAULT: u16 = 11;
const ANNOTATED: u16 = 12;
const BACK: u16 = 13;

/// A removed endpoint is known as gone after five seconds.
const RESET_WITHIN: Duration = Duration::from_secs(10);
const BACK_AFTER: Duration = Duration::from_millis(1_500);
const WRITE_EVERY: Duration = Duration::from_millis(200);

#[rstest]
#[case::switched_on(&["--reset-removed"], true)]
#[case::not_switched_on(&[], false)]
fn clients_of_a_removed_endpoint_are_told_where_that_was_asked_for(#[case] words: &[&str], #[case] by_default: bool) {
    let annotation = (!by_default).to_string();
    let cluster = start(Lab::one_node().backends(2), words, |lab| {
        let dead = [lab.backend(1)];
        let annotated = service("annotated", ANNOTATED, dead).annotated("sluice.io/reset-removed", &annotation);
        let back = service("back", BACK, [lab.backend(2)]).annotated("sluice.io/reset-removed", "true");
        vec![service("default", DEFAULT, dead), annotated, back]
    });
    let lab = &cluster.lab;
    let mut port = 44_000;
    let mut open = |number: u16| -> Vec<Talk> {
        let hosts = [
            (lab.client(), false),
            (lab.client(), true),
            (lab.node(), false),
            (lab.node(), true),
        ];
        let talks = hosts.map(|(host, v6)| {
            port += 1;
            let own = SocketAddr::new(host.addresses()[usize::from(v6)], port);
            Talk::open(host, own, vip(number, Over::Tcp, v6), Over::Tcp)
        });
        talks.into()
    };
    let (on, off) = if by_default {
        (DEFAULT, ANNOTATED)
    } else {
        (ANNOTATED, DEFAULT)
    };
    let (told, waiting, mut back) = (open(on), open(off), open(BACK));

    ip(lab.backend(1), "link set eth0 down");
    for file in ["default.yaml", "annotated.yaml", "back.yaml"] {
        let left = cluster.manifests.keep_endpoints(file, |_| false);
        left.expect("the folder can be written to");
    }
    let removed = Instant::now();
    thread::scope(|scope| {
        for mut talk in told {
            scope.spawn(move || {
                let (why, took) = write_until(&mut talk, removed + RESET_WITHIN);
                let kind = why.as_ref().map(Error::kind);
                let who = talk.describe();
                assert_eq!(kind, Some(ErrorKind::ConnectionReset), "{who} after {took:?}: {why:?}");
                println!("{who} was told after {:?}", removed.elapsed());
            });
        }
        for mut talk in waiting {
            scope.spawn(move || {
                let (why, took) = write_until(&mut talk, removed + RESET_WITHIN);
                assert!(why.is_none(), "{} after {took:?}: {why:?}", talk.describe());
            });
        }
        scope.spawn(|| {
            thread::sleep(BACK_AFTER);
            let again = service("back", BACK, [lab.backend(2)]).annotated("sluice.io/reset-removed", "true");
            cluster.manifests.apply(&again).expect("the folder can be written to");
            while removed.elapsed() < RESET_WITHIN {
                back.iter_mut().for_each(Talk::say);
                thread::sleep(WRITE_EVERY);
            }
        });
    });
    assert!(drops(&cluster, "endpoint_removed") >= 4, "each reset is counted");
}

/// Writes now and then until something is heard: what, and when that was.
fn write_until(talk: &mut Talk, end: Instant) -> (Option<Error>, Duration) {
    let begun = Instant::now();
    let stream = talk.stream();
    stream
        .set_read_timeout(Some(WRITE_EVERY))
        .expect("a time-out is allowed");
    while Instant::now() < end {
        let heard: Result<usize> = stream
            .write_all(b"is anybody there?")
            .and_then(|()| stream.read(&mut [0]));
        match heard {
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(why) => return (Some(why), begun.elapsed()),
            Ok(octets) => {
                let text = format!("{octets} octets came from a dead endpoint");
                return (Some(Error::other(text)), begun.elapsed());
            }
        }
    }
    (None, begun.elapsed())
}
