//! Lists of endpoints and the records that they lead to: what a reader may still be on its way to stays until the grace
//! period is over.

use super::{Bench, backends, desired, frontend, list, with};
use crate::plan::{DesiredPort, FrontendKind};

const NONE: [&str; 0] = [];

/// A port with `externalTrafficPolicy: Local`.
fn external_local(cluster: &str, local: &str) -> DesiredPort {
    with(desired(cluster), |desired| {
        desired
            .frontends
            .push(frontend(FrontendKind::NodePort, "0.0.0.0", 30_080));
        desired.local = list(local);
        desired.external_local = true;
    })
}

/// The same port with `externalTrafficPolicy: Cluster`.
fn external_cluster(cluster: &str) -> DesiredPort {
    with(external_local(cluster, ""), |desired| {
        (desired.local, desired.external_local) = (None, false);
    })
}

#[test]
fn a_list_is_there_before_the_policy_that_asks_for_it_and_goes_after_the_grace_period() {
    let mut bench = Bench::new();
    bench.given("web", &external_cluster("1L 2"));
    bench.publish("web", &external_local("1L 2", "1L")).expect("it fits");
    let expected = [
        "slot 2 = 1",
        "0.local = slots 2 to 2",
        "0.sets = sources 0, affinity 0",
        "0.rules = external-local 0 s",
    ];
    assert_eq!(bench.writes(), expected);

    bench.publish("web", &external_cluster("1L 2")).expect("it fits");
    assert_eq!(
        bench.writes(),
        ["0.sets = sources 0, affinity 0", "0.rules = 0 s"],
        "the list is still there"
    );
    bench.grace();
    assert_eq!(bench.writes(), ["0.local = absent"]);
    bench.publish("web", &external_local("1L 2", "1L")).expect("it fits");
    assert_eq!(bench.writes()[0], "slot 2 = 1", "its place is free again");
}

#[test]
fn a_list_that_is_asked_for_again_within_the_grace_period_stays() {
    let mut bench = Bench::new();
    bench.given("web", &external_local("1L 2", "1L"));
    bench.given("web", &external_cluster("1L 2"));
    let retired = bench.publisher.take_retired();
    bench.given("web", &external_local("1L 2", "1L"));
    bench.publisher.reuse(retired);
    assert_eq!(bench.writes(), NONE, "it was published meanwhile");
    bench.grace();
    assert_eq!(bench.writes(), NONE);
}

/// It goes, comes back and goes again: each time it waits for its own grace period at least.
#[test]
fn a_list_that_goes_twice_within_one_grace_period_goes_once() {
    let mut bench = Bench::new();
    bench.given("web", &external_local("1L 2", "1L"));
    bench.given("web", &external_cluster("1L 2"));
    let first = bench.publisher.take_retired();
    bench.given("web", &external_local("1L 2", "1L"));
    bench.given("web", &external_cluster("1L 2"));
    let second = bench.publisher.take_retired();
    bench.publisher.reuse(first);
    assert_eq!(bench.writes(), NONE, "a reader may have seen the second policy");
    bench.publisher.reuse(second);
    assert_eq!(bench.writes(), ["0.local = absent"]);
}

#[test]
fn a_backend_that_stops_serving_does_so_after_the_grace_period() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1 2"));
    let stopped = with(desired("1"), |desired| desired.others = backends("2n"));
    bench.publish("web", &stopped).expect("it fits");
    assert_eq!(
        bench.writes(),
        ["slot 2 = 1", "0.cluster = slots 2 to 2"],
        "a reader of the old range may be on its way"
    );
    bench.grace();
    assert_eq!(
        bench.writes(),
        ["backend 2 = 10.244.1.2:8080"],
        "row 126: there, and not active"
    );

    bench.publish("web", &desired("1 2")).expect("it fits");
    let writes = bench.writes();
    assert_eq!(
        writes[0], "backend 2 = 10.244.1.2:8080 active",
        "it serves before anybody is led to it"
    );
}

#[test]
fn a_backend_that_serves_again_within_the_grace_period_never_stopped() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1 2"));
    bench.given("web", &with(desired("1"), |desired| desired.others = backends("2n")));
    let retired = bench.publisher.take_retired();
    bench.given("web", &desired("1 2"));
    bench.publisher.reuse(retired);
    assert_eq!(bench.writes(), NONE);
}

