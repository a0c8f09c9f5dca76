//! Frontends and their addresses: a frontend is there before its address is known, and is gone before it is forgotten.

use lb_common::layout::AddressFlags;

use super::{Bench, desired, frontend, ip4, with};
use crate::plan::{DesiredPort, FrontendKind};

const NODE_PORTS: AddressFlags = AddressFlags(AddressFlags::HOST.0 | AddressFlags::NODE_PORTS.0);

/// A port at these addresses, without endpoints.
fn at(frontends: &[(FrontendKind, &str, u16)]) -> DesiredPort {
    with(desired(""), |desired| {
        desired.frontends = frontends
            .iter()
            .map(|(kind, address, port)| frontend(*kind, address, *port))
            .collect();
    })
}

#[test]
fn a_frontend_is_in_the_table_before_its_address_and_goes_before_it() {
    let mut bench = Bench::new();
    bench
        .publish("web", &at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]))
        .expect("it fits");
    let expected = [
        "0.cluster = refused",
        "frontend 10.96.0.1:80 = internal 0",
        "address 10.96.0.1 = cluster",
    ];
    assert_eq!(bench.writes(), expected);
    bench.withdraw("web");
    assert_eq!(bench.writes(), ["frontend 10.96.0.1:80 gone", "address 10.96.0.1 gone"]);
}

#[test]
fn the_last_backend_takes_its_address_away() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1"));
    let dns = with(desired("1"), |desired| {
        desired.frontends = vec![frontend(FrontendKind::ClusterIp, "10.96.0.2", 53)];
    });
    bench.given("dns", &dns);
    bench.withdraw("web");
    bench.grace();
    assert!(
        !bench
            .writes()
            .iter()
            .any(|write| write.starts_with("address 10.244.1.1")),
        "dns has it, too"
    );
    bench.withdraw("dns");
    assert!(
        !bench
            .writes()
            .iter()
            .any(|write| write.starts_with("address 10.244.1.1")),
        "packets may be on their way"
    );
    bench.grace();
    assert!(bench.writes().contains(&"address 10.244.1.1 gone".to_owned()));
}

#[test]
fn an_address_may_be_the_hosts_and_an_endpoints() {
    let mut bench = Bench::new();
    bench.given("web", &desired("1"));
    assert!(bench.host(&[("10.244.1.1", NODE_PORTS)]));
    assert_eq!(bench.writes(), ["address 10.244.1.1 = node-ports host endpoint"]);
    let mut next = bench.successor();
    assert_eq!(next.writes(), [""; 0], "as it was left");
    assert!(next.host(&[]));
    assert_eq!(next.writes(), ["address 10.244.1.1 = endpoint"]);
}

#[test]
fn an_endpoints_address_that_was_refused_is_told_later() {
    let mut bench = Bench::new();
    bench.fail_after(0);
    bench
        .publish("web", &desired("1"))
        .expect("that alone keeps nobody from being served");
    assert!(bench.publisher.has_late_addresses());
    bench.publisher.settle_addresses().expect("the kernel takes it now");
    assert!(bench.writes().contains(&"address 10.244.1.1 = endpoint".to_owned()));
}

#[test]
fn rows_109_and_110_the_last_frontend_takes_the_address_away() {
    let mut bench = Bench::new();
    let both = at(&[
        (FrontendKind::ClusterIp, "10.96.0.1", 80),
        (FrontendKind::ClusterIp, "10.96.0.1", 81),
    ]);
    bench.given("web", &both);
    bench.given("dns", &at(&[(FrontendKind::ClusterIp, "10.96.0.1", 53)]));
    bench
        .publish("web", &at(&[(FrontendKind::ClusterIp, "10.96.0.1", 81)]))
        .expect("it fits");
    assert_eq!(bench.writes(), ["frontend 10.96.0.1:80 gone"]);
    bench.withdraw("web");
    assert_eq!(bench.writes(), ["frontend 10.96.0.1:81 gone"]);
    bench.withdraw("dns");
    assert_eq!(bench.writes(), ["frontend 10.96.0.1:53 gone", "address 10.96.0.1 gone"]);
}

