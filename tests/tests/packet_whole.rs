//! Rows: masqueraded flows that XDP does alone with one pair of entries, and what becomes of them when the stack gets a packet.

use std::time::Duration;

use lb_common::layout::{
    Counter::{
        ErrorsTranslated, FlowsCreated, FlowsHealed, FlowsMasqueraded, FlowsReselected, FlowsSplit, PortsTranslated,
        WaysFound,
    },
    DropReason::FlowTableFull,
    limits::{HEAL_NS_LOG2, REST_NS},
};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{any, icmp, tcp, udp},
};

/// A flow's entries are healed this often.
const HEALED_WITHIN: Duration = Duration::from_nanos(1 << HEAL_NS_LOG2);

/// A NodePort on this node whose backend is elsewhere, and an XDP that may send to it.
fn node_port() -> Row {
    let service = service("web").node_port(30080).to(&["far:8080"]);
    row().outward().node().host_address("node").given(service)
}

/// What is in the table while XDP does all.
const WHOLE: [&str; 2] = [
    "outside:40000 > node:30080 => node:40000 > far:8080 | in whole seen",
    "far:8080 > node:40000 => node:30080 > outside:40000 | in reply whole seen",
];

/// The same in two steps.
const SPLIT: [&str; 4] = [
    "outside:40000 > node:30080 => outside:40000 > far:8080 | in seen",
    "outside:40000 > far:8080 => node:40000 > far:8080 | out masq seen",
    "far:8080 > node:40000 => far:8080 > outside:40000 | in reply masq seen",
    "far:8080 > outside:40000 => node:30080 > outside:40000 | out reply seen",
];

/// A flow of which both sides have been seen.
fn answered() -> Row {
    node_port()
        .xdp(any("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(any("far:8080 > node:40000").syn_ack())
        .gets_forwarded("node:30080 > outside:40000")
        .counting(&[WaysFound])
        .leaving(&WHOLE)
}

#[test]
fn a_packet_of_the_client_that_the_stack_gets_splits_its_flow() {
    answered()
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsSplit])
        .leaving(&SPLIT)
        .egress(any("outside:40000 > far:8080"))
        .becomes("node:40000 > far:8080")
        .ingress(any("far:8080 > node:40000"))
        .becomes("far:8080 > outside:40000")
        .egress(any("far:8080 > outside:40000"))
        .becomes("node:30080 > outside:40000")
        .run();
}

#[test]
fn an_answer_that_the_stack_gets_splits_its_flow() {
    answered()
        .ingress(any("far:8080 > node:40000"))
        .becomes("far:8080 > outside:40000")
        .counting(&[FlowsSplit])
        .leaving(&SPLIT)
        .egress(any("far:8080 > outside:40000"))
        .becomes("node:30080 > outside:40000")
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .egress(any("outside:40000 > far:8080"))
        .becomes("node:40000 > far:8080")
        .run();
}

#[test]
fn a_split_flow_goes_on_in_xdp() {
    answered()
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsSplit])
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(any("far:8080 > node:40000"))
        .gets_forwarded("node:30080 > outside:40000")
        .leaving(&SPLIT)
        .run();
}

#[test]
fn a_flow_that_nobody_has_answered_is_split_as_one() {
    node_port()
        .xdp(any("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .ingress(any("outside:40000 > node:30080").syn())
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsSplit])
        .leaving(&[
            "outside:40000 > node:30080 => outside:40000 > far:8080 | in seen",
            "outside:40000 > far:8080 => node:40000 > far:8080 | out masq seen",
            "far:8080 > node:40000 => far:8080 > outside:40000 | in reply masq",
            "far:8080 > outside:40000 => node:30080 > outside:40000 | out reply",
        ])
        .run();
}

