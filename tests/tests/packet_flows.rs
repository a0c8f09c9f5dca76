//! Rows: new flows, established flows and their replies, with clients elsewhere and on the node itself.

use std::time::Duration;

use lb_common::layout::Counter::{FlowsCreated, FlowsHealed, PortsTranslated};
use tests::packet::{
    row::{HEALED_WITHIN, row},
    sketch::{any, tcp, udp},
};

#[test]
fn a_new_flow_goes_to_a_backend_and_is_known_in_both_directions() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply",
        ])
        .run();
}

#[test]
fn a_connection_is_translated_from_its_first_to_its_last_packet() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .ingress(any("client:40000 > web:80").says(b"GET /"))
        .becomes("client:40000 > pod:8080")
        .egress(any("pod:8080 > client:40000").sized(1400))
        .becomes("web:80 > client:40000")
        .ingress(any("client:40000 > web:80").fin())
        .becomes("client:40000 > pod:8080")
        .egress(any("pod:8080 > client:40000").fin())
        .becomes("web:80 > client:40000")
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply seen",
        ])
        .run();
}

#[test]
fn a_flow_to_a_backend_on_this_node_says_so() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in local seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply local seen",
        ])
        .run();
}

#[test]
fn a_frontend_may_have_the_port_of_its_backend() {
    row()
        .serve("web:53", &["pod:53"])
        .ingress(any("client:40000 > web:53").syn())
        .becomes("client:40000 > pod:53")
        .counting(&[FlowsCreated])
        .egress(any("pod:53 > client:40000").syn_ack())
        .becomes("web:53 > client:40000")
        .run();
}

#[test]
fn a_process_of_the_host_is_translated_where_its_packets_leave_and_gets_a_route() {
    row()
        .serve("web:80", &["pod:8080"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "node:40000 > web:80 => node:40000 > pod:8080 | out host seen",
            "pod:8080 > node:40000 => web:80 > node:40000 | in reply host",
        ])
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .gets_delivered("web:80 > node:40000")
        .host_egress(any("node:40000 > web:80").says(b"GET /"))
        .gets_rerouted("node:40000 > pod:8080")
        .leaving(&[
            "node:40000 > web:80 => node:40000 > pod:8080 | out host seen",
            "pod:8080 > node:40000 => web:80 > node:40000 | in reply host seen",
        ])
        .run();
}

#[test]
fn a_process_of_the_host_reaches_a_backend_on_this_node() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .gets_delivered("web:80 > node:40000")
        .leaving(&[
            "node:40000 > web:80 => node:40000 > pod:8080 | out host local seen",
            "pod:8080 > node:40000 => web:80 > node:40000 | in reply host local seen",
        ])
        .run();
}

