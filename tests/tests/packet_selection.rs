//! Rows: which backend a packet goes to when the Service, the backend or the flow has changed meanwhile.

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsReselected},
    DropReason::{BackendMissing, NoLocalEndpoint, UnknownAddress, UnknownPort},
};
use tests::packet::{
    row::{Row, row},
    sketch::{any, other, tcp, udp},
};

/// One TCP connection to `pod`, which has been answered.
fn connected() -> Row {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(tcp("pod:8080 > client:40000").syn_ack())
        .becomes("web:80 > client:40000")
}

/// One UDP flow to `pod`, which has been answered.
fn talking() -> Row {
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .egress(udp("pod:5353 > client:40000"))
        .becomes("web:53 > client:40000")
}

#[test]
fn a_retransmitted_syn_keeps_its_backend() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .serve("web:80", &["pod2:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_connection_stays_when_the_range_changes() {
    connected()
        .serve("web:80", &["pod2:8080"])
        .ingress(tcp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .egress(tcp("pod:8080 > client:40000"))
        .becomes("web:80 > client:40000")
        .run();
}

#[test]
fn a_connection_stays_when_its_backend_leaves() {
    connected()
        .serve("web:80", &["pod2:8080"])
        .withdraw("pod:8080")
        .ingress(tcp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .ingress(tcp("client:40000 > web:80").fin())
        .becomes("client:40000 > pod:8080")
        .egress(tcp("pod:8080 > client:40000").fin())
        .becomes("web:80 > client:40000")
        .run();
}

#[test]
fn a_connection_stays_when_nobody_serves_any_more() {
    for change in [Row::reject, Row::deny, Row::no_scope, Row::remove] {
        change(connected(), "web:80")
            .ingress(tcp("client:40000 > web:80"))
            .becomes("client:40000 > pod:8080")
            .egress(tcp("pod:8080 > client:40000"))
            .becomes("web:80 > client:40000")
            .run();
    }
}

#[test]
fn a_syn_after_the_clients_fin_is_a_new_connection() {
    connected()
        .ingress(tcp("client:40000 > web:80").fin())
        .becomes("client:40000 > pod:8080")
        .serve("web:80", &["pod2:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod2:8080 | in seen",
            "pod2:8080 > client:40000 => web:80 > client:40000 | out reply",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply seen",
        ])
        .run();
}

#[test]
fn a_syn_after_the_backends_fin_or_rst_is_a_new_connection() {
    for end in [
        tcp("pod:8080 > client:40000").fin(),
        tcp("pod:8080 > client:40000").rst(),
    ] {
        connected()
            .egress(end)
            .becomes("web:80 > client:40000")
            .serve("web:80", &["pod2:8080"])
            .ingress(tcp("client:40000 > web:80").syn())
            .becomes("client:40000 > pod2:8080")
            .counting(&[FlowsCreated])
            .run();
    }
}

#[test]
fn a_new_connection_of_the_same_tuple_to_the_same_backend_starts_afresh() {
    connected()
        .ingress(tcp("client:40000 > web:80").rst())
        .becomes("client:40000 > pod:8080")
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
            "pod:8080 > client:40000 => web:80 > client:40000 | out reply",
        ])
        // It is open again: a retransmission changes nothing.
        .serve("web:80", &["pod2:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_syn_whose_backend_has_left_goes_to_another() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .serve("web:80", &["pod2:8080"])
        .withdraw("pod:8080")
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_syn_whose_backend_number_is_another_backends_now_is_chosen_for_anew() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .reuse("pod:8080", "pod3:9090")
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod3:9090")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_udp_flow_stays_with_a_backend_that_still_serves() {
    talking()
        .serve("web:53", &["pod2:5353"])
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod:5353")
        .run();
}

#[test]
fn a_udp_flow_leaves_a_backend_that_does_not_serve_any_more() {
    talking()
        .serve("web:53", &["pod2:5353"])
        .withdraw("pod:5353")
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod2:5353")
        .counting(&[FlowsReselected, FlowsCreated])
        .egress(udp("pod2:5353 > client:40000"))
        .becomes("web:53 > client:40000")
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod2:5353")
        .run();
}

#[test]
fn a_udp_flow_leaves_a_backend_whose_number_is_another_backends_now() {
    talking()
        .reuse("pod:5353", "pod3:53")
        .ingress(udp("client:40000 > web:53"))
        .becomes("client:40000 > pod3:53")
        .counting(&[FlowsReselected, FlowsCreated])
        .run();
}

#[test]
fn a_udp_flow_of_the_host_leaves_its_backend_too() {
    row()
        .serve("web:53", &["pod:5353"])
        .host_egress(udp("node:40000 > web:53"))
        .gets_rerouted("node:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .serve("web:53", &["pod2:5353"])
        .withdraw("pod:5353")
        .host_egress(udp("node:40000 > web:53"))
        .gets_rerouted("node:40000 > pod2:5353")
        .counting(&[FlowsReselected, FlowsCreated])
        .run();
}

#[test]
fn a_udp_flow_is_refused_when_the_last_backend_has_left() {
    talking()
        .withdraw("pod:5353")
        .reject("web:53")
        .ingress(udp("client:40000 > web:53"))
        .gets_answered()
        .run();
}

#[test]
fn answers_of_a_withdrawn_backend_still_reach_their_client() {
    talking()
        .withdraw("pod:5353")
        .egress(udp("pod:5353 > client:40000"))
        .becomes("web:53 > client:40000")
        .run();
}

#[test]
fn a_packet_from_the_middle_of_a_connection_without_an_entry_is_followed_again() {
    for sketch in [any("client:40000 > web:80"), tcp("client:40000 > web:80").fin()] {
        row()
            .serve("web:80", &["pod:8080"])
            .ingress(sketch)
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .leaving(&[
                "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
                "pod:8080 > client:40000 => web:80 > client:40000 | out reply",
            ])
            .run();
    }
}

#[test]
fn an_evicted_flow_is_made_anew_with_the_same_choice() {
    // Which of the three it is depends on the hash of the tuple: found out first, then held to.
    let backends = ["pod:8080", "pod2:8080", "pod3:8080"];
    let mut used = Vec::new();
    for port in 40_000..40_008 {
        let from = format!("client:{port}");
        let tuple = format!("{from} > web:80");
        let first = row().v4().serve("web:80", &backends).ingress(tcp(&tuple).syn());
        let chosen = backends
            .into_iter()
            .find(|backend| {
                let row = first
                    .clone()
                    .becomes(&format!("{from} > {backend}"))
                    .counting(&[FlowsCreated]);
                row.host_only("only to find out").check().is_ok()
            })
            .expect("one of the backends");
        let to_backend = format!("{from} > {chosen}");
        first
            .becomes(&to_backend)
            .counting(&[FlowsCreated])
            .evict(&tuple)
            .ingress(tcp(&tuple))
            .becomes(&to_backend)
            .counting(&[FlowsCreated])
            .egress(tcp(&format!("{chosen} > {from}")))
            .becomes(&format!("web:80 > {from}"))
            .run();
        used.push(chosen);
    }
    assert!(
        backends.iter().all(|backend| used.contains(backend)),
        "eight flows went to {used:?} only"
    );
}

#[test]
fn an_entry_that_is_recycled_while_it_is_read_counts_as_none() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .garble("client:40000 > web:80")
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .garble("pod:8080 > client:40000")
        .egress(any("pod:8080 > client:40000"))
        .stays_untouched()
        .run();
}

#[test]
fn a_slot_without_a_backend_is_a_fault_that_is_told() {
    row()
        .dangle("web:80")
        .ingress(any("client:40000 > web:80").syn())
        .gets_dropped(BackendMissing)
        .host_egress(any("node:40000 > web:80").syn())
        .gets_dropped(BackendMissing)
        .leaving(&[])
        .run();
}

#[test]
fn a_published_backend_without_a_record_in_use_is_a_fault_that_is_told() {
    row()
        .serve("web:80", &["pod:8080"])
        .withdraw("pod:8080")
        .ingress(any("client:40000 > web:80").syn())
        .gets_dropped(BackendMissing)
        .leaving(&[])
        .run();
}

#[test]
fn a_policy_that_allows_no_backend_here_drops() {
    row()
        .deny("web:80")
        .ingress(any("client:40000 > web:80").syn())
        .gets_dropped(NoLocalEndpoint)
        .host_egress(any("node:40000 > web:80").syn())
        .gets_dropped(NoLocalEndpoint)
        .leaving(&[])
        .run();
}

#[test]
fn rows_8_to_9_other_ports_and_protocols_of_a_cluster_ip_are_refused_and_left_to_tc_by_xdp() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:81").syn())
        .gets_refused(UnknownPort)
        .host_egress(any("node:40000 > web:443").syn())
        .gets_refused(UnknownPort)
        .ingress(any("client:80 > world:40000").syn())
        .stays_untouched()
        .leaving(&[])
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:81").syn())
        .stays_untouched()
        .run();
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        // The same addresses and ports in SCTP.
        .ingress(other("client:40000 > web:80", 132).sized(100))
        .gets_refused(UnknownPort)
        .run();
}

#[test]
fn row_10_an_unallocated_service_address_is_dropped_where_it_would_leave() {
    row()
        .serve("web:80", &["pod:8080"])
        .service_cidr("services")
        .ingress(any("client:40000 > unused:80").syn())
        .stays_untouched()
        .egress(any("client:40000 > unused:80").syn())
        .gets_dropped(UnknownAddress)
        .host_egress(any("node:40000 > unused:80").syn())
        .gets_dropped(UnknownAddress)
        .leaving(&[])
        .run();
    row()
        .service_cidr("services")
        .xdp(any("client:40000 > unused:80").syn())
        .stays_untouched()
        .run();
    // Without a known ServiceCIDR it is nobody's business.
    row()
        .serve("web:80", &["pod:8080"])
        .egress(any("client:40000 > unused:80").syn())
        .stays_untouched()
        .host_egress(any("node:40000 > unused:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn what_a_service_in_the_range_has_is_not_dropped_where_it_leaves() {
    // A packet to a frontend whose Service says nothing about it (the agent is just writing it) goes on.
    row()
        .no_scope("web:80")
        .service_cidr("services")
        .egress(any("client:40000 > web:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_frontend_without_a_scope_is_left_alone() {
    row()
        .no_scope("web:80")
        .ingress(any("client:40000 > web:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_frontend_that_is_gone_is_left_alone() {
    row()
        .serve("web:80", &["pod:8080"])
        .remove("web:80")
        .ingress(any("client:40000 > web:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_packet_from_a_frontend_to_itself_is_a_client_like_others() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("web:80 > web:80").syn())
        .becomes("web:80 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > web:80"))
        .becomes("web:80 > web:80")
        .run();
}
