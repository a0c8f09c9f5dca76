//! Rows: direct connections to endpoints beside flows through a Service. What comes to the node from a frontend of another node
//! looks like one. Whoever comes later gets another source port, and both are answered by whom they dialled.

use std::time::Duration;

use lb_common::layout::Counter::{ErrorsTranslated, FlowsCreated, FlowsMasqueraded, PortsTranslated};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{any, icmp, sctp, tcp, udp},
};

/// The client keeps its source.
fn kept() -> Row {
    row().first_device().serve("web:80", &["pod:8080"])
}

/// The client is seen with an address of the node.
fn masqueraded() -> Row {
    row()
        .first_device()
        .node()
        .host_address("node")
        .given(service("web").load_balancer("vip:80").to(&["pod:8080"]))
}

const MARK: &str = "pod:8080 > client:40000 => pod:8080 > client:40000 | out reply local masq direct";

#[test]
fn the_tuple_of_a_direct_connection_is_taken_and_nothing_is_changed() {
    kept()
        .ingress(any("client:40000 > pod:8080").syn())
        .passes()
        .leaving(&[MARK])
        .ingress(any("client:40000 > pod:8080").syn())
        .stays_untouched()
        .ingress(any("client:40000 > pod:8080").says(b"GET /"))
        .stays_untouched()
        .run();
}

#[test]
fn answers_of_a_direct_connection_stay_as_they_are() {
    kept()
        .ingress(any("client:40000 > pod:8080").syn())
        .passes()
        .ingress(any("pod:8080 > client:40000").syn_ack())
        .stays_untouched()
        .egress(any("pod:8080 > client:40000").syn_ack())
        .passes()
        .leaving(&["pod:8080 > client:40000 => pod:8080 > client:40000 | out reply local masq direct seen"])
        .run();
}

#[test]
fn who_comes_through_a_frontend_after_a_direct_connection_gets_another_port() {
    kept()
        .ingress(any("client:40000 > pod:8080").syn())
        .passes()
        .egress(any("pod:8080 > client:40000").syn_ack())
        .passes()
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .egress(any("pod:8080 > client:*").syn_ack())
        .becomes("web:80 > client:40000")
        .egress(any("pod:8080 > client:40000").says(b"200 OK"))
        .passes()
        .ingress(any("client:40000 > pod:8080").says(b"GET /"))
        .stays_untouched()
        .run();
}

