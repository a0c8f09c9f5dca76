//! Which Service port a flow dials, and by which kind of address (§2).
//!
//! Here: finding it. Not here: what it leads to (`decide`). That two Services claim one address and port is undefined,
//! and no world here has it.

use std::net::IpAddr;

use lb_userspace::model::{Service, ServicePort};

use super::outcome::NewFlow;
use super::world::World;

/// The kind of address that was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Service's own address, inside the cluster.
    ClusterIp,
    /// An entry of `externalIPs`.
    ExternalIp,
    /// An address of a load balancer.
    Vip,
    /// An address of the node, and the port's NodePort.
    NodePort,
}

/// A frontend that a flow dials.
#[derive(Clone, Copy, Debug)]
pub struct Frontend<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The port of it.
    pub port: &'a ServicePort,
    /// By which address.
    pub kind: Kind,
}

/// The kind of address that this is to the Service, apart from NodePorts.
fn kind_of(service: &Service, address: IpAddr) -> Option<Kind> {
    if service.cluster_ips.contains(&address) {
        Some(Kind::ClusterIp)
    } else if service.load_balancer_vips.contains(&address) {
        // First, since the sources of a load balancer's address are looked at before anything else (§3.3).
        Some(Kind::Vip)
    } else if service.external_ips.contains(&address) {
        Some(Kind::ExternalIp)
    } else {
        None
    }
}

/// The frontend that the flow dials: an address of a Service before a NodePort.
#[must_use]
pub fn find<'w>(world: &'w World, flow: &NewFlow) -> Option<Frontend<'w>> {
    let (address, number) = (flow.dialled.ip(), flow.dialled.port());
    let ports = || {
        let services = world.proxied(flow.family());
        let ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports.filter(|(_, port)| port.protocol == flow.protocol)
    };
    let mut by_address = ports().filter(|(_, port)| port.port == number);
    let by_address = by_address.find_map(|(service, port)| {
        let kind = kind_of(service, address)?;
        Some(Frontend { service, port, kind })
    });
    by_address.or_else(|| {
        let mut by_number = ports().filter(|(_, port)| number != 0 && port.node_port == Some(number));
        let (service, port) = by_number.next().filter(|_| world.node.has_node_ports_for(flow))?;
        let kind = Kind::NodePort;
        Some(Frontend { service, port, kind })
    })
}