#[test]
fn each_kind_says_what_its_address_is() {
    let mut bench = Bench::new();
    let all = [
        (FrontendKind::NodePort, "0.0.0.0", 30_080),
        (FrontendKind::ClusterIp, "10.96.0.1", 80),
        (FrontendKind::ExternalIp, "198.51.100.7", 80),
        (FrontendKind::LoadBalancer, "203.0.113.9", 80),
    ];
    bench.publish("web", &at(&all)).expect("it fits");
    let expected = [
        "0.cluster = refused",
        "frontend 0.0.0.0:30080 = external 0",
        "frontend 10.96.0.1:80 = internal 0",
        "address 10.96.0.1 = cluster",
        "frontend 198.51.100.7:80 = external 0",
        "address 198.51.100.7 = external",
        "frontend 203.0.113.9:80 = filtered 0",
        "address 203.0.113.9 = external",
    ];
    assert_eq!(bench.writes(), expected);
    // An address that is a ClusterIP of one port and an external one of another is both.
    bench
        .publish("api", &at(&[(FrontendKind::ExternalIp, "10.96.0.1", 8080)]))
        .expect("it fits");
    let expected = [
        "1.cluster = refused",
        "frontend 10.96.0.1:8080 = external 1",
        "address 10.96.0.1 = cluster external",
    ];
    assert_eq!(bench.writes(), expected);
    bench.withdraw("web");
    let writes = bench.writes();
    assert!(
        writes.contains(&"address 10.96.0.1 = external".to_owned()),
        "{writes:?}"
    );
}

#[test]
fn a_frontend_that_becomes_another_kind_is_never_gone() {
    let mut bench = Bench::new();
    bench.given("web", &at(&[(FrontendKind::ExternalIp, "203.0.113.9", 80)]));
    bench
        .publish("web", &at(&[(FrontendKind::LoadBalancer, "203.0.113.9", 80)]))
        .expect("it fits");
    assert_eq!(bench.writes(), ["frontend 203.0.113.9:80 = filtered 0"]);
    bench
        .publish("web", &at(&[(FrontendKind::ClusterIp, "203.0.113.9", 80)]))
        .expect("it fits");
    assert_eq!(
        bench.writes(),
        ["frontend 203.0.113.9:80 = internal 0", "address 203.0.113.9 = cluster"]
    );
}

#[test]
fn an_address_of_the_host_is_known_with_and_without_frontends() {
    let mut bench = Bench::new();
    assert!(bench.host(&[("192.168.0.2", NODE_PORTS), ("10.96.0.1", AddressFlags::HOST)]));
    assert_eq!(
        bench.writes(),
        ["address 10.96.0.1 = host", "address 192.168.0.2 = node-ports host"]
    );
    assert!(
        !bench.host(&[("192.168.0.2", NODE_PORTS), ("10.96.0.1", AddressFlags::HOST)]),
        "said before"
    );

    bench
        .publish("web", &at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]))
        .expect("it fits");
    let expected = [
        "0.cluster = refused",
        "frontend 10.96.0.1:80 = internal 0",
        "address 10.96.0.1 = cluster host",
    ];
    assert_eq!(bench.writes(), expected);
    assert!(bench.host(&[("192.168.0.2", AddressFlags::HOST)]));
    assert_eq!(
        bench.writes(),
        ["address 10.96.0.1 = cluster", "address 192.168.0.2 = host"]
    );
    assert!(bench.host(&[("10.96.0.1", AddressFlags::HOST)]));
    assert_eq!(
        bench.writes(),
        ["address 10.96.0.1 = cluster host", "address 192.168.0.2 gone"]
    );
    bench.withdraw("web");
    assert_eq!(
        bench.writes(),
        ["frontend 10.96.0.1:80 gone", "address 10.96.0.1 = host"]
    );
    assert!(bench.host(&[]));
    assert_eq!(bench.writes(), ["address 10.96.0.1 gone"]);
}

