//! Maglev tables: who has one, who shares it, when its place is free again, and what a second agent makes of it.

use super::{Bench, backends, desired, frontend, list, with};
use crate::plan::{DesiredPort, FrontendKind};
use crate::tables::{Capacity, MemoryTables};

/// Chunks of the smallest table.
const SMALLEST: u32 = 16;

/// Tables with places for so many of the smallest tables.
fn bench(tables: u32) -> Bench {
    Bench::adopting(MemoryTables::new(Capacity {
        services: 4,
        slots: 64,
        chunks: tables * SMALLEST,
        backends: 32,
    }))
}

/// A port with a ClusterIP and an ExternalIP of its own, whose list has a table.
fn external(last: u8, cluster: &str) -> DesiredPort {
    with(desired(cluster), |desired| {
        desired.frontends = vec![
            frontend(FrontendKind::ClusterIp, &format!("10.96.0.{last}"), 80),
            frontend(FrontendKind::ExternalIp, &format!("198.51.100.{last}"), 80),
        ];
        desired.cluster = desired.cluster.take().map(|mut list| {
            list.maglev = true;
            list
        });
    })
}

/// The same with one endpoint of weight 3.
fn with_a_heavy_one(last: u8, cluster: &str) -> DesiredPort {
    with(external(last, cluster), |desired| {
        desired.cluster.as_mut().expect("a list").backends[0].weight = 3;
    })
}

fn chunks(writes: &[String]) -> usize {
    writes.iter().filter(|write| write.starts_with("chunk")).count()
}

fn used(bench: &Bench) -> u32 {
    bench.publisher.fill().chunks / SMALLEST
}

#[test]
fn a_table_is_written_before_the_slots_and_these_before_the_word() {
    let mut bench = bench(1);
    bench.publish("web", &external(1, "1 2")).expect("it fits");
    let writes = bench.writes();
    let at = |start: &str| {
        writes
            .iter()
            .position(|write| write.starts_with(start))
            .expect("it is written")
    };
    assert_eq!(chunks(&writes), SMALLEST as usize);
    assert!(at("chunk 15") < at("slot 0"), "{writes:?}");
    assert!(
        at("slot 5 = 2") < at("0.cluster = slots 4 to 5 with a table"),
        "{writes:?}"
    );
    assert!(at("0.cluster") < at("frontend"), "{writes:?}");
}

#[test]
fn lists_of_one_set_share_a_table_whatever_their_port() {
    let mut bench = bench(1);
    bench.given("web", &external(1, "1 2"));
    let other_port = with(external(2, "1 2"), |desired| {
        for backend in &mut desired.cluster.as_mut().expect("a list").backends {
            backend.port = 9090;
        }
    });
    bench.publish("api", &other_port).expect("it fits");
    assert_eq!(chunks(&bench.writes()), 0);
    assert_eq!(used(&bench), 1);
    bench.withdraw("web");
    bench.grace();
    assert_eq!(used(&bench), 1, "one list has it still");
    bench.withdraw("api");
    assert_eq!(used(&bench), 1, "a reader may still be on its way to it");
    bench.grace();
    assert_eq!(used(&bench), 0);
}

#[test]
fn other_weights_are_another_table() {
    let mut bench = bench(2);
    bench.given("web", &external(1, "1 2"));
    assert!(bench.publish("web", &with_a_heavy_one(1, "1 2")).expect("it fits"));
    assert_eq!(chunks(&bench.writes()), SMALLEST as usize);
    bench.grace();
    assert_eq!(used(&bench), 1);
    assert!(!bench.publish("web", &with_a_heavy_one(1, "1 2")).expect("it fits"));
    let plain = with(desired("1 2"), |desired| desired.frontends = external(1, "").frontends);
    bench.publish("web", &plain).expect("it fits");
    assert!(
        bench.writes().contains(&"0.cluster = slots 0 to 1".to_owned()),
        "the algorithm may change, too"
    );
    bench.grace();
    assert_eq!(used(&bench), 0);
}

#[test]
fn one_endpoint_needs_no_table() {
    let mut bench = bench(1);
    bench.publish("web", &external(1, "1")).expect("it fits");
    assert_eq!((chunks(&bench.writes()), used(&bench)), (0, 0));
    assert!(!bench.publisher.lacks_table(&super::id("web")));
}

