//! Rows: ICMP errors about translated packets. What they quote becomes the packet that its sender knows.

use lb_common::layout::Counter::{ErrorsTranslated, FlowsCreated};
use tests::packet::{
    row::{Row, row},
    sketch::{Sketch, any, icmp},
};

/// All that a row's packet has.
const ALL: usize = usize::MAX;

/// A flow of `client` to `web`, which `pod` serves.
fn flow() -> Row {
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
}

/// Types and codes that are errors in both families: unreachable, and time exceeded or packet too big.
const KINDS: [(u8, u8); 2] = [(3, 4), (3, 1)];

fn error(tuple: &str, quoted: Sketch) -> Sketch {
    let (kind, code) = KINDS[0];
    icmp(tuple, kind, code).quoting(quoted, ALL)
}

#[test]
fn a_router_on_the_way_to_the_backend_quotes_what_the_client_has_sent() {
    for (kind, code) in KINDS {
        flow()
            .egress(icmp("world > client", kind, code).quoting(any("client:40000 > pod:8080"), ALL))
            .becomes("web > client")
            .quoting("client:40000 > web:80")
            .counting(&[ErrorsTranslated])
            .run();
    }
}

#[test]
fn a_backend_that_refuses_does_so_as_the_service() {
    flow()
        .egress(error("pod > client", any("client:40000 > pod:8080")))
        .becomes("web > client")
        .quoting("client:40000 > web:80")
        .counting(&[ErrorsTranslated])
        .run();
}

#[test]
fn the_node_itself_says_that_a_packet_is_too_big() {
    flow()
        .host_egress(error("node > client", any("client:40000 > pod:8080")))
        .becomes("web > client")
        .quoting("client:40000 > web:80")
        .counting(&[ErrorsTranslated])
        .run();
}

#[test]
fn a_router_on_the_way_to_the_client_reaches_the_backend() {
    flow()
        .ingress(error("world > web", any("web:80 > client:40000")))
        .becomes("world > pod")
        .quoting("pod:8080 > client:40000")
        .counting(&[ErrorsTranslated])
        .run();
    flow()
        .ingress(error("client > web", any("web:80 > client:40000")))
        .becomes("client > pod")
        .quoting("pod:8080 > client:40000")
        .counting(&[ErrorsTranslated])
        .run();
}

#[test]
fn a_process_on_the_host_hears_of_its_own_packets() {
    let row = || {
        row()
            .serve("web:80", &["pod:8080"])
            .host_egress(any("node:40000 > web:80").syn())
            .gets_rerouted("node:40000 > pod:8080")
            .counting(&[FlowsCreated])
    };
    row()
        .ingress(error("world > node", any("node:40000 > pod:8080")))
        .becomes("world > node")
        .quoting("node:40000 > web:80")
        .counting(&[ErrorsTranslated])
        .run();
    // From the backend it comes as from the service, which no device leads to.
    row()
        .ingress(error("pod > node", any("node:40000 > pod:8080")))
        .gets_delivered("web > node")
        .quoting("node:40000 > web:80")
        .counting(&[ErrorsTranslated])
        .run();
}

#[test]
fn as_little_as_the_ports_is_enough() {
    for (row, header) in [(flow().v4(), 20), (flow().v6(), 40)] {
        // Ports; with a UDP checksum; in the middle of a TCP header.
        for octets in [4, 8, 16] {
            row.clone()
                .egress(icmp("world > client", 3, 1).quoting(any("client:40000 > pod:8080"), header + octets))
                .becomes("web > client")
                .quoting("client:40000 > web:80")
                .counting(&[ErrorsTranslated])
                .run();
        }
        for octets in [0, 3] {
            row.clone()
                .egress(icmp("world > client", 3, 1).quoting(any("client:40000 > pod:8080"), header + octets))
                .stays_untouched()
                .run();
        }
    }
}

#[test]
fn what_is_not_about_our_packets_stays_as_it_is() {
    for sketch in [
        // Another flow, another direction, not to the sender, no error.
        error("world > client", any("client:40001 > pod:8080")),
        error("world > client", any("pod:8080 > client:40000")),
        error("world > node", any("client:40000 > pod:8080")),
        icmp("world > client", 128, 0).quoting(any("client:40000 > pod:8080"), ALL),
        icmp("world > client", 8, 0).quoting(any("client:40000 > pod:8080"), ALL),
        icmp("world > client", 3, 1),
    ] {
        flow().egress(sketch).stays_untouched().run();
    }
    // The entry is for the other hook; XDP leaves it to tc.
    let quoted = || error("world > client", any("client:40000 > pod:8080"));
    flow().ingress(quoted()).stays_untouched().run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(any("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .xdp(error("world > web", any("web:80 > client:40000")))
        .stays_untouched()
        .run();
}

#[test]
fn later_fragments_and_errors_in_fragments_are_not_ours() {
    flow()
        .egress(error(
            "world > client",
            any("client:40000 > pod:8080").sized(200).fragment(7, 104, 208),
        ))
        .stays_untouched()
        .run();
    flow()
        .egress(error("world > client", any("client:40000 > pod:8080").sized(200)).fragment(7, 0, 104))
        .stays_untouched()
        .run();
}
