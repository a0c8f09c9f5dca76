//! All that is given: the node, its Services and slices; and which endpoints a Service port has (§1.2, §1.5).
//!
//! Here: which Services count, and the merge of slices. Not here: which endpoints are used (`categorise`).

use std::net::SocketAddr;

use lb_userspace::model::{Endpoint, EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, ServiceType};

use super::node::Node;

/// Everything that decides about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The node.
    pub node: Node,
    /// All Services, also those that are not proxied.
    pub services: Vec<Service>,
    /// All slices.
    pub slices: Vec<EndpointSlice>,
}

/// Which Service port: affinity is kept for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// The Service.
    pub service: ServiceKey,
    /// The port's name.
    pub name: Box<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

/// An endpoint of one Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its address and target port.
    pub at: SocketAddr,
    /// Conditions, node and hints.
    pub endpoint: &'a Endpoint,
}

/// Is the Service proxied in this family (§1.2)?
#[must_use]
pub fn is_proxied(service: &Service, family: Family) -> bool {
    service.service_type != ServiceType::ExternalName
        && !service.opt_out.proxy_name
        && !service.opt_out.headless
        && service.cluster_ips.iter().any(|address| Family::of(*address) == family)
}

impl World {
    /// The Services that are proxied in a family.
    pub fn proxied(&self, family: Family) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(move |service| is_proxied(service, family))
    }

    /// Does a Service that is there have this port, and session affinity?
    #[must_use]
    pub fn has_affinity(&self, port: &PortId) -> bool {
        let of_service = |service: &&Service| service.key == port.service && service.affinity_timeout_s.is_some();
        let is_it = |other: &ServicePort| other.name == port.name && other.protocol == port.protocol;
        self.services
            .iter()
            .filter(of_service)
            .any(|service| service.ports.iter().any(is_it))
    }

    /// The endpoints of a Service port in one family, each once, in the order of their texts (§1.5).
    #[must_use]
    pub fn endpoints(&self, service: &Service, port: &ServicePort, family: Family) -> Vec<Candidate<'_>> {
        let mut found: Vec<Candidate<'_>> = Vec::new();
        let mut slices: Vec<&EndpointSlice> = self.slices.iter().collect();
        // The text names no order. It decides only between two that are both terminating.
        slices.sort_by_key(|slice| slice.key.name().to_owned());
        for slice in slices {
            let hidden = slice.opt_out.proxy_name || slice.opt_out.headless;
            if hidden || slice.service.as_ref() != Some(&service.key) || slice.address_type.family() != Some(family) {
                continue;
            }
            for slice_port in &slice.ports {
                let number = slice_port.port.unwrap_or(0);
                let same_name = slice_port.name.as_deref() == Some(&*port.name);
                if number == 0 || !same_name || slice_port.protocol != port.protocol {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let at = SocketAddr::new(endpoint.address, number);
                    match found.iter_mut().find(|earlier| earlier.at == at) {
                        None => found.push(Candidate { at, endpoint }),
                        Some(earlier) if !endpoint.terminating => earlier.endpoint = endpoint,
                        Some(_) => {}
                    }
                }
            }
        }
        found.sort_by_key(|candidate| candidate.at.to_string());
        found
    }
}
