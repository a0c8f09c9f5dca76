//! Rows: clients that are answered directly by the endpoint's node, to which their packets go in a tunnel. Here: into it (the node
//! that balances), and what is told to whoever sends too much. Out of it: `packet_untunnel`.

use std::time::Duration;

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsMasqueraded, FlowsReselected, FlowsTunnelled, WaysFound, WaysLeft},
    DropReason,
    limits::PATH_MTU_NS,
};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{any, icmp, tcp, udp},
    tunnel::{gue, ipip},
};

/// A NodePort on this node whose only backend is on another, and whose clients that one answers.
fn direct() -> Row {
    let web = service("web").node_port(30080).to(&["far:8080 on peer"]).dsr();
    row().node().host_address("node").peer("peer").given(web)
}

#[test]
fn a_flow_goes_unchanged_in_a_tunnel_and_has_one_entry() {
    direct()
        .ingress(any("outside:40000 > node:30080").syn())
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .leaving(&["outside:40000 > node:30080 => far:8080 > peer:30080 | in tunnels seen"])
        .ingress(any("outside:40000 > node:30080").sized(1000))
        .enters(ipip("node > peer"))
        .ingress(any("outside:40000 > node:30080").fin())
        .enters(ipip("node > peer"))
        .run();
}

#[test]
fn tunnels_may_be_of_udp() {
    direct()
        .gue()
        .ingress(any("outside:40000 > node:30080").syn())
        .enters(gue("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .ingress(any("outside:40000 > node:30080").sized(1000))
        .enters(gue("node > peer"))
        .run();
}

#[test]
fn load_balancer_addresses_and_external_ips_are_answered_directly_and_cluster_ips_never() {
    for frontend in ["vip:80", "eip:80"] {
        let web = service("web").cluster_ip("web:80").to(&["far:8080 on peer"]).dsr();
        let web = if frontend == "vip:80" {
            web.load_balancer(frontend)
        } else {
            web.external_ip(frontend)
        };
        row()
            .node()
            .peer("peer")
            .given(web)
            .ingress(any(&format!("outside:40000 > {frontend}")).syn())
            .enters(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled])
            .ingress(any("outside:40000 > web:80").syn())
            .becomes("outside:40000 > far:8080")
            .counting(&[FlowsCreated])
            .run();
    }
}

#[test]
fn who_can_not_be_answered_directly_is_masqueraded() {
    let masqueraded = |row: Row, client: &str| {
        row.ingress(any(&format!("{client}:40000 > node:30080")).syn())
            .becomes(&format!("{client}:40000 > far:8080"))
            .counting(&[FlowsCreated, FlowsMasqueraded])
            .run();
    };
    let web = |backend: &str| service("web").node_port(30080).to(&[backend]).dsr();
    let node = || row().node().host_address("node");
    // Nobody knows where the endpoint is; its node is none of the cluster's any more; it has no address of this family.
    masqueraded(node().peer("peer").given(web("far:8080")), "outside");
    masqueraded(node().peer("peer2").given(web("far:8080 on peer")), "outside");
    // A pod, and another node, whose answers would not come by that node's way out.
    masqueraded(direct().detect_pods("clients"), "client");
    masqueraded(direct(), "peer");
    // This node has no address of its own.
    masqueraded(node().given(web("far:8080 on peer")), "outside");
}

#[test]
fn an_endpoint_on_this_node_needs_no_tunnel() {
    let web = service("web").node_port(30080).to(&["pod:8080 local"]).dsr();
    row()
        .node()
        .host_address("node")
        .peer("peer")
        .given(web)
        .ingress(any("outside:40000 > node:30080").syn())
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
}

#[test]
fn the_first_packet_of_a_flow_that_would_not_fit_is_masqueraded_and_so_are_all_that_follow() {
    direct()
        .path_mtu("peer", 600)
        .ingress(udp("outside:40000 > node:30080").sized(700))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .ingress(udp("outside:40000 > node:30080").sized(10))
        .becomes("outside:40000 > far:8080")
        .run();
}

#[test]
fn of_what_does_not_fit_any_more_the_sender_is_told() {
    for (overhead, version) in [(20, 4), (40, 6)] {
        let room = 600 - overhead;
        let row = direct()
            .ingress(tcp("outside:40000 > node:30080").syn())
            .enters(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled])
            .path_mtu("peer", 600)
            .ingress(tcp("outside:40000 > node:30080").sized(700))
            .gets_told(room)
            .ingress(tcp("outside:40000 > node:30080").sized(500))
            .enters(ipip("node > peer"))
            .later(Duration::from_nanos(PATH_MTU_NS + 1_000_000_000))
            .ingress(tcp("outside:40000 > node:30080").sized(700))
            .enters(ipip("node > peer"));
        if version == 4 { row.v4() } else { row.v6() }.run();
    }
}