#[test]
fn the_port_that_the_backend_knows_stays_when_the_client_s_own_is_taken() {
    // Another client has the node's port 40000 towards this backend, and then somebody has the client's tuple in between.
    answered()
        .xdp(any("client:40000 > node:30080").syn())
        .gets_forwarded("node:* > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated, WaysFound])
        .ingress(any("client:40000 > node:30080"))
        .becomes("client:40000 > far:8080")
        .counting(&[FlowsSplit])
        .egress(any("client:40000 > far:8080"))
        .becomes("node:* > far:8080")
        .xdp(any("client:40000 > node:30080"))
        .gets_forwarded("node:* > far:8080")
        .counting(&[WaysFound])
        .run();
    let direct = any("outside:40000 > far:8080").syn();
    let endpoint = service("web").cluster_ip("web").node_port(30080).to(&["far:8080"]);
    row()
        .outward()
        .node()
        .host_address("node")
        .first_device()
        .given(endpoint)
        .xdp(any("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .ingress(direct)
        .passes()
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:* > far:8080")
        .counting(&[FlowsSplit, PortsTranslated])
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(any("far:8080 > node:40000"))
        .gets_forwarded("node:30080 > outside:40000")
        .counting(&[WaysFound])
        .run();
}

#[test]
fn an_error_about_it_splits_it_and_finds_the_client() {
    answered()
        .ingress(icmp("world > node", 3, 4).quoting(any("node:40000 > far:8080"), usize::MAX))
        .becomes("world > outside")
        .quoting("outside:40000 > far:8080")
        .counting(&[FlowsSplit, ErrorsTranslated])
        .leaving(&SPLIT)
        .run();
}

#[test]
fn each_entry_can_be_evicted_and_is_healed_by_the_other() {
    for (evicted, packet, becomes) in [
        (
            "far:8080 > node:40000",
            "outside:40000 > node:30080",
            "node:40000 > far:8080",
        ),
        (
            "outside:40000 > node:30080",
            "far:8080 > node:40000",
            "node:30080 > outside:40000",
        ),
    ] {
        let seen = |entry: &str| entry.starts_with(packet) == entry.ends_with("seen");
        let left = WHOLE.map(|entry| match seen(entry) {
            true => entry.to_owned(),
            false => entry.trim_end_matches(" seen").to_owned(),
        });
        answered()
            .xdp(any("outside:40000 > node:30080"))
            .gets_forwarded("node:40000 > far:8080")
            .counting(&[WaysFound])
            .evict(evicted)
            .later(HEALED_WITHIN)
            .xdp(any(packet))
            // Every 17 seconds, as it happens, a packet to each neighbour is left to the stack.
            .passes()
            .counting(&[WaysFound, FlowsHealed])
            .leaving(&left.each_ref().map(String::as_str))
            .xdp(any(packet))
            .gets_forwarded(becomes)
            .run();
    }
}

#[test]
fn an_entry_that_is_gone_is_made_anew_by_a_split() {
    for evicted in ["outside:40000 > node:30080", "far:8080 > node:40000"] {
        let (own, becomes) = if evicted.starts_with("far") {
            ("outside:40000 > node:30080", "outside:40000 > far:8080")
        } else {
            ("far:8080 > node:40000", "far:8080 > outside:40000")
        };
        answered()
            .evict(evicted)
            .ingress(any(own))
            .becomes(becomes)
            .counting(&[FlowsSplit])
            .egress(any("outside:40000 > far:8080"))
            .becomes("node:40000 > far:8080")
            .egress(any("far:8080 > outside:40000"))
            .becomes("node:30080 > outside:40000")
            .run();
    }
}

#[test]
fn a_late_answer_leaves_a_client_alone_that_went_elsewhere() {
    let service = |backend: &str| service("web").node_port(30080).to(&[backend]);
    answered_by_udp(service("far:8080"))
        .given(service("far2:8080"))
        .stop_serving("far:8080")
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far2:8080")
        .counting(&[FlowsReselected, FlowsCreated, FlowsMasqueraded, WaysFound])
        .ingress(udp("far:8080 > node:40000"))
        .becomes("far:8080 > outside:40000")
        .counting(&[FlowsSplit])
        .egress(udp("far:8080 > outside:40000"))
        .becomes("node:30080 > outside:40000")
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far2:8080")
        .counting(&[WaysFound])
        .run();
}

fn answered_by_udp(service: tests::packet::service::ServiceSketch) -> Row {
    row()
        .outward()
        .node()
        .host_address("node")
        .given(service)
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
}

#[test]
fn a_datagram_that_the_stack_gets_leaves_a_backend_that_no_longer_serves() {
    let service = |backend: &str| service("web").node_port(30080).to(&[backend]);
    answered_by_udp(service("far:8080"))
        .given(service("far2:8080"))
        .stop_serving("far:8080")
        .ingress(udp("outside:40000 > node:30080"))
        .becomes("outside:40000 > far2:8080")
        .counting(&[FlowsReselected, FlowsCreated, FlowsMasqueraded])
        .egress(udp("outside:40000 > far2:8080"))
        .becomes("node:40000 > far2:8080")
        .run();
}

#[test]
fn a_new_connection_with_the_tuple_of_a_closed_one_is_whole_again() {
    answered().run();
    node_port()
        .xdp(tcp("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(tcp("outside:40000 > node:30080").rst())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(tcp("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .leaving(&[
            "outside:40000 > node:30080 => node:40000 > far:8080 | in whole seen",
            "far:8080 > node:40000 => node:30080 > outside:40000 | in reply whole",
        ])
        .run();
}

#[test]
fn a_retransmitted_syn_stays_with_its_backend_and_a_closed_server_s_does_not() {
    let both = || service("web").node_port(30080).to(&["far:8080"]);
    row()
        .outward()
        .node()
        .host_address("node")
        .given(both())
        .xdp(tcp("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(tcp("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(tcp("far:8080 > node:40000").fin())
        .gets_forwarded("node:30080 > outside:40000")
        .counting(&[WaysFound])
        .given(service("web").node_port(30080).to(&["far2:8080"]))
        .xdp(tcp("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .run();
}

#[test]
fn a_tuple_that_is_taken_over_ends_its_holder_s_way() {
    // The first connection was aborted: the second client may have its port.
    node_port()
        .xdp(tcp("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(tcp("far:8080 > node:40000").rst())
        .gets_forwarded("node:30080 > outside:40000")
        .counting(&[WaysFound])
        .xdp(tcp("client:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        // A late packet of the first opens a flow of its own.
        .xdp(tcp("outside:40000 > node:30080"))
        .gets_forwarded("node:* > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated, WaysFound])
        .run();
}

#[test]
fn the_packet_that_keeps_a_neighbour_known_splits_its_flow() {
    answered()
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .later(Duration::from_nanos(REST_NS))
        .xdp(any("outside:40000 > node:30080"))
        .passes()
        .counting(&[WaysFound])
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsSplit])
        .leaving(&SPLIT)
        .run();
}

#[test]
fn a_flow_keeps_its_port_in_the_other_form_when_the_client_s_entry_was_evicted() {
    // Split, then XDP opens it anew as a whole.
    answered()
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsSplit])
        .evict("outside:40000 > node:30080")
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .run();
    // Whole, then tc opens it anew in two steps.
    answered()
        .evict("outside:40000 > node:30080")
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(any("outside:40000 > far:8080"))
        .becomes("node:40000 > far:8080")
        .ingress(any("far:8080 > node:40000"))
        .becomes("far:8080 > outside:40000")
        .run();
}

#[test]
fn a_flow_whose_port_is_another_s_by_now_is_opened_anew() {
    answered()
        .evict("far:8080 > node:40000")
        .xdp(any("client:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .ingress(any("outside:40000 > node:30080"))
        .gets_dropped(FlowTableFull)
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("outside:40000 > far:8080"))
        .becomes("node:* > far:8080")
        .run();
}

#[test]
fn what_takes_a_late_answer_s_port_leaves_the_client_alone_that_went_elsewhere() {
    let service = |backend: &str| service("web").node_port(30080).to(&[backend]);
    answered_by_udp(service("far:8080"))
        .given(service("far2:8080"))
        .stop_serving("far:8080")
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far2:8080")
        .counting(&[FlowsReselected, FlowsCreated, FlowsMasqueraded, WaysFound])
        .given(service("far:8080"))
        // The entry for late answers of the first endpoint is over by now, and its port another client's.
        .later(Duration::from_secs(40))
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far2:8080")
        .counting(&[WaysFound])
        .xdp(udp("client:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far2:8080")
        .run();
}
