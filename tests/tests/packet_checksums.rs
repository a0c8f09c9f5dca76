//! Rows: checksums after a translation. The packets that a row expects have checksums computed whole.

use lb_common::layout::{Counter::FlowsCreated, Proto};
use tests::packet::{
    encode::{Link, Variant, with_checksum},
    names::{Tuple, Version},
    row::{Row, row},
    sketch::{Checksum, Sketch, any, tcp, udp},
    sums::{fold, pseudo},
};

/// A flow in both directions and at all hooks, with packets of this kind.
fn there_and_back(row: Row, dress: impl Fn(Sketch) -> Sketch) -> Row {
    row.serve("web:80", &["pod:8080"])
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
}

/// Both families.
fn versions() -> [(Version, Row); 2] {
    [(Version::V4, row().v4()), (Version::V6, row().v6())]
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    for error in [1, 0x0100, 0x7fff, 0xfffe] {
        there_and_back(row(), |packet| packet.checksum(Checksum::OffBy(error))).run();
        row()
            .serve("web:80", &["pod:8080 local"])
            .xdp(any("client:40000 > web:80").checksum(Checksum::OffBy(error)))
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .run();
    }
}

#[test]
fn a_udp_datagram_without_a_checksum_gets_none() {
    // Over IPv6 such a datagram is not valid, and must not look as if it were.
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(udp("client:40000 > web:80").checksum(Checksum::None))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .egress(udp("pod:8080 > client:40000").checksum(Checksum::None))
        .becomes("web:80 > client:40000")
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(udp("client:40000 > web:80").checksum(Checksum::None))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_tcp_checksum_of_zero_is_a_checksum_like_others() {
    for (version, row) in versions() {
        let variant = Variant {
            version,
            proto: Proto::TCP,
            link: Link::Ethernet,
        };
        let before = with_checksum(&tcp("client:40000 > web:80"), variant, 0);
        let after = with_checksum(&tcp("client:40000 > pod:8080"), variant, 0);
        for packet in [before, after.between("client:40000 > web:80")] {
            row.clone()
                .serve("web:80", &["pod:8080 local"])
                .ingress(packet.clone())
                .becomes("client:40000 > pod:8080")
                .counting(&[FlowsCreated])
                .xdp(packet)
                .becomes("client:40000 > pod:8080")
                .run();
        }
    }
}

#[test]
fn a_udp_checksum_that_comes_out_zero_is_sent_as_all_ones() {
    for (version, row) in versions() {
        let variant = Variant {
            version,
            proto: Proto::UDP,
            link: Link::Ethernet,
        };
        for (from, to) in [
            ("client:40000 > web:80", "client:40000 > pod:8080"),
            // With a port that the translation does not change, only the addresses count.
            ("client:40000 > web:53", "client:40000 > pod:53"),
        ] {
            let (_, frontend) = from.split_once(" > ").expect("a tuple");
            let (_, backend) = to.split_once(" > ").expect("a tuple");
            let comes_out_zero = with_checksum(&udp(to), variant, 0).between(from);
            let was_zero = with_checksum(&udp(from), variant, 0);
            for packet in [comes_out_zero, was_zero] {
                row.clone()
                    .serve(frontend, &[&format!("{backend} local")])
                    .ingress(packet.clone())
                    .becomes(to)
                    .counting(&[FlowsCreated])
                    .xdp(packet)
                    .becomes(to)
                    .run();
            }
        }
    }
}

#[test]
fn a_partial_checksum_follows_the_addresses_only() {
    there_and_back(row(), |packet| packet.checksum(Checksum::Partial))
        .host_only("a test run has no partial checksums")
        .run();
}

#[test]
fn xdp_leaves_what_may_be_a_partial_checksum_to_tc() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").checksum(Checksum::Partial))
        .stays_untouched()
        .run();
}

#[test]
fn xdp_leaves_a_whole_checksum_that_looks_partial_to_tc_which_knows() {
    for (version, row) in versions() {
        for proto in [Proto::TCP, Proto::UDP] {
            let variant = Variant {
                version,
                proto,
                link: Link::Ethernet,
            };
            let sketch = if proto == Proto::TCP {
                tcp("client:40000 > web:80")
            } else {
                udp("client:40000 > web:80")
            };
            let header_len = if proto == Proto::TCP { 20 } else { 8 };
            let Tuple { src, dst, .. } = Tuple::read(&sketch.tuple, version);
            let looks_partial = fold(pseudo(src, dst, proto.0, header_len + 2));
            let packet = with_checksum(&sketch, variant, looks_partial);
            row.clone()
                .serve("web:80", &["pod:8080 local"])
                .xdp(packet.clone())
                .stays_untouched()
                .ingress(packet)
                .becomes("client:40000 > pod:8080")
                .counting(&[FlowsCreated])
                .run();
        }
    }
}

#[test]
fn odd_payloads_and_every_octet_value_are_summed_right() {
    for octet in [0x00, 0x01, 0x7f, 0x80, 0xff] {
        for len in [1, 2, 3, 11] {
            there_and_back(row(), |packet| packet.says(&vec![octet; len])).run();
        }
    }
}

#[test]
fn addresses_and_ports_of_all_ones_and_zeros_are_summed_right() {
    let v4 = ["255.255.255.254:65535", "0.0.0.1:1", "128.0.0.0:32768"];
    let v6 = ["[ffff:ffff::ffff]:65535", "[::1]:1", "[8000::]:32768"];
    for (row, [client, frontend, backend]) in [(row().v4(), v4), (row().v6(), v6)] {
        row.serve(frontend, &[backend])
            .ingress(any(&format!("{client} > {frontend}")))
            .becomes(&format!("{client} > {backend}"))
            .counting(&[FlowsCreated])
            .egress(any(&format!("{backend} > {client}")))
            .becomes(&format!("{frontend} > {client}"))
            .run();
    }
}
