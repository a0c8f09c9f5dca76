//! Policies and conditions: no endpoint on the entry node, none at all, and pods that are going away.
//!
//! That a policy chooses the right ones where all are there is in `matrix`.

use serde_json::json;
use tests::lab::{Host, Lab};
use tests::traffic::manifests::{Endpoint, Service};

use crate::rows::{Case, Expect, Source, Who, play_by};
use crate::scene::{CHANGE_MAX, Frontend, PATIENCE, ask, cluster_cidr, expect_none, service, start};

use Condition::{Gone, Ready, Terminating};
use Expect::{All, Dropped, Local, Refused};
use Frontend::{ClusterIp, ExternalIp, NodePort, Vip};
use Source::{Kept, Masq};
use Who::{Node, Outside, Pod};

/// `externalTrafficPolicy: Local`, all pods on the second node.
const FAR_EXTERNAL: u16 = 84;
/// `internalTrafficPolicy: Local`, all pods on the second node.
const FAR_INTERNAL: u16 = 85;
/// Nobody.
const EMPTY: u16 = 86;
/// Nobody, and `externalTrafficPolicy: Local`.
const EMPTY_LOCAL: u16 = 87;

/// By the first node, which has no pod of these Services.
const NO_LOCAL_ENDPOINT: &[(Who, Frontend, u16, Expect)] = &[
    (Outside, NodePort, FAR_EXTERNAL, Dropped),
    (Outside, Vip, FAR_EXTERNAL, Dropped),
    (Outside, ExternalIp, FAR_EXTERNAL, Dropped),
    (Pod, NodePort, FAR_EXTERNAL, All(Kept)),
    (Pod, Vip, FAR_EXTERNAL, All(Kept)),
    (Pod, ExternalIp, FAR_EXTERNAL, All(Kept)),
    (Node, NodePort, FAR_EXTERNAL, All(Masq)),
    (Node, Vip, FAR_EXTERNAL, All(Masq)),
    (Node, ExternalIp, FAR_EXTERNAL, All(Masq)),
    (Pod, ClusterIp, FAR_EXTERNAL, All(Kept)),
    (Node, ClusterIp, FAR_EXTERNAL, All(Masq)),
    (Outside, ClusterIp, FAR_EXTERNAL, All(Masq)),
    // Row 75.
    (Pod, ClusterIp, FAR_INTERNAL, Dropped),
    (Node, ClusterIp, FAR_INTERNAL, Dropped),
    (Outside, ClusterIp, FAR_INTERNAL, Dropped),
    (Outside, NodePort, FAR_INTERNAL, All(Masq)),
    (Outside, Vip, FAR_INTERNAL, All(Masq)),
    (Pod, NodePort, FAR_INTERNAL, All(Masq)),
    (Node, Vip, FAR_INTERNAL, All(Masq)),
];

/// By the second node, which has all pods of these Services.
const ALL_LOCAL: &[(Who, Frontend, u16, Expect)] = &[
    (Outside, NodePort, FAR_EXTERNAL, Local(Kept)),
    (Outside, Vip, FAR_EXTERNAL, Local(Kept)),
    (Outside, ExternalIp, FAR_EXTERNAL, Local(Kept)),
    (Pod, ClusterIp, FAR_INTERNAL, Local(Kept)),
    (Node, ClusterIp, FAR_INTERNAL, Local(Masq)),
    (Outside, ClusterIp, FAR_INTERNAL, Local(Masq)),
];

#[test]
fn row_75_and_its_like_without_a_local_endpoint() {
    let cluster = start(Lab::two_nodes(), cluster_cidr(), |lab| {
        let far = |name, number, spec| service(lab, name, number, spec).backends(lab.backends_of(2));
        vec![
            far("far-external", FAR_EXTERNAL, json!({"externalTrafficPolicy": "Local"})),
            far("far-internal", FAR_INTERNAL, json!({"internalTrafficPolicy": "Local"})),
        ]
    });
    let lab = &cluster.lab;
    let pods: Vec<&Host> = lab.backends_of(2).collect();
    let mut wrong = play_by(lab, 1, &cases(NO_LOCAL_ENDPOINT, &pods));
    wrong.extend(play_by(lab, 2, &cases(ALL_LOCAL, &pods)));
    expect_none(&wrong);
}