#[test]
fn a_frontend_that_is_refused_leaves_its_address_alone() {
    let mut bench = Bench::new();
    let web = at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]);
    bench.fail_after(1);
    bench.publish("web", &web).expect_err("the frontend is refused");
    assert_eq!(bench.writes(), ["0.cluster = refused"]);
    bench.publish("web", &web).expect("nothing fails now");
    assert_eq!(
        bench.writes(),
        ["frontend 10.96.0.1:80 = internal 0", "address 10.96.0.1 = cluster"]
    );
}

#[test]
fn an_address_that_is_refused_is_all_that_is_tried_again() {
    let mut bench = Bench::new();
    let web = at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]);
    bench.fail_after(2);
    bench.publish("web", &web).expect_err("the address is refused");
    assert_eq!(
        bench.writes(),
        ["0.cluster = refused", "frontend 10.96.0.1:80 = internal 0"]
    );
    bench.publish("web", &web).expect("nothing fails now");
    assert_eq!(bench.writes(), ["address 10.96.0.1 = cluster"]);
}

#[test]
fn an_address_that_cannot_be_removed_is_tried_again() {
    let mut bench = Bench::new();
    bench.given("web", &at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]));
    bench.fail_after(1);
    bench.withdraw("web");
    assert_eq!(bench.writes(), ["frontend 10.96.0.1:80 gone"], "the address stays");
    assert!(bench.publisher.tables().inner.address(&ip4("10.96.0.1")).is_some());
    assert!(bench.publisher.has_late_addresses());
    bench.fail_after(0);
    bench.publisher.settle_addresses().expect_err("it fails once more");
    assert!(bench.publisher.has_late_addresses());
    bench.publisher.settle_addresses().expect("nothing fails now");
    assert_eq!(bench.writes(), ["address 10.96.0.1 gone"]);
    assert!(!bench.publisher.has_late_addresses());
}

/// Without a NodePort no policy is for clients outside: they must not see that, and get an endpoint elsewhere.
#[test]
fn frontends_that_go_do_so_before_the_rules_that_are_not_for_them() {
    let mut bench = Bench::new();
    let local = with(at(&[(FrontendKind::NodePort, "0.0.0.0", 30_080)]), |desired| {
        desired.local = super::list("");
        desired.external_local = true;
    });
    bench.given("web", &local);
    let plain = at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]);
    bench.fail_after(0);
    bench.publish("web", &plain).expect_err("the NodePort stays");
    assert_eq!(bench.writes(), [""; 0], "and so do the rules");
    bench.publish("web", &plain).expect("nothing fails now");
    let expected = [
        "frontend 0.0.0.0:30080 gone",
        "0.sets = sources 0, affinity 0",
        "0.rules = 0 s",
        "frontend 10.96.0.1:80 = internal 0",
        "address 10.96.0.1 = cluster",
    ];
    assert_eq!(bench.writes(), expected);
}

#[test]
fn a_frontend_that_cannot_be_removed_keeps_its_address_and_is_removed_later() {
    let mut bench = Bench::new();
    bench.given(
        "web",
        &at(&[
            (FrontendKind::ClusterIp, "10.96.0.1", 80),
            (FrontendKind::ExternalIp, "203.0.113.9", 80),
        ]),
    );
    bench.fail_after(0);
    let without = at(&[(FrontendKind::ClusterIp, "10.96.0.1", 80)]);
    bench.publish("web", &without).expect_err("the frontend stays");
    assert_eq!(bench.writes(), [""; 0]);
    bench.publish("web", &without).expect("nothing fails now");
    assert_eq!(
        bench.writes(),
        ["frontend 203.0.113.9:80 gone", "address 203.0.113.9 gone"]
    );
}