#[test]
fn datagrams_that_may_be_cut_are_masqueraded_from_then_on() {
    direct()
        .v4()
        .ingress(udp("outside:40000 > node:30080"))
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .path_mtu("peer", 600)
        // Not to be fragmented: its sender is told.
        .ingress(udp("outside:40000 > node:30080").sized(700))
        .gets_told(580)
        .ingress(udp("outside:40000 > node:30080").fragment(7, 0, 648).sized(1300))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .ingress(udp("outside:40000 > node:30080").fragment(7, 648, 1308).sized(1300))
        .becomes("outside:40000 > far:8080")
        .ingress(udp("outside:40000 > node:30080").sized(100))
        .becomes("outside:40000 > far:8080")
        .run();
}

#[test]
fn fragments_that_fit_go_in_tunnels_each() {
    direct()
        .ingress(udp("outside:40000 > node:30080").fragment(7, 0, 648).sized(1300))
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .ingress(udp("outside:40000 > node:30080").fragment(7, 648, 1308).sized(1300))
        .enters(ipip("node > peer"))
        .run();
}

#[test]
fn what_a_router_tells_of_a_tunnel_is_remembered_with_the_node() {
    for told in [[3, 4], [2, 0]] {
        let [kind, code] = told;
        let quoted = tcp("outside:40000 > node:30080")
            .sized(1400)
            .inside(ipip("node > peer"));
        let error = icmp("world > node", kind, code)
            .quoting(quoted, 200)
            .patch(if kind == 3 { 20 + 4 } else { 40 + 4 }, &[0, 0, 0x05, 0x00]);
        let row = direct()
            .ingress(tcp("outside:40000 > node:30080").syn())
            .enters(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled])
            .ingress(error)
            .passes()
            .ingress(tcp("outside:40000 > node:30080").sized(1300))
            .gets_told(1280 - if kind == 3 { 20 } else { 40 });
        if kind == 3 { row.v4() } else { row.v6() }.run();
    }
}

#[test]
fn who_is_not_on_the_way_to_another_node_is_not_believed() {
    // Of a tunnel that another has sent; to somebody who is no node; and what is no tunnel's.
    for (who, quoted) in [
        (
            "world > node",
            tcp("outside:40000 > node:30080").inside(ipip("peer2 > peer")),
        ),
        (
            "world > node",
            tcp("outside:40000 > node:30080").inside(ipip("node > stranger")),
        ),
        ("world > node", tcp("node:30080 > peer:9")),
    ] {
        let error = icmp(who, 3, 4).quoting(quoted, 200).patch(20 + 4, &[0, 0, 0x02, 0x58]);
        direct().v4().ingress(error).stays_untouched().run();
    }
}

#[test]
fn errors_from_the_clients_side_go_in_the_tunnel_too() {
    // The client's router got an answer of the other node's that was too big for the client.
    let quoted = any("node:30080 > outside:40000").sized(1400);
    for (kind, code, version) in [(3, 4, 4), (2, 0, 6)] {
        let row = direct()
            .ingress(any("outside:40000 > node:30080").syn())
            .enters(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled])
            .ingress(icmp("world > node", kind, code).quoting(quoted.clone(), 200))
            .enters(ipip("node > peer"));
        if version == 4 { row.v4() } else { row.v6() }.run();
    }
}

#[test]
fn a_datagram_flow_leaves_a_node_whose_endpoint_no_longer_serves() {
    let web = |to: &[&str]| service("web").node_port(30080).to(to).dsr();
    let base = || {
        row()
            .node()
            .host_address("node")
            .peer("peer")
            .given(web(&["far:8080 on peer"]))
    };
    base()
        .ingress(udp("outside:40000 > node:30080"))
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .given(web(&["pod:8080 local"]))
        .stop_serving("far:8080")
        .ingress(udp("outside:40000 > node:30080"))
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, FlowsReselected])
        .run();
    // A connection goes on: its own node knows best.
    base()
        .ingress(tcp("outside:40000 > node:30080").syn())
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .given(web(&["pod:8080 local"]))
        .stop_serving("far:8080")
        .ingress(tcp("outside:40000 > node:30080"))
        .enters(ipip("node > peer"))
        .run();
}

