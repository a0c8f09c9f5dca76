//! UDP clients that go on sending from one port, through all that happens to their Service: they move, are refused, come back,
//! and reach nobody once the Service is gone. No datagram stays unanswered that somebody could answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use tests::lab::Lab;
use tests::traffic::Over;

use crate::scene::{CHANGE_MAX, PATIENCE, service, start, vip};
use crate::talk::Talk;

const DNS: u16 = 11;

#[test]
fn a_client_that_goes_on_sending_follows_its_service() {
    let cluster = start(Lab::one_node().backends(2), &[], |lab| {
        vec![service("dns", DNS, lab.backends())]
    });
    let lab = &cluster.lab;
    let serving = |numbers: &[u8]| {
        let pods = numbers.iter().map(|number| lab.backend(*number));
        let manifests = &cluster.manifests;
        manifests
            .apply(&service("dns", DNS, pods))
            .expect("the folder can be written to");
    };
    let mut port = 45_000;
    for host in [lab.client(), lab.node()] {
        for v6 in [false, true] {
            port += 1;
            serving(&[1, 2]);
            let changed = Instant::now();
            let own = SocketAddr::new(host.addresses()[usize::from(v6)], port);
            let mut talk = loop {
                match host.run(|| Talk::try_open(own, vip(DNS, Over::Udp, v6), Over::Udp)) {
                    Ok(talk) => break talk,
                    Err(why) => assert!(changed.elapsed() < CHANGE_MAX + PATIENCE, "{own}: {why}"),
                }
            };

            // To the other pod and back again.
            let first = if talk.pod == "backend-1" { 1 } else { 2 };
            for left in [3 - first, first] {
                serving(&[left]);
                let name = lab.backend(left).name.clone();
                let changed = Instant::now();
                while talk.pod != name {
                    talk.say();
                    assert!(changed.elapsed() < CHANGE_MAX, "{} does not move", talk.describe());
                }
                for _ in 0..100 {
                    talk.say();
                    assert_eq!(talk.pod, name, "{own}: it stays where it has moved");
                }
            }

            serving(&[]);
            let changed = Instant::now();
            let refused = loop {
                if let Err(why) = talk.try_say() {
                    break why;
                }
                assert!(
                    changed.elapsed() < CHANGE_MAX,
                    "{} is answered by nobody's pod",
                    talk.describe()
                );
            };
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{own}: {refused}");

            serving(&[1]);
            let changed = Instant::now();
            while talk.try_say().is_err() {
                assert!(
                    changed.elapsed() < CHANGE_MAX,
                    "{} is not served again",
                    talk.describe()
                );
            }

            cluster
                .manifests
                .remove("dns.yaml")
                .expect("the folder can be written to");
            let changed = Instant::now();
            while talk.try_say().is_ok() {
                assert!(
                    changed.elapsed() < CHANGE_MAX,
                    "{}: there is no such Service",
                    talk.describe()
                );
            }
            let heard = || {
                cluster
                    .servers
                    .iter()
                    .map(tests::traffic::Server::datagrams)
                    .sum::<u64>()
            };
            let before = heard();
            for _ in 0..3 {
                assert!(talk.try_say().is_err(), "{}: there is no such Service", talk.describe());
            }
            assert_eq!(heard(), before, "{own}: nothing reaches a pod");
        }
    }
}
