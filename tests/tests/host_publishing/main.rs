//! Publishing against readers: *all* interleavings of the writer's steps with a reader's.
//!
//! The writer is the real `Publisher`, whose writes are recorded; the reader is the real `datapath::choose`. Before each of
//! its reads (address, frontend, the words of the service record, source set, slot, backend) any number of the writer's
//! next writes may happen. Writes behind a grace period may not happen while a reader that began before the period is under
//! way: that is what the period is for. Whatever the interleaving, the reader must get a backend of the Service that it
//! asked for, of a list as it was before or after, by the policy from before or after, and never miss one.
//!
//! Of interleavings in which every read sees the same only one is tried: the shortest from each beginning. It allows least.

mod history;
mod look;
mod reader;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    datapath::{Chosen, End, Hook, choose},
    layout::{Affinity, AffinityKey, Desk, DropReason, Ip4, V4},
};
use lb_userspace::{model::Algorithm, plan::FrontendKind};

use history::{History, LAGS, Step, allowed, record};
use look::{Client, KINDS, to};
use reader::Racing;

/// Reads with every interleaving that begins after `first` writes. Returns how many that were.
fn race(history: &History, client: &Client, first: usize, known: &BTreeMap<AffinityKey<Ip4>, Affinity>) -> usize {
    let crossed = history.periods.iter().filter(|(begins, _)| first <= *begins);
    let done_max = crossed.map(|(_, ends)| *ends).min().unwrap_or(history.writes.len());
    let mut choices: Vec<usize> = Vec::new();
    for number in 1.. {
        let world = Racing {
            history,
            done: Cell::new(first),
            done_max,
            choices: RefCell::new(choices),
            widths: RefCell::default(),
            affinities: RefCell::new(known.clone()),
            desk: RefCell::new(Desk {
                old: client.key(),
                ..Desk::default()
            }),
        };
        check(history, client, first, &world);
        let widths = world.widths.into_inner();
        choices = world.choices.into_inner();
        choices.resize(widths.len(), 0);
        // The next: the last read that may see something else does.
        let Some(last) = (0..widths.len()).rev().find(|at| choices[*at] + 1 < widths[*at]) else {
            return number;
        };
        choices.truncate(last + 1);
        choices[last] += 1;
    }
    unreachable!("it ends")
}

fn check(history: &History, client: &Client, first: usize, world: &Racing<'_>) {
    let chosen = choose::<V4, _>(world, client.hook);
    let backend: IpAddr = world.desk.borrow().new.dst.into();
    let last = world.done.get();
    let allowed = allowed(history, client, first, last);
    let fine = match chosen {
        Chosen::Plain | Chosen::Masqueraded => allowed.backends.contains(&backend),
        Chosen::NotOurs | Chosen::Direct => allowed.absent,
        // No Service here is answered directly, choosing alone makes nothing whole, and nothing is left to netfilter.
        Chosen::Tunnelled | Chosen::Whole | Chosen::Deferred => false,
        Chosen::Stray => allowed.absent && client.kind == FrontendKind::LoadBalancer,
        Chosen::End(End::Refuse(DropReason::UnknownPort)) => allowed.absent && !client.is_external(),
        Chosen::End(End::Refuse(reason)) => reason == DropReason::NoEndpoint && allowed.ends.contains(reason.name()),
        Chosen::End(End::Drop(reason)) => reason != DropReason::NoEndpoint && allowed.ends.contains(reason.name()),
    };
    let writes = || -> String {
        let lines = history.writes.iter().enumerate();
        lines
            .map(|(number, write)| format!("  {number}: {write:?}\n"))
            .collect()
    };
    assert!(
        fine,
        "{client:?}, whose reads began after {first} writes and ended after {last}, got {chosen:?} towards {backend}; \
         {allowed:?}\nwrites:\n{}",
        writes()
    );
}

/// What a client got that dialled when so many writes had happened and no other did.
fn remembered(history: &History, client: &Client, done: usize) -> BTreeMap<AffinityKey<Ip4>, Affinity> {
    let world = Racing {
        history,
        done: Cell::new(done),
        done_max: done,
        choices: RefCell::default(),
        widths: RefCell::default(),
        affinities: RefCell::default(),
        desk: RefCell::new(Desk {
            old: client.key(),
            ..Desk::default()
        }),
    };
    let _ = choose::<V4, _>(&world, client.hook);
    world.affinities.into_inner()
}

fn check_all_interleavings(steps: &[Step]) -> usize {
    let services: BTreeSet<&'static str> = steps.iter().map(|(service, _)| *service).collect();
    let has_affinity = steps
        .iter()
        .any(|(_, look)| look.as_ref().is_some_and(|look| look.affinity));
    let mut clients = Vec::new();
    for service in services {
        for (kind, hook, octet, port) in KINDS.into_iter().flat_map(|kind| {
            let outside = [1, 2].map(|octet| (kind, Hook::Ingress, octet, 40_000 + u16::from(octet)));
            outside.into_iter().chain([(kind, Hook::EgressLocal, 1, 40_003)])
        }) {
            clients.push(Client {
                service,
                kind,
                hook,
                octet,
                port,
            });
        }
    }
    let mut checked = 0;
    for lag in LAGS {
        let history = record(steps, lag);
        for client in &clients {
            for first in history.beginnings() {
                checked += race(&history, client, first, &BTreeMap::new());
                let earlier = history
                    .states
                    .iter()
                    .filter(|state| has_affinity && state.complete <= first);
                for state in earlier {
                    checked += race(&history, client, first, &remembered(&history, client, state.complete));
                }
            }
        }
    }
    println!("{checked} interleavings");
    checked
}

