//! Rows: packets that another node has sent in a tunnel, taken out, given to an endpoint of this node, and answered from here. Into
//! tunnels: `packet_tunnel`.

use lb_common::layout::{
    Counter::{ErrorsTranslated, FlowsCreated, FlowsMasqueraded, FlowsTunnelled, TunnelStrangers},
    DropReason,
};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::{Sketch, any, icmp, other, tcp, udp},
    tunnel::{Tunnel, gue, ipip},
};

fn web() -> ServiceSketch {
    service("web").node_port(30080).load_balancer("vip:80").dsr()
}

/// In test runs the kernel takes a tunnel's headers away behind a link header only.
fn known(service: ServiceSketch) -> Row {
    on_any_device(service).ethernet()
}

fn on_any_device(service: ServiceSketch) -> Row {
    row().node().host_address("node").peer("peer").given(service)
}

/// This node has an endpoint.
fn here() -> Row {
    known(web().to(&["pod:8080 local"]).here(&["pod:8080 local"]))
}

fn from_peer() -> Tunnel {
    ipip("peer > node")
}

#[test]
fn a_packet_is_taken_out_and_given_to_an_endpoint_here_which_answers_the_client() {
    for tunnel in [from_peer(), gue("peer > node")] {
        here()
            .ingress(any("outside:40000 > vip:80").syn().inside(tunnel.clone()))
            .becomes("outside:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .leaving(&[
                "outside:40000 > vip:80 => outside:40000 > pod:8080 | in local tunnelled seen",
                "pod:8080 > outside:40000 => vip:80 > outside:40000 | out reply local tunnelled",
            ])
            .egress(any("pod:8080 > outside:40000").syn_ack())
            .becomes("vip:80 > outside:40000")
            .ingress(any("outside:40000 > vip:80").sized(1000).inside(tunnel.clone()))
            .becomes("outside:40000 > pod:8080")
            // The router has found another way.
            .ingress(any("outside:40000 > vip:80").sized(1000))
            .becomes("outside:40000 > pod:8080")
            .run();
    }
}

