//! Rows: a pod that reaches itself through its own Service. It must not see its own address as the client's, so the
//! node's stands for it where the packet goes to the pod, and is taken back where the reply comes from it.

use lb_common::layout::Counter::{FlowsCreated, FlowsHealed, FlowsMasqueraded, PortsTranslated};
use tests::packet::{
    row::{HEALED_WITHIN, Row, row},
    sketch::any,
};

/// A pod of this node has dialled itself.
fn dialled() -> Row {
    row()
        .node()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("pod:40000 > web:80").syn())
        .becomes("pod:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
}

/// The node's address doesn't arrive by a device; if it does, there is nothing to put in its place.
#[test]
fn who_has_the_nodes_address_already_stays_as_it_is() {
    row()
        .node()
        .serve("web:80", &["node:8080 local"])
        .ingress(any("node:40000 > web:80").syn())
        .becomes("node:40000 > node:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .leaving(&[
            "node:40000 > web:80 => node:40000 > node:8080 | in local seen",
            "node:8080 > node:40000 => web:80 > node:40000 | out reply local",
        ])
        .run();
}

#[test]
fn a_pod_reaches_itself_through_its_service_in_four_steps() {
    dialled()
        .leaving(&[
            "pod:40000 > web:80 => pod:40000 > pod:8080 | in local seen",
            "pod:8080 > pod:40000 => web:80 > pod:40000 | out reply local",
            "pod:40000 > pod:8080 => node:40000 > pod:8080 | out local masq seen",
            "pod:8080 > node:40000 => pod:8080 > pod:40000 | in reply local masq",
        ])
        .egress(any("pod:40000 > pod:8080").syn())
        .becomes("node:40000 > pod:8080")
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .becomes("pod:8080 > pod:40000")
        .egress(any("pod:8080 > pod:40000").syn_ack())
        .becomes("web:80 > pod:40000")
        .leaving(&[
            "pod:40000 > web:80 => pod:40000 > pod:8080 | in local seen",
            "pod:8080 > pod:40000 => web:80 > pod:40000 | out reply local seen",
            "pod:40000 > pod:8080 => node:40000 > pod:8080 | out local masq seen",
            "pod:8080 > node:40000 => pod:8080 > pod:40000 | in reply local masq seen",
        ])
        .ingress(any("pod:40000 > web:80"))
        .becomes("pod:40000 > pod:8080")
        .egress(any("pod:40000 > pod:8080"))
        .becomes("node:40000 > pod:8080")
        .run();
}

#[test]
fn without_an_address_of_the_node_the_pod_sees_itself() {
    row()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("pod:40000 > web:80").syn())
        .becomes("pod:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "pod:40000 > web:80 => pod:40000 > pod:8080 | in local seen",
            "pod:8080 > pod:40000 => web:80 > pod:40000 | out reply local",
        ])
        .egress(any("pod:40000 > pod:8080").syn())
        .stays_untouched()
        .run();
}

#[test]
fn only_the_client_itself_is_masqueraded() {
    row()
        .node()
        .serve("web:80", &["pod:8080 local"])
        .ingress(any("pod2:40000 > web:80").syn())
        .becomes("pod2:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .leaving(&[
            "pod2:40000 > web:80 => pod2:40000 > pod:8080 | in local seen",
            "pod:8080 > pod2:40000 => web:80 > pod2:40000 | out reply local",
        ])
        .egress(any("pod2:40000 > pod:8080").syn())
        .stays_untouched()
        .run();
}

#[test]
fn every_one_of_the_four_entries_can_be_evicted_and_is_healed_by_its_counterpart() {
    for (evicted, packet, becomes) in [
        (
            "pod:8080 > pod:40000",
            any("pod:40000 > web:80"),
            "pod:40000 > pod:8080",
        ),
        (
            "pod:8080 > node:40000",
            any("pod:40000 > pod:8080"),
            "node:40000 > pod:8080",
        ),
    ] {
        let row = dialled().evict(evicted).later(HEALED_WITHIN);
        let row = if becomes.starts_with("node") {
            row.egress(packet)
        } else {
            row.ingress(packet)
        };
        row.becomes(becomes)
            .counting(&[FlowsHealed])
            .leaving(&[
                "pod:40000 > web:80 => pod:40000 > pod:8080 | in local seen",
                "pod:8080 > pod:40000 => web:80 > pod:40000 | out reply local",
                "pod:40000 > pod:8080 => node:40000 > pod:8080 | out local masq seen",
                "pod:8080 > node:40000 => pod:8080 > pod:40000 | in reply local masq",
            ])
            .run();
    }
    dialled()
        .evict("pod:40000 > pod:8080")
        .later(HEALED_WITHIN)
        .ingress(any("pod:8080 > node:40000"))
        .becomes("pod:8080 > pod:40000")
        .counting(&[FlowsHealed])
        .leaving(&[
            "pod:40000 > web:80 => pod:40000 > pod:8080 | in local seen",
            "pod:8080 > pod:40000 => web:80 > pod:40000 | out reply local",
            "pod:40000 > pod:8080 => node:40000 > pod:8080 | out local masq",
            "pod:8080 > node:40000 => pod:8080 > pod:40000 | in reply local masq seen",
        ])
        .run();
}

#[test]
fn a_pod_dials_itself_from_the_port_at_which_it_serves() {
    row()
        .node()
        .serve("web:80", &["pod:50051 local"])
        .ingress(any("pod:50051 > web:80").syn())
        .becomes("pod:* > pod:50051")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("pod:* > pod:50051").syn())
        .becomes("node:* > pod:50051")
        .ingress(any("pod:50051 > node:*").syn_ack())
        .becomes("pod:50051 > pod:*")
        .egress(any("pod:50051 > pod:*").syn_ack())
        .becomes("web:80 > pod:50051")
        .run();
}

#[test]
fn a_pod_dials_itself_through_two_frontends_with_one_port() {
    dialled()
        .serve("api:443", &["pod:8080 local"])
        .ingress(any("pod:40000 > api:443").syn())
        .becomes("pod:* > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("pod:* > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .ingress(any("pod:8080 > node:*").syn_ack())
        .becomes("pod:8080 > pod:*")
        .egress(any("pod:8080 > pod:*").syn_ack())
        .becomes("api:443 > pod:40000")
        .egress(any("pod:8080 > pod:40000").syn_ack())
        .becomes("web:80 > pod:40000")
        .run();
}

#[test]
fn a_connection_of_the_host_to_the_pod_keeps_its_port_and_the_pod_gets_another() {
    row()
        .node()
        .serve("web:80", &["pod:8080 local"])
        .host_egress(any("node:40000 > web:80").syn())
        .gets_rerouted("node:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .ingress(any("pod:40000 > web:80").syn())
        .becomes("pod:40000 > pod:8080")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(any("pod:40000 > pod:8080").syn())
        .becomes("node:* > pod:8080")
        .ingress(any("pod:8080 > node:*").syn_ack())
        .becomes("pod:8080 > pod:40000")
        .ingress(any("pod:8080 > node:40000").syn_ack())
        .gets_delivered("web:80 > node:40000")
        .run();
}
