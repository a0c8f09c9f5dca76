//! Tests of the plan. Case names carry the row numbers of the behaviour reference (§7.8–7.11).

mod bookkeeping;
mod categorise;
mod dsr;
mod endpoints;
mod frontends;
mod maglev;
mod node_ports;
mod origin;
mod sources;
mod traffic_policy;

use super::{DesiredPort, Scope, plan_service};
use crate::model::sample::{NODE, apply_service, apply_slice, key, synced_store};
use crate::model::{Change, EndpointSlice, NodeView, Service};

/// The list for clients of the ClusterIP (§3.2).
fn internal(port: &DesiredPort) -> Scope {
    let list = if port.internal_local {
        &port.local
    } else {
        &port.cluster
    };
    list.clone().expect("every Service has a list for its ClusterIP")
}

/// The list for clients outside, whichever external address they dial.
fn external(port: &DesiredPort) -> Scope {
    let list = if port.external_local {
        &port.local
    } else {
        &port.cluster
    };
    list.clone()
        .expect("a Service with external addresses has a list for them")
}

/// The plan of a Service with one port and one family, without endpoints.
fn only_port(service: Service, node: &NodeView) -> DesiredPort {
    plan_one(vec![apply_service(service)], node)
}

/// The same with a slice, on the tests' node.
fn only_port_of(service: Service, slice: EndpointSlice) -> DesiredPort {
    plan_one(vec![apply_service(service), apply_slice(slice)], &NodeView::named(NODE))
}

fn plan_one(changes: Vec<Change>, node: &NodeView) -> DesiredPort {
    let mut store = synced_store();
    for change in changes {
        store.apply(change);
    }
    let mut planned = plan_service(&store, node, &key("web"));
    assert_eq!(planned.len(), 1, "one port, one family");
    planned.remove(0).1
}
