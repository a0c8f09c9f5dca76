//! Rows: source ports of masqueraded flows. The client's own is kept where it can be; another flow, a closed one, and sockets
//! of the host are told apart; the host's own connections give way.

use std::time::Duration;

use lb_common::layout::{
    Counter::{ErrorsTranslated, FlowsCreated, FlowsMasqueraded, PortsTranslated},
    DropReason::EndpointRemoved,
};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{any, icmp, tcp, udp},
};

fn node() -> Row {
    row().node().host_address("node").given(
        service("web")
            .load_balancer("vip:80")
            .external_ip("eip:80")
            .node_port(30_080)
            .to(&["pod:8080"]),
    )
}

/// One client that is masqueraded and keeps its port.
fn one() -> Row {
    node()
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(any("client:40000 > pod:8080").syn())
        .becomes("node:40000 > pod:8080")
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .becomes("pod:8080 > client:40000")
}

#[test]
fn two_clients_with_one_port_are_told_apart() {
    one()
        .ingress(any("client2:40000 > vip:80").syn())
        .becomes("client2:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("client2:40000 > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .ingress(any("pod:8080 > node:*").syn_ack())
        .becomes("pod:8080 > client2:40000")
        .egress(any("pod:8080 > client2:40000").syn_ack())
        .becomes("vip:80 > client2:40000")
        .ingress(any("pod:8080 > node:40000"))
        .becomes("pod:8080 > client:40000")
        .run();
}

#[test]
fn two_frontends_one_endpoint_and_one_client_port_are_two_connections() {
    for second in ["eip:80", "node:30080"] {
        one()
            .ingress(any(&format!("client:40000 > {second}")).syn())
            .becomes("client:* > pod:8080")
            .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
            .egress(any("client:* > pod:8080").syn())
            .becomes("node:* > pod:8080")
            .ingress(any("pod:8080 > node:*").syn_ack())
            .becomes("pod:8080 > client:*")
            .egress(any("pod:8080 > client:*").syn_ack())
            .becomes(&format!("{second} > client:40000"))
            .egress(any("pod:8080 > client:40000").syn_ack())
            .becomes("vip:80 > client:40000")
            .run();
    }
}

#[test]
fn the_port_of_an_aborted_connection_is_taken_over_at_once() {
    let aborted = |seen: fn(Row) -> Row| {
        seen(
            node()
                .ingress(tcp("client:40000 > vip:80").syn())
                .becomes("client:40000 > pod:8080")
                .counting(&[FlowsCreated, FlowsMasqueraded])
                .egress(tcp("client:40000 > pod:8080").syn())
                .becomes("node:40000 > pod:8080"),
        )
        .ingress(tcp("client2:40000 > vip:80").syn())
        .becomes("client2:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(tcp("client2:40000 > pod:8080").syn())
        .becomes("node:40000 > pod:8080")
        .run();
    };
    aborted(|row| {
        row.ingress(tcp("pod:8080 > node:40000").rst())
            .becomes("pod:8080 > client:40000")
    });
}

#[test]
fn the_port_of_an_expired_datagram_flow_is_taken_over_at_once() {
    node()
        .ingress(udp("client:40000 > vip:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .later(Duration::from_secs(31))
        .ingress(udp("client2:40000 > vip:80"))
        .becomes("client2:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(udp("client2:40000 > pod:8080"))
        .becomes("node:40000 > pod:8080")
        .run();
}

#[test]
fn the_port_of_a_socket_of_the_host_is_not_taken() {
    node()
        .socket("pod:8080 > node:40000")
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("client:40000 > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .host_only("the namespace of test runs has no sockets; in the kernel: lab_masquerade")
        .run();
}

#[test]
fn a_connection_of_the_host_itself_gives_way_to_a_masqueraded_flow() {
    one()
        .host_egress(any("node:40000 > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .counting(&[PortsTranslated])
        .ingress(any("pod:8080 > node:*").syn_ack())
        .becomes("pod:8080 > node:40000")
        .host_egress(any("node:40000 > pod:8080"))
        .becomes("node:* > pod:8080")
        .ingress(any("pod:8080 > node:40000"))
        .becomes("pod:8080 > client:40000")
        .run();
}

#[test]
fn a_connection_of_the_host_through_a_frontend_leaves_its_direct_one_alone() {
    row()
        .node()
        .host_address("node")
        .serve("web:80", &["pod:8080"])
        .host_only("the namespace of test runs has no sockets; in the kernel: lab_two_nodes")
        .socket("pod:8080 > node:40000")
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .ingress(any("pod:8080 > node:40000"))
        .stays_untouched()
        .run();
}

/// What a hook has translated passes another one on its new way.
#[test]
fn a_connection_of_the_host_through_a_frontend_is_not_its_own_that_gave_way() {
    row()
        .node()
        .host_address("node")
        .serve("web:80", &["pod:8080"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .host_egress(any("node:40000 > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .counting(&[PortsTranslated])
        .egress(any("node:40000 > pod:8080"))
        .stays_untouched()
        .host_egress(any("node:40000 > pod:8080"))
        .becomes("node:* > pod:8080")
        .run();
}

#[test]
fn a_connection_of_the_host_itself_to_a_free_tuple_is_not_ours() {
    one()
        .host_egress(any("node:40001 > pod:8080").syn())
        .stays_untouched()
        .host_egress(any("node:40000 > pod2:8080").syn())
        .stays_untouched()
        .run();
}

/// Type and code of "fragmentation needed" and "packet too big".
const TOO_BIG: [(bool, u8, u8, usize); 2] = [(false, 3, 4, 28), (true, 2, 0, 48)];

#[test]
fn icmp_errors_about_a_masqueraded_flow_find_its_client_and_its_endpoint() {
    for frontend in ["vip:80", "node:30080"] {
        let address = frontend.split(':').next().expect("an address");
        for (v6, kind, code, quoted) in TOO_BIG {
            let row = node()
                .ingress(udp(&format!("client:40000 > {frontend}")))
                .becomes("client:40000 > pod:8080")
                .counting(&[FlowsCreated, FlowsMasqueraded])
                .egress(udp("client:40000 > pod:8080"))
                .becomes("node:40000 > pod:8080")
                // Somebody on the way to the endpoint says that the packet is too big.
                .ingress(icmp("world > node", kind, code).quoting(udp("node:40000 > pod:8080"), quoted))
                .becomes("world > client")
                .quoting("client:40000 > pod:8080")
                .counting(&[ErrorsTranslated])
                .egress(icmp("world > client", kind, code).quoting(udp("client:40000 > pod:8080"), quoted))
                .becomes(&format!("{address} > client"))
                .quoting(&format!("client:40000 > {frontend}"))
                .counting(&[ErrorsTranslated])
                // Somebody on the way to the client says so of an answer.
                .ingress(udp("pod:8080 > node:40000"))
                .becomes("pod:8080 > client:40000")
                .egress(udp("pod:8080 > client:40000"))
                .becomes(&format!("{frontend} > client:40000"))
                .ingress(
                    icmp(&format!("world > {address}"), kind, code)
                        .quoting(udp(&format!("{frontend} > client:40000")), quoted),
                )
                .becomes("world > pod")
                .quoting("pod:8080 > client:40000")
                .counting(&[ErrorsTranslated])
                .egress(icmp("world > pod", kind, code).quoting(udp("pod:8080 > client:40000"), quoted))
                .becomes("node > pod")
                .quoting("pod:8080 > node:40000")
                .counting(&[ErrorsTranslated]);
            if v6 { row.v6() } else { row.v4() }.run();
        }
    }
}

#[test]
fn an_error_about_the_first_fragment_of_an_answer_finds_its_endpoint() {
    for (v6, kind, code, quoted) in TOO_BIG {
        let answer = |tuple: &str| udp(tuple).sized(200).fragment(9, 0, 104);
        let row = node()
            .ingress(udp("client:40000 > vip:80"))
            .becomes("client:40000 > pod:8080")
            .counting(&[FlowsCreated, FlowsMasqueraded])
            .ingress(icmp("world > vip", kind, code).quoting(answer("vip:80 > client:40000"), quoted + 8))
            .becomes("world > pod")
            .quoting("pod:8080 > client:40000")
            .counting(&[ErrorsTranslated]);
        if v6 { row.v6() } else { row.v4() }.run();
    }
}

#[test]
fn a_connection_to_an_endpoint_that_is_gone_for_good_is_reset_when_the_agent_says_so() {
    row()
        .node()
        .serve("web:80", &["pod:8080 local"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .endpoint_gone("client:40000 > web:80")
        .ingress(tcp("client:40000 > web:80"))
        .gets_reset()
        .ingress(tcp("client:40000 > web:80").fin())
        .gets_reset()
        // A reset is not answered.
        .ingress(tcp("client:40000 > web:80").rst())
        .gets_dropped(EndpointRemoved)
        .run();
    // A new connection with the same tuple is chosen for anew.
    row()
        .serve("web:80", &["pod:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .endpoint_gone("client:40000 > web:80")
        .serve("web:80", &["pod2:8080"])
        .ingress(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .ingress(tcp("client:40000 > web:80"))
        .becomes("client:40000 > pod2:8080")
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .host_egress(tcp("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .endpoint_gone("node:40000 > web:80")
        .host_egress(tcp("node:40000 > web:80"))
        .gets_reset()
        .run();
    row()
        .serve("web:80", &["pod:8080 local"])
        .xdp(tcp("client:40000 > web:80").syn())
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .endpoint_gone("client:40000 > web:80")
        // XDP looks every two seconds.
        .later(Duration::from_secs(3))
        .xdp(tcp("client:40000 > web:80"))
        .stays_untouched()
        .run();
}

/// Whose flow was over keeps no way into the flow that has its port now.
#[test]
fn who_comes_back_after_its_port_was_taken_over_gets_another() {
    node()
        .ingress(udp("client:40000 > vip:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(udp("client:40000 > pod:8080"))
        .becomes("node:40000 > pod:8080")
        .later(Duration::from_secs(31))
        .ingress(udp("client2:40000 > vip:80"))
        .becomes("client2:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(udp("client2:40000 > pod:8080"))
        .becomes("node:40000 > pod:8080")
        .ingress(udp("client:40000 > vip:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(udp("client:40000 > pod:8080"))
        .becomes("node:* > pod:8080")
        .ingress(udp("pod:8080 > node:40000"))
        .becomes("pod:8080 > client2:40000")
        .run();
}

/// The same without masquerading: a client's own two flows to one endpoint.
#[test]
fn who_comes_back_to_another_frontend_after_its_tuple_was_taken_over_is_answered_by_it() {
    let service = service("web")
        .load_balancer("vip:80")
        .external_local()
        .external_ip("eip:80");
    row()
        .given(service.here(&["pod:8080 local"]).to(&["pod:8080 local"]))
        .ingress(udp("client:40000 > vip:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .later(Duration::from_secs(31))
        .ingress(udp("client:40000 > eip:80"))
        .becomes("client:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(udp("client:40000 > vip:80"))
        .becomes("client:* > pod:8080")
        .counting(&[FlowsCreated, PortsTranslated])
        .egress(udp("pod:8080 > client:*"))
        .becomes("vip:80 > client:40000")
        .egress(udp("pod:8080 > client:40000"))
        .becomes("eip:80 > client:40000")
        .run();
}