#[test]
fn a_tuple_is_used_anew_after_its_connection_has_ended_and_a_repeated_syn_is_no_new_one() {
    let web = service("web").node_port(30080).to(&["pod:8080 local"]).dsr();
    let open = || {
        direct()
            .ingress(tcp("outside:40000 > node:30080").syn())
            .enters(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled])
            .given(web.clone())
    };
    open()
        .ingress(tcp("outside:40000 > node:30080").syn())
        .enters(ipip("node > peer"))
        .run();
    open()
        .ingress(tcp("outside:40000 > node:30080").fin())
        .enters(ipip("node > peer"))
        .ingress(tcp("outside:40000 > node:30080").syn())
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
}

#[test]
fn without_a_route_to_the_node_a_new_flow_is_masqueraded_and_an_open_one_waits() {
    let web = |to: &str| service("web").node_port(30080).to(&[to]).dsr();
    row()
        .node()
        .host_address("node")
        .peer("peer2")
        .given(web("far:8080 on peer2"))
        .ingress(any("outside:40000 > node:30080").syn())
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
    let open = |row: Row| {
        row.ingress(any("outside:40000 > node:30080").syn())
            .enters(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled])
            .loses_route("peer")
    };
    let no_route = "the kernel's routes are not a row's";
    open(direct())
        .host_only(no_route)
        .ingress(tcp("outside:40000 > node:30080"))
        .gets_dropped(DropReason::TunnelNoRoute)
        .run();
    open(direct())
        .host_only(no_route)
        .ingress(udp("outside:40000 > node:30080"))
        .becomes("outside:40000 > far:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
}

/// The same on an outward device, where XDP may send.
fn outward() -> Row {
    direct().outward()
}

#[test]
fn xdp_sends_in_tunnels_and_opens_connections() {
    for kind in [ipip("node > peer"), gue("node > peer")] {
        let row = if kind.gue { outward().gue() } else { outward() };
        row.xdp(tcp("outside:40000 > node:30080").syn())
            .gets_sent_in(kind.clone())
            .counting(&[FlowsCreated, FlowsTunnelled, WaysFound])
            .leaving(&["outside:40000 > node:30080 => far:8080 > peer:30080 | in tunnels seen"])
            .leaving_ways(&[])
            .xdp(tcp("outside:40000 > node:30080").sized(1000))
            .gets_sent_in(kind.clone())
            .counting(&[WaysFound])
            .xdp(tcp("outside:40000 > node:30080").sized(1000))
            .gets_sent_in(kind.clone())
            .xdp(tcp("outside:40000 > node:30080").fin())
            .gets_sent_in(kind.clone())
            .counting(&[WaysFound])
            .ingress(tcp("outside:40000 > node:30080"))
            .enters(kind)
            .run();
    }
}

#[test]
fn xdp_leaves_new_flows_of_datagrams_to_tc_and_sends_what_follows() {
    outward()
        .xdp(udp("outside:40000 > node:30080"))
        .stays_untouched()
        .ingress(udp("outside:40000 > node:30080"))
        .enters(ipip("node > peer"))
        .counting(&[FlowsCreated, FlowsTunnelled])
        .xdp(udp("outside:40000 > node:30080").sized(1000))
        .gets_sent_in(ipip("node > peer"))
        .counting(&[WaysFound])
        .xdp(udp("outside:40000 > node:30080").sized(1000))
        .gets_sent_in(ipip("node > peer"))
        .given(service("web").node_port(30080).to(&["pod:8080 local"]).dsr())
        .stop_serving("far:8080")
        .xdp(udp("outside:40000 > node:30080").sized(1000))
        .becomes("outside:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, FlowsReselected])
        .run();
}

#[test]
fn xdp_leaves_to_tc_what_does_not_fit_or_is_for_another_card() {
    let open = || {
        outward()
            .xdp(tcp("outside:40000 > node:30080").syn())
            .gets_sent_in(ipip("node > peer"))
            .counting(&[FlowsCreated, FlowsTunnelled, WaysFound])
    };
    open()
        .path_mtu("peer", 600)
        .xdp(tcp("outside:40000 > node:30080").sized(700))
        .passes()
        .counting(&[WaysFound])
        .xdp(tcp("outside:40000 > node:30080").sized(400))
        .gets_sent_in(ipip("node > peer"))
        .run();
    open()
        .xdp(tcp("outside:40000 > node:30080").framed_to([2, 0, 0, 0, 0, 9]))
        .passes()
        .counting(&[WaysFound])
        .run();
}

#[test]
fn without_a_way_to_the_node_the_stack_has_the_packets() {
    let web = service("web").node_port(30080).to(&["far:8080 on peer2"]).dsr();
    row()
        .outward()
        .node()
        .host_address("node")
        .peer("peer2")
        .given(web)
        .xdp(tcp("outside:40000 > node:30080").syn())
        .passes()
        .counting(&[WaysLeft])
        .run();
}
