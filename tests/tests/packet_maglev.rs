//! Rows: clients who are led by a Maglev table, and clients who aren't. Which cell a hash leads to is a matter of
//! `datapath::select`; here all cells say the same, or something that can't be.

use lb_common::layout::{
    Counter::{AffinityKept, FlowsCreated, FlowsMasqueraded},
    DropReason::BackendMissing,
};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::any,
};

const SIX: [&str; 6] = ["pod:1", "pod:2", "pod:3", "pod:4", "pod:5", "pod:6"];

/// Whoever asks the table gets the fifth.
fn the_service() -> ServiceSketch {
    service("web")
        .cluster_ip("web:80")
        .external_ip("eip:80")
        .load_balancer("vip:80")
        .node_port(30_080)
        .to(&SIX)
        .table(&[4])
}

fn node() -> Row {
    row().node().host_address("node").detect_pods("pods")
}

const EXTERNAL: [&str; 3] = ["eip:80", "vip:80", "node:30080"];

#[test]
fn clients_of_external_addresses_are_led_by_the_table() {
    let mut row = node().given(the_service());
    for port in 40_000..40_004 {
        for frontend in EXTERNAL {
            row = row
                .ingress(any(&format!("client:{port} > {frontend}")).syn())
                .becomes(&format!("client:{port} > pod:5"))
                .counting(&[FlowsCreated, FlowsMasqueraded])
                .evict(&format!("client:{port} > {frontend}"))
                .evict(&format!("pod:5 > client:{port}"));
        }
    }
    row.run();
}

/// Whoever gets no fifth of six, every time, is not led by the table.
fn by_hash(service: &ServiceSketch, frontend: &str) -> bool {
    (40_000..40_012).any(|port| {
        let tuple = format!("client:{port} > {frontend}");
        let to_the_fifth = row()
            .v4()
            .given(service.clone())
            .ingress(any(&tuple).syn())
            .becomes(&format!("client:{port} > pod:5"))
            .counting(&[FlowsCreated]);
        to_the_fifth.host_only("only to find out").check().is_err()
    })
}

#[test]
fn clients_of_the_cluster_ip_are_led_by_the_table_only_if_the_rules_say_so() {
    assert!(by_hash(&the_service(), "web:80"));
    assert!(!by_hash(&the_service().internal_maglev(), "web:80"));
    let mut row = row().given(the_service().internal_maglev());
    for port in 40_000..40_004 {
        row = row
            .ingress(any(&format!("client:{port} > web:80")).syn())
            .becomes(&format!("client:{port} > pod:5"))
            .counting(&[FlowsCreated]);
    }
    row.run();
}

#[test]
fn each_list_has_a_table_of_its_own() {
    node()
        .given(
            the_service()
                .external_local()
                .here(&["pod2:1 local", "pod2:2 local"])
                .table(&[1]),
        )
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod2:2")
        .counting(&[FlowsCreated])
        .ingress(any("pod3:40000 > vip:80").syn())
        .becomes("pod3:40000 > pod:2")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn xdp_is_led_by_the_table() {
    row()
        .node()
        .given(
            service("web")
                .load_balancer("vip:80")
                .external_local()
                .here(&["pod:1 local", "pod:2 local", "pod:3 local"])
                .table(&[2]),
        )
        .xdp(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod:3")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_client_that_sticks_to_its_endpoint_goes_past_the_table() {
    node()
        .given(the_service().affinity(10).to(&["pod:3"]).table(&[0]))
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod:3")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .given(the_service().affinity(10))
        .ingress(any("client:40001 > vip:80").syn())
        .becomes("client:40001 > pod:3")
        .counting(&[AffinityKept, FlowsCreated, FlowsMasqueraded])
        .ingress(any("client2:40001 > vip:80").syn())
        .becomes("client2:40001 > pod:5")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
}

#[test]
fn a_table_that_leads_beyond_its_list_is_a_fault_that_is_told() {
    for broken in [
        the_service().table(&[6]),
        the_service().table(&[u16::MAX]),
        the_service().table_beyond(),
    ] {
        node()
            .given(broken)
            .ingress(any("client:40000 > vip:80").syn())
            .gets_dropped(BackendMissing)
            .leaving(&[])
            .run();
    }
}
