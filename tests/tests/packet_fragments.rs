//! Rows: datagrams in fragments. Only the first has ports; the others follow it by the datagram's identification.

use lb_common::layout::{
    Counter::FlowsCreated,
    DropReason::{NoEndpoint, UnknownPort},
};
use tests::packet::{
    row::row,
    sketch::{Checksum, Extension, Sketch, any, tcp, udp},
};

/// Three parts of a datagram with 400 octets of payload: first, middle and last.
fn parts(sketch: &Sketch, id: u32) -> [Sketch; 3] {
    let whole = sketch.clone().sized(400);
    let len = match sketch.layer4 {
        tests::packet::sketch::Layer4::Udp => 408,
        _ => 420,
    };
    [
        whole.clone().fragment(id, 0, 160),
        whole.clone().fragment(id, 160, 320),
        whole.fragment(id, 320, len),
    ]
}

#[test]
fn all_fragments_of_a_datagram_follow_the_first() {
    for (forward, reply) in [
        (udp("client:40000 > web:80"), udp("pod:8080 > client:40000")),
        (tcp("client:40000 > web:80"), tcp("pod:8080 > client:40000")),
    ] {
        let [first, middle, last] = parts(&forward, 0x1234_5678);
        let [reply_first, reply_middle, reply_last] = parts(&reply, 0x0bad_cafe);
        row()
            .serve("web:80", &["pod:8080"])
            .ingress(first)
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .ingress(middle)
            .becomes("client:40000 > pod:8080")
            .ingress(last)
            .becomes("client:40000 > pod:8080")
            .egress(reply_first)
            .becomes("web:80 > client:40000")
            .egress(reply_middle)
            .becomes("web:80 > client:40000")
            .egress(reply_last)
            .becomes("web:80 > client:40000")
            .leaving(&[
                "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
                "pod:8080 > client:40000 => web:80 > client:40000 | out reply seen",
            ])
            .run();
    }
}

#[test]
fn fragments_of_a_process_of_the_host_are_rerouted_all() {
    let [first, middle, last] = parts(&udp("node:40000 > web:80"), 7);
    let [reply_first, reply_middle, reply_last] = parts(&udp("pod:8080 > node:40000"), 7);
    row()
        .serve("web:80", &["pod:8080"])
        .host_egress(first)
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .host_egress(middle)
        .gets_rerouted("node:40000 > pod:8080")
        .host_egress(last)
        .gets_rerouted("node:40000 > pod:8080")
        .ingress(reply_first)
        .gets_delivered("web:80 > node:40000")
        .ingress(reply_middle)
        .gets_delivered("web:80 > node:40000")
        .ingress(reply_last)
        .gets_delivered("web:80 > node:40000")
        .run();
}

