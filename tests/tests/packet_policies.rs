//! Rows 72 to 85: what traffic policies make of lists that are empty or that only a fall-back fills. Which endpoints are in
//! the lists is decided by the planner (rows of the same numbers there); here is what a packet meets.

use lb_common::layout::{
    Counter::{FlowsCreated, FlowsMasqueraded, WaysLeft},
    DropReason::{NoEndpoint, NoLocalEndpoint},
};
use tests::packet::{
    row::{Row, row},
    service::{ServiceSketch, service},
    sketch::any,
};

fn node() -> Row {
    row().node().host_address("node").detect_pods("pods")
}

fn the_service() -> ServiceSketch {
    service("web").cluster_ip("web:80").load_balancer("vip:80")
}

#[test]
fn rows_72_to_74_internal_local_keeps_to_this_node_xdp_included() {
    for (list, target) in [
        (the_service().to(&["pod2:8080"]), "pod2:8080"),
        (
            the_service()
                .to(&["pod2:8080"])
                .here(&["pod:8080 local"])
                .internal_local(),
            "pod:8080",
        ),
        (the_service().here(&["pod:8080 local"]).internal_local(), "pod:8080"),
    ] {
        node()
            .given(list)
            .ingress(any("pod3:40000 > web:80").syn())
            .becomes(&format!("pod3:40000 > {target}"))
            .counting(&[FlowsCreated])
            .egress(any(&format!("pod3:40000 > {target}")).syn())
            .stays_untouched()
            .run();
    }
    node()
        .given(the_service().here(&["pod:8080 local"]).internal_local())
        .xdp(any("pod3:40000 > web:80").syn())
        .becomes("pod3:40000 > pod:8080")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn row_75_internal_local_with_endpoints_elsewhere_only_is_dropped_and_left_to_tc_by_xdp() {
    let service = || the_service().to(&["pod2:8080"]).nobody_here().internal_local();
    node()
        .given(service())
        .ingress(any("pod3:40000 > web:80").syn())
        .gets_dropped(NoLocalEndpoint)
        .host_egress(any("node:40000 > web:80").syn())
        .gets_dropped(NoLocalEndpoint)
        .run();
    node()
        .given(service())
        .xdp(any("pod3:40000 > web:80").syn())
        .stays_untouched()
        .run();
}

#[test]
fn rows_76_and_85_when_the_slice_is_gone_everybody_is_refused_whatever_the_policies() {
    for service in [
        the_service().nobody(),
        the_service().nobody().internal_local(),
        the_service().nobody().external_local(),
    ] {
        for dialled in ["web:80", "vip:80"] {
            for client in ["pod3:40000", "client:40000"] {
                node()
                    .given(service.clone())
                    .ingress(any(&format!("{client} > {dialled}")).syn())
                    .gets_refused(NoEndpoint)
                    .run();
            }
        }
    }
}

/// What the two lists of a row hold: an endpoint's name, or what happens without one.
#[derive(Clone, Copy)]
enum Holds {
    This(&'static str),
    NobodyHere,
    Nobody,
}

#[test]
fn rows_77_to_84_policies_over_lists_that_a_fall_back_fills_xdp_included() {
    use Holds::{Nobody, NobodyHere, This};
    // Is it eTP Local, the list of the cluster, that of this node; pod to ClusterIP (a), outside to load balancer (b).
    let rows: [(&str, bool, Holds, Holds); 8] = [
        ("row_77_", true, This("pod2:8080"), This("pod:8080 local")),
        ("row_78_", true, This("pod2:8080"), This("pod:8080 local")),
        ("row_79_", true, This("pod2:8080"), NobodyHere),
        ("row_80_", true, Nobody, Nobody),
        ("row_81_", false, This("pod2:8080"), Nobody),
        ("row_82_", false, This("pod2:8080"), Nobody),
        ("row_83_", false, This("pod2:8080"), Nobody),
        ("row_84_", false, Nobody, Nobody),
    ];
    for (name, external_local, cluster, here) in rows {
        let mut service = match (cluster, here) {
            (Nobody | NobodyHere, _) => the_service().nobody(),
            (This(backend), This(local)) => the_service().to(&[backend]).here(&[local]),
            (This(backend), NobodyHere) => the_service().to(&[backend]).nobody_here(),
            (This(backend), Nobody) => the_service().to(&[backend]),
        };
        if external_local {
            service = service.external_local();
        }
        let check = |row: Row| {
            if let Err(why) = row.check() {
                panic!("{name}: {why:#}");
            }
        };
        let pod = node().given(service.clone()).ingress(any("pod3:40000 > web:80").syn());
        let outside = || {
            node()
                .given(service.clone())
                .ingress(any("client:40000 > vip:80").syn())
        };
        let in_driver = || node().given(service.clone()).xdp(any("client:40000 > vip:80").syn());
        match (cluster, here) {
            (Nobody, _) => {
                check(pod.gets_refused(NoEndpoint));
                check(outside().gets_refused(NoEndpoint));
                check(in_driver().stays_untouched());
            }
            (_, This(_)) => {
                check(pod.becomes("pod3:40000 > pod2:8080").counting(&[FlowsCreated]));
                check(outside().becomes("client:40000 > pod:8080").counting(&[FlowsCreated]));
                check(in_driver().becomes("client:40000 > pod:8080").counting(&[FlowsCreated]));
            }
            (_, NobodyHere) => {
                check(pod.becomes("pod3:40000 > pod2:8080").counting(&[FlowsCreated]));
                check(outside().gets_dropped(NoLocalEndpoint));
                check(in_driver().stays_untouched());
            }
            (_, Nobody) => {
                check(pod.becomes("pod3:40000 > pod2:8080").counting(&[FlowsCreated]));
                check(
                    outside()
                        .becomes("client:40000 > pod2:8080")
                        .counting(&[FlowsCreated, FlowsMasqueraded]),
                );
                // There is no route here: XDP leaves the flow to tc.
                check(
                    in_driver()
                        .passes()
                        .counting(&[WaysLeft])
                        .ingress(any("client:40000 > vip:80").syn())
                        .becomes("client:40000 > pod2:8080")
                        .counting(&[FlowsCreated, FlowsMasqueraded]),
                );
            }
        }
    }
}
