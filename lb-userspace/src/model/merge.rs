//! The slices of one Service become the endpoints of one of its ports (behaviour reference §1.5).
//!
//! Here: union over slices, matching by port name and protocol, de-duplication. Pure and stateless: the store calls it
//! anew for each plan, so nothing derived is ever stale. Not here: which of the endpoints are used (`plan::categorise`).
//! Called by `Store::endpoints`.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Endpoint, EndpointSlice, Family, Protocol};

/// An endpoint as one Service port sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEndpoint<'a> {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The target port. Two slices may give different numbers for one port name; both are used.
    pub port: u16,
    /// Conditions, node and hints.
    pub endpoint: &'a Endpoint,
}

/// All endpoints that `slices` give to the port of this name and protocol, in one family, sorted by address and port.
///
/// `slices` come in a fixed order (the store sorts by name). Of two entries with the same address and port the later one
/// stands unless it is terminating: a live pod beats a dying one that had its address before.
pub fn endpoints_of_port<'a>(
    slices: &'a [Arc<EndpointSlice>],
    port_name: &str,
    protocol: Protocol,
    family: Family,
) -> Vec<PortEndpoint<'a>> {
    let mut found: Vec<PortEndpoint<'a>> = Vec::new();
    for slice in slices {
        if slice.serves().is_none_or(|(_, slice_family)| slice_family != family) {
            continue;
        }
        for slice_port in &slice.ports {
            let Some(port) = slice_port.port.filter(|port| *port != 0) else {
                continue;
            };
            if slice_port.name.as_deref() != Some(port_name) || slice_port.protocol != protocol {
                continue;
            }
            let of_family = slice
                .endpoints
                .iter()
                .filter(|endpoint| Family::of(endpoint.address) == family);
            found.extend(of_family.map(|endpoint| PortEndpoint {
                address: endpoint.address,
                port,
                endpoint,
            }));
        }
    }
    // The sort is stable: equal addresses stay in the order of the slices, which decides between duplicates.
    found.sort_by_key(|entry| (entry.address, entry.port));
    found.dedup_by(|later, kept| {
        let duplicate = (later.address, later.port) == (kept.address, kept.port);
        if duplicate && !later.endpoint.terminating {
            *kept = *later;
        }
        duplicate
    });
    found
}