#[test]
fn a_direct_connection_after_one_through_a_frontend_gets_another_port() {
    kept()
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .ingress(any("client:40000 > pod:8080").syn())
        .becomes("client:* > pod:8080")
        .counting(&[PortsTranslated])
        .egress(any("client:* > pod:8080").syn())
        .stays_untouched()
        .egress(any("pod:8080 > client:*").syn_ack())
        .becomes("pod:8080 > client:40000")
        .ingress(any("client:40000 > pod:8080").says(b"GET /"))
        .becomes("client:* > pod:8080")
        .egress(any("pod:8080 > client:40000").says(b"200 OK"))
        .becomes("web:80 > client:40000")
        .ingress(any("client:40000 > web:80").says(b"GET /"))
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_direct_connection_does_not_become_the_second_half_of_a_masqueraded_flow() {
    masqueraded()
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(any("client:40000 > pod:8080").syn())
        .becomes("node:40000 > pod:8080")
        .ingress(any("client:40000 > pod:8080").syn())
        .becomes("client:* > pod:8080")
        .counting(&[PortsTranslated])
        .egress(any("client:* > pod:8080").syn())
        .stays_untouched()
        .egress(any("pod:8080 > client:*").syn_ack())
        .becomes("pod:8080 > client:40000")
        .egress(any("client:40000 > pod:8080").says(b"GET /"))
        .becomes("node:40000 > pod:8080")
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .becomes("pod:8080 > client:40000")
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("vip:80 > client:40000")
        .run();
}

#[test]
fn a_masqueraded_flow_does_not_take_over_a_direct_connection() {
    masqueraded()
        .ingress(any("client:40000 > pod:8080").syn())
        .passes()
        .egress(any("pod:8080 > client:40000").syn_ack())
        .passes()
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("client:* > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .egress(any("client:40000 > pod:8080").says(b"GET /"))
        .stays_untouched()
        .egress(any("pod:8080 > client:40000").says(b"200 OK"))
        .passes()
        .run();
}

/// Of an answer, nothing tells that it is no question but the flow that it belongs to.
#[test]
fn an_answering_datagram_takes_nothing() {
    let both = || kept().serve("api:80", &["client:40000"]);
    both()
        .ingress(udp("client:40000 > pod:8080"))
        .passes()
        .leaving(&[MARK])
        .ingress(udp("pod:8080 > client:40000"))
        .stays_untouched()
        .run();
    both()
        .ingress(udp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(udp("pod:8080 > client:40000"))
        .stays_untouched()
        .run();
}

#[test]
fn only_what_opens_a_connection_takes_its_tuple() {
    kept()
        .ingress(tcp("client:40000 > pod:8080").says(b"GET /"))
        .stays_untouched()
        .ingress(tcp("client:40000 > pod:8080").syn_ack())
        .stays_untouched()
        .ingress(sctp("client:40000 > pod:8080", 0))
        .stays_untouched()
        .ingress(any("client:40000 > world:8080").syn())
        .stays_untouched()
        .ingress(any("client:40000 > pod2:8080").syn())
        .stays_untouched()
        .run();
}

/// On a bridge or a VLAN device, an earlier hook has translated it.
#[test]
fn what_another_device_has_seen_first_is_no_direct_connection() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("client:40000 > pod:8080").syn())
        .stays_untouched()
        .run();
    // XDP is always the first; what it has given another port is not to be found again by tc.
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(any("client:40000 > pod:8080").syn())
        .becomes("client:* > pod:8080")
        .counting(&[PortsTranslated])
        .ingress(any("client:40000 > pod:8080").syn())
        .stays_untouched()
        .run();
}

#[test]
fn xdp_does_the_same() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(any("client:40000 > pod:8080").syn())
        .becomes("client:* > pod:8080")
        .counting(&[PortsTranslated])
        .egress(any("pod:8080 > client:*").syn_ack())
        .becomes("pod:8080 > client:40000")
        .xdp(any("client:40000 > pod:8080").says(b"GET /"))
        .becomes("client:* > pod:8080")
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > pod:8080").syn())
        .passes()
        .leaving(&[MARK])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .run();
}

#[test]
fn the_tuple_of_a_flow_that_is_over_is_free() {
    kept()
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .later(Duration::from_secs(61))
        .ingress(any("client:40000 > pod:8080").syn())
        .passes()
        // Its client comes back all the same, and is told apart.
        .ingress(any("client:40000 > web:80").says(b"GET /"))
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .passes()
        .run();
    kept()
        .ingress(any("client:40000 > pod:8080").syn())
        .passes()
        .later(Duration::from_secs(61))
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

/// Type and code of "port unreachable", and of "packet too big" or "fragmentation needed".
const ERRORS: [(bool, u8, u8); 2] = [(false, 3, 4), (true, 2, 0)];

#[test]
fn icmp_errors_find_both_ends_of_a_direct_connection_with_another_port() {
    for (v6, kind, code) in ERRORS {
        let family = |row: Row| if v6 { row.v6() } else { row.v4() };
        let octets = if v6 { 48 } else { 28 };
        family(kept())
            .ingress(udp("client:40000 > web:80"))
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .ingress(udp("client:40000 > pod:8080"))
            .becomes("client:* > pod:8080")
            .counting(&[PortsTranslated])
            .egress(icmp("world > client", kind, code).quoting(udp("client:* > pod:8080"), octets))
            .becomes("world > client")
            .quoting("client:40000 > pod:8080")
            .counting(&[ErrorsTranslated])
            .ingress(icmp("world > pod", kind, code).quoting(udp("pod:8080 > client:40000"), octets))
            .becomes("world > pod")
            .quoting("pod:8080 > client:*")
            .counting(&[ErrorsTranslated])
            .run();
    }
}
