//! Rows: `sessionAffinity: ClientIP` (kube-proxy-behaviour §3.4). The choice by hash differs from tuple to tuple; what a row
//! expects is the endpoint that the client got first.

use std::time::Duration;

use lb_common::layout::Counter::{AffinityKept, FlowsCreated, FlowsMasqueraded};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::any,
};

const SIX: [&str; 6] = ["pod:1", "pod:2", "pod:3", "pod:4", "pod:5", "pod:6"];

fn the_service() -> ServiceSketch {
    service("web")
        .cluster_ip("web:80")
        .load_balancer("vip:80")
        .node_port(30_080)
        .affinity(10)
}

/// A client that got the only endpoint there was, before there were six.
fn settled() -> Row {
    row()
        .node()
        .host_address("node")
        .given(the_service().to(&["pod:3"]))
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:3")
        .counting(&[FlowsCreated])
        .given(the_service().to(&SIX))
}

#[test]
fn a_client_keeps_its_endpoint_whatever_its_port() {
    let mut row = settled();
    for port in 40_001..40_008 {
        row = row
            .ingress(any(&format!("client:{port} > web:80")).syn())
            .becomes(&format!("client:{port} > pod:3"))
            .counting(&[AffinityKept, FlowsCreated]);
    }
    row.run();
}

#[test]
fn a_client_keeps_its_endpoint_across_frontends_of_its_port_xdp_included() {
    let mut row = settled();
    for (port, frontend) in [(40_001, "vip:80"), (40_002, "node:30080")] {
        row = row
            .ingress(any(&format!("client:{port} > {frontend}")).syn())
            .becomes(&format!("client:{port} > pod:3"))
            .counting(&[AffinityKept, FlowsCreated, FlowsMasqueraded]);
    }
    row.run();
    tests::packet::row::row()
        .given(the_service().to(&["pod:3 local"]))
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:3")
        .counting(&[FlowsCreated])
        .given(the_service().to(&["pod:1 local", "pod:2 local", "pod:3 local", "pod:4 local"]))
        .xdp(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:3")
        .counting(&[AffinityKept, FlowsCreated])
        .run();
}

#[test]
fn another_port_of_the_same_service_is_independent() {
    let other = || service("web-metrics").cluster_ip("web:81").affinity(10);
    settled()
        .given(other().to(&["pod2:9"]))
        .ingress(any("client:40000 > web:81").syn())
        .becomes("client:40000 > pod2:9")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_processes_of_the_host_keeps_its_endpoint_too() {
    row()
        .given(the_service().to(&["pod:3"]))
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:3")
        .counting(&[FlowsCreated])
        .given(the_service().to(&SIX))
        .host_egress(any("node:40001 > web:80").syn())
        .gets_rerouted("node:40001 > pod:3")
        .counting(&[AffinityKept, FlowsCreated])
        .run();
}

/// Whether a client that comes again after so many seconds keeps its endpoint, whichever a new choice would be.
fn keeps(after: &[u64]) -> bool {
    let mut row = row()
        .given(the_service().to(&["pod:3"]))
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:3")
        .counting(&[FlowsCreated])
        .given(the_service().to(&["pod:3", "pod:4"]));
    for (port, seconds) in (40_001..).zip(after) {
        row = row.later(Duration::from_secs(*seconds));
        if port < 40_000 + after.len() as u16 {
            row = row
                .ingress(any(&format!("client:{port} > web:80")).syn())
                .becomes(&format!("client:{port} > pod:3"))
                .counting(&[AffinityKept, FlowsCreated]);
        }
    }
    // Its last connection's counters tell.
    let last = 40_000 + after.len() as u16;
    let row = row
        .ingress(any(&format!("client:{last} > web:80")).syn())
        .becomes(&format!("client:{last} > pod:3"));
    row.counting(&[AffinityKept, FlowsCreated]).check().is_ok()
}

#[test]
fn the_timeout_runs_from_the_last_new_connection() {
    assert!(keeps(&[9]));
    assert!(!keeps(&[11]));
    assert!(keeps(&[9, 9, 9]), "every new connection refreshes");
    assert!(!keeps(&[9, 11]));
}

#[test]
fn packets_of_an_existing_flow_do_not_refresh() {
    settled()
        .later(Duration::from_secs(7))
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:3")
        .later(Duration::from_secs(7))
        // A new choice: nothing is kept.
        .given(the_service().to(&["pod:4"]))
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:4")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn an_endpoint_that_left_the_list_is_not_chosen_and_a_client_returns_to_one_that_is_back() {
    settled()
        .given(the_service().to(&["pod:1", "pod:2"]))
        .given(the_service().to(&SIX))
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:3")
        .counting(&[AffinityKept, FlowsCreated])
        .given(the_service().to(&["pod:6"]))
        .ingress(any("client:40002 > web:80").syn())
        .becomes("client:40002 > pod:6")
        .counting(&[FlowsCreated])
        // From then on it has that one.
        .given(the_service().to(&SIX))
        .ingress(any("client:40003 > web:80").syn())
        .becomes("client:40003 > pod:6")
        .counting(&[AffinityKept, FlowsCreated])
        .run();
}

#[test]
fn policy_filters_first() {
    settled()
        .given(the_service().to(&SIX).here(&["pod:1 local"]).external_local())
        .ingress(any("client:40001 > vip:80").syn())
        .becomes("client:40001 > pod:1")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn switched_off_and_on_again_it_begins_anew() {
    settled()
        .given(the_service().affinity(0).to(&["pod:5"]))
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:5")
        .counting(&[FlowsCreated])
        .given(the_service().to(&["pod:5", "pod:3"]))
        .given(the_service().to(&["pod:4"]))
        .ingress(any("client:40002 > web:80").syn())
        .becomes("client:40002 > pod:4")
        .counting(&[FlowsCreated])
        .run();
    // An entry of the affinity before is none of this one: counted as a new choice although the endpoint is there.
    settled()
        .given(the_service().affinity(0).to(&["pod:3"]))
        .given(the_service().to(&["pod:3"]))
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:3")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn every_client_has_an_entry_of_its_own() {
    settled()
        .given(the_service().to(&["pod:5"]))
        .ingress(any("client2:40000 > web:80").syn())
        .becomes("client2:40000 > pod:5")
        .counting(&[FlowsCreated])
        .given(the_service().to(&SIX))
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:3")
        .counting(&[AffinityKept, FlowsCreated])
        .ingress(any("client2:40001 > web:80").syn())
        .becomes("client2:40001 > pod:5")
        .counting(&[AffinityKept, FlowsCreated])
        .run();
}
