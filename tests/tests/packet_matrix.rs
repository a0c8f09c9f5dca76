//! Rows 45 to 71 of the behaviour reference: who gets endpoints of the whole cluster and who those of this node, and whom
//! they see asking. One endpoint stands for each list: `pod2`, on another node, for the cluster's, `pod` for this node's.
//! Which endpoints are in the lists is the planner's, and has rows of its own.
//!
//! Each row runs at the tc hooks, there and back again; where a device outside brings the packet also in XDP, which finishes
//! what stays on this node and leaves all else to tc.

use lb_common::layout::Counter::{FlowsCreated, FlowsMasqueraded, WaysLeft};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::any,
};

use List::{Cluster, Local};
use Source::{Kept, Masqueraded};
use Who::{Node, Outside, Pod};

#[derive(Clone, Copy, Debug)]
enum Who {
    /// A pod of this node that is no endpoint.
    Pod,
    /// A process of the node.
    Node,
    /// A machine outside.
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum List {
    Cluster,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Kept,
    Masqueraded,
}

/// What the node is told besides.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    PodsByAddress,
    PodsByDevice,
    Nothing,
    MasqueradeAll,
    MasqueradeAllAndNothing,
}

/// The policies of a Service.
#[derive(Clone, Copy, Debug)]
enum Policies {
    Default,
    ExternalLocal,
    InternalLocal,
}

type Case = (&'static str, Who, Policies, &'static str, List, Source);

const CLUSTER_IP: &str = "web:80";
const NODE_PORT: &str = "node:30080";
const VIP: &str = "vip:80";
const EXTERNAL_IP: &str = "eip:80";

