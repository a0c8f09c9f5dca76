//! Objects for tests, written as shortly as the tables of the behaviour reference write them.
//!
//! Here: builders used by the tests of `model` and `plan`. Compiled for tests only.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    AddressType, Change, Endpoint, EndpointSlice, Family, NodeView, OptOut, Protocol, Service, ServiceKey, ServicePort,
    ServiceType, SliceKey, SlicePort, Store, SyncedKind, TrafficPolicy,
};

/// The node on which all tests take place.
pub(crate) const NODE: &str = "here";

/// The address a test means by a literal.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `default/name`.
pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// A Service with one ClusterIP and no ports; change what the row is about.
pub(crate) fn service(name: &str) -> Service {
    Service {
        key: key(name),
        service_type: ServiceType::ClusterIp,
        cluster_ips: [ip("10.96.0.1")].into(),
        ports: [port("http", Protocol::Tcp, 80)].into(),
        external_ips: [].into(),
        load_balancer_vips: [].into(),
        source_ranges: [].into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: None,
        health_check_node_port: None,
        resets_removed: None,
        no_sockets: false,
        algorithm: None,
        weights: None,
        forwarding: None,
        opt_out: OptOut::default(),
    }
}

/// A Service port without NodePort.
pub(crate) fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: None,
    }
}

/// A slice of `default/service` for the port `http` → 8080/TCP; its family is that of the first endpoint.
pub(crate) fn slice(name: &str, service: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    let v6 = endpoints
        .first()
        .is_some_and(|endpoint| Family::of(endpoint.address) == Family::V6);
    EndpointSlice {
        key: SliceKey::new("default", name),
        service: Some(key(service)),
        address_type: if v6 { AddressType::Ipv6 } else { AddressType::Ipv4 },
        ports: [slice_port(Some("http"), Protocol::Tcp, Some(8080))].into(),
        endpoints: endpoints.into(),
        opt_out: OptOut::default(),
        triggered: None,
    }
}

/// An entry of a slice's `ports`.
pub(crate) fn slice_port(name: Option<&str>, protocol: Protocol, port: Option<u16>) -> SlicePort {
    SlicePort {
        name: name.map(Into::into),
        protocol,
        port,
    }
}

/// An endpoint from a line such as `10.0.0.1 L t zone=a,b node=n1 pod=web-0`.
///
/// `L` runs on [`NODE`], `R` elsewhere, neither on no known node. `r` (or nothing) is ready, `t` is serving and
/// terminating, `x` is terminating and not serving, `u` is nothing of all that, `s` is serving only (which is not enough).
pub(crate) fn endpoint(line: &str) -> Endpoint {
    let mut words = line.split_whitespace();
    let mut made = Endpoint {
        address: ip(words.next().unwrap()),
        ready: true,
        serving: true,
        terminating: false,
        node_name: None,
        pod: None,
        zone_hints: [].into(),
        node_hints: [].into(),
    };
    for word in words {
        match word {
            "L" => made.node_name = Some(NODE.into()),
            "R" => made.node_name = Some("elsewhere".into()),
            "r" => {}
            "t" => (made.ready, made.terminating) = (false, true),
            "x" => (made.ready, made.serving, made.terminating) = (false, false, true),
            "u" => (made.ready, made.serving) = (false, false),
            "s" => made.ready = false,
            _ => match word.split_once('=').unwrap() {
                ("zone", zones) => made.zone_hints = zones.split(',').map(Into::into).collect(),
                ("pod", name) => made.pod = Some(name.into()),
                ("node", nodes) => made.node_hints = nodes.split(',').map(Into::into).collect(),
                _ => panic!("what is {word}?"),
            },
        }
    }
    made
}

/// Endpoints separated by `;`, each as in [`endpoint`].
pub(crate) fn endpoints(lines: &str) -> Vec<Endpoint> {
    lines
        .split(';')
        .filter(|line| !line.trim().is_empty())
        .map(endpoint)
        .collect()
}

/// A store that is synced and empty.
pub(crate) fn synced_store() -> Store {
    let mut store = Store::new(NodeView::named(NODE));
    store.apply(Change::Synced(SyncedKind::Services));
    store.apply(Change::Synced(SyncedKind::EndpointSlices));
    store
}

/// Short for the change that applies a Service.
pub(crate) fn apply_service(service: Service) -> Change {
    Change::ServiceApply(Arc::new(service))
}

/// Short for the change that applies a slice.
pub(crate) fn apply_slice(slice: EndpointSlice) -> Change {
    Change::SliceApply(Arc::new(slice))
}
