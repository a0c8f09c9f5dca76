//! Rows 125 to 135: what becomes of flows when endpoints stop serving. kube-proxy deletes conntrack entries after each sync;
//! here a datagram flow looks at its next packet whether its endpoint still serves, and is chosen for anew if not. `pod` is
//! endpoint A, which serves, `pod2` is B, which is there and doesn't, `pod3` is C, which is gone.

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsMasqueraded, FlowsReselected},
    DropReason::NoEndpoint,
};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::{DATA, INIT, Sketch, sctp, tcp, udp},
};

/// TCP, UDP and SCTP rows have Services of their own protocol.
fn the_service() -> ServiceSketch {
    service("web")
        .cluster_ip("web:53")
        .external_ip("eip:53")
        .load_balancer("vip:53")
        .node_port(30_053)
}

const FRONTENDS: [&str; 4] = ["web:53", "eip:53", "vip:53", "node:30053"];

/// A flow to an endpoint, and then the Service with A only.
fn flow(first: &Sketch, endpoint: &str, counted: bool) -> Row {
    let counters = [FlowsCreated, FlowsMasqueraded];
    row()
        .node()
        .host_address("node")
        .given(the_service().to(&[endpoint]))
        .ingress(first.clone())
        .becomes(&format!("client:40000 > {endpoint}"))
        .counting(if counted { &counters } else { &counters[..1] })
        .given(the_service().to(&["pod:5353"]))
}

fn is_external(frontend: &str) -> bool {
    !frontend.starts_with("web")
}

#[test]
fn rows_125_and_128_a_flow_to_a_serving_endpoint_goes_on() {
    for frontend in FRONTENDS {
        let datagram = udp(&format!("client:40000 > {frontend}"));
        flow(&datagram, "pod:5353", is_external(frontend))
            .ingress(datagram)
            .becomes("client:40000 > pod:5353")
            .run();
    }
}

#[test]
fn rows_126_to_129_a_flow_to_an_endpoint_that_does_not_serve_or_is_gone_is_chosen_for_anew() {
    for frontend in FRONTENDS {
        let datagram = udp(&format!("client:40000 > {frontend}"));
        let mut counters = vec![FlowsCreated, FlowsReselected];
        counters.extend(is_external(frontend).then_some(FlowsMasqueraded));
        for (endpoint, stops) in [("pod2:5353", true), ("pod3:5353", false)] {
            let row = flow(&datagram, endpoint, is_external(frontend));
            let row = if stops {
                row.stop_serving(endpoint)
            } else {
                row.withdraw(endpoint)
            };
            row.ingress(datagram.clone())
                .becomes("client:40000 > pod:5353")
                .counting(&counters)
                .run();
        }
    }
}

#[test]
fn a_terminating_endpoint_that_still_serves_keeps_its_flows() {
    // It is in no list any more, its record says that it serves.
    let datagram = udp("client:40000 > web:53");
    flow(&datagram, "pod2:5353", false)
        .ingress(datagram)
        .becomes("client:40000 > pod2:5353")
        .run();
}

#[test]
fn an_endpoint_of_another_service_with_the_same_address_does_not_keep_them() {
    let datagram = udp("client:40000 > web:53");
    flow(&datagram, "pod2:5353", false)
        .given(service("api").cluster_ip("api:53").to(&["pod2:5353"]))
        .withdraw_from("web", "pod2:5353")
        .ingress(datagram)
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated, FlowsReselected])
        .run();
}

#[test]
fn rows_127_and_132_packets_to_unrelated_ports_of_a_frontends_address_have_no_flow() {
    flow(&udp("client:40000 > web:53"), "pod:5353", false)
        .ingress(udp("client:40000 > vip:99"))
        .stays_untouched()
        .ingress(udp("client:40000 > pod2:5353"))
        .stays_untouched()
        .run();
}

#[test]
fn row_130_tcp_and_sctp_stay_with_an_endpoint_that_is_gone() {
    for (first, next) in [
        (tcp("client:40000 > web:53").syn(), tcp("client:40000 > web:53")),
        (sctp("client:40000 > web:53", INIT), sctp("client:40000 > web:53", DATA)),
    ] {
        flow(&first, "pod3:5353", false)
            .withdraw("pod3:5353")
            .ingress(next)
            .becomes("client:40000 > pod3:5353")
            .run();
    }
}

#[test]
fn row_131_a_flow_from_before_the_service_is_translated_at_its_next_datagram() {
    row()
        .ingress(udp("client:40000 > web:53"))
        .stays_untouched()
        .given(the_service().to(&["pod:5353"]))
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn row_133_with_no_serving_endpoint_left_the_client_is_told() {
    let datagram = udp("client:40000 > web:53");
    flow(&datagram, "pod2:5353", false)
        .given(the_service().nobody())
        .stop_serving("pod2:5353")
        .ingress(datagram)
        .gets_refused(NoEndpoint)
        .run();
}

#[test]
fn row_134_when_the_service_is_deleted_nothing_goes_to_its_endpoint_any_more() {
    let datagram = udp("client:40000 > web:53");
    flow(&datagram, "pod:5353", false)
        .remove("web:53")
        .withdraw("pod:5353")
        .ingress(datagram)
        .stays_untouched()
        .run();
}

#[test]
fn row_135_the_same_address_with_another_port_is_another_endpoint() {
    let datagram = udp("client:40000 > web:53");
    flow(&datagram, "pod:53", false)
        .withdraw("pod:53")
        .ingress(datagram)
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated, FlowsReselected])
        .run();
}

#[test]
fn row_124_endpoints_that_are_emptied_and_restored_at_once_serve_again_and_leave_nothing_stale() {
    let datagram = || udp("client:40000 > web:53");
    row()
        .node()
        .given(the_service().to(&["pod:5353"]))
        .ingress(datagram())
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .given(the_service().nobody())
        .withdraw("pod:5353")
        .ingress(datagram())
        .gets_refused(NoEndpoint)
        .given(the_service().to(&["pod:5353"]))
        .ingress(datagram())
        .becomes("client:40000 > pod:5353")
        .ingress(udp("client:40001 > web:53"))
        .becomes("client:40001 > pod:5353")
        .counting(&[FlowsCreated])
        .run();
}