#[test]
fn an_endpoint_change_is_seen_whole_or_not_at_all() {
    let checked = check_all_interleavings(&[("a", Some(to("1 2"))), ("a", Some(to("2 3")))]);
    assert!(checked >= 500, "{checked} interleavings");
}

#[test]
fn scaling_to_zero_and_back_refuses_or_serves_and_never_misses_a_backend() {
    check_all_interleavings(&[("a", Some(to("1"))), ("a", Some(to(""))), ("a", Some(to("2")))]);
}

#[test]
fn a_number_that_is_used_anew_never_leads_to_another_services_backend() {
    // Two numbers and few slots: b gets what a had.
    check_all_interleavings(&[("a", Some(to("1 2"))), ("a", None), ("b", Some(to("1 2")))]);
}

#[test]
fn two_services_that_change_places_do_not_meet() {
    let steps = ["a", "b"].map(|service| (service, Some(to("1"))));
    let then = ["a", "b"].map(|service| (service, Some(to("2"))));
    check_all_interleavings(&[steps, then].concat());
}

#[test]
fn places_that_fell_free_are_not_used_anew_while_a_reader_may_stand_in_them() {
    check_all_interleavings(&[
        ("a", Some(to("1 2"))),
        ("a", Some(to("3"))),
        ("b", Some(to("1 2"))),
        ("a", Some(to("4"))),
    ]);
}

#[test]
fn a_backend_that_leaves_and_comes_back_within_one_grace_period_stays_whole() {
    check_all_interleavings(&[
        ("a", Some(to("1 2"))),
        ("a", Some(to("2"))),
        ("a", Some(to("1 2"))),
        ("a", Some(to("2"))),
        ("a", Some(to("2 3"))),
    ]);
}

#[test]
fn the_internal_policy_flips_while_the_local_list_comes_and_goes() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2"))),
        ("a", Some(to("1h 2").itp())),
        ("a", Some(to("1h 2"))),
        ("a", Some(to("2").itp())),
        ("a", Some(to("2 3h"))),
    ]);
}

#[test]
fn the_external_policy_flips_while_the_local_list_comes_and_goes() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2").etp())),
        ("a", Some(to("2 3h"))),
        ("a", Some(to("2 3h").etp())),
        ("a", Some(to("2"))),
    ]);
}

#[test]
fn an_endpoint_that_stops_serving_and_stays_is_missed_by_nobody() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2"))),
        ("a", Some(to("1h- 2"))),
        ("a", Some(to("1h 2"))),
        ("a", Some(to("1h- 2"))),
        ("a", Some(to("1h- 2-"))),
    ]);
}

#[test]
fn source_ranges_are_the_old_ones_or_the_new_ones_and_never_anothers() {
    check_all_interleavings(&[
        ("a", Some(to("1").only(1))),
        ("b", Some(to("1").only(2))),
        ("a", Some(to("1"))),
        ("a", Some(to("1").only(1))),
        ("b", None),
        ("a", Some(to("1").only(2))),
    ]);
}

#[test]
fn a_client_is_remembered_or_not_and_gets_a_backend_of_the_list() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2").affinity())),
        ("a", Some(to("2 3h"))),
        ("a", Some(to("2 3h").affinity().itp())),
        ("a", Some(to("1h 3h-").affinity())),
    ]);
}

#[test]
fn tables_are_the_old_ones_or_the_new_ones_whatever_the_algorithm() {
    check_all_interleavings(&[
        ("a", Some(to("1 2").by(Algorithm::Hash))),
        ("a", Some(to("1 2").by(Algorithm::Maglev))),
        ("a", Some(to("1 2 3").by(Algorithm::Maglev))),
        ("a", Some(to("2 3").by(Algorithm::Maglev).heavy(3))),
        ("a", Some(to("2 3"))),
        ("a", Some(to("3").by(Algorithm::Maglev))),
        ("a", Some(to("1h 3h").by(Algorithm::Maglev).itp().etp())),
    ]);
}

/// What one Service gives up is the other's after the grace period, for more endpoints: a reader who came too late would
/// be led beyond its list.
#[test]
fn chunks_are_not_used_anew_while_a_reader_may_stand_in_them() {
    let checked = check_all_interleavings(&[
        ("a", Some(to("1 2"))),
        ("b", Some(to("1 2"))),
        ("b", Some(to("1"))),
        ("a", Some(to("1 2 3 4"))),
        ("b", Some(to("1 2"))),
        ("a", None),
        ("b", Some(to("1 2 3 4"))),
    ]);
    assert!(checked >= 500, "{checked} interleavings");
}

#[test]
fn a_service_that_loses_frontends_keeps_the_others() {
    let (internal, node_port) = (FrontendKind::ClusterIp, FrontendKind::NodePort);
    check_all_interleavings(&[
        ("a", Some(to("1h 2").etp())),
        ("a", Some(to("1h 2").etp().at(&[internal, node_port]))),
        ("a", Some(to("1h 2").itp().at(&[internal]))),
        ("a", Some(to("2").itp())),
        ("a", None),
    ]);
}