#[test]
fn a_backend_that_stops_twice_within_one_grace_period_waits_for_the_second() {
    let mut bench = Bench::new();
    let stopped = with(desired("1"), |desired| desired.others = backends("2n"));
    bench.given("web", &desired("1 2"));
    bench.given("web", &stopped);
    let first = bench.publisher.take_retired();
    bench.given("web", &desired("1 2"));
    bench.given("web", &stopped);
    let second = bench.publisher.take_retired();
    bench.publisher.reuse(first);
    assert!(
        !bench.writes().iter().any(|write| write.starts_with("backend 2")),
        "a reader may have seen it serve again"
    );
    bench.publisher.reuse(second);
    assert_eq!(bench.writes(), ["backend 2 = 10.244.1.2:8080"]);
}

#[test]
fn rows_125_and_126_endpoints_in_no_list_are_there_while_they_exist() {
    let mut bench = Bench::new();
    let others = with(desired("1"), |desired| desired.others = backends("2t 3n"));
    bench.publish("web", &others).expect("it fits");
    let writes = bench.writes();
    assert_eq!(
        writes[..4],
        [
            "address 10.244.1.2 = endpoint",
            "backend 1 = 10.244.1.2:8080 active terminating",
            "address 10.244.1.3 = endpoint",
            "backend 2 = 10.244.1.3:8080"
        ]
    );
    bench.publish("web", &others).expect("it fits");
    assert_eq!(bench.writes(), NONE, "row 121");
    bench.grace();
    assert_eq!(bench.writes(), NONE, "what is used as before has no end");

    bench.publish("web", &desired("1")).expect("it fits");
    assert_eq!(bench.writes(), NONE);
    bench.grace();
    assert_eq!(
        bench.writes(),
        [
            "backend 1 gone",
            "address 10.244.1.2 gone",
            "backend 2 gone",
            "address 10.244.1.3 gone"
        ]
    );
}

#[test]
fn a_terminating_backend_says_so_at_once() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1"));
    bench.publish("web", &desired("1t")).expect("it fits");
    assert_eq!(
        bench.writes(),
        ["backend 1 = 10.244.1.1:8080 active terminating"],
        "the range stays as it is"
    );
}

#[test]
fn both_lists_may_lead_to_one_record() {
    let mut bench = Bench::new();
    bench.publish("web", &external_local("1L 2", "1L")).expect("it fits");
    let records = bench
        .writes()
        .into_iter()
        .filter(|write| write.starts_with("backend"))
        .collect::<Vec<_>>();
    assert_eq!(
        records,
        [
            "backend 1 = 10.244.1.1:8080 active local",
            "backend 2 = 10.244.1.2:8080 active"
        ]
    );
    bench.given("web", &external_local("2", ""));
    bench.grace();
    let writes = bench.writes();
    assert_eq!(
        writes.iter().filter(|write| *write == "backend 1 gone").count(),
        1,
        "{writes:?}"
    );
}

#[test]
fn a_second_list_that_does_not_fit_leaves_the_first_as_it_was() {
    let mut bench = Bench::new();
    bench.given("web", &external_local("1L 2L 3L", "1L"));
    // Four places are free: enough for either list, not for both.
    let more = external_local("1L 2L 3L 4L", "1L 2L 3L");
    bench.publish("web", &more).expect_err("no place for both");
    let writes = bench.writes();
    assert!(
        !writes
            .iter()
            .any(|write| write.contains(".cluster") || write.contains(".local")),
        "{writes:?}"
    );
    bench.grace();
    bench.given("web", &external_local("1L 2L 3L 4L", "1L"));
}

#[test]
fn endpoints_that_go_of_a_port_that_tells_its_clients_are_named_once() {
    let mut bench = Bench::new();
    let resets = |cluster: &str| with(desired(cluster), |desired| desired.resets = true);
    bench.given("web", &resets("1 2"));
    assert_eq!(bench.publisher.take_gone().len(), 0);
    let not_serving = with(resets("1"), |desired| desired.others = backends("2n"));
    bench.given("web", &not_serving);
    assert_eq!(bench.publisher.take_gone().len(), 0, "it is there");
    bench.given("web", &resets("1"));
    let gone: Vec<_> = bench
        .publisher
        .take_gone()
        .into_iter()
        .map(|gone| gone.address.octets[3])
        .collect();
    assert_eq!(gone, [2]);
    bench.given("web", &desired(""));
    assert_eq!(bench.publisher.take_gone().len(), 0, "nobody asked to be told");
}