#[test]
fn tunnels_end_on_devices_without_link_header_too() {
    on_any_device(web().to(&["pod:8080 local"]).here(&["pod:8080 local"]))
        .host_only("a test run always has a link header")
        .ingress(any("outside:40000 > vip:80").syn().inside(from_peer()))
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn what_was_dialled_at_another_nodes_port_is_answered_from_that() {
    here()
        .peer("peer2")
        .ingress(any("outside:40000 > peer2:30080").syn().inside(from_peer()))
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > outside:40000").syn_ack())
        .becomes("peer2:30080 > outside:40000")
        .run();
}

#[test]
fn both_nodes_choose_the_same_endpoint_or_else_one_of_this_node_gets_it() {
    let both = ["far:8080 on peer", "pod:8080 local"];
    let syn = || any("outside:40000 > vip:80").syn().inside(from_peer());
    known(web().to(&both).here(&["pod2:8080 local"]).table(&[1]))
        .ingress(syn())
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
    known(web().to(&both).here(&["pod2:8080 local"]).table(&[0]))
        .ingress(syn())
        .becomes("outside:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn without_an_endpoint_here_it_goes_on_masqueraded_and_in_no_other_tunnel() {
    known(web().to(&["far:8080 on peer"]).nobody_here())
        .ingress(any("outside:40000 > vip:80").syn().inside(from_peer()))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
    // This node had the flow itself, and sent it on.
    known(web().to(&["far:8080 on peer"]).nobody_here())
        .ingress(any("outside:40000 > vip:80").syn())
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .ingress(any("outside:40000 > vip:80").inside(from_peer()))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
}

#[test]
fn tunnels_of_others_are_left_to_the_host() {
    let row = || here().peer("peer2");
    let stranger = any("outside:40000 > vip:80").syn().inside(ipip("stranger > node"));
    row().ingress(stranger).passes().counting(&[TunnelStrangers]).run();
    let cases = [
        // A CNI's, to a pod; to somebody behind this node; one that ends elsewhere.
        any("outside:40000 > pod:8080").inside(from_peer()),
        any("outside:40000 > world:80").inside(gue("peer > node")),
        any("outside:40000 > vip:80").inside(ipip("peer > peer2")),
    ];
    for sketch in cases {
        row().ingress(sketch).stays_untouched().run();
    }
}

#[test]
fn what_is_not_sound_is_dropped() {
    let cases: [(Sketch, DropReason); 7] = [
        (any("outside:40000 > vip:80").says_len(900), DropReason::TunnelMalformed),
        (any("outside:40000 > vip:80").says_len(25), DropReason::TunnelMalformed),
        (other("outside > vip", 4), DropReason::TunnelNested),
        (other("outside > vip", 41), DropReason::TunnelNested),
        (any("node:40000 > vip:80"), DropReason::TunnelSpoofed),
        (any("lo:40000 > vip:80"), DropReason::TunnelSpoofed),
        (any("outside:40000 > vip:9"), DropReason::TunnelUnserved),
    ];
    for (sketch, reason) in cases {
        for tunnel in [from_peer(), gue("peer > node")] {
            here().ingress(sketch.clone().inside(tunnel)).gets_dropped(reason).run();
        }
    }
}

#[test]
fn of_a_service_that_nobody_serves_the_client_is_told() {
    known(web().nobody())
        .ingress(any("outside:40000 > vip:80").syn().inside(from_peer()))
        .gets_answered()
        .run();
}

#[test]
fn errors_for_the_endpoint_come_in_the_tunnel_too() {
    let quoted = any("vip:80 > outside:40000").sized(1400);
    for (kind, code, version) in [(3, 4, 4), (2, 0, 6)] {
        let error = icmp("world > vip", kind, code).quoting(quoted.clone(), 200);
        let row = here()
            .ingress(any("outside:40000 > vip:80").syn().inside(from_peer()))
            .becomes("outside:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .ingress(error.inside(from_peer()))
            .becomes("world > pod")
            .quoting("pod:8080 > outside:40000")
            .counting(&[ErrorsTranslated]);
        if version == 4 { row.v4() } else { row.v6() }.run();
    }
}

#[test]
fn fragments_come_in_tunnels_of_their_own() {
    here()
        .ingress(
            udp("outside:40000 > vip:80")
                .fragment(7, 0, 648)
                .sized(1300)
                .inside(from_peer()),
        )
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(
            udp("outside:40000 > vip:80")
                .fragment(7, 648, 1308)
                .sized(1300)
                .inside(from_peer()),
        )
        .becomes("outside:40000 > pod:8080")
        .run();
}

#[test]
fn congestion_on_the_way_is_told_on_and_what_can_not_have_met_it_is_dropped() {
    let congested = || any("outside:40000 > vip:80").syn().inside(from_peer().congested());
    for bits in [1, 2, 3] {
        here()
            .ingress(congested().congestion(bits))
            .becomes("outside:40000 > pod:8080")
            .marked()
            .counting(&[FlowsCreated])
            .run();
    }
    here()
        .ingress(congested())
        .gets_dropped(DropReason::TunnelMalformed)
        .run();
}

#[test]
fn the_answer_to_a_syn_says_what_fits_into_a_tunnel() {
    let opened = || {
        here()
            .ingress(tcp("outside:40000 > vip:80").syn().mss(1460, 0).inside(from_peer()))
            .becomes("outside:40000 > pod:8080")
            .counting(&[FlowsCreated])
    };
    // 1500 octets less the headers of a tunnel of UDP, of IP and of TCP.
    for (most, is_v4) in [(1500 - 28 - 40, true), (1500 - 48 - 60, false)] {
        let play = |row: Row| if is_v4 { row.v4() } else { row.v6() }.run();
        let answer = || tcp("pod:8080 > outside:40000").syn_ack();
        for behind in [0, 1, 2, 7] {
            play(
                opened()
                    .egress(answer().mss(1460, behind))
                    .becomes("vip:80 > outside:40000")
                    .saying_mss(most, behind),
            );
        }
        for small in [most, 536] {
            play(
                opened()
                    .egress(answer().mss(small, 0))
                    .becomes("vip:80 > outside:40000"),
            );
        }
        play(opened().egress(answer()).becomes("vip:80 > outside:40000"));
    }
    // Whoever came without a tunnel is told nothing.
    here()
        .ingress(tcp("outside:40000 > vip:80").syn().mss(1460, 0))
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(tcp("outside:40000 > pod:8080").syn())
        .becomes("node:40000 > pod:8080")
        .ingress(tcp("pod:8080 > node:40000").syn_ack().mss(1460, 0))
        .becomes("pod:8080 > outside:40000")
        .egress(tcp("pod:8080 > outside:40000").syn_ack().mss(1460, 0))
        .becomes("vip:80 > outside:40000")
        .run();
}

#[test]
fn options_that_make_no_sense_are_left_alone() {
    let opened = || {
        here()
            .ingress(tcp("outside:40000 > vip:80").syn().inside(from_peer()))
            .becomes("outside:40000 > pod:8080")
            .counting(&[FlowsCreated])
    };
    let odd: [&[u8]; 5] = [
        &[0, 2, 4, 0x20],
        &[3, 0, 2, 4],
        &[3, 1, 2, 4],
        &[3, 200, 2, 4],
        &[1, 1, 1, 2],
    ];
    for options in odd {
        let mut answer = tcp("pod:8080 > outside:40000").syn_ack();
        answer.tcp_options = options.to_vec();
        opened().egress(answer).becomes("vip:80 > outside:40000").run();
    }
}

/// A flow that tc has opened.
fn opened(tunnel: &Tunnel) -> Row {
    here()
        .outward()
        .ingress(any("outside:40000 > vip:80").syn().inside(tunnel.clone()))
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated])
}

#[test]
fn xdp_takes_out_what_belongs_to_a_flow() {
    for tunnel in [from_peer(), gue("peer > node")] {
        let packet = || any("outside:40000 > vip:80").sized(1000).inside(tunnel.clone());
        opened(&tunnel)
            .xdp(packet())
            .becomes("outside:40000 > pod:8080")
            .xdp(packet())
            .becomes("outside:40000 > pod:8080")
            .leaving_ways(&["outside:40000 > vip:80 => outside:40000 > pod:8080 | here"])
            // And without a tunnel.
            .xdp(any("outside:40000 > vip:80").sized(1000))
            .becomes("outside:40000 > pod:8080")
            .run();
    }
}

#[test]
fn xdp_leaves_the_rest_of_tunnels_to_tc() {
    let cases = [
        // It opens a flow; of a flow that nobody knows; a part of a datagram; with congestion on the way.
        tcp("outside:40001 > vip:80").syn().inside(from_peer()),
        tcp("outside:40001 > vip:80").inside(from_peer()),
        tcp("outside:40000 > vip:80").fragment(7, 0, 24).inside(from_peer()),
        tcp("outside:40000 > vip:80")
            .congestion(1)
            .inside(from_peer().congested()),
        icmp("world > vip", 3, 4).inside(from_peer()),
        // A CNI's.
        tcp("outside:40000 > pod:8080").inside(from_peer()),
    ];
    for sketch in cases {
        let opens = tcp("outside:40000 > vip:80").syn().inside(from_peer());
        here()
            .outward()
            .ingress(opens)
            .becomes("outside:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .xdp(sketch)
            .stays_untouched()
            .run();
    }
    here()
        .outward()
        .xdp(any("outside:40000 > vip:80").inside(ipip("stranger > node")))
        .passes()
        .counting(&[TunnelStrangers])
        .run();
    here()
        .outward()
        .xdp(other("outside > vip", 41).inside(from_peer()))
        .gets_dropped(DropReason::TunnelNested)
        .run();
}