#[test]
fn without_room_a_list_is_published_all_the_same_and_gets_its_table_with_a_later_change() {
    let mut bench = bench(1);
    bench.given("web", &external(1, "1 2"));
    bench.publish("api", &external(2, "3 4")).expect("it fits");
    let writes = bench.writes();
    assert!(writes.contains(&"1.cluster = slots 6 to 7".to_owned()), "{writes:?}");
    assert!(bench.publisher.lacks_table(&super::id("api")));
    assert!(!bench.publisher.lacks_table(&super::id("web")));
    assert!(
        !bench.publish("api", &external(2, "3 4")).expect("it fits"),
        "there is still none"
    );
    bench.withdraw("web");
    bench.grace();
    bench.publish("api", &external(2, "3 4")).expect("it fits");
    let writes = bench.writes();
    assert!(writes.iter().any(|write| write.ends_with("with a table")), "{writes:?}");
    assert!(!bench.publisher.lacks_table(&super::id("api")));
}

#[test]
fn more_endpoints_than_ordinals_are_published_without_a_table() {
    // Enough of everything else.
    let mut bench = Bench::adopting(MemoryTables::new(Capacity {
        services: 4,
        slots: 1 << 18,
        chunks: 1 << 18,
        backends: 1 << 17,
    }));
    let many = with(external(1, ""), |desired| {
        let one = &backends("1")[0];
        let list = desired.cluster.as_mut().expect("a list");
        list.backends = (0..65_536_u32)
            .map(|number| crate::plan::Backend {
                address: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
                ..*one
            })
            .collect();
    });
    bench.publish("web", &many).expect("it fits");
    assert!(bench.publisher.lacks_table(&super::id("web")));
    assert_eq!(bench.publisher.fill().chunks, 0);
}

#[test]
fn a_table_that_the_kernel_refuses_leaves_everything_as_it_was() {
    let mut bench = bench(2);
    bench.given("web", &external(1, "1 2"));
    bench.grace();
    let before = bench.publisher.fill();
    bench.fail_after(0);
    bench
        .publish("web", &external(1, "1 2 3"))
        .expect_err("the table is refused");
    bench.grace();
    assert_eq!(bench.publisher.fill(), before);
    assert!(bench.publish("web", &external(1, "1 2 3")).expect("it fits"));
}

#[test]
fn a_second_agent_adopts_tables_with_their_users() {
    let mut bench = bench(3);
    bench.given("web", &external(1, "1 2"));
    bench.given("api", &external(2, "1 2"));
    bench.given("heavy", &with_a_heavy_one(3, "1 2"));
    let mut next = bench.successor();
    assert_eq!(next.publisher.fill(), bench.publisher.fill());
    for (name, desired) in [
        ("web", external(1, "1 2")),
        ("api", external(2, "1 2")),
        ("heavy", with_a_heavy_one(3, "1 2")),
    ] {
        assert!(
            !next.publish(name, &desired).expect("it fits"),
            "{name}: nothing was written"
        );
    }
    next.withdraw("web");
    next.grace();
    assert_eq!(used(&next), 2, "one more list has it");
    next.withdraw("api");
    next.withdraw("heavy");
    next.grace();
    assert_eq!(used(&next), 0);
}

/// Whoever wrote a table died before a list named it.
#[test]
fn chunks_that_nobody_names_are_free_for_a_second_agent() {
    let mut bench = bench(1);
    bench.given("web", &external(1, "1 2"));
    bench.given("web", &desired("1 2"));
    let mut next = bench.successor();
    assert_eq!(used(&next), 0);
    next.publish("api", &external(2, "1 2")).expect("it fits");
    assert_eq!(used(&next), 1);
}

#[test]
fn a_list_whose_header_is_damaged_is_written_anew() {
    let mut bench = bench(2);
    bench.given("web", &external(1, "1 2"));
    for (place, word) in [(0, 1_000), (0, 17), (1, 77)] {
        let mut tables = bench.publisher.tables().inner.clone();
        crate::tables::Tables::put_slot(&mut tables, place, word);
        let mut next = Bench::adopting(tables);
        assert_eq!(used(&next), 0, "slot {place} = {word}");
        next.grace();
        next.publish("web", &external(1, "1 2")).expect("it fits");
        assert_eq!(used(&next), 1);
    }
}

#[test]
fn both_lists_of_a_port_may_have_tables() {
    let mut bench = bench(2);
    let both = with(external(1, "1L 2L 3"), |desired| {
        desired.local = list("1L 2L").map(|mut list| {
            list.maglev = true;
            list
        });
        desired.external_local = true;
    });
    bench.publish("web", &both).expect("it fits");
    let writes = bench.writes();
    assert_eq!(
        writes.iter().filter(|write| write.ends_with("with a table")).count(),
        2,
        "{writes:?}"
    );
    assert_eq!(used(&bench), 2);
}
