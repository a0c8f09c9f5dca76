//! Rows: new flows are left to netfilter, before `sluice takeover` and after `sluice retire`. Nothing is changed then, what would be is
//! counted, and each flow stays with whom it began.

use std::time::Duration;

use lb_common::layout::Counter::{EchoesAnswered, FlowsCreated, FlowsDeferred, FlowsMasqueraded, PortsTranslated};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{Sketch, any, icmp, tcp, udp},
};

/// What stands in the table of a flow that is netfilter's.
const DEFERRED: [&str; 2] = [
    "client:40000 > web:80 => client:40000 > web:80 | in masq direct deferred seen",
    "web:80 > client:40000 => web:80 > client:40000 | out reply masq direct deferred",
];

fn web() -> Row {
    row().node().serve("web:80", &["pod:8080"])
}

/// New flows are netfilter's, and one has begun.
fn left_to_netfilter(sketch: fn(&str) -> Sketch) -> Row {
    web()
        .defers()
        .ingress(sketch("client:40000 > web:80").syn())
        .passes()
        .counting(&[FlowsDeferred])
}

#[test]
fn a_new_flow_is_left_as_it_is_and_counted() {
    left_to_netfilter(any).leaving(&DEFERRED).run();
}

#[test]
fn a_flow_counts_once() {
    left_to_netfilter(any)
        .ingress(any("client:40000 > web:80"))
        .passes()
        .counting(&[])
        .run();
}

#[test]
fn who_began_with_netfilter_stays_there_after_the_takeover() {
    left_to_netfilter(any)
        .takes_over()
        .ingress(any("client:40000 > web:80"))
        .passes()
        .egress(any("web:80 > client:40000"))
        .passes()
        .counting(&[])
        .run();
}

