//! Endpoints in no list, and how each is used: what old flows are kept for (behaviour reference §5.1, §5.2).

use rstest::rstest;

use super::only_port_of;
use crate::model::sample::{endpoints, service, slice};
use crate::model::{Service, ServiceType, TrafficPolicy};
use crate::plan::{Backend, BackendState};

/// Last numbers of the addresses with the state: `1 ready`.
fn states(backends: &[Backend]) -> String {
    let text = |backend: &Backend| {
        let state = match backend.state {
            BackendState::Ready => "ready",
            BackendState::Terminating => "terminating",
            BackendState::NotServing => "not serving",
        };
        let address = backend.address.to_string();
        format!("{} {state}", address.rsplit('.').next().unwrap_or_default())
    };
    backends.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[rstest]
#[case::all_are_listed(|_: &mut Service| {}, "10.0.0.1; 10.0.0.2", "1 ready, 2 ready", "")]
#[case::row_125_terminating_ones_go_on_serving(
    |_: &mut Service| {}, "10.0.0.1; 10.0.0.2 t", "1 ready", "2 terminating"
)]
#[case::row_126_not_serving_ones_are_there_and_do_not_serve(
    |_: &mut Service| {}, "10.0.0.1; 10.0.0.2 u; 10.0.0.3 x", "1 ready", "2 not serving, 3 not serving"
)]
#[case::serving_alone_serves_what_it_has(|_: &mut Service| {}, "10.0.0.1; 10.0.0.2 s", "1 ready", "2 terminating")]
#[case::row_133_nobody_serves(|_: &mut Service| {}, "10.0.0.1 u; 10.0.0.2 x", "", "1 not serving, 2 not serving")]
#[case::no_endpoints(|_: &mut Service| {}, "", "", "")]
#[case::hints_keep_new_flows_away_and_not_old_ones(
    |_: &mut Service| {}, "10.0.0.1 node=here; 10.0.0.2 node=n2", "1 ready", "2 ready"
)]
#[case::internal_local_keeps_flows_to_other_nodes(
    |web: &mut Service| web.internal_policy = TrafficPolicy::Local, "10.0.0.1 L; 10.0.0.2 R", "1 ready", "2 ready"
)]
#[case::external_local_lists_both(
    |web: &mut Service| {
        (web.service_type, web.external_policy) = (ServiceType::NodePort, TrafficPolicy::Local);
        web.ports[0].node_port = Some(30_080);
    },
    "10.0.0.1 L; 10.0.0.2 R",
    "1 ready, 2 ready",
    ""
)]
fn endpoints_in_no_list(
    #[case] change: fn(&mut Service),
    #[case] lines: &str,
    #[case] listed: &str,
    #[case] others: &str,
) {
    let mut web = service("web");
    change(&mut web);
    let port = only_port_of(web, slice("web-1", "web", &endpoints(lines)));
    let mut in_lists: Vec<Backend> = [&port.cluster, &port.local]
        .into_iter()
        .flatten()
        .flat_map(|scope| scope.backends.clone())
        .collect();
    in_lists.sort_unstable();
    in_lists.dedup();
    assert_eq!(
        (states(&in_lists).as_str(), states(&port.others).as_str()),
        (listed, others)
    );
}

/// The lists fall back independently (row 104): the fall-back of one is no reason for the other to forget an endpoint.
#[test]
fn an_endpoint_in_one_list_is_in_no_other_place() {
    let mut web = service("web");
    (web.service_type, web.external_policy) = (ServiceType::NodePort, TrafficPolicy::Local);
    web.ports[0].node_port = Some(30_080);
    let lines = "10.0.0.1 R; 10.0.0.2 L x; 10.0.0.3 L t; 10.0.0.4 R t";
    let port = only_port_of(web, slice("web-1", "web", &endpoints(lines)));
    let [cluster, local] = [&port.cluster, &port.local].map(|list| list.as_ref().map(|list| states(&list.backends)));
    assert_eq!(cluster.as_deref(), Some("1 ready"));
    assert_eq!(local.as_deref(), Some("3 terminating"));
    assert_eq!(states(&port.others), "2 not serving, 4 terminating");
}
