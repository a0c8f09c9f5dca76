//! The truth check: what somebody has changed in a table is told and put right; what this agent has written is never called wrong, whatever
//! waits for a grace period.

use lb_common::layout::{AddressFlags, Backend, Chunk, Frontend, FrontendKey, Label, Port, Proto, Rules, Scope, Sets};
use rstest::rstest;

use super::{Bench, backends, desired, frontend, ip4, list, ranges, with};
use crate::plan::{DesiredPort, FrontendKind};
use crate::reconcile::STEPS;
use crate::tables::{List, MemoryTables, SourceRange, Tables as _, Write};

const HOST: AddressFlags = AddressFlags::HOST;

/// A port with all that there is.
fn everything() -> DesiredPort {
    with(desired("1L 2"), |desired| {
        desired
            .frontends
            .push(frontend(FrontendKind::LoadBalancer, "203.0.113.9", 80));
        desired.frontends.sort_unstable();
        desired.cluster.as_mut().expect("it has one").maglev = true;
        desired.local = list("1L");
        desired.external_local = true;
        desired.others = backends("3t");
        desired.affinity_timeout_s = Some(10_800);
        desired.sources = ranges(&["10.0.0.0/8", "203.0.113.0/24"]);
    })
}

fn with_everything() -> Bench {
    let mut bench = Bench::new();
    bench.host(&[("192.168.0.2", HOST)]);
    bench.given("web", &everything());
    bench.grace();
    bench
}

/// What a whole pass finds.
fn pass(bench: &mut Bench) -> Vec<String> {
    let steps = (0..STEPS).flat_map(|step| bench.publisher.check(step));
    steps.map(|drift| drift.to_string()).collect()
}

fn key(address: &str, port: u16) -> FrontendKey<lb_common::layout::Ip4> {
    FrontendKey::new(ip4(address), Port::new(port), Proto::TCP)
}

fn range(base: &str, prefix_len: u8) -> SourceRange<lb_common::layout::Ip4> {
    SourceRange {
        set: 1,
        base: ip4(base),
        prefix_len,
    }
}

const NOTHING: [&str; 0] = [];

#[rstest]
#[case::a_frontend_that_leads_elsewhere(
    Write::PutFrontend(key("10.96.0.1", 80), Frontend::internal(3)),
    "LB4_FRONTENDS: 10.96.0.1 port 80/TCP leads to nobody (0x3), and should lead to default/web:http/TCP v4 (0x0)"
)]
#[case::a_frontend_that_is_gone(
    Write::RemoveFrontend(key("10.96.0.1", 80)),
    "LB4_FRONTENDS: 10.96.0.1 port 80/TCP is not there, and should lead to default/web:http/TCP v4 (0x0)"
)]
#[case::a_frontend_of_nobody(
    Write::PutFrontend(key("10.96.0.7", 80), Frontend::internal(0)),
    "LB4_FRONTENDS: 10.96.0.7 port 80/TCP leads to default/web:http/TCP v4 (0x0), and should not be there"
)]
#[case::an_address(
    Write::PutAddress(ip4("10.96.0.1"), AddressFlags::EXTERNAL),
    "LB4_ADDRESSES: 10.96.0.1 has flags 0x2, and should have 0x1"
)]
#[case::an_address_that_is_gone(
    Write::RemoveAddress(ip4("192.168.0.2")),
    "LB4_ADDRESSES: 192.168.0.2 has flags 0x0, and should have 0x8"
)]
#[case::an_address_of_nobody(
    Write::PutAddress(ip4("10.96.0.7"), AddressFlags::CLUSTER_IP),
    "LB4_ADDRESSES: 10.96.0.7 has flags 0x1, and should have 0x0"
)]
#[case::a_source_range_that_is_gone(
    Write::RemoveSource(range("10.0.0.0", 8)),
    "LB4_SOURCES: 10.0.0.0/8 in set 1 is missing"
)]
#[case::a_source_range_of_nobody(Write::PutSource(range("0.0.0.0", 0)), "LB4_SOURCES: 0.0.0.0/0 in set 1 is nobody's")]
#[case::a_backend(
    Write::Backend(1, Backend::default()),
    "LB4_BACKENDS: number 1 is 0.0.0.0:0 of service 0 with flags 0x0, and should be 10.244.1.3:8080 of service 0 with flags 0x5"
)]
#[case::a_slot(
    Write::Slot(4, 7),
    "LB4_SLOTS: place 4 of default/web:http/TCP v4 has 7, and should have 2"
)]
#[case::a_list(
    Write::Scope(0, List::Cluster, Scope::REJECT),
    "LB4_SERVICES: the endpoints of default/web:http/TCP v4 are refused, and should be 2 from place 4 on (0x400000200000004)"
)]
#[case::a_list_that_is_gone(
    Write::Scope(0, List::Local, Scope::ABSENT),
    "LB4_SERVICES: the endpoints of default/web:http/TCP v4 are none, and should be 1 from place 6 on (0x100000100000006)"
)]
#[case::rules(
    Write::Rules(0, Rules::from_word(0)),
    "LB4_SERVICES: the rules of default/web:http/TCP v4 are 0x0 with sets 0x1000000000001, and should be 0x2a3000000002"
)]
#[case::sets(Write::Sets(0, Sets::from_word(0)), "with sets 0x0, and should be")]
#[case::a_maglev_table(
    Write::Chunk(1, Chunk::default()),
    "LB4_MAGLEV: the table of 2 endpoints at chunk 0 is not as it was made"
)]
fn what_somebody_has_changed_is_told_and_put_right(#[case] change: Write<lb_common::layout::Ip4>, #[case] told: &str) {
    let mut bench = with_everything();
    assert_eq!(pass(&mut bench), NOTHING);
    bench.publisher.tables_mut().inner.replay(&change);
    let found = pass(&mut bench);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(told), "{found:?}");
    assert_eq!(pass(&mut bench), NOTHING, "it is put right");
}

