//! Rows: who pings a service address is answered; who pings anybody else is left alone.

use lb_common::layout::{Counter::EchoesAnswered, DropReason::UnknownPort};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{Extension, Sketch, icmp},
};

fn everywhere() -> Row {
    let web = service("web")
        .cluster_ip("web:80")
        .node_port(30_080)
        .load_balancer("vip:80")
        .external_ip("eip:80")
        .to(&["pod2:8080"]);
    row().node().host_address("node").given(web)
}

/// Makes a ping of a tuple.
type Ping = fn(&str) -> Sketch;

fn v4(tuple: &str) -> Sketch {
    icmp(tuple, 8, 0)
}

fn v6(tuple: &str) -> Sketch {
    icmp(tuple, 128, 0)
}

/// The same row for both families, with a ping between these.
fn both(check: impl Fn(Row, Ping)) {
    check(everywhere().v4(), v4);
    check(everywhere().v6(), v6);
}

#[test]
fn a_ping_to_a_service_address_is_answered() {
    for address in ["web", "vip", "eip"] {
        for len in [0, 1, 56, 1400] {
            both(|row, ping| {
                row.ingress(ping(&format!("client > {address}")).sized(len))
                    .gets_echoed()
                    .counting(&[EchoesAnswered])
                    .leaving(&[])
                    .run();
            });
        }
    }
}

#[test]
fn a_process_of_the_host_is_answered_too() {
    both(|row, ping| {
        row.host_egress(ping("node > web"))
            .gets_echoed()
            .counting(&[EchoesAnswered])
            .run();
    });
}

#[test]
fn a_service_without_endpoints_is_there_still() {
    let rows: [(Row, Ping); 2] = [(row().v4(), v4), (row().v6(), v6)];
    for (row, ping) in rows {
        row.reject("web:80")
            .ingress(ping("client > web"))
            .gets_echoed()
            .counting(&[EchoesAnswered])
            .run();
    }
}

#[test]
fn others_answer_for_themselves() {
    for address in ["node", "pod2", "world"] {
        both(|row, ping| {
            row.ingress(ping(&format!("client > {address}")))
                .stays_untouched()
                .run();
        });
    }
}

#[test]
fn xdp_leaves_pings_to_tc() {
    both(|row, ping| row.xdp(ping("client > vip")).stays_untouched().run());
}

#[test]
fn what_only_looks_like_a_ping_is_not_answered() {
    for (kind, code) in [(0, 0), (8, 1), (13, 0)] {
        everywhere()
            .v4()
            .ingress(icmp("client > web", kind, code))
            .gets_dropped(UnknownPort)
            .ingress(icmp("client > vip", kind, code))
            .stays_untouched()
            .run();
    }
    for (kind, code) in [(129, 0), (128, 1), (135, 0)] {
        everywhere()
            .v6()
            .ingress(icmp("client > web", kind, code))
            .gets_dropped(UnknownPort)
            .run();
    }
    // Parts and options are the stack's to understand.
    everywhere()
        .v4()
        .ingress(v4("client > vip").options(4))
        .stays_untouched()
        .ingress(v4("client > vip").sized(1000).fragment(7, 0, 512))
        .stays_untouched()
        .run();
    everywhere()
        .v6()
        .ingress(v6("client > vip").extensions(&[Extension::Destination(8)]))
        .stays_untouched()
        .run();
}
