//! Direct server return: where tunnels to endpoints lead, and who asks for them and doesn't get them.
//!
//! A node that is dialled sends a client's packets unchanged to the endpoint's node, from its own address to that node's, and
//! the endpoint's node answers the client. Not here: who asks for it (`model::Service::asks_for_dsr`), whose tunnels are
//! accepted (`agent::peers`), and what a packet needs besides (the datapath). Called by `plan::service`.

use std::collections::BTreeSet;

use super::{NodeView, Tunnel, service::warning};
use crate::model::{Endpoint, Family, ObjectRef, Problem, Service, ServicePort, Store, reachable_in};

/// Where tunnels to an endpoint's node lead: to the first InternalIP of the endpoint's family, else to the first ExternalIP.
pub(super) fn tunnel(store: &Store, node: &NodeView, endpoint: &Endpoint, family: Family) -> Tunnel {
    if endpoint.is_on(&node.name) {
        return Tunnel::None;
    }
    let Some(nodes) = store.other_nodes() else {
        return Tunnel::Unknown;
    };
    let addresses = endpoint.node_name.as_ref().and_then(|name| nodes.get(name));
    let address = addresses.and_then(|addresses| reachable_in(addresses, family));
    address.map_or(Tunnel::None, Tunnel::To)
}

/// How many nodes are named.
const NAMED_MAX: usize = 5;

/// Which clients are not answered directly, though the Service asks for it, and why.
pub(super) fn dsr_problems(store: &Store, service: &Service, ports: &[&ServicePort]) -> Vec<Problem> {
    let node = store.node();
    let problem = |family| {
        let asking = ports.iter().filter(|port| service.asks_for_dsr(port, family, node));
        let asking: Vec<&ServicePort> = asking.copied().collect();
        if asking.is_empty() {
            return None;
        }
        let api_name = family.api_name();
        let why = if node.tunnel_address(family).is_none() {
            format!("this node has no {api_name} address; write one into its Node object, or give --bind-address")
        } else if store.other_nodes().is_none() {
            "the other Nodes are not known yet".to_owned()
        } else {
            let endpoints = asking
                .iter()
                .flat_map(|port| store.endpoints(&service.key, &port.name, port.protocol, family));
            let mut nameless = false;
            let mut names = BTreeSet::new();
            for entry in endpoints {
                let endpoint = entry.endpoint;
                if endpoint.is_on(&node.name) || tunnel(store, node, endpoint, family) != Tunnel::None {
                    continue;
                }
                match &endpoint.node_name {
                    Some(name) => drop(names.insert(&**name)),
                    None => nameless = true,
                }
            }
            match (names.len(), nameless) {
                (0, false) => return None,
                (0, true) => "there are endpoints without nodeName".to_owned(),
                (count, _) => {
                    let named = names.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
                    let more = count.saturating_sub(NAMED_MAX);
                    let more = if more > 0 {
                        format!(" and {more} more")
                    } else {
                        String::new()
                    };
                    format!("there is no {api_name} address in the status.addresses of Node {named}{more}")
                }
            }
        };
        Some(warning(
            ObjectRef::Service(service.key.clone()),
            String::new(),
            format!("DSR of {api_name}: connections are masqueraded instead: {why}"),
        ))
    };
    Family::BOTH.into_iter().filter_map(problem).collect()
}