#[test]
fn whoever_comes_after_the_takeover_is_ours() {
    left_to_netfilter(any)
        .takes_over()
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_syn_that_is_sent_again_stays_with_netfilter() {
    left_to_netfilter(tcp)
        .takes_over()
        .ingress(tcp("client:40000 > web:80").syn())
        .passes()
        .counting(&[])
        .run();
}

#[test]
fn a_port_that_is_used_again_is_a_new_flow() {
    left_to_netfilter(tcp)
        .ingress(tcp("client:40000 > web:80").fin())
        .passes()
        .takes_over()
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn datagrams_that_conntrack_has_forgotten_are_a_new_flow() {
    left_to_netfilter(udp)
        .takes_over()
        .later(Duration::from_secs(29))
        .ingress(udp("client:40000 > web:80"))
        .passes()
        .later(Duration::from_secs(31))
        .ingress(udp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_flow_of_ours_goes_on_when_new_ones_are_left() {
    web()
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .defers()
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .egress(any("pod:8080 > client:40000"))
        .becomes("web:80 > client:40000")
        .ingress(any("client:40001 > web:80").syn())
        .passes()
        .counting(&[FlowsDeferred])
        .run();
}

/// The way of the flow that had the port before would lead the second packet past netfilter, to an endpoint that knows nothing of it.
#[test]
fn a_port_of_ours_that_is_used_again_is_netfilters_in_xdp_too() {
    web_in_xdp()
        .defers()
        .xdp(tcp("client:40000 > web:80").syn())
        .passes()
        .counting(&[])
        .ingress(tcp("client:40000 > web:80").syn())
        .passes()
        .counting(&[FlowsDeferred])
        .xdp(tcp("client:40000 > web:80"))
        .passes()
        .leaving_ways(&["client:40000 > web:80 | stack"])
        .ingress(tcp("client:40000 > web:80"))
        .passes()
        .run();
}

/// A flow of ours that XDP has a way for, and that its client has ended.
fn web_in_xdp() -> Row {
    row()
        .node()
        .serve("web:80", &["pod:8080 local"])
        .xdp(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(tcp("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .xdp(tcp("client:40000 > web:80").fin())
        .becomes("client:40000 > pod:8080")
        .egress(tcp("pod:8080 > client:40000").fin())
        .becomes("web:80 > client:40000")
}

#[test]
fn datagrams_whose_backend_is_gone_go_over_to_netfilter() {
    web()
        .ingress(udp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .defers()
        .serve("web:80", &["pod2:8080"])
        .withdraw("pod:8080")
        .ingress(udp("client:40000 > web:80"))
        .passes()
        .counting(&[FlowsDeferred])
        .run();
}

/// A flow of ours that has the tuple `node:40000 > pod:8080` behind its translation, while new flows are netfilter's.
fn beside_a_masqueraded_flow(sketch: fn(&str) -> Sketch) -> Row {
    row()
        .node()
        .host_address("node")
        .given(service("web").node_port(30080).to(&["pod:8080"]))
        .ingress(sketch("client:40000 > node:30080").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(sketch("client:40000 > pod:8080").syn())
        .becomes("node:40000 > pod:8080")
        .defers()
}

#[test]
fn what_netfilter_masquerades_gives_way_to_a_flow_of_ours() {
    beside_a_masqueraded_flow(any)
        .egress(any("node:40000 > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .counting(&[PortsTranslated])
        .egress(any("node:40000 > pod:8080"))
        .becomes("node:* > pod:8080")
        .ingress(any("pod:8080 > node:*"))
        .becomes("pod:8080 > node:40000")
        .ingress(any("pod:8080 > node:40000"))
        .becomes("pod:8080 > client:40000")
        .run();
}

#[test]
fn what_netfilter_masquerades_gets_the_tuple_of_a_flow_that_is_over() {
    beside_a_masqueraded_flow(udp)
        .later(Duration::from_secs(31))
        .egress(udp("node:40000 > pod:8080"))
        .passes()
        .counting(&[])
        .run();
}

/// The bridge's hook has masqueraded it.
#[test]
fn what_leaves_by_a_port_of_a_bridge_is_our_own() {
    beside_a_masqueraded_flow(any)
        .lower_device()
        .egress(any("node:40000 > pod:8080").syn())
        .passes()
        .counting(&[])
        .run();
}

#[test]
fn what_netfilter_masquerades_otherwise_stays_as_it_is() {
    beside_a_masqueraded_flow(any)
        .egress(any("node:40001 > pod:8080").syn())
        .passes()
        .ingress(any("pod:8080 > node:40001"))
        .passes()
        .counting(&[])
        .run();
}

/// Netfilter has given `node:40001` to a connection to the endpoint; then new ones are ours.
fn netfilter_has_a_tuple(sketch: fn(&str) -> Sketch) -> Row {
    row()
        .node()
        .host_address("node")
        .given(service("web").node_port(30080).to(&["pod:8080"]))
        .defers()
        .ingress(sketch("client:40000 > node:30080").syn())
        .passes()
        .counting(&[FlowsDeferred])
        .egress(sketch("node:40001 > pod:8080").syn())
        .passes()
        .counting(&[])
        .takes_over()
}

/// A client of ours has the port that netfilter has given to another.
fn another_gets_another_port(row: Row, sketch: fn(&str) -> Sketch) -> Row {
    row.ingress(sketch("client:40001 > node:30080").syn())
        .becomes("client:40001 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(sketch("client:40001 > pod:8080").syn())
        .becomes("node:* > pod:8080")
}

/// Conntrack is asked at the takeover, but a connection may be opened right after it was.
#[test]
fn a_tuple_of_netfilters_is_not_given_to_a_flow_of_ours_after_the_takeover() {
    another_gets_another_port(netfilter_has_a_tuple(any), any)
        .ingress(any("pod:8080 > node:40001").syn_ack())
        .passes()
        .run();
}

/// Its client may send for long.
#[test]
fn nor_when_its_endpoint_has_closed() {
    let closed = netfilter_has_a_tuple(tcp)
        .ingress(tcp("pod:8080 > node:40001").fin())
        .passes();
    another_gets_another_port(closed, tcp).run();
}

#[test]
fn who_would_be_refused_is_left_to_netfilter() {
    row()
        .reject("web:80")
        .defers()
        .ingress(any("client:40000 > web:80").syn())
        .passes()
        .ingress(any("client:40000 > web:81").syn())
        .passes()
        .counting(&[])
        .leaving(&[])
        .run();
}

#[test]
fn pings_to_service_addresses_are_left_to_netfilter() {
    for request in [v4(), v6()] {
        request
            .0
            .serve("web:80", &["pod:8080"])
            .defers()
            .ingress(request.1.clone())
            .stays_untouched()
            .takes_over()
            .ingress(request.1)
            .gets_echoed()
            .counting(&[EchoesAnswered])
            .run();
    }
}

fn v4() -> (Row, Sketch) {
    (row().v4(), icmp("client > web", 8, 0))
}

fn v6() -> (Row, Sketch) {
    (row().v6(), icmp("client > web", 128, 0))
}
