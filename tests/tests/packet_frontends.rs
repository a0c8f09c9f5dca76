//! Rows: what a packet to a frontend of each kind becomes, whatever the policies: ClusterIPs, NodePorts, ExternalIPs,
//! load-balancer addresses and their source ranges. Policies and masquerading are in `packet_matrix`.

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsMasqueraded},
    DropReason::{NoEndpoint, SourceDenied, WouldLoop},
};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::{any, tcp, udp},
};

/// A Service on addresses of every kind, with one endpoint on another node.
fn everywhere() -> ServiceSketch {
    service("web")
        .cluster_ip("web:80")
        .node_port(30_080)
        .load_balancer("vip:80")
        .external_ip("eip:80")
        .to(&["pod2:8080"])
}

fn node() -> Row {
    row().node().host_address("node").detect_pods("pods")
}

#[test]
fn row_1_a_pod_gets_the_one_endpoint_and_keeps_its_source_xdp_included() {
    node()
        .given(everywhere())
        .ingress(any("pod3:40000 > web:80").syn())
        .becomes("pod3:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .egress(any("pod3:40000 > pod2:8080").syn())
        .stays_untouched()
        .egress(any("pod2:8080 > pod3:40000").syn_ack())
        .becomes("web:80 > pod3:40000")
        .run();
    node()
        .given(everywhere().to(&["pod2:8080 local"]))
        .xdp(any("pod3:40000 > web:80").syn())
        .becomes("pod3:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn row_2_an_endpoint_that_meets_itself_is_masqueraded() {
    node()
        .given(everywhere().to(&["pod2:8080 local"]))
        .ingress(any("pod2:40000 > web:80").syn())
        .becomes("pod2:40000 > pod2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(any("pod2:40000 > pod2:8080").syn())
        .becomes("node:40000 > pod2:8080")
        .run();
}

#[test]
fn rows_3_to_4_every_endpoint_of_a_list_is_chosen_each_with_its_own_port() {
    // The choice depends on the tuple: of 16 client ports some go here and some there.
    let mut chosen = [0, 0];
    for port in 40_000..40_016 {
        for (place, target) in ["pod:8443", "pod2:8444"].into_iter().enumerate() {
            let row = row()
                .serve("web:443", &["pod:8443 local", "pod2:8444"])
                .ingress(tcp(&format!("pod3:{port} > web:443")).syn())
                .becomes(&format!("pod3:{port} > {target}"))
                .counting(&[FlowsCreated])
                .v4();
            chosen[place] += u32::from(row.check().is_ok());
        }
    }
    assert_eq!(chosen[0] + chosen[1], 16, "each flow goes to exactly one endpoint");
    assert!(chosen[0] >= 4 && chosen[1] >= 4, "unevenly spread: {chosen:?}");
}

#[test]
fn rows_5_to_6_one_port_number_in_tcp_and_in_udp_is_two_ports() {
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(tcp("pod3:40000 > web:53").syn())
        .becomes("pod3:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .run();
    row()
        .serve("web:53", &["pod:53"])
        .ingress(udp("pod3:40000 > web:53"))
        .becomes("pod3:40000 > pod:53")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn rows_11_to_17_without_any_endpoint_every_frontend_is_refused_and_left_to_tc_by_xdp() {
    for (client, frontend) in [
        ("pod3", "web:80"),
        ("pod3", "eip:80"),
        ("client", "eip:80"),
        ("pod3", "node:30080"),
        ("client", "node:30080"),
        ("pod3", "vip:80"),
        ("client", "vip:80"),
    ] {
        let dials = any(&format!("{client}:40000 > {frontend}")).syn();
        node()
            .given(everywhere().nobody())
            .ingress(dials.clone())
            .gets_refused(NoEndpoint)
            .leaving(&[])
            .run();
        node().given(everywhere().nobody()).xdp(dials).stays_untouched().run();
        node()
            .given(everywhere().nobody())
            .host_egress(any(&format!("node:40000 > {frontend}")).syn())
            .gets_refused(NoEndpoint)
            .run();
    }
}

/// Rows 18 to 30: ranges that have `client` and the node, and therefore the Service's own addresses, and not `world`.
fn filtered() -> Row {
    node().quiet_host_address("vip").given(
        everywhere()
            .load_balancer("eip:81")
            .sources(&["clients", "nodes", "vips"]),
    )
}

#[test]
fn rows_18_to_22_source_ranges_are_for_load_balancer_addresses() {
    filtered()
        .ingress(any("pod3:40000 > web:80").syn())
        .becomes("pod3:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .run();
    for (client, frontend) in [
        ("client", "node:30080"),
        ("world", "node:30080"),
        ("client", "vip:80"),
        ("client", "eip:81"),
        // An ExternalIP is not filtered either.
        ("world", "eip:80"),
    ] {
        filtered()
            .ingress(any(&format!("{client}:40000 > {frontend}")).syn())
            .becomes(&format!("{client}:40000 > pod2:8080"))
            .counting(&[FlowsCreated, FlowsMasqueraded])
            .egress(any(&format!("{client}:40000 > pod2:8080")).syn())
            .becomes("node:40000 > pod2:8080")
            .run();
    }
}

#[test]
fn rows_23_to_26_who_is_in_no_range_is_dropped_xdp_included() {
    for (client, frontend) in [
        ("world", "vip:80"),
        ("world", "eip:81"),
        ("pod3", "vip:80"),
        ("pod3", "eip:81"),
    ] {
        let dials = any(&format!("{client}:40000 > {frontend}")).syn();
        filtered()
            .ingress(dials.clone())
            .gets_dropped(SourceDenied)
            .leaving(&[])
            .run();
        // Already in the driver.
        filtered().xdp(dials).gets_dropped(SourceDenied).leaving(&[]).run();
    }
}

#[test]
fn rows_27_to_30_the_node_itself_and_the_services_own_addresses_are_in() {
    for (source, frontend) in [
        ("node", "vip:80"),
        ("node", "eip:81"),
        ("vip", "vip:80"),
        ("vip", "eip:81"),
    ] {
        filtered()
            .host_egress(any(&format!("{source}:40000 > {frontend}")).syn())
            .gets_rerouted("node:40000 > pod2:8080")
            .counting(&[FlowsCreated, FlowsMasqueraded])
            .ingress(any("pod2:8080 > node:40000").syn_ack())
            .gets_delivered(&format!("{frontend} > {source}:40000"))
            .run();
    }
}

#[test]
fn a_range_of_the_other_service_does_not_count() {
    filtered()
        .given(
            service("api")
                .load_balancer("vip:443")
                .to(&["pod:8443"])
                .sources(&["pods"]),
        )
        .ingress(any("client:40000 > vip:443").syn())
        .gets_dropped(SourceDenied)
        .ingress(any("pod3:40000 > vip:80").syn())
        .gets_dropped(SourceDenied)
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .run();
}

#[test]
fn source_ranges_are_about_new_flows_only() {
    node()
        .given(everywhere())
        .ingress(any("world:40000 > vip:80").syn())
        .becomes("world:40000 > pod2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .given(everywhere().sources(&["clients"]))
        .ingress(any("world:40000 > vip:80"))
        .becomes("world:40000 > pod2:8080")
        .ingress(any("world:40001 > vip:80").syn())
        .gets_dropped(SourceDenied)
        .run();
}

#[test]
fn a_blocked_source_is_dropped_in_silence_also_when_there_is_no_endpoint() {
    node()
        .given(everywhere().nobody().sources(&["clients"]))
        .ingress(any("world:40000 > vip:80").syn())
        .gets_dropped(SourceDenied)
        .ingress(any("client:40000 > vip:80").syn())
        .gets_refused(NoEndpoint)
        .run();
}

#[test]
fn rows_31_to_34_a_node_port_is_served_on_the_chosen_addresses() {
    let node = || node().host_address("node2").given(everywhere());
    node()
        .ingress(any("pod3:40000 > web:80").syn())
        .becomes("pod3:40000 > pod2:8080")
        .counting(&[FlowsCreated])
        .run();
    for address in ["node", "node2"] {
        node()
            .ingress(any(&format!("client:40000 > {address}:30080")).syn())
            .becomes("client:40000 > pod2:8080")
            .counting(&[FlowsCreated, FlowsMasqueraded])
            .egress(any("client:40000 > pod2:8080").syn())
            .becomes("node:40000 > pod2:8080")
            .ingress(any("pod2:8080 > node:40000").syn_ack())
            .becomes("pod2:8080 > client:40000")
            .egress(any("pod2:8080 > client:40000").syn_ack())
            .becomes(&format!("{address}:30080 > client:40000"))
            .run();
        node()
            .host_egress(any(&format!("node:40000 > {address}:30080")).syn())
            .gets_rerouted("node:40000 > pod2:8080")
            .counting(&[FlowsCreated, FlowsMasqueraded])
            .run();
    }
}

#[test]
fn row_35_a_process_of_the_node_reaches_a_node_port_on_loopback() {
    // ::1, too, which kube-proxy never serves.
    node()
        .host_address("lo")
        .given(everywhere())
        .host_egress(any("lo:40000 > lo:30080").syn())
        .gets_rerouted("node:40000 > pod2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .ingress(any("pod2:8080 > node:40000").syn_ack())
        .gets_delivered("lo:30080 > lo:40000")
        .host_egress(any("lo:40000 > lo:30080"))
        .gets_rerouted("node:40000 > pod2:8080")
        .run();
    node()
        .host_address("lo")
        .given(everywhere())
        .host_egress(any("127.0.0.9:40000 > 127.200.0.1:30080").syn())
        .gets_rerouted("node:40000 > pod2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .ingress(any("pod2:8080 > node:40000").syn_ack())
        .gets_delivered("127.200.0.1:30080 > 127.0.0.9:40000")
        .v4()
        .run();
}

#[test]
fn row_35_no_device_brings_packets_to_a_node_port_on_loopback_xdp_included() {
    // CVE-2020-8558: what comes from outside to 127.0.0.1 must not become a connection.
    let dials = any("client:40000 > lo:30080").syn();
    let node = || node().host_address("lo").given(everywhere().to(&["pod2:8080 local"]));
    node().ingress(dials.clone()).stays_untouched().run();
    node().xdp(dials).stays_untouched().run();
}

#[test]
fn rows_36_to_44_a_node_port_is_not_served_on_other_addresses_of_the_host() {
    // Which these are is the planner's: rows 36 to 44 there.
    let node = || {
        node()
            .quiet_host_address("node2")
            .quiet_host_address("lo")
            .given(everywhere())
    };
    node()
        .ingress(any("client:40000 > node2:30080").syn())
        .stays_untouched()
        .host_egress(any("node:40000 > node2:30080").syn())
        .stays_untouched()
        .host_egress(any("lo:40000 > lo:30080").syn())
        .stays_untouched()
        // Other ports of an address where they are served, and other protocols' too.
        .ingress(any("client:40000 > node:30081").syn())
        .stays_untouched()
        .run();
    node()
        .xdp(any("client:40000 > node2:30080").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_service_address_goes_before_a_node_port_on_the_same_address() {
    node()
        .given(everywhere())
        .given(service("api").external_ip("node:30080").to(&["pod:9090"]))
        .ingress(any("client:40000 > node:30080").syn())
        .becomes("client:40000 > pod:9090")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        // Other ports of that address are NodePorts still, or the host's own.
        .ingress(any("client:40000 > node:22").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_stray_packet_to_an_external_address_goes_on_where_it_does_not_go_back() {
    // The route is another device's, or there is none: the load balancer itself may be there.
    node()
        .given(everywhere())
        .ingress(any("client:40000 > vip:9").syn())
        .stays_untouched()
        .host_egress(any("node:40000 > vip:9").syn())
        .stays_untouched()
        .run();
}

#[test]
fn a_stray_packet_to_an_external_address_never_goes_back_where_it_came_from() {
    node()
        .given(everywhere())
        .leads_back("vip")
        .ingress(any("client:40000 > vip:9").syn())
        .gets_dropped(WouldLoop)
        .ingress(any("client:40000 > vip:80").syn())
        .becomes("client:40000 > pod2:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        // On the host itself it has arrived.
        .quiet_host_address("vip")
        .ingress(any("client:40000 > vip:9").syn())
        .stays_untouched()
        .host_only("the namespace of test runs has no routes; in the kernel: lab_two_nodes")
        .run();
}
