//! The plan: what the tables should say for one Service. Pure functions of the model.
//!
//! Third room of the pipe `source → model → plan → reconcile → tables → kernel`. One Service at a time, so that a
//! changed endpoint costs the size of its Service, not of the cluster. Not here: merging slices (`model::merge`),
//! numbers of Services, backends and slots, and the order of writes (`reconcile`, which calls [`plan_service`] for
//! every key that [`crate::model::Store::apply`] dirtied). Two Services that claim one frontend are also the
//! reconciler's business: a plan of one Service cannot see the other.

pub mod categorise;
mod dsr;
mod node_ports;
mod origin;
mod service;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

pub use node_ports::{BadEntry, NodePortAddresses};
pub use origin::Detector;
pub use service::{plan_problems, plan_service};

use crate::model::{Cidr, Family, Protocol, ServiceKey};

pub use crate::model::NodeView;

/// One Service port in one family: the unit in which services are numbered in the kernel's tables.
///
/// Session affinity, too, belongs to it and not to a frontend (behaviour reference §3.4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    /// The Service.
    pub service: ServiceKey,
    /// The port's name; empty if unnamed.
    pub port_name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

impl fmt::Display for PortId {
    /// `ns/name:port/TCP v4`, or `ns/name/TCP v4` for an unnamed port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.port_name.is_empty() { "" } else { ":" };
        write!(
            f,
            "{}{colon}{}/{} {}",
            self.service, self.port_name, self.protocol, self.family
        )
    }
}

/// What the tables should say for one Service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// The addresses it is served on; sorted, each once.
    pub frontends: Vec<Frontend>,
    /// Endpoints of the whole cluster; nothing while no client of this port could ever get one (behaviour §3.1).
    pub cluster: Option<Scope>,
    /// Endpoints of this node; nothing while no client of this port could ever get one.
    pub local: Option<Scope>,
    /// Clients of the ClusterIP get endpoints of this node (`internalTrafficPolicy`, KEP-2086).
    pub internal_local: bool,
    /// Clients outside get endpoints of this node, and keep their address (`externalTrafficPolicy`).
    pub external_local: bool,
    /// Endpoints answer clients outside directly, on whatever node they are: what another node sends here in a tunnel gets an
    /// endpoint of this node.
    pub dsr: bool,
    /// Clients of the ClusterIP are led by the Maglev tables of the lists, too.
    pub internal_maglev: bool,
    /// The socket tier leaves it to the tc tier.
    pub no_sockets: bool,
    /// All endpoints that the port has and that are in neither list. Old flows of theirs go on (§5.1, §5.2).
    pub others: Vec<Backend>,
    /// Seconds of `sessionAffinity: ClientIP`.
    pub affinity_timeout_s: Option<u32>,
    /// Who may dial its load-balancer addresses; nothing if everybody may (§4.4). Sorted, each once.
    pub sources: Option<Vec<Cidr>>,
    /// TCP clients are told by a reset when their endpoint is gone for good.
    pub resets: bool,
}

/// An address, port and (from the [`PortId`]) protocol that clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address dialled; unspecified for a NodePort, which is served on all addresses that were chosen for it.
    pub address: IpAddr,
    /// The port dialled.
    pub port: u16,
    /// Which of the Service's addresses it is; decides the policy.
    pub kind: FrontendKind,
}

/// Which of a Service's addresses a frontend is (behaviour reference §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort`.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress`: source ranges apply.
    LoadBalancer,
}

/// The backends from which one kind of client gets one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Sorted by address and port, each once. The order decides slots, so it must not depend on history.
    pub backends: Vec<Backend>,
    /// Has it a Maglev table? Where there is only one backend, or no room, it has none all the same.
    pub maglev: bool,
    /// What becomes of a new connection while there is no backend.
    pub when_empty: WhenEmpty,
}

/// What becomes of a new connection to a port without usable backends (§3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenEmpty {
    /// No endpoint is usable anywhere: say so with port unreachable.
    Reject,
    /// A `Local` policy finds none here, but others have some: stay silent, so that the client tries again.
    Drop,
}

/// An endpoint as it goes into the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// Does it run on this node?
    pub local: bool,
    /// Is it in full service?
    pub state: BackendState,
    /// How many times its share it gets where a Maglev table decides, from 1 on.
    pub weight: u8,
    /// Where tunnels to its node lead.
    pub tunnel: Tunnel,
}

/// Where packets go in a tunnel whose endpoint is to answer directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// Nowhere: nobody asks for it, the endpoint is on this node, or its node has no address of this family.
    None,
    /// To this address of its node.
    To(IpAddr),
    /// The other nodes are not known yet. What an earlier agent has found out holds until then.
    Unknown,
}

/// In which state an endpoint is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// Ready.
    Ready,
    /// Not ready but still serving, as a rule because it is terminating: its flows go on, and it gets new ones while no
    /// ready endpoint is left (KEP-1669).
    Terminating,
    /// It is there and doesn't serve: TCP connections of its go on, datagrams go elsewhere.
    NotServing,
}