#[test]
fn datagrams_under_way_at_once_are_told_apart() {
    let [first, middle, last] = parts(&udp("client:40000 > web:80"), 1);
    let [other_first, other_middle, other_last] = parts(&udp("client:50000 > web:53"), 2);
    row()
        .serve("web:80", &["pod:8080"])
        .serve("web:53", &["pod2:5353"])
        .ingress(first)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(other_first)
        .becomes("client:50000 > pod2:5353")
        .counting(&[FlowsCreated])
        .ingress(other_last)
        .becomes("client:50000 > pod2:5353")
        .ingress(middle)
        .becomes("client:40000 > pod:8080")
        .ingress(other_middle)
        .becomes("client:50000 > pod2:5353")
        .ingress(last)
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_fragment_that_comes_before_the_first_is_left_alone() {
    let [first, middle, last] = parts(&udp("client:40000 > web:80"), 9);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(last.clone())
        .stays_untouched()
        .ingress(first)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(middle)
        .becomes("client:40000 > pod:8080")
        .ingress(last)
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn fragments_to_others_are_left_alone() {
    let [first, middle, last] = parts(&udp("client:40000 > pod:81"), 9);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(first)
        .stays_untouched()
        .ingress(middle)
        .stays_untouched()
        .ingress(last)
        .stays_untouched()
        .run();
}

#[test]
fn fragments_of_an_established_flow_are_followed() {
    let [first, middle, last] = parts(&udp("client:40000 > web:80"), 3);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(udp("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .serve("web:80", &["pod2:8080"])
        .ingress(first)
        .becomes("client:40000 > pod:8080")
        .ingress(middle)
        .becomes("client:40000 > pod:8080")
        .ingress(last)
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_later_fragment_whose_flow_was_evicted_follows_the_same_choice() {
    let [first, middle, _] = parts(&udp("client:40000 > web:80"), 3);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(first)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .evict("client:40000 > web:80")
        .ingress(middle)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn an_identification_used_again_stands_for_the_new_datagram() {
    // Also when that one is not ours: another port of the frontend's address, or the backend without a Service.
    let of = |tuple: &str, from, to| udp(tuple).sized(200).fragment(5, from, to);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(of("client:40000 > web:80", 0, 104))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(of("client:40000 > web:80", 104, 208))
        .becomes("client:40000 > pod:8080")
        .ingress(of("client:41000 > web:81", 0, 104))
        .gets_refused(UnknownPort)
        .ingress(of("client:41000 > web:81", 104, 208))
        .gets_dropped(UnknownPort)
        .egress(of("pod:8080 > client:40000", 0, 104))
        .becomes("web:80 > client:40000")
        .egress(of("pod:8080 > client:40000", 104, 208))
        .becomes("web:80 > client:40000")
        .egress(of("pod:9999 > client:9999", 0, 104))
        .passes()
        .egress(of("pod:9999 > client:9999", 104, 208))
        .stays_untouched()
        .run();
}

#[test]
fn a_later_fragment_is_never_answered() {
    // RFC 1122 §3.2.2: its quote would have no ports.
    let part = |from, to| udp("client:40000 > web:80").sized(200).fragment(5, from, to);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(part(0, 104))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .withdraw("pod:8080")
        .reject("web:80")
        .ingress(part(104, 208))
        .gets_dropped(NoEndpoint)
        .run();
}

#[test]
fn ipv4_fragments_without_a_checksum_keep_none() {
    let [first, middle, last] = parts(&udp("client:40000 > web:80").checksum(Checksum::None), 3);
    row()
        .v4()
        .serve("web:80", &["pod:8080"])
        .ingress(first)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(middle)
        .becomes("client:40000 > pod:8080")
        .ingress(last)
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn ipv4_fragments_with_options_and_ipv6_fragments_behind_other_headers() {
    let dressed = [
        (row().v4(), udp("client:40000 > web:80").options(3)),
        (
            row().v6(),
            udp("client:40000 > web:80").extensions(&[Extension::HopByHop(8), Extension::Routing(24)]),
        ),
    ];
    for (row, packet) in dressed {
        let [first, middle, last] = parts(&packet, 0xffff_fffe);
        row.serve("web:80", &["pod:8080"])
            .ingress(first)
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .ingress(middle)
            .becomes("client:40000 > pod:8080")
            .ingress(last)
            .becomes("client:40000 > pod:8080")
            .run();
    }
}

#[test]
fn xdp_leaves_fragments_to_tc() {
    let [first, middle, last] = parts(&udp("client:40000 > web:80"), 3);
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(first.clone())
        .stays_untouched()
        .ingress(first.clone())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(first)
        .stays_untouched()
        .xdp(middle.clone())
        .stays_untouched()
        .ingress(middle)
        .becomes("client:40000 > pod:8080")
        .xdp(last.clone())
        .stays_untouched()
        .ingress(last)
        .becomes("client:40000 > pod:8080")
        .run();
}

#[test]
fn a_first_fragment_too_short_for_ports_is_left_alone() {
    let whole = tcp("client:40000 > web:80").sized(100);
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(whole.clone().fragment(3, 0, 8))
        .stays_untouched()
        .ingress(whole.fragment(3, 8, 120))
        .stays_untouched()
        .run();
}

#[test]
fn an_atomic_fragment_is_a_whole_datagram() {
    row()
        .v6()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").extensions(&[Extension::AtomicFragment]))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}
