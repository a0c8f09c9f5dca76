//! What is promised of `sessionAffinity: ClientIP` (§3.4).

use std::time::Duration;

use super::{flow, short, world};
use crate::oracle::{Affinity, Memory, World};

/// Time, memory and a world in which clients dial.
struct Story {
    world: World,
    memory: Affinity,
    now: Duration,
}

impl Story {
    fn new(policy: &str) -> Self {
        let world = world(&format!(
            "service one type NodePort cluster 172.30.0.41 {policy} affinity 30 ports http/TCP/80/3001 b/TCP/81
             slice one-1 of one ports http/TCP/80 b/TCP/81 endpoints 10.0.1.1,L 10.0.1.2,R 10.0.1.3,R"
        ));
        Self {
            world,
            memory: Affinity::default(),
            now: Duration::ZERO,
        }
    }

    /// What a client may get after so many seconds; it goes to `went`.
    fn dials(&mut self, after_s: u64, who: &str, dialled: &str, expected: &str, went: Option<&str>) {
        self.now += Duration::from_secs(after_s);
        let flow = flow(who, dialled);
        let decision = self.world.decide_at(&flow, &self.memory, self.now);
        assert_eq!(short(&decision.outcome), expected, "{flow} at {:?}", self.now);
        if let (Some(went), Some((port, _))) = (went, decision.sticks) {
            self.memory
                .went(&port, flow.source.ip(), went.parse().expect("an address"), self.now);
        }
    }

    fn endpoints(&mut self, endpoints: &str) {
        self.world.slices = world(&format!("slice one-1 of one ports http/TCP/80 endpoints {endpoints}")).slices;
    }
}

const CLUSTER_IP: &str = "172.30.0.41:80";

#[test]
fn a_client_stays_across_frontends_until_it_was_away_too_long() {
    let mut story = Story::new("");
    story.dials(0, "pod", CLUSTER_IP, "1+2+3 -", Some("10.0.1.2:80"));
    story.dials(29, "pod", CLUSTER_IP, "2 -", Some("10.0.1.2:80"));
    story.dials(29, "pod", "192.168.0.2:3001", "2 M", Some("10.0.1.2:80"));
    story.dials(31, "pod", CLUSTER_IP, "1+2+3 -", None);
}

#[test]
fn other_clients_and_other_ports_are_on_their_own() {
    let mut story = Story::new("");
    story.dials(0, "pod", CLUSTER_IP, "1+2+3 -", Some("10.0.1.2:80"));
    story.dials(1, "pod1 10.0.0.9:40000", CLUSTER_IP, "1+2+3 -", None);
    story.dials(1, "pod", "172.30.0.41:81", "1+2+3 -", None);
}

#[test]
fn an_endpoint_that_is_out_and_comes_back_gets_its_client_back() {
    let mut story = Story::new("");
    story.dials(0, "pod", CLUSTER_IP, "1+2+3 -", Some("10.0.1.2:80"));
    story.endpoints("10.0.1.1,L 10.0.1.3,R");
    story.dials(5, "pod", CLUSTER_IP, "1+3 -", None);
    story.endpoints("10.0.1.1,L 10.0.1.2,R 10.0.1.3,R");
    story.dials(5, "pod", CLUSTER_IP, "2 -", None);
}

#[test]
fn of_several_that_remember_the_first_in_order_wins_or_the_latest() {
    for (kept, expected) in [(Memory::EachEndpoint, "2 -"), (Memory::Latest, "3 -")] {
        let mut story = Story::new("");
        story.memory = Affinity::keeping(kept);
        story.dials(0, "pod", CLUSTER_IP, "1+2+3 -", Some("10.0.1.2:80"));
        story.endpoints("10.0.1.1,L 10.0.1.3,R");
        story.dials(5, "pod", CLUSTER_IP, "1+3 -", Some("10.0.1.3:80"));
        story.endpoints("10.0.1.1,L 10.0.1.2,R 10.0.1.3,R");
        story.dials(5, "pod", CLUSTER_IP, expected, None);
    }
}

#[test]
fn policy_goes_before_memory() {
    let mut story = Story::new("etp");
    story.dials(0, "ext", CLUSTER_IP, "1+2+3 M", Some("10.0.1.2:80"));
    story.dials(1, "ext", "192.168.0.2:3001", "1 -", Some("10.0.1.1:80"));
    story.dials(1, "ext", CLUSTER_IP, "1 M", None);
}

#[test]
fn without_affinity_nothing_is_left() {
    let mut story = Story::new("");
    story.dials(0, "pod", CLUSTER_IP, "1+2+3 -", Some("10.0.1.2:80"));
    let decision = story
        .world
        .decide_at(&flow("pod", CLUSTER_IP), &story.memory, story.now);
    let port = decision.sticks.expect("affinity").0;
    story.memory.only_of(|other| *other != port);
    story.dials(1, "pod", CLUSTER_IP, "1+2+3 -", None);
}
