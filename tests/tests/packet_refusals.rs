//! Rows: packets that nobody can take: answers by ICMP, their limit, drops and what is told of them.

use std::time::Duration;

use lb_common::layout::{
    Counter::{EventsLost, FlowsCreated},
    DropReason::{self, FlowTableFull, NoEndpoint, NoLocalEndpoint, RejectLimited, RewriteFailed},
};
use tests::packet::{
    row::row,
    sketch::{Extension, any, tcp, udp},
};

#[test]
fn a_client_of_a_service_without_endpoints_is_told_that_nobody_listens() {
    row()
        .reject("web:80")
        .ingress(any("client:40000 > web:80").syn())
        .gets_answered()
        .leaving(&[])
        .run();
}

#[test]
fn a_process_of_the_host_is_told_too() {
    row()
        .reject("web:80")
        .host_egress(any("node:40000 > web:80").syn())
        .gets_answered()
        .leaving(&[])
        .run();
}

#[test]
fn an_answer_quotes_as_much_as_there_is_and_no_more_than_124_octets() {
    // With every length at which the quote changes its form: not a multiple of 4, just below and above the most.
    for len in [
        0, 1, 2, 3, 4, 5, 60, 63, 64, 65, 66, 67, 68, 83, 84, 85, 96, 97, 500, 1460, 3300,
    ] {
        row()
            .reject("web:80")
            .ingress(any("client:40000 > web:80").sized(len))
            .gets_answered()
            .run();
    }
}

#[test]
fn an_answer_quotes_no_padding() {
    row()
        .reject("web:80")
        .ingress(any("client:40000 > web:80").says(b"").padded(26))
        .gets_answered()
        .run();
}

#[test]
fn an_answer_quotes_options_and_extension_headers() {
    for words in [1, 5, 10] {
        row()
            .v4()
            .reject("web:80")
            .ingress(any("client:40000 > web:80").options(words))
            .gets_answered()
            .run();
    }
    for extensions in [
        &[Extension::HopByHop(8)][..],
        &[Extension::Routing(24), Extension::Destination(40)],
    ] {
        let packet = any("client:40000 > web:80").extensions(extensions);
        row().v6().reject("web:80").ingress(packet).gets_answered().run();
    }
}

#[test]
fn answers_are_limited_and_what_is_beyond_the_limit_is_dropped() {
    row()
        .reject("web:80")
        .answers_left(2)
        .ingress(any("client:40000 > web:80").syn())
        .gets_answered()
        .ingress(any("client:40001 > web:80").syn())
        .gets_answered()
        .ingress(any("client:40002 > web:80").syn())
        .gets_dropped(RejectLimited)
        .host_egress(any("node:40000 > web:80").syn())
        .gets_dropped(RejectLimited)
        .later(Duration::from_secs(1))
        .ingress(any("client:40003 > web:80").syn())
        .gets_answered()
        .leaving(&[])
        .run();
}

#[test]
fn every_drop_is_reported_up_to_a_hundred_a_second() {
    let mut drops = row().deny("web:80");
    for port in 0..103 {
        drops = drops
            .ingress(any(&format!("client:{} > web:80", 40_000 + port)).syn())
            .gets_dropped(NoLocalEndpoint);
        if port >= 100 {
            drops = drops.counting(&[EventsLost]);
        }
    }
    drops.run();
}

#[test]
fn a_report_that_finds_no_room_is_counted() {
    row()
        .room_for_events(1)
        .deny("web:80")
        .reject("api:80")
        .ingress(any("client:40000 > web:80").syn())
        .gets_dropped(NoLocalEndpoint)
        .ingress(any("client:40000 > web:80").syn())
        .gets_dropped(NoLocalEndpoint)
        .counting(&[EventsLost])
        .ingress(any("client:40000 > api:80").syn())
        .gets_answered()
        .counting(&[EventsLost])
        .host_only("the kernel's ring buffer has room for thousands")
        .run();
}

#[test]
fn a_service_that_loses_its_last_endpoint_refuses_new_connections_only() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .withdraw("pod:8080")
        .reject("web:80")
        .ingress(tcp("client:40001 > web:80").syn())
        .gets_answered()
        .ingress(tcp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .serve("web:80", &["pod2:8080"])
        .ingress(tcp("client:40001 > web:80").syn())
        .becomes("client:40001 > pod2:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_packet_that_the_host_forwards_is_not_answered_where_it_leaves() {
    row()
        .reject("web:80")
        .egress(any("client:40000 > web:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_full_flow_table_drops_new_flows_and_says_so() {
    for room in [0, 1] {
        row()
            .room_for_flows(room)
            .serve("web:80", &["pod:8080"])
            .ingress(any("client:40000 > web:80").syn())
            .gets_dropped(FlowTableFull)
            .host_only("the kernel's table evicts its oldest entries instead")
            .run();
    }
}

#[test]
fn a_packet_that_the_kernel_refuses_to_change_is_dropped_and_told() {
    let why = "the kernel can't be made to run out of memory";
    // The two that bring a checksum up to date; all else is written in place.
    for writes in 0..2 {
        row()
            .serve("web:80", &["pod:8080"])
            .ingress(any("client:40000 > web:80").syn())
            .writes(writes)
            .gets_dropped(RewriteFailed)
            .counting(&[FlowsCreated])
            .host_only(why)
            .run();
    }
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .writes(2)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .host_only(why)
        .run();
}

#[test]
fn a_first_fragment_is_answered_and_the_others_go_their_way() {
    row()
        .reject("web:80")
        .ingress(udp("client:40000 > web:80").sized(200).fragment(7, 0, 104))
        .gets_answered()
        .ingress(udp("client:40000 > web:80").sized(200).fragment(7, 104, 208))
        .stays_untouched()
        .run();
}

#[test]
fn reasons_of_refusals_are_those_of_the_service_contract() {
    // The words that status, metrics and documents use.
    assert_eq!(
        [NoEndpoint, NoLocalEndpoint, RejectLimited].map(DropReason::name),
        ["no_endpoint", "no_local_endpoint", "reject_limited"]
    );
}
