//! When a family's tables say all that the kernel was told: what makes a node unhealthy, and what doesn't.

use super::{Fuse, faulty};
use crate::model::sample::{NODE, apply_service, ip, key, service};
use crate::model::{Change, Family, NodeView, Service, SyncedKind};
use crate::reconcile::Reconciler;
use crate::tables::{Capacity, Faulty, MemoryTables};

type Pair = Reconciler<Faulty<MemoryTables<lb_common::layout::Ip4>>, Faulty<MemoryTables<lb_common::layout::Ip6>>>;

/// A reconciler that knows both first lists, and what makes the next write of IPv4 fail.
fn reconciler() -> (Pair, Fuse) {
    let capacity = Capacity {
        services: 4,
        slots: 8,
        chunks: 20,
        backends: 9,
    };
    let (v4, fuse) = faulty(MemoryTables::new(capacity));
    let (v6, _) = faulty(MemoryTables::new(capacity));
    let mut reconciler = Reconciler::adopt(NodeView::named(NODE), v4, v6, false).expect("nothing fails");
    reconciler.apply([SyncedKind::Services, SyncedKind::EndpointSlices].map(Change::Synced));
    (reconciler, fuse)
}

fn dual_stack(name: &str, last: u8) -> Service {
    let mut made = service(name);
    made.cluster_ips = [[10, 96, 0, last].into(), ip(&format!("fd00::{last}"))].into();
    made
}

fn written(reconciler: &Pair) -> [bool; 2] {
    Family::BOTH.map(|family| reconciler.is_written(family))
}

#[test]
fn row_139_a_refused_write_concerns_its_own_family() {
    let (mut reconciler, fuse) = reconciler();
    fuse.set(Some(0));
    reconciler.apply([apply_service(dual_stack("web", 1))]);
    assert_eq!((written(&reconciler), reconciler.is_settled()), ([false, true], false));
    assert!(reconciler.retry());
    assert_eq!(written(&reconciler), [true, true], "row 140");
}

#[test]
fn a_service_that_goes_while_it_is_refused_is_forgotten() {
    let (mut reconciler, fuse) = reconciler();
    fuse.set(Some(0));
    reconciler.apply([apply_service(dual_stack("web", 1))]);
    reconciler.apply([Change::ServiceDelete(key("web"))]);
    assert_eq!((written(&reconciler), reconciler.is_settled()), ([true, true], true));
}

#[test]
fn an_address_that_another_service_has_makes_no_family_unwritten() {
    let (mut reconciler, _) = reconciler();
    reconciler.apply([apply_service(dual_stack("web", 1)), apply_service(dual_stack("api", 1))]);
    assert_eq!((written(&reconciler), reconciler.is_settled()), ([true, true], false));
}

#[test]
fn a_port_that_does_not_fit_makes_no_family_unwritten() {
    let (mut reconciler, _) = reconciler();
    reconciler.apply((1..=5).map(|last| apply_service(dual_stack(&format!("s{last}"), last))));
    assert_eq!(
        reconciler.problems().count(),
        2,
        "of five Services, four places in each family"
    );
    assert_eq!(written(&reconciler), [true, true]);
}

#[test]
fn an_address_that_cannot_be_removed_is_not_written_yet() {
    let (mut reconciler, fuse) = reconciler();
    reconciler.apply([apply_service(dual_stack("web", 1))]);
    fuse.set(Some(1));
    reconciler.apply([Change::ServiceDelete(key("web"))]);
    assert_eq!(written(&reconciler), [false, true]);
    assert!(reconciler.retry());
    assert_eq!(written(&reconciler), [true, true]);
}
