//! Which Services have a health port, and what is answered there (behaviour reference §1.3, §6.2).
//!
//! Here: from the model to ports with their counts, and the answer made of a count. Pure. Not here: listening (`servers`).
//! Called by the agent after a sync.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use crate::http::Answer;
use crate::model::{Family, Service, ServiceKey, Store};

/// A Service's health port with what is to be said there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPort {
    /// The Service.
    pub service: ServiceKey,
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node, by address: a pod with several ports, or an address of each family, counts once.
    pub local_endpoints: usize,
}

/// The health ports of all Services, by name.
pub fn health_ports(store: &Store) -> Vec<HealthPort> {
    store.services().filter_map(|service| of(store, service)).collect()
}

/// The health port of one Service, if it has one.
pub fn health_port(store: &Store, key: &ServiceKey) -> Option<HealthPort> {
    of(store, store.service(key)?)
}

fn of(store: &Store, service: &Service) -> Option<HealthPort> {
    let port = service.health_port()?;
    // A dual-stack pod has an endpoint in each family. kube-proxy answers with the count of one family, whichever came
    // first; the larger one is what it means.
    let local_endpoints = Family::BOTH.map(|family| local_endpoints(store, service, family));
    Some(HealthPort {
        service: service.key.clone(),
        port,
        local_endpoints: local_endpoints.into_iter().max().unwrap_or(0),
    })
}

fn local_endpoints(store: &Store, service: &Service, family: Family) -> usize {
    if service.cluster_ip(family).is_none() {
        return 0;
    }
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for port in &service.ports {
        let endpoints = store.endpoints(&service.key, &port.name, port.protocol, family);
        let here =
            |entry: &&crate::model::PortEndpoint<'_>| entry.endpoint.ready && entry.endpoint.is_on(&store.node().name);
        addresses.extend(endpoints.iter().filter(here).map(|entry| entry.address));
    }
    addresses.len()
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

/// What is answered on the health port of a Service, whatever the path.
pub(super) fn answer(service: &ServiceKey, local_endpoints: usize, proxy_healthy: bool) -> Answer {
    let body = Body {
        service: Name {
            namespace: service.namespace(),
            name: service.name(),
        },
        local_endpoints,
        service_proxy_healthy: proxy_healthy,
    };
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Structures of plain text and numbers cannot fail to become JSON.
    drop(body.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs)));
    let code = if local_endpoints > 0 && proxy_healthy { 200 } else { 503 };
    let mut answer = Answer::json(code, String::from_utf8_lossy(&text));
    answer
        .headers
        .push(("x-load-balancing-endpoint-weight", local_endpoints.to_string()));
    answer
}
