//! Rows: XDP forwards to backends on other machines, and their replies to clients on others, with the next hop remembered.

use std::time::Duration;

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsMasqueraded, FlowsReselected, WaysFound, WaysLeft},
    limits::{REST_NS, WAY_NS},
};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{any, tcp, udp},
};

/// A NodePort on this node whose backends are elsewhere, and an XDP that may send to them.
fn node_port() -> Row {
    let service = service("web").node_port(30080).to(&["far:8080"]);
    row().outward().node().host_address("node").given(service)
}

/// The same with a flow whose way is known.
fn under_way() -> Row {
    node_port()
        .xdp(any("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
}

#[test]
fn a_masqueraded_flow_is_sent_in_one_step_each_way() {
    node_port()
        .xdp(any("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .leaving(&[
            "outside:40000 > node:30080 => node:40000 > far:8080 | in whole seen",
            "far:8080 > node:40000 => node:30080 > outside:40000 | in reply whole",
        ])
        .leaving_ways(&[])
        .xdp(any("far:8080 > node:40000").syn_ack())
        .gets_forwarded("node:30080 > outside:40000")
        .counting(&[WaysFound])
        .xdp(any("outside:40000 > node:30080").sized(1400))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .xdp(any("far:8080 > node:40000").sized(1400))
        .gets_forwarded("node:30080 > outside:40000")
        .leaving_ways(&[
            "outside:40000 > node:30080 => node:40000 > far:8080 | by 77",
            "far:8080 > node:40000 => node:30080 > outside:40000 | by 77",
        ])
        .run();
}

#[test]
fn a_flow_that_keeps_its_client_is_sent_each_way() {
    row()
        .outward()
        .serve("web:80", &["far:8080"])
        .xdp(any("outside:40000 > web:80").syn())
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[FlowsCreated, WaysFound])
        .xdp(any("far:8080 > outside:40000").syn_ack())
        .gets_forwarded("web:80 > outside:40000")
        .counting(&[WaysFound])
        .xdp(any("outside:40000 > web:80"))
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(any("far:8080 > outside:40000"))
        .gets_forwarded("web:80 > outside:40000")
        .run();
}

#[test]
fn a_flow_that_tc_has_opened_is_sent_by_xdp_and_back() {
    node_port()
        .ingress(any("outside:40000 > node:30080").syn())
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(any("outside:40000 > far:8080").syn())
        .becomes("node:40000 > far:8080")
        .xdp(any("far:8080 > node:40000").syn_ack())
        .gets_forwarded("node:30080 > outside:40000")
        .counting(&[WaysFound])
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .ingress(any("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .egress(any("outside:40000 > far:8080"))
        .becomes("node:40000 > far:8080")
        .run();
}

#[test]
fn a_neighbour_that_never_answers_leaves_the_flow_to_the_stack() {
    row()
        .outward()
        .serve("web:80", &["mute:8080"])
        .xdp(any("outside:40000 > web:80").syn())
        .passes()
        .counting(&[FlowsCreated, WaysLeft])
        .xdp(any("outside:40000 > web:80"))
        .passes()
        .counting(&[WaysLeft])
        .xdp(any("outside:40000 > web:80"))
        .stays_untouched()
        .routes_change()
        .xdp(any("outside:40000 > web:80"))
        .passes()
        .counting(&[WaysLeft])
        .run();
}

#[test]
fn a_device_that_takes_no_frames_leaves_the_flow_to_the_stack() {
    row()
        .serve("web:80", &["far:8080"])
        .xdp(any("outside:40000 > web:80").syn())
        .passes()
        .counting(&[FlowsCreated, WaysLeft])
        .ingress(any("outside:40000 > web:80").syn())
        .becomes("outside:40000 > far:8080")
        .run();
}

#[test]
fn in_generic_mode_the_stack_sends_by_any_device() {
    row()
        .outward_generic()
        .serve("web:80", &["far:8080"])
        .xdp(any("outside:40000 > web:80").syn())
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[FlowsCreated, WaysFound])
        .run();
}

#[test]
fn the_next_hop_is_looked_up_anew_when_the_routing_has_changed_and_every_two_seconds() {
    under_way()
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .routes_change()
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .later(Duration::from_nanos(WAY_NS + 1_000_000_000))
        .xdp(any("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .run();
}

#[test]
fn every_seventeen_seconds_one_packet_goes_by_the_stack_and_keeps_the_neighbour_known() {
    node_port()
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        .counting(&[WaysFound])
        .later(Duration::from_nanos(REST_NS))
        .xdp(udp("outside:40000 > node:30080"))
        .passes()
        .counting(&[WaysFound])
        .xdp(udp("outside:40000 > node:30080"))
        .gets_forwarded("node:40000 > far:8080")
        // One flow to a neighbour is enough.
        .xdp(udp("outside:40001 > node:30080"))
        .gets_forwarded("node:40001 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(udp("outside:40001 > node:30080"))
        .gets_forwarded("node:40001 > far:8080")
        .counting(&[WaysFound])
        .run();
}

#[test]
fn what_must_be_told_or_cut_goes_up() {
    under_way()
        // Its last hop: the stack says so to its sender.
        .xdp(any("outside:40000 > node:30080").hops(1))
        .stays_untouched()
        .xdp(any("outside:40000 > node:30080").hops(2))
        .gets_forwarded("node:40000 > far:8080")
        .run();
}

#[test]
fn what_comes_from_nobody_that_can_be_answered_is_the_stacks_to_drop() {
    let rows = [
        (
            row().v4(),
            &["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.9", "255.255.255.255"][..],
        ),
        (
            row().v6(),
            &["[::1]", "[::]", "[ff02::9]", "[fe80::9]", "[::ffff:10.0.0.1]"][..],
        ),
    ];
    for (row, clients) in rows {
        for client in clients {
            row.clone()
                .outward()
                .serve("web:80", &["far:8080"])
                .xdp(any(&format!("{client}:40000 > web:80")).syn())
                .passes()
                .counting(&[FlowsCreated, WaysLeft])
                .run();
        }
    }
}

/// Of the largest frames only the beginning lies in one buffer.
#[test]
fn jumbo_frames_are_sent_by_devices_that_take_them() {
    let jumbo = |len| any("outside:40000 > node:30080").sized(len);
    let service = || service("web").node_port(30080).to(&["far:8080"]);
    let first = |row: Row| {
        row.node()
            .host_address("node")
            .given(service())
            .xdp(any("outside:40000 > node:30080").syn())
            .gets_forwarded("node:40000 > far:8080")
            .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
            .xdp(any("outside:40000 > node:30080"))
            .gets_forwarded("node:40000 > far:8080")
            .counting(&[WaysFound])
    };
    first(row().outward_scatters())
        .xdp(jumbo(7000))
        .in_place(2000)
        .gets_forwarded("node:40000 > far:8080")
        // More than the device sends at once.
        .xdp(jumbo(8000))
        .in_place(2000)
        .stays_untouched()
        .run();
    first(row().outward())
        .xdp(jumbo(7000))
        .in_place(2000)
        .stays_untouched()
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").sized(7000))
        .in_place(2000)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn frames_to_others_and_to_all_are_left_alone() {
    under_way()
        .xdp(any("outside:40000 > node:30080").framed_to([0x02, 0x99, 0x99, 0x99, 0x99, 0x99]))
        .stays_untouched()
        .xdp(any("outside:40000 > node:30080").framed_to([0xff; 6]))
        .stays_untouched()
        .run();
}

#[test]
fn a_datagram_leaves_a_backend_that_no_longer_serves() {
    row()
        .outward()
        .serve("web:53", &["far:5353"])
        .xdp(udp("outside:40000 > web:53"))
        .gets_forwarded("outside:40000 > far:5353")
        .counting(&[FlowsCreated, WaysFound])
        .serve("web:53", &["far2:5353"])
        .stop_serving("far:5353")
        .xdp(udp("outside:40000 > web:53"))
        .gets_forwarded("outside:40000 > far2:5353")
        .counting(&[FlowsReselected, FlowsCreated, WaysFound])
        .run();
}

#[test]
fn a_connection_stays_with_a_backend_that_no_longer_serves() {
    row()
        .outward()
        .serve("web:80", &["far:8080"])
        .xdp(tcp("outside:40000 > web:80").syn())
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[FlowsCreated, WaysFound])
        .serve("web:80", &["far2:8080"])
        .stop_serving("far:8080")
        .xdp(tcp("outside:40000 > web:80"))
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[WaysFound])
        .xdp(tcp("outside:40001 > web:80").syn())
        .gets_forwarded("outside:40001 > far2:8080")
        .counting(&[FlowsCreated, WaysFound])
        .run();
}

#[test]
fn the_end_of_a_connection_is_seen() {
    row()
        .outward()
        .serve("web:80", &["far:8080"])
        .xdp(tcp("outside:40000 > web:80").syn())
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[FlowsCreated, WaysFound])
        .xdp(tcp("outside:40000 > web:80").rst())
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[WaysFound])
        .serve("web:80", &["far2:8080"])
        .xdp(tcp("outside:40000 > web:80").syn())
        .gets_forwarded("outside:40000 > far2:8080")
        .counting(&[FlowsCreated, WaysFound])
        .run();
}

#[test]
fn a_gone_endpoint_is_told_of_within_two_seconds() {
    row()
        .outward()
        .serve("web:80", &["far:8080"])
        .xdp(tcp("outside:40000 > web:80").syn())
        .gets_forwarded("outside:40000 > far:8080")
        .counting(&[FlowsCreated, WaysFound])
        .endpoint_gone("outside:40000 > web:80")
        .later(Duration::from_nanos(WAY_NS + 1_000_000_000))
        .xdp(tcp("outside:40000 > web:80"))
        .stays_untouched()
        .ingress(tcp("outside:40000 > web:80"))
        .gets_reset()
        .run();
}
