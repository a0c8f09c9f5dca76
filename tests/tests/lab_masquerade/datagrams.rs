//! UDP clients that go on sending from one port, through all that happens to their Service: they move, are refused, come back,
//! and reach nobody once the Service is gone. No datagram stays unanswered that somebody could answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use tests::lab::Lab;
use tests::traffic::{Over, Server};

use crate::scene::{CHANGE_MAX, service, start, vip};
use crate::talk::Talk;

const DNS: u16 = 11;
const PORT: u16 = 45_000;
/// From one attempt that fails to the next: only so many are refused in a second, the others hear nothing.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Where nobody answers.
const SILENCE: Duration = Duration::from_millis(200);

#[rstest]
fn a_client_that_goes_on_sending_follows_its_service(
    #[values("client", "node")] who: &str,
    #[values(false, true)] v6: bool,
) {
    let cluster = start(Lab::one_node().backends(2), &[], |lab| {
        vec![service("dns", DNS, lab.backends())]
    });
    let lab = &cluster.lab;
    let serving = |numbers: &[u8]| {
        let service = service("dns", DNS, numbers.iter().map(|number| lab.backend(*number)));
        cluster.manifests.apply(&service).expect("the folder can be written to");
        Instant::now()
    };
    let in_time = |changed: Instant, what: &str| assert!(changed.elapsed() < CHANGE_MAX, "{what}");
    let host = if who == "node" { lab.node() } else { lab.client() };
    let own = SocketAddr::new(host.addresses()[usize::from(v6)], PORT);
    let mut talk = Talk::open(host, own, vip(DNS, Over::Udp, v6), Over::Udp);

    // To the other pod and back again.
    let first = if talk.pod == "backend-1" { 1 } else { 2 };
    for left in [3 - first, first] {
        let changed = serving(&[left]);
        let name = lab.backend(left).name.as_str();
        while talk.pod != name {
            talk.say();
            in_time(changed, "it does not move");
        }
        for _ in 0..100 {
            talk.say();
            assert_eq!(talk.pod, name, "it stays where it has moved");
        }
    }

    let changed = serving(&[]);
    let refused = loop {
        if let Err(why) = talk.try_say() {
            break why;
        }
        in_time(changed, "an endpoint that is no more goes on answering");
    };
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");

    let changed = serving(&[1]);
    while let Err(why) = talk.try_say() {
        in_time(changed, &format!("it is not served again: {why}"));
        thread::sleep(AGAIN_AFTER);
    }

    talk.wait_at_most(SILENCE);
    cluster
        .manifests
        .remove("dns.yaml")
        .expect("the folder can be written to");
    let changed = Instant::now();
    while talk.try_say().is_ok() {
        in_time(changed, "a Service that is no more goes on answering");
    }
    let heard = || cluster.servers.iter().map(Server::datagrams).sum::<u64>();
    let before = heard();
    for _ in 0..5 {
        assert!(talk.try_say().is_err(), "there is no such Service");
    }
    assert_eq!(heard(), before, "nothing reaches a pod");
}
