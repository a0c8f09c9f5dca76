//! A second agent finds everything as the first has left it, and writes nothing; what the first had no time to end, it ends.

use lb_common::layout::AddressFlags;

use super::{Bench, backends, desired, frontend, list, ranges, with};
use crate::plan::{DesiredPort, FrontendKind};

const NONE: [&str; 0] = [];
const HOST: AddressFlags = AddressFlags(AddressFlags::HOST.0 | AddressFlags::NODE_PORTS.0);

/// A port with all that there is.
fn everything() -> DesiredPort {
    with(desired("1L 2"), |desired| {
        desired.frontends.extend([
            frontend(FrontendKind::NodePort, "0.0.0.0", 30_080),
            frontend(FrontendKind::ExternalIp, "198.51.100.7", 80),
            frontend(FrontendKind::LoadBalancer, "203.0.113.9", 80),
        ]);
        desired.frontends.sort_unstable();
        desired.local = list("1L");
        desired.external_local = true;
        desired.others = backends("3t 4n");
        desired.affinity_timeout_s = Some(10_800);
        desired.sources = ranges(&["10.0.0.0/8", "203.0.113.0/24"]);
        desired.resets = true;
    })
}

fn with_everything() -> Bench {
    let mut bench = Bench::new();
    bench.host(&[("192.168.0.2", HOST), ("203.0.113.9", AddressFlags::HOST)]);
    bench.given("web", &everything());
    bench.grace();
    bench
}

#[test]
fn row_123_a_second_agent_writes_nothing() {
    let mut next = with_everything().successor();
    assert_eq!(next.writes(), NONE, "to know the tables");
    assert!(!next.host(&[("192.168.0.2", HOST), ("203.0.113.9", AddressFlags::HOST)]));
    assert!(
        !next.publish("web", &everything()).expect("it fits"),
        "nothing was written"
    );
    assert_eq!(
        next.publisher.withdraw_unclaimed(&[]).expect("nothing fails"),
        Vec::<String>::new()
    );
    assert!(!next.publisher.has_unclaimed());
    assert_eq!(next.publisher.take_gone(), []);
    next.grace();
    assert_eq!(next.writes(), NONE, "nor is anything taken away later");
    assert_eq!(next.publisher.fill(), with_everything().publisher.fill());
}

#[test]
fn row_121_what_has_not_changed_is_not_written_again() {
    let mut bench = with_everything();
    assert!(!bench.publish("web", &everything()).expect("it fits"));
    bench.grace();
    assert_eq!(bench.writes(), NONE);
}

#[test]
fn a_second_agent_takes_away_what_nobody_asks_for() {
    let mut next = with_everything().successor();
    let left = next.publisher.withdraw_unclaimed(&[]).expect("nothing fails");
    assert_eq!(left, ["default/web:http/TCP v4"]);
    next.host(&[]);
    next.grace();
    let empty = Bench::new();
    let tables = &next.publisher.tables().inner;
    let (now, never) = (next.publisher.fill(), empty.publisher.fill());
    assert_eq!(now, never);
    use crate::tables::Tables as _;
    assert_eq!(tables.addresses().expect("memory tables can be read"), []);
    assert_eq!(tables.sources().expect("memory tables can be read"), []);
    assert!((1..9).all(|number| tables.backend(number) == Default::default()));
}

#[test]
fn host_addresses_stay_until_the_devices_are_known() {
    let mut next = with_everything().successor();
    next.publisher.withdraw_unclaimed(&[]).expect("nothing fails");
    let writes = next.writes();
    assert!(writes.contains(&"address 203.0.113.9 = host".to_owned()), "{writes:?}");
    assert!(!writes.iter().any(|write| write.contains("192.168.0.2")), "{writes:?}");
}

/// An agent that dies between the two steps of a change leaves what it would have ended after the grace period.
#[test]
fn what_waited_for_a_grace_period_is_ended_by_the_second_agent() {
    let mut bench = with_everything();
    let less = with(desired("1L"), |desired| desired.frontends = everything().frontends);
    bench.given("web", &less);
    let mut next = bench.successor();
    next.publish("web", &less).expect("it fits");
    next.grace();
    let writes = next.writes();
    for expected in [
        "0.local = absent",
        "backend 1 gone",
        "backend 2 gone",
        "set 1 - 10.0.0.0/8",
        "set 1 - 203.0.113.0/24",
    ] {
        assert!(writes.contains(&expected.to_owned()), "{expected} in {writes:?}");
    }
    bench.grace();
    assert_eq!(next.publisher.fill(), bench.publisher.fill());
}

/// The first agent would have taken the flag after the grace period: a record that still serves for nobody.
#[test]
fn a_backend_that_had_no_time_to_stop_serving_does_so() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1 2"));
    let stopped = with(desired("1"), |desired| desired.others = backends("2n"));
    bench.given("web", &stopped);
    let mut next = bench.successor();
    next.publish("web", &stopped).expect("it fits");
    next.grace();
    let writes = next.writes();
    assert!(writes.contains(&"backend 2 = 10.244.1.2:8080".to_owned()), "{writes:?}");
}

#[test]
fn a_frontend_without_its_address_is_completed() {
    let mut bench = Bench::new();
    bench.fail_after(3);
    bench.publish("web", &desired("1")).expect_err("the address is refused");
    let mut next = bench.successor();
    assert_eq!(next.writes(), ["address 10.96.0.1 = cluster"]);
    assert!(!next.publish("web", &desired("1")).expect("it fits"));
}

#[test]
fn an_address_without_frontend_is_forgotten() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1"));
    bench.fail_after(1);
    bench.withdraw("web");
    let mut next = bench.successor();
    assert_eq!(next.writes(), ["address 10.96.0.1 gone"]);
}

#[test]
fn a_set_that_no_port_names_is_emptied_after_the_grace_period() {
    let mut bench = Bench::new();
    bench.given(
        "web",
        &with(desired("1"), |desired| desired.sources = ranges(&["10.0.0.0/8"])),
    );
    bench.given("web", &desired("1"));
    let mut next = bench.successor();
    next.publish(
        "web",
        &with(desired("1"), |desired| desired.sources = ranges(&["172.16.0.0/12"])),
    )
    .expect("it fits");
    assert_eq!(
        next.writes()[0],
        "set 2 + 172.16.0.0/12",
        "the first one's number is taken until then"
    );
    next.grace();
    assert_eq!(next.writes(), ["set 1 - 10.0.0.0/8"]);
}
