//! Rows: what stands around and in front of a TCP or UDP header, and what is no packet of ours.

use lb_common::layout::{
    Counter::FlowsCreated,
    DropReason::{UnknownPort, WouldLoop},
};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{Extension, Sketch, any, icmp, other, tcp, udp},
};

/// The packet is taken for what it is, at both tc hooks.
fn is_ours(row: impl Fn() -> Row, dress: impl Fn(Sketch) -> Sketch) {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(dress(any("client:40000 > web:80")))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(dress(any("pod:8080 > client:40000")))
        .becomes("web:80 > client:40000")
        .host_egress(dress(any("node:40000 > web:80")))
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(dress(any("pod:8080 > node:40000")))
        .gets_delivered("web:80 > node:40000")
        .run();
}

/// The packet is left alone at every hook, with and without a flow of its tuple.
fn is_not_ours(row: impl Fn() -> Row, dress: impl Fn(Sketch) -> Sketch) {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(dress(any("client:40000 > web:80")))
        .stays_untouched()
        .host_egress(dress(any("client:40000 > web:80")))
        .stays_untouched()
        .egress(dress(any("client:40000 > web:80")))
        .stays_untouched()
        .ingress(any("client:40000 > web:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(dress(any("client:40000 > web:80")))
        .stays_untouched()
        .egress(dress(any("pod:8080 > client:40000")))
        .stays_untouched()
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(dress(any("client:40000 > web:80")))
        .stays_untouched()
        .run();
}

#[test]
fn payloads_of_all_sizes() {
    for len in [0, 1, 2, 3, 7, 100, 1000, 1440, 3300] {
        is_ours(row, |packet| packet.sized(len));
    }
}

#[test]
fn a_packet_larger_than_a_page() {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").sized(60_000))
        .in_place(1_000)
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod:8080 > client:40000").sized(65_000))
        .in_place(200)
        .becomes("web:80 > client:40000")
        .host_only("a test run has room for a page")
        .run();
}

#[test]
fn headers_that_do_not_lie_in_place_are_pulled_there() {
    for in_place in [0, 13, 14, 20, 33, 34, 40, 54, 60, 73] {
        row()
            .serve("web:80", &["pod:8080"])
            .ingress(any("client:40000 > web:80").sized(1000))
            .in_place(in_place)
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .egress(any("pod:8080 > client:40000"))
            .in_place(in_place)
            .becomes("web:80 > client:40000")
            .host_only("test runs have everything in place")
            .run();
    }
}

#[test]
fn ipv4_options() {
    for words in 1..=10 {
        is_ours(|| row().v4(), |packet| packet.options(words));
    }
}

#[test]
fn ethernet_padding_behind_a_short_packet_stays() {
    is_ours(row, |packet| packet.says(b"").padded(26));
}

#[test]
fn ipv6_extension_headers() {
    use Extension::{AtomicFragment, Destination, HopByHop, Routing};
    for extensions in [
        &[HopByHop(8)][..],
        &[Routing(8)],
        &[Destination(8)],
        &[AtomicFragment],
        &[HopByHop(16), Routing(24)],
        &[HopByHop(8), Destination(8), Routing(8), AtomicFragment, Destination(16)],
        &[
            HopByHop(8),
            Routing(8),
            Destination(8),
            Destination(8),
            Destination(8),
            Destination(8),
        ],
        &[HopByHop(64)],
    ] {
        is_ours(|| row().v6(), |packet| packet.extensions(extensions));
    }
}

#[test]
fn too_many_ipv6_extension_headers_are_not_ours() {
    is_not_ours(
        || row().v6(),
        |packet| packet.extensions(&[Extension::Destination(8); 7]),
    );
    is_not_ours(
        || row().v6(),
        |packet| packet.extensions(&[Extension::Destination(8); 20]),
    );
}

#[test]
fn headers_that_do_not_end_within_128_octets_are_not_ours() {
    is_not_ours(|| row().v6(), |packet| packet.extensions(&[Extension::Destination(72)]));
    is_not_ours(
        || row().v6(),
        |packet| packet.extensions(&[Extension::Destination(136)]),
    );
    is_not_ours(
        || row().v6(),
        |packet| packet.extensions(&[Extension::HopByHop(96), Extension::Routing(96)]),
    );
}

#[test]
fn the_limit_of_headers_does_not_depend_on_what_lies_in_place() {
    let packet = |len| any("client:40000 > web:80").extensions(&[Extension::Destination(len)]);
    for in_place in [0, 60, 128, 142, 160, 2000] {
        row()
            .v6()
            .serve("web:80", &["pod:8080"])
            .ingress(packet(64))
            .in_place(in_place)
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .ingress(packet(72))
            .in_place(in_place)
            .stays_untouched()
            .host_only("test runs have everything in place")
            .run();
    }
}

#[test]
fn an_authenticated_packet_is_not_ours() {
    is_not_ours(|| row().v6(), |packet| packet.extensions(&[Extension::Authentication]));
}

#[test]
fn a_vlan_tag_is_left_to_the_hook_of_the_vlan_device() {
    is_not_ours(|| row().ethernet(), |packet| packet.vlan(100));
}

#[test]
fn another_ethertype_is_not_ours() {
    for ethertype in [0x0806, 0x88cc, 0x8847, 0x0000, 0xffff, 1500] {
        is_not_ours(|| row().ethernet(), |packet| packet.ethertype(ethertype));
    }
    is_not_ours(|| row().ethernet().v4(), |packet| packet.ethertype(0x86dd).sized(100));
    is_not_ours(|| row().ethernet().v6(), |packet| packet.ethertype(0x0800));
}

#[test]
fn icmp_and_other_protocols_are_not_ours() {
    for proto in [2, 4, 33, 41, 47, 50, 59, 89, 136, 255] {
        goes_on(row, &other("client > vip", proto).sized(100));
        has_nowhere_to_go(row, &other("client > web", proto).sized(100));
    }
    // Pings are in `packet_echo`.
    for (kind, code) in [(8, 1), (0, 0), (13, 0)] {
        goes_on(|| row().v4(), &icmp("client > vip", kind, code));
        has_nowhere_to_go(|| row().v4(), &icmp("client > web", kind, code));
    }
    for (kind, code) in [(128, 1), (129, 0), (135, 0)] {
        goes_on(|| row().v6(), &icmp("client > vip", kind, code));
        has_nowhere_to_go(|| row().v6(), &icmp("client > web", kind, code));
    }
    // Of less than eight octets nothing tells that it is no error.
    goes_on(|| row().v4(), &icmp("client > web", 8, 0).says_len(27));
    goes_on(|| row().v6(), &icmp("client > web", 128, 0).says_len(7));
    has_nowhere_to_go(|| row().v4(), &icmp("client > web", 0, 0).says_len(28));
    has_nowhere_to_go(|| row().v6(), &icmp("client > web", 129, 0).says_len(8));
    // Errors find their flow, if there is one; if there is none, they go on.
    for (kind, code) in [(3, 3), (11, 0)] {
        goes_on(|| row().v4(), &icmp("client > web", kind, code));
    }
    for (kind, code) in [(1, 4), (2, 0)] {
        goes_on(|| row().v6(), &icmp("client > web", kind, code));
    }
}

/// It is left alone at every hook.
fn goes_on(row: impl Fn() -> Row, packet: &Sketch) {
    let given = || {
        row().given(
            service("web")
                .cluster_ip("web:80")
                .load_balancer("vip:80")
                .to(&["pod:8080 local"]),
        )
    };
    given()
        .ingress(packet.clone())
        .stays_untouched()
        .host_egress(packet.clone())
        .stays_untouched()
        .egress(packet.clone())
        .stays_untouched()
        .run();
    given().xdp(packet.clone()).stays_untouched().run();
    // An endpoint's address is a pod's: from one port of a bridge to another, too.
    given()
        .leads_back("pod")
        .ingress(packet.between("client > pod"))
        .stays_untouched()
        .host_only("the namespace of test runs has no routes; in the kernel: lab_two_nodes")
        .run();
}

/// A ClusterIP is nobody's address; and what is sent to an external one must not go back where it came from.
fn has_nowhere_to_go(row: impl Fn() -> Row, packet: &Sketch) {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(packet.clone())
        .gets_dropped(UnknownPort)
        .host_egress(packet.clone())
        .gets_dropped(UnknownPort)
        .egress(packet.clone())
        .stays_untouched()
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(packet.clone())
        .stays_untouched()
        .run();
    row()
        .given(service("web").load_balancer("vip:80").to(&["pod:8080 local"]))
        .leads_back("vip")
        .ingress(packet.between("client > vip"))
        .gets_dropped(WouldLoop)
        .quiet_host_address("vip")
        .ingress(packet.between("client > vip"))
        .stays_untouched()
        .host_only("the namespace of test runs has no routes; in the kernel: lab_two_nodes")
        .run();
}

#[test]
fn another_ip_version_than_announced_is_not_ours() {
    for first in [0x05, 0x55, 0x75, 0xf5] {
        is_not_ours(row, |packet| packet.patch(0, &[first]));
    }
    is_not_ours(|| row().v4().ethernet(), |packet| packet.patch(0, &[0x65]).sized(100));
    is_not_ours(|| row().v6().ethernet(), |packet| packet.patch(0, &[0x45]));
}

#[test]
fn an_ipv4_header_shorter_than_a_header_is_not_ours() {
    for first in 0x40..0x45 {
        is_not_ours(|| row().v4(), |packet| packet.patch(0, &[first]));
    }
}

#[test]
fn an_ipv4_length_below_its_header_or_beyond_the_frame_is_not_ours() {
    for len in [0, 1, 19, 41 + 10, 1000, 0xffff] {
        is_not_ours(|| row().v4(), |packet| packet.says_len(len));
    }
    // The header says 60 octets, the packet is shorter.
    is_not_ours(|| row().v4(), |packet| packet.patch(0, &[0x4f]).says_len(50));
}

#[test]
fn a_length_that_ends_inside_the_tcp_or_udp_header_is_not_ours() {
    // What looks like a header behind that end is padding.
    for (header_len, packet) in [(20, tcp("client:40000 > web:80")), (8, udp("client:40000 > web:80"))] {
        for len in 0..header_len {
            for (row, packet) in [
                (row().v4(), packet.clone().says_len(20 + len)),
                (row().v4(), packet.clone().options(2).says_len(28 + len)),
                (row().v6(), packet.clone().says_len(len)),
                (
                    row().v6(),
                    packet.clone().extensions(&[Extension::HopByHop(8)]).says_len(8 + len),
                ),
            ] {
                let row = row.serve("web:80", &["pod:8080 local"]).reject("api:80");
                row.clone().ingress(packet.clone()).stays_untouched().run();
                row.clone().host_egress(packet.clone()).stays_untouched().run();
                row.clone()
                    .ingress(packet.between("client:40000 > api:80"))
                    .stays_untouched()
                    .run();
                row.xdp(packet).stays_untouched().run();
            }
        }
        // One octet more, and it is a packet: the rest is padding.
        let whole = packet.clone().says(b"").padded(10);
        row()
            .serve("web:80", &["pod:8080"])
            .ingress(whole)
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .run();
    }
}

#[test]
fn what_only_the_receivers_tcp_or_udp_can_find_wrong_is_translated_all_the_same() {
    // TCP data offset of 4 and of 60 octets; the checksum is as right as it was, and the receiver drops the segment.
    for offset in [0x10, 0xf0] {
        row()
            .v4()
            .serve("web:80", &["pod:8080"])
            .ingress(tcp("client:40000 > web:80").patch(32, &[offset]))
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .run();
    }
    // UDP length of 4 and beyond the packet.
    for len in [4, 2000_u16] {
        row()
            .v4()
            .serve("web:80", &["pod:8080"])
            .ingress(udp("client:40000 > web:80").patch(24, &len.to_be_bytes()))
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .run();
    }
}

#[test]
fn an_ipv6_length_beyond_the_frame_is_not_ours() {
    for len in [31, 1000, 0xffff] {
        is_not_ours(|| row().v6(), |packet| packet.says_len(len));
    }
}

#[test]
fn an_extension_header_that_ends_behind_the_packet_is_not_ours() {
    // The second octet of the destination options says how many more units of 8 octets they have.
    for units in [5, 16, 255] {
        is_not_ours(
            || row().v6(),
            |packet| packet.extensions(&[Extension::Destination(8)]).patch(41, &[units]),
        );
    }
}

#[test]
fn frames_cut_anywhere_are_not_ours() {
    let tuple = "client:40000 > web:80";
    // Link header, IP header, TCP or UDP header and ten octets of payload.
    for (row, packet, whole) in [
        (row().v4(), tcp(tuple), 14 + 20 + 20 + 10),
        (row().v4(), udp(tuple), 14 + 20 + 8 + 10),
        (row().v6(), tcp(tuple), 14 + 40 + 20 + 10),
        (row().v6(), udp(tuple), 14 + 40 + 8 + 10),
    ] {
        for len in 0..whole {
            let cut = packet.clone().cut(len);
            let row = row.clone().serve("web:80", &["pod:8080 local"]).ethernet();
            let row = row.ingress(cut.clone()).stays_untouched().xdp(cut).stays_untouched();
            let row = if len < 54 {
                row.host_only("shorter than what a test run takes")
            } else {
                row
            };
            row.run();
        }
    }
}
