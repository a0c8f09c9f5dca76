//! Sets of source ranges: a reader asks the old ones or the new ones, never a mixture (behaviour reference §4.4).

use super::{Bench, desired, ranges, with};
use crate::plan::DesiredPort;
use crate::reconcile::PublishError;

fn filtered(texts: &[&str]) -> DesiredPort {
    with(desired("1"), |desired| desired.sources = ranges(texts))
}

#[test]
fn a_change_is_a_fresh_set_and_the_old_one_goes_after_the_grace_period() {
    let mut bench = Bench::new();
    bench.publish("web", &filtered(&["10.0.0.0/8"])).expect("it fits");
    let writes = bench.writes();
    let expected = [
        "set 1 + 10.0.0.0/8",
        "address 10.244.1.1 = endpoint",
        "backend 1 = 10.244.1.1:8080 active",
        "slot 0 = 1",
        "0.cluster = slots 0 to 0",
        "0.sets = sources 1, affinity 0",
        "0.rules = 0 s",
        "frontend 10.96.0.1:80 = internal 0",
        "address 10.96.0.1 = cluster",
    ];
    assert_eq!(writes, expected, "the set is known before anybody can ask for it");

    bench.publish("web", &filtered(&["10.0.0.0/8"])).expect("it fits");
    assert_eq!(bench.writes(), [""; 0], "row 121: the same ranges");

    bench
        .publish("web", &filtered(&["10.0.0.0/8", "192.168.0.0/16"]))
        .expect("it fits");
    let expected = [
        "set 2 + 10.0.0.0/8",
        "set 2 + 192.168.0.0/16",
        "0.sets = sources 2, affinity 0",
        "0.rules = 0 s",
    ];
    assert_eq!(bench.writes(), expected);
    bench.grace();
    assert_eq!(bench.writes(), ["set 1 - 10.0.0.0/8"]);

    bench.publish("web", &filtered(&["172.16.0.0/12"])).expect("it fits");
    assert_eq!(bench.writes()[0], "set 1 + 172.16.0.0/12", "its number is free again");
}

#[test]
fn ranges_that_are_given_up_go_after_the_grace_period() {
    let mut bench = Bench::new();
    bench.given("web", &filtered(&["10.0.0.0/8"]));
    bench.publish("web", &desired("1")).expect("it fits");
    assert_eq!(bench.writes(), ["0.sets = sources 0, affinity 0", "0.rules = 0 s"]);
    bench.grace();
    assert_eq!(bench.writes(), ["set 1 - 10.0.0.0/8"]);
}

#[test]
fn ranges_go_with_their_port_after_the_grace_period() {
    let mut bench = Bench::new();
    bench.given("web", &filtered(&["10.0.0.0/8"]));
    bench.withdraw("web");
    assert_eq!(bench.writes(), ["frontend 10.96.0.1:80 gone", "address 10.96.0.1 gone"]);
    bench.grace();
    let writes = bench.writes();
    assert!(writes.contains(&"set 1 - 10.0.0.0/8".to_owned()), "{writes:?}");
}

#[test]
fn a_set_that_is_refused_in_the_middle_leaves_the_port_whole() {
    let mut bench = Bench::new();
    bench.given("web", &filtered(&["10.0.0.0/8"]));
    let more = with(
        filtered(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]),
        |desired| {
            desired.cluster = super::list("1 2");
        },
    );
    bench.fail_after(2);
    let error = bench.publish("web", &more).expect_err("the third range is refused");
    assert!(matches!(error, PublishError::Table(_)), "{error}");
    let expected = [
        "set 2 + 10.0.0.0/8",
        "set 2 + 172.16.0.0/12",
        "set 2 - 10.0.0.0/8",
        "set 2 - 172.16.0.0/12",
    ];
    assert_eq!(bench.writes(), expected, "nobody knew of the set");
    bench.publish("web", &more).expect("nothing fails now");
    let writes = bench.writes();
    assert_eq!(
        writes[..3],
        ["set 2 + 10.0.0.0/8", "set 2 + 172.16.0.0/12", "set 2 + 192.168.0.0/16"]
    );
    bench.grace();
    assert!(bench.writes().contains(&"set 1 - 10.0.0.0/8".to_owned()));
}

#[test]
fn a_port_whose_endpoints_do_not_fit_keeps_its_ranges() {
    let mut bench = Bench::new();
    bench.given("web", &filtered(&["10.0.0.0/8"]));
    let too_much = with(filtered(&["192.168.0.0/16"]), |desired| {
        desired.cluster = super::list("1 2 3 4 5 6 7 8 9");
    });
    let error = bench
        .publish("web", &too_much)
        .expect_err("nine endpoints, eight places");
    assert!(matches!(error, PublishError::Full { what: "backends", .. }), "{error}");
    assert_eq!(bench.writes(), ["set 2 + 192.168.0.0/16", "set 2 - 192.168.0.0/16"]);
}

#[test]
fn a_set_that_cannot_be_emptied_is_never_given_to_another() {
    let mut bench = Bench::new();
    bench.given("web", &filtered(&["10.0.0.0/8"]));
    bench.publish("web", &desired("1")).expect("it fits");
    bench.fail_after(0);
    bench.grace();
    bench.writes();
    bench.publish("web", &filtered(&["192.168.0.0/16"])).expect("it fits");
    assert_eq!(bench.writes()[0], "set 2 + 192.168.0.0/16");
}
