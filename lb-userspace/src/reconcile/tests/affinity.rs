//! Session affinity: clients of an affinity that was switched off, or of a number's last owner, are nobody's any more.

use super::{Bench, desired, with};
use crate::plan::DesiredPort;
use crate::tables::Tables as _;

fn sticky(seconds: Option<u32>) -> DesiredPort {
    with(desired("1"), |desired| desired.affinity_timeout_s = seconds)
}

fn affinity(bench: &Bench, number: u32) -> u32 {
    bench.publisher.tables().service(number).sets.affinity
}

#[test]
fn what_clients_had_before_it_was_switched_on_does_not_count() {
    let mut bench = Bench::new();
    bench.given("web", &sticky(None));
    assert_eq!(affinity(&bench, 0), 0);
    bench.publish("web", &sticky(Some(10))).expect("it fits");
    assert_eq!(
        bench.writes(),
        ["0.sets = sources 0, affinity 10000", "0.rules = 10 s"],
        "first whose, then that"
    );
    bench.publish("web", &sticky(Some(20))).expect("it fits");
    assert_eq!(
        bench.writes()[0],
        "0.sets = sources 0, affinity 10000",
        "another time, the same clients"
    );

    bench.given("web", &sticky(None));
    bench.given("web", &sticky(Some(20)));
    assert_eq!(affinity(&bench, 0), 0x2_0000, "it was off");
}

#[test]
fn a_number_that_is_used_anew_has_none_of_its_last_owners_clients() {
    let mut bench = Bench::new();
    bench.given("web", &sticky(Some(10)));
    bench.withdraw("web");
    bench.grace();
    bench.given("api", &sticky(Some(10)));
    assert_eq!(bench.publisher.name(0), Some("default/api:http/TCP v4"));
    assert_eq!(affinity(&bench, 0), 0x2_0000);
}

#[test]
fn nor_has_one_that_another_agent_uses_anew() {
    let mut bench = Bench::new();
    bench.given("web", &sticky(Some(10)));
    bench.withdraw("web");
    let mut next = bench.successor();
    next.given("api", &sticky(Some(10)));
    assert_eq!(affinity(&next, 0), 0x2_0000);
}

#[test]
fn two_ports_never_share_clients() {
    let mut bench = Bench::new();
    bench.given("web", &sticky(Some(10)));
    let other = with(sticky(Some(10)), |desired| desired.frontends[0].port = 81);
    bench.given("api", &other);
    assert_ne!(affinity(&bench, 0), affinity(&bench, 1));
}

#[test]
fn another_agent_goes_on_with_the_same_clients() {
    let mut bench = Bench::new();
    bench.given("web", &sticky(Some(10)));
    let mut next = bench.successor();
    next.publish("web", &sticky(Some(10))).expect("it fits");
    assert_eq!(next.writes(), [""; 0]);
    next.publish("web", &sticky(Some(30))).expect("it fits");
    assert_eq!(next.writes(), ["0.sets = sources 0, affinity 10000", "0.rules = 30 s"]);
}
