//! Direct server return: pods see the client, and their answers go to it past the balancer, which it dialled.

use tests::lab::{Capture, plan};
use tests::packet::decode::{read, show};
use tests::packet::encode::Link;
use tests::traffic::Cluster;

use crate::scene::{COMBINATIONS, DIRECT, Frontend, PATIENCE};

/// Exchanges of each combination.
const TIMES: usize = 6;

pub(crate) fn answers_pass_by_the_balancer(cluster: &Cluster) -> Vec<String> {
    let lab = &cluster.lab;
    let router = lab.router().expect("there is one");
    let mut wrong = Vec::new();
    for frontend in Frontend::ALL {
        for (over, v6) in COMBINATIONS {
            let target = frontend.of(DIRECT, lab.node(), over, v6);
            let file = lab.directory().join("direct.pcap");
            let capture = Capture::start(router, &plan::lan_device(1), "ip or ip6", &file).expect("tcpdump runs");
            let ask = || (0..TIMES).map(|_| over.ask(target, PATIENCE)).collect::<Vec<_>>();
            let answers = lab.client().run(ask);
            let frames = capture.frames().expect("tcpdump ends");
            let is_wrong = |outcome: &std::io::Result<_>| !outcome.as_ref().is_ok_and(sees_the_client);
            wrong.extend(
                answers
                    .iter()
                    .filter(|outcome| is_wrong(outcome))
                    .map(|outcome| format!("{target}, {over:?}: {outcome:?}")),
            );
            // What goes to the client on the balancer's cable has passed the balancer.
            let to_client = |frame: &&Vec<u8>| {
                read(frame, Link::Ethernet).is_some_and(|seen| lab.client().addresses().contains(&seen.dst))
            };
            wrong.extend(
                frames
                    .iter()
                    .filter(to_client)
                    .map(|frame| format!("{target}, {over:?}: by the balancer: {}", show(frame, Link::Ethernet))),
            );
        }
    }
    wrong
}

fn sees_the_client(answer: &tests::traffic::Answer) -> bool {
    answer.seen == answer.own
}
