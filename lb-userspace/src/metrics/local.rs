//! Service ports whose `Local` policy finds no endpoint on this node while there are some elsewhere (behaviour reference
//! §6.4).
//!
//! Pure, from the model. Not here: what then happens to packets (`plan`). Called by the agent when somebody scrapes.

use crate::model::{Family, PortEndpoint, Store};

/// How many Service ports of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// By `internalTrafficPolicy: Local`; IPv4, IPv6.
    pub internal: [u64; 2],
    /// By `externalTrafficPolicy: Local`; IPv4, IPv6.
    pub external: [u64; 2],
}

/// Counts them. A port without any endpoint does not count.
pub fn no_local_endpoints(store: &Store) -> NoLocalEndpoints {
    let mut counted = NoLocalEndpoints::default();
    let here = |entry: &PortEndpoint<'_>| entry.endpoint.is_on(&store.node().name);
    let usable = |entry: &&PortEndpoint<'_>| entry.endpoint.ready || entry.endpoint.can_fall_back();
    for service in store.services().filter(|service| service.exclusion().is_none()) {
        if !service.internal_is_local() && !service.external_is_local() {
            continue;
        }
        for (place, family) in Family::BOTH.into_iter().enumerate() {
            if service.cluster_ip(family).is_none() {
                continue;
            }
            for port in &service.ports {
                let endpoints = store.endpoints(&service.key, &port.name, port.protocol, family);
                let mut usable = endpoints.iter().filter(usable).peekable();
                if usable.peek().is_none() || usable.any(here) {
                    continue;
                }
                counted.internal[place] += u64::from(service.internal_is_local());
                let external = service.external_is_local() && service.externally_accessible(port, family);
                counted.external[place] += u64::from(external);
            }
        }
    }
    counted
}