fn cases<'a>(rows: &[(Who, Frontend, u16, Expect)], pods: &'a [&'a Host]) -> Vec<Case<'a>> {
    let case = |&(who, frontend, service, expect): &_| Case {
        number: "3.3",
        who,
        frontend,
        service,
        pods,
        expect,
    };
    rows.iter().map(case).collect()
}

/// Everyone is refused by every frontend, whatever the policy; also where there were endpoints before.
#[test]
fn rows_76_and_85_nobody_is_there() {
    let cluster = start(Lab::two_nodes().over_a_wire(), cluster_cidr(), |lab| {
        let empty = service(lab, "empty", EMPTY, json!({}));
        let local = service(
            lab,
            "empty-local",
            EMPTY_LOCAL,
            json!({"externalTrafficPolicy": "Local"}),
        );
        vec![empty, local.backends(lab.backends())]
    });
    let lab = &cluster.lab;
    let udp = tests::traffic::Over::Udp;
    let served = || ask(lab.client(), Vip.of(EMPTY_LOCAL, lab.node(), udp, true), udp, PATIENCE);
    served().expect("there are endpoints yet");
    cluster
        .manifests
        .keep_endpoints("empty-local.yaml", |_| false)
        .expect("the file can be edited");
    let since = std::time::Instant::now();
    while served().is_ok() {
        assert!(since.elapsed() < CHANGE_MAX, "still served");
    }
    let mut wrong: Vec<String> = Vec::new();
    for entry in [1, 2] {
        lab.lead_services_to(entry).expect("the router has other routes");
        // All at the same time: most of it is waiting.
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for who in [Outside, Pod, Node] {
                for frontend in Frontend::ALL {
                    for service in [EMPTY, EMPTY_LOCAL] {
                        let case = Case {
                            number: "76, 85",
                            who,
                            frontend,
                            service,
                            pods: &[],
                            expect: Refused,
                        };
                        running.push(scope.spawn(move || case.play(lab, entry)));
                    }
                }
            }
            let said = running
                .into_iter()
                .map(|row| row.join().expect("a row says what is wrong"));
            wrong.extend(said.flatten());
        });
    }
    expect_none(&wrong);
}

/// What the slices say of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Ready,
    /// Going away, but still serving.
    Terminating,
    /// Going away, and not serving.
    Gone,
}

/// Pods by number and condition: 1 to 4 are on the entry node, 5 to 8 on the other.
type Pods = &'static [(u8, Condition)];

/// Row, policy, pods; who answers a pod by the ClusterIP; who answers outside by the VIP, if that is not the same.
type Row = (
    &'static str,
    &'static str,
    Pods,
    (Expect, &'static [u8]),
    (Expect, &'static [u8]),
);

const ROWS_77_TO_84: &[Row] = &[
    (
        "77",
        "Local",
        &[(1, Ready), (2, Ready), (3, Terminating), (4, Gone), (5, Ready)],
        (All(Kept), &[1, 2, 5]),
        (All(Kept), &[1, 2]),
    ),
    (
        "78",
        "Local",
        &[(1, Terminating), (2, Terminating), (3, Gone), (5, Ready)],
        (All(Kept), &[5]),
        (All(Kept), &[1, 2]),
    ),
    ("79", "Local", &[(5, Terminating)], (All(Kept), &[5]), (Dropped, &[])),
    ("80", "Local", &[(1, Gone), (5, Gone)], (Refused, &[]), (Refused, &[])),
    (
        "81",
        "Cluster",
        &[(1, Ready), (2, Ready), (5, Terminating), (6, Gone), (7, Ready)],
        (All(Kept), &[1, 2, 7]),
        (All(Masq), &[1, 2, 7]),
    ),
    (
        "82",
        "Cluster",
        &[(1, Terminating), (2, Terminating), (5, Gone), (6, Terminating)],
        (All(Kept), &[1, 2, 6]),
        (All(Masq), &[1, 2, 6]),
    ),
    (
        "83",
        "Cluster",
        &[(5, Terminating)],
        (All(Kept), &[5]),
        (All(Masq), &[5]),
    ),
    ("84", "Cluster", &[(1, Gone), (5, Gone)], (Refused, &[]), (Refused, &[])),
];

#[test]
fn rows_77_to_84_pods_that_are_going_away() {
    let cluster = start(Lab::two_nodes().backends(4), cluster_cidr(), |lab| {
        let rows = (20..).zip(ROWS_77_TO_84);
        rows.map(|(number, row)| going_away(lab, number, row)).collect()
    });
    let lab = &cluster.lab;
    let mut wrong = Vec::new();
    for (service, (number, _, _, inside, outside)) in (20..).zip(ROWS_77_TO_84) {
        for (who, frontend, (expect, pods)) in [(Pod, ClusterIp, inside), (Outside, Vip, outside)] {
            let pods: Vec<&Host> = pods.iter().map(|pod| lab.backend(*pod)).collect();
            let case = Case {
                number,
                who,
                frontend,
                service,
                pods: &pods,
                expect: *expect,
            };
            wrong.extend(case.play(lab, 1));
        }
    }
    expect_none(&wrong);
}

fn going_away(lab: &Lab, number: u16, (row, policy, pods, ..): &Row) -> Service {
    let mut service = service(
        lab,
        &format!("row-{row}"),
        number,
        json!({"externalTrafficPolicy": policy}),
    );
    for (pod, condition) in *pods {
        let endpoints = lab.backend(*pod).addresses().map(|address| Endpoint {
            ready: *condition == Ready,
            serving: *condition != Gone,
            terminating: *condition != Ready,
            ..Endpoint::local(address)
        });
        service.endpoints.extend(endpoints);
    }
    service
}