#[test]
fn a_forwarded_packet_to_a_frontend_is_left_alone_where_it_leaves() {
    row()
        .serve("web:80", &["pod:8080"])
        .egress(any("client:40000 > web:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn an_entry_applies_where_packets_arrive_or_where_they_leave() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("client:40000 > web:80"))
        .stays_untouched()
        .ingress(any("pod:8080 > client:40000"))
        .stays_untouched()
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > node:40000"))
        .stays_untouched()
        .run();
}

#[test]
fn the_same_tuple_where_packets_arrive_and_where_they_leave_is_two_flows() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .host_egress(any("client:40000 > web:80"))
        .gets_rerouted("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("node:40000 > web:80"))
        .becomes("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn clients_with_the_same_port_do_not_disturb_each_other() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("client2:40000 > web:80").syn())
        .becomes("client2:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .egress(any("pod:8080 > client2:40000").syn_ack())
        .becomes("web:80 > client2:40000")
        .run();
}

#[test]
fn one_client_port_to_two_frontends_of_one_backend_is_told_apart_by_another_source_port() {
    row()
        .serve("web:80", &["pod:8080"])
        .serve("api:443", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("client:40000 > api:443").syn())
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply",
            "client:40000 > api:443 => client:* > pod:8080 | in seen",
            "pod:8080 > client:* => api:443 > client:40000 | out reply",
        ])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .egress(any("pod:8080 > client:*").syn_ack())
        .becomes("api:443 > client:40000")
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .ingress(any("client:40000 > api:443"))
        .becomes("client:* > pod:8080")
        .run();
}

#[test]
fn a_translated_source_port_stays_when_the_flow_is_opened_again() {
    row()
        .serve("web:80", &["pod:8080"])
        .serve("api:443", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("client:40000 > api:443").syn())
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .evict("client:40000 > api:443")
        .ingress(any("client:40000 > api:443"))
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .egress(any("pod:8080 > client:*"))
        .becomes("api:443 > client:40000")
        .run();
}

#[test]
fn a_process_of_the_host_with_one_port_to_two_frontends_gets_another_source_port_too() {
    row()
        .serve("web:80", &["pod:8080"])
        .serve("api:443", &["pod:8080"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .host_egress(any("node:40000 > api:443").syn())
        .gets_rerouted("node:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .ingress(any("pod:8080 > node:*").syn_ack())
        .gets_delivered("api:443 > node:40000")
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .gets_delivered("web:80 > node:40000")
        .run();
}

#[test]
fn the_source_port_of_an_unanswered_udp_flow_is_free_after_half_a_minute() {
    let tuple = |seconds: u64, becomes: &str, counters: &[_]| {
        row()
            .serve("web:80", &["pod:8080"])
            .serve("api:443", &["pod:8080"])
            .ingress(udp("client:40000 > web:80"))
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .later(Duration::from_secs(seconds))
            .ingress(udp("client:40000 > api:443"))
            .becomes(becomes)
            .counting(counters)
            .run();
    };
    tuple(31, "client:40000 > pod:8080", &[FlowsCreated]);
    tuple(29, "client:* > pod:8080", &[FlowsCreated, PortsTranslated]);
}

#[test]
fn the_source_port_of_an_aborted_connection_is_free_at_once() {
    row()
        .serve("web:80", &["pod:8080"])
        .serve("api:443", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(tcp("pod:8080 > client:40000").rst())
        .becomes("web:80 > client:40000")
        .ingress(tcp("client:40000 > api:443").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn the_source_port_of_a_connection_that_both_have_closed_is_free_after_ten_seconds() {
    // Its server may still remember it: another port is better, while there are any.
    let row = |seconds: u64| {
        row()
            .serve("web:80", &["pod:8080"])
            .serve("api:443", &["pod:8080"])
            .ingress(tcp("client:40000 > web:80").syn())
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .egress(tcp("pod:8080 > client:40000").fin())
            .becomes("web:80 > client:40000")
            .ingress(tcp("client:40000 > web:80").fin())
            .becomes("client:40000 > pod:8080")
            .later(Duration::from_secs(seconds))
            .ingress(tcp("client:40000 > api:443").syn())
    };
    row(11)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
    row(9)
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .run();
}

#[test]
fn an_evicted_reply_entry_is_healed_by_the_client_within_seventeen_seconds() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .evict("pod:8080 > client:40000")
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .leaving(&["client:40000 > web:80 => client:40000 > pod:8080 | in seen"])
        .later(HEALED_WITHIN)
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsHealed])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply",
        ])
        .egress(any("pod:8080 > client:40000"))
        .becomes("web:80 > client:40000")
        .run();
}

#[test]
fn an_evicted_forward_entry_is_healed_by_the_backend_within_seventeen_seconds() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .evict("client:40000 > web:80")
        .later(HEALED_WITHIN)
        .egress(any("pod:8080 > client:40000"))
        .becomes("web:80 > client:40000")
        .counting(&[FlowsHealed])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in local",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply local seen",
        ])
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_flow_in_use_keeps_its_counterpart_and_writes_its_time_once_a_second() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        // Host and kernel are compared by seconds, rounded: neither has renewed the time after this one,
        .later(Duration::from_millis(600))
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        // and both have after this one.
        .later(Duration::from_millis(600))
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .run();
}