/// Rows 45 to 58: `TestExternalTrafficPolicyLocal` and `TestExternalTrafficPolicyCluster`.
const POLICIES: &[Case] = &[
    (
        "row_45_pod_to_cluster_ip",
        Pod,
        Policies::ExternalLocal,
        CLUSTER_IP,
        Cluster,
        Kept,
    ),
    (
        "row_46_pod_to_external_ip",
        Pod,
        Policies::ExternalLocal,
        EXTERNAL_IP,
        Cluster,
        Kept,
    ),
    (
        "row_47_outside_to_external_ip",
        Outside,
        Policies::ExternalLocal,
        EXTERNAL_IP,
        Local,
        Kept,
    ),
    ("row_48_pod_to_vip", Pod, Policies::ExternalLocal, VIP, Cluster, Kept),
    (
        "row_49_outside_to_vip",
        Outside,
        Policies::ExternalLocal,
        VIP,
        Local,
        Kept,
    ),
    (
        "row_50_pod_to_node_port",
        Pod,
        Policies::ExternalLocal,
        NODE_PORT,
        Cluster,
        Kept,
    ),
    (
        "row_51_outside_to_node_port",
        Outside,
        Policies::ExternalLocal,
        NODE_PORT,
        Local,
        Kept,
    ),
    (
        "row_52_pod_to_cluster_ip",
        Pod,
        Policies::Default,
        CLUSTER_IP,
        Cluster,
        Kept,
    ),
    (
        "row_53_pod_to_external_ip",
        Pod,
        Policies::Default,
        EXTERNAL_IP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_54_outside_to_external_ip",
        Outside,
        Policies::Default,
        EXTERNAL_IP,
        Cluster,
        Masqueraded,
    ),
    ("row_55_pod_to_vip", Pod, Policies::Default, VIP, Cluster, Masqueraded),
    (
        "row_56_outside_to_vip",
        Outside,
        Policies::Default,
        VIP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_57_pod_to_node_port",
        Pod,
        Policies::Default,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_58_outside_to_node_port",
        Outside,
        Policies::Default,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
];

/// Rows 59 to 67: `TestInternalExternalMasquerade`.
const MATRIX: &[Case] = &[
    (
        "row_59a_pod_to_cluster_ip",
        Pod,
        Policies::Default,
        CLUSTER_IP,
        Cluster,
        Kept,
    ),
    (
        "row_59b_pod_to_cluster_ip",
        Pod,
        Policies::ExternalLocal,
        CLUSTER_IP,
        Cluster,
        Kept,
    ),
    (
        "row_59c_pod_to_cluster_ip",
        Pod,
        Policies::InternalLocal,
        CLUSTER_IP,
        Local,
        Kept,
    ),
    (
        "row_60a_pod_to_node_port",
        Pod,
        Policies::Default,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_60b_pod_to_node_port",
        Pod,
        Policies::ExternalLocal,
        NODE_PORT,
        Cluster,
        Kept,
    ),
    (
        "row_60c_pod_to_node_port",
        Pod,
        Policies::InternalLocal,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    ("row_61a_pod_to_vip", Pod, Policies::Default, VIP, Cluster, Masqueraded),
    ("row_61b_pod_to_vip", Pod, Policies::ExternalLocal, VIP, Cluster, Kept),
    (
        "row_61c_pod_to_vip",
        Pod,
        Policies::InternalLocal,
        VIP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_62a_node_to_cluster_ip",
        Node,
        Policies::Default,
        CLUSTER_IP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_62b_node_to_cluster_ip",
        Node,
        Policies::ExternalLocal,
        CLUSTER_IP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_62c_node_to_cluster_ip",
        Node,
        Policies::InternalLocal,
        CLUSTER_IP,
        Local,
        Masqueraded,
    ),
    (
        "row_63a_node_to_node_port",
        Node,
        Policies::Default,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_63b_node_to_node_port",
        Node,
        Policies::ExternalLocal,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_63c_node_to_node_port",
        Node,
        Policies::InternalLocal,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_64a_node_to_vip",
        Node,
        Policies::Default,
        VIP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_64b_node_to_vip",
        Node,
        Policies::ExternalLocal,
        VIP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_64c_node_to_vip",
        Node,
        Policies::InternalLocal,
        VIP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_65a_outside_to_cluster_ip",
        Outside,
        Policies::Default,
        CLUSTER_IP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_65b_outside_to_cluster_ip",
        Outside,
        Policies::ExternalLocal,
        CLUSTER_IP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_65c_outside_to_cluster_ip",
        Outside,
        Policies::InternalLocal,
        CLUSTER_IP,
        Local,
        Masqueraded,
    ),
    (
        "row_66a_outside_to_node_port",
        Outside,
        Policies::Default,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_66b_outside_to_node_port",
        Outside,
        Policies::ExternalLocal,
        NODE_PORT,
        Local,
        Kept,
    ),
    (
        "row_66c_outside_to_node_port",
        Outside,
        Policies::InternalLocal,
        NODE_PORT,
        Cluster,
        Masqueraded,
    ),
    (
        "row_67a_outside_to_vip",
        Outside,
        Policies::Default,
        VIP,
        Cluster,
        Masqueraded,
    ),
    (
        "row_67b_outside_to_vip",
        Outside,
        Policies::ExternalLocal,
        VIP,
        Local,
        Kept,
    ),
    (
        "row_67c_outside_to_vip",
        Outside,
        Policies::InternalLocal,
        VIP,
        Cluster,
        Masqueraded,
    ),
];

fn the_service(policies: Policies) -> ServiceSketch {
    let service = service("web")
        .cluster_ip(CLUSTER_IP)
        .node_port(30_080)
        .load_balancer(VIP)
        .external_ip(EXTERNAL_IP)
        .to(&["pod2:8080"])
        .here(&["pod:8080 local"]);
    match policies {
        Policies::Default => service,
        Policies::ExternalLocal => service.external_local(),
        Policies::InternalLocal => service.internal_local(),
    }
}

fn node_that_is(told: Told, who: Who) -> Row {
    let row = row().node().host_address("node");
    match (told, who) {
        (Told::PodsByAddress, _) => row.detect_pods("pods"),
        (Told::PodsByDevice, Pod) => row.detect_pod_device(),
        (Told::PodsByDevice, _) => row.detect_other_device(),
        (Told::MasqueradeAll, _) => row.masquerade_all().detect_pods("pods"),
        (Told::MasqueradeAllAndNothing, _) => row.masquerade_all(),
        (Told::Nothing, _) => row,
    }
}

/// There and back again, the first packet at `arrives`.
fn forwarded(row: Row, client: &str, frontend: &str, backend: &str, source: Source, arrives: Arrives) -> Row {
    let dials = any(&format!("{client} > {frontend}")).syn();
    let row = match arrives {
        Arrives::Tc => row.ingress(dials),
        Arrives::Xdp => row.xdp(dials),
    };
    let row = row.becomes(&format!("{client} > {backend}"));
    if source == Kept {
        return row
            .counting(&[FlowsCreated])
            .egress(any(&format!("{client} > {backend}")).syn())
            .stays_untouched()
            .ingress(any(&format!("{backend} > {client}")).syn_ack())
            .stays_untouched()
            .egress(any(&format!("{backend} > {client}")).syn_ack())
            .becomes(&format!("{frontend} > {client}"));
    }
    row.counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(any(&format!("{client} > {backend}")).syn())
        .becomes(&format!("node:40000 > {backend}"))
        .ingress(any(&format!("{backend} > node:40000")).syn_ack())
        .becomes(&format!("{backend} > {client}"))
        .egress(any(&format!("{backend} > {client}")).syn_ack())
        .becomes(&format!("{frontend} > {client}"))
}

#[derive(Clone, Copy)]
enum Arrives {
    Tc,
    Xdp,
}

fn play(told: Told, case: &Case) {
    let &(name, who, policies, frontend, list, source) = case;
    let given = || node_that_is(told, who).given(the_service(policies));
    let backend = if list == Local { "pod:8080" } else { "pod2:8080" };
    let check = |row: Row, how: &str| {
        if let Err(why) = row.check() {
            panic!("{name} ({who:?}, {policies:?}, {told:?}, {how}): {why:#}");
        }
    };
    let client = match who {
        // A process of the node has its address already; what there is to masquerade is done where it leaves.
        Node => {
            let mut counted = vec![FlowsCreated];
            counted.extend((source == Masqueraded).then_some(FlowsMasqueraded));
            let row = given()
                .host_egress(any(&format!("node:40000 > {frontend}")).syn())
                .gets_rerouted(&format!("node:40000 > {backend}"))
                .counting(&counted)
                .ingress(any(&format!("{backend} > node:40000")).syn_ack())
                .gets_delivered(&format!("{frontend} > node:40000"));
            return check(row, "tc");
        }
        Pod => "pod3:40000",
        Outside => "client:40000",
    };
    check(forwarded(given(), client, frontend, backend, source, Arrives::Tc), "tc");
    if matches!(who, Pod) {
        return;
    }
    if list == Local {
        return check(
            forwarded(given(), client, frontend, backend, source, Arrives::Xdp),
            "xdp",
        );
    }
    let dials = || any(&format!("{client} > {frontend}")).syn();
    // There is no route here. XDP opens the flow, and tc goes on with it; or leaves it to tc, if tc would do it in other steps.
    let given = given().xdp(dials()).passes();
    let row = if source == Masqueraded {
        given.counting(&[WaysLeft]).ingress(dials())
    } else {
        given.counting(&[FlowsCreated, WaysLeft]).ingress(dials())
    };
    let row = row.becomes(&format!("{client} > {backend}"));
    let row = if source == Masqueraded {
        row.counting(&[FlowsCreated, FlowsMasqueraded])
    } else {
        row
    };
    let leaves = row.egress(dials().between(&format!("{client} > {backend}")));
    let row = if source == Masqueraded {
        leaves.becomes(&format!("node:40000 > {backend}"))
    } else {
        leaves.stays_untouched()
    };
    check(row, "xdp, and on in tc");
    // An endpoint of the cluster's list may be on this node.
    let here = || node_that_is(told, who).given(the_service(policies).to(&["pod2:8080 local"]));
    check(
        forwarded(here(), client, frontend, backend, source, Arrives::Xdp),
        "xdp, local endpoint",
    );
}

#[test]
fn rows_45_to_58_policies_and_masquerading_of_external_addresses() {
    for told in [Told::PodsByAddress, Told::PodsByDevice] {
        for case in POLICIES {
            play(told, case);
        }
    }
}

#[test]
fn rows_59_to_67_the_masquerade_matrix_xdp_included() {
    for told in [Told::PodsByAddress, Told::PodsByDevice] {
        for case in MATRIX {
            play(told, case);
        }
    }
}

/// The matrix with what a variant overrides.
fn variant(told: Told, overrides: impl Fn(&Case) -> (List, Source)) {
    for case in MATRIX {
        let (name, who, policies, frontend, _, _) = *case;
        let (list, source) = overrides(case);
        play(told, &(name, who, policies, frontend, list, source));
    }
}

const fn is_internal(case: &Case) -> bool {
    matches!(case.3.as_bytes(), b"web:80")
}

#[test]
fn rows_68_to_69_without_a_local_detector_nobody_is_masqueraded_and_no_pod_takes_a_short_cut() {
    variant(Told::Nothing, |case| match *case {
        // Row 68.
        (_, Node | Outside, _, _, list, _) if is_internal(case) => (list, Kept),
        // Row 69.
        (_, Pod, Policies::ExternalLocal, NODE_PORT | VIP, _, source) => (Local, source),
        (_, _, _, _, list, source) => (list, source),
    });
}

#[test]
fn row_70_masquerade_all_is_about_cluster_ips_xdp_included() {
    variant(Told::MasqueradeAll, |case| match *case {
        (_, Pod, _, _, list, _) if is_internal(case) => (list, Masqueraded),
        (_, _, _, _, list, source) => (list, source),
    });
}

#[test]
fn row_71_masquerade_all_without_a_local_detector_xdp_included() {
    variant(Told::MasqueradeAllAndNothing, |case| match *case {
        (_, Pod, _, _, list, _) if is_internal(case) => (list, Masqueraded),
        (_, Pod, Policies::ExternalLocal, NODE_PORT | VIP, _, source) => (Local, source),
        (_, _, _, _, list, source) => (list, source),
    });
}