#[test]
fn names_are_looked_after_too() {
    let mut bench = with_everything();
    let tables: &mut MemoryTables<_> = &mut bench.publisher.tables_mut().inner;
    tables
        .put_label(0, &Label::new("default/other"))
        .expect("it can be written");
    tables
        .put_label(2, &Label::new("default/nobody"))
        .expect("it can be written");
    assert_eq!(
        pass(&mut bench),
        [
            "LB4_LABELS: number 0 has \"default/other\", and should have \"default/web:http/TCP v4\"",
            "LB4_LABELS: number 2 has \"default/nobody\", and should have no name",
        ]
    );
    assert_eq!(pass(&mut bench), NOTHING);
}

#[test]
fn what_cant_be_put_right_is_said_each_time() {
    let mut bench = with_everything();
    bench
        .publisher
        .tables_mut()
        .inner
        .replay(&Write::RemoveAddress(ip4("192.168.0.2")));
    for _ in 0..2 {
        // The first write is a try.
        bench.fail_after(1);
        let found = pass(&mut bench);
        assert_eq!(
            found,
            [
                "LB4_ADDRESSES: 192.168.0.2 has flags 0x0, and should have 0x8. It could not be put right: write an address in a faulty \
              table: fault injected"
            ]
        );
    }
    assert_eq!(pass(&mut bench).len(), 1);
    assert_eq!(pass(&mut bench), NOTHING);
}

#[test]
fn tables_that_take_no_writes_are_noticed() {
    let mut bench = with_everything();
    bench.fail_after(0);
    assert_eq!(pass(&mut bench), NOTHING, "it is tried twice");
    bench.publisher.tables_mut().fails = Box::new(|| true);
    assert_eq!(
        pass(&mut bench),
        [
            "LB4_FRONTENDS: takes no writes. It could not be put right: write a frontend in a faulty table: fault injected"
        ]
    );
    bench.publisher.tables_mut().fails = Box::new(|| false);
    assert_eq!(pass(&mut bench), NOTHING, "nothing was changed");
}

/// Before grace periods are over there is more in the tables than anybody asks for.
#[test]
fn changes_under_way_are_not_called_wrong() {
    let mut bench = with_everything();
    let changed = with(everything(), |desired| {
        desired.cluster = list("2");
        desired.local = None;
        desired.external_local = false;
        desired.others = Vec::new();
        desired.sources = ranges(&["10.0.0.0/8"]);
        desired.frontends.truncate(1);
    });
    bench.given("web", &changed);
    assert_eq!(pass(&mut bench), NOTHING, "changed");
    bench.grace();
    assert_eq!(pass(&mut bench), NOTHING, "a grace period later");
    bench.given("web", &everything());
    bench.withdraw("web");
    assert_eq!(pass(&mut bench), NOTHING, "gone");
    bench.grace();
    assert_eq!(pass(&mut bench), NOTHING, "a grace period later");
}

#[test]
fn what_an_earlier_agent_has_left_is_right() {
    let mut next = with_everything().successor();
    assert_eq!(pass(&mut next), NOTHING, "nobody has asked for it yet");
    next.host(&[("192.168.0.2", HOST)]);
    next.publish("web", &everything()).expect("it fits");
    assert_eq!(pass(&mut next), NOTHING);
    next.publisher
        .tables_mut()
        .inner
        .replay(&Write::Chunk(0, Chunk::default()));
    assert_eq!(pass(&mut next).len(), 1, "its Maglev table is known by now");
    assert_eq!(pass(&mut next), NOTHING);
}
