//! Rows: XDP on outward devices, flows to backends on this node, and what it leaves to tc. Forwarding is in `packet_forward`.

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsHealed, FlowsReselected, PortsTranslated, WaysLeft},
    DropReason::BackendMissing,
};
use tests::packet::{
    row::{HEALED_WITHIN, row},
    sketch::{any, tcp, udp},
};

#[test]
fn a_flow_to_a_backend_on_this_node_is_opened_and_followed() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in local seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply local",
        ])
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .xdp(any("client:40000 > web:80").sized(1400))
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_flow_may_move_between_xdp_and_tc() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .ingress(any("client:40001 > web:80").syn())
        .becomes("client:40001 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(any("client:40001 > web:80"))
        .becomes("client:40001 > pod:8080")
        .run();
}

#[test]
fn a_flow_to_where_no_route_leads_is_opened_and_left_to_tc() {
    row()
        .outward()
        .serve("web:80", &["pod:8080"])
        .xdp(any("client:40000 > web:80").syn())
        .passes()
        .counting(&[FlowsCreated, WaysLeft])
        .leaving_ways(&[])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .xdp(any("client:40000 > web:80"))
        .passes()
        .counting(&[WaysLeft])
        .leaving_ways(&["client:40000 > web:80 | stack"])
        .xdp(any("client:40000 > web:80"))
        .stays_untouched()
        .run();
}

#[test]
fn replies_to_a_process_of_the_host_are_left_to_tc() {
    row()
        .serve("web:80", &["pod:8080"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(any("pod:8080 > node:40000").syn_ack())
        .passes()
        .leaving_ways(&["pod:8080 > node:40000 | stack"])
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .gets_delivered("web:80 > node:40000")
        .run();
}

#[test]
fn replies_through_the_egress_hook_are_no_business_of_xdp() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(any("pod:8080 > client:40000").syn_ack())
        .passes()
        .counting(&[WaysLeft])
        .run();
}

#[test]
fn refusals_and_drops_by_policy_are_left_to_tc() {
    row()
        .reject("web:80")
        .deny("api:80")
        .no_scope("web:81")
        .xdp(any("client:40000 > web:80").syn())
        .stays_untouched()
        .xdp(any("client:40000 > api:80").syn())
        .stays_untouched()
        .xdp(any("client:40000 > web:81").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_fault_in_the_tables_drops_here_already() {
    row()
        .dangle("web:80")
        .xdp(any("client:40000 > web:80").syn())
        .gets_dropped(BackendMissing)
        .leaving(&[])
        .run();
}

#[test]
fn what_is_not_to_a_frontend_is_left_alone() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:81").syn())
        .stays_untouched()
        .xdp(any("client:40000 > pod2:8080").syn())
        .stays_untouched()
        .xdp(any("web:80 > client:40000").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_taken_tuple_gets_another_source_port_here_too() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .serve("api:443", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(any("client:40000 > api:443").syn())
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .egress(any("pod:8080 > client:*").syn_ack())
        .becomes("api:443 > client:40000")
        .egress(any("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .run();
}

#[test]
fn an_evicted_counterpart_is_healed_here_too() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .evict("pod:8080 > client:40000")
        .later(HEALED_WITHIN)
        .xdp(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsHealed])
        .run();
}

#[test]
fn a_udp_flow_leaves_its_backend_for_another_on_this_node() {
    row()
        .serve("web:53", &["pod:5353 local"])
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .serve("web:53", &["pod2:5353 local"])
        .withdraw("pod:5353")
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod2:5353")
        .counting(&[FlowsReselected, FlowsCreated])
        .run();
}

#[test]
fn a_udp_flow_that_leaves_for_a_backend_elsewhere_is_left_to_tc() {
    row()
        .serve("web:53", &["pod:5353 local"])
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .serve("web:53", &["pod2:5353"])
        .withdraw("pod:5353")
        .xdp(udp("client:40000 > web:53"))
        .passes()
        .counting(&[FlowsReselected, FlowsCreated, WaysLeft])
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod2:5353")
        .run();
}

#[test]
fn a_syn_on_a_closed_flow_is_chosen_for_anew_here_too() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(tcp("client:40000 > web:80").rst())
        .becomes("client:40000 > pod:8080")
        .serve("web:80", &["pod2:8080 local"])
        .xdp(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .egress(tcp("pod2:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
        .xdp(tcp("client:40000 > web:80"))
        .becomes("client:40000 > pod2:8080")
        .run();
}

#[test]
fn a_udp_flow_that_has_left_does_not_go_back_by_its_old_way() {
    row()
        .serve("web:53", &["pod:5353 local"])
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .serve("web:53", &["pod2:5353 local"])
        .withdraw("pod:5353")
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod2:5353")
        .counting(&[FlowsReselected, FlowsCreated])
        .serve("web:53", &["pod:5353 local", "pod2:5353 local"])
        .xdp(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod2:5353")
        .run();
}
