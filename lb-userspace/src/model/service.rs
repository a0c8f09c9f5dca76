//! A Service, as far as proxying needs it (behaviour reference §1.3).
//!
//! Here: the value and the questions that only need this one value: is it served at all (§1.2), which ClusterIP has a
//! family, does `externalTrafficPolicy: Local` count. Not here: how it is read (`source::convert`), which endpoints it
//! has (`merge`), what is written to tables (`plan`). Called by `store` and by `plan`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::{Cidr, Endpoint, Family, NodeView, Protocol, ServiceKey};

/// An immutable Service. `targetPort`, `selector`, `loadBalancerIP` and the like are left out: a proxy never reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, canonical; empty for a headless Service. At most one of each family is served.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip` where `ipMode` is `VIP` or unset (KEP-1860, §2.4).
    pub load_balancer_vips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`; they filter load-balancer VIPs only (§4.4).
    pub source_ranges: Box<[Cidr]>,
    /// `spec.internalTrafficPolicy` (KEP-2086).
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`, as written. Ask [`Service::external_is_local`] whether it counts.
    pub external_policy: TrafficPolicy,
    /// Seconds of `sessionAffinity: ClientIP`; `None` without affinity.
    pub affinity_timeout_s: Option<u32>,
    /// `spec.healthCheckNodePort`, as written. Ask [`Service::health_port`] whether it is served.
    pub health_check_node_port: Option<u16>,
    /// Annotation `sluice.io/reset-removed`: whether TCP clients are told by a reset when their endpoint is gone for good.
    /// Without it the node's setting holds.
    pub resets_removed: Option<bool>,
    /// Annotation `sluice.io/socket: "off"`: the socket tier leaves it to the tc tier.
    pub no_sockets: bool,
    /// Annotation `sluice.io/algorithm`: how a client's endpoint is chosen. Without it clients of external addresses are led
    /// by Maglev tables, those of the ClusterIP by hash alone.
    pub algorithm: Option<Algorithm>,
    /// Annotation `sluice.io/weights`: of endpoints that get more than one share where a Maglev table decides.
    pub weights: Option<Box<Weights>>,
    /// Annotation `sluice.io/forwarding`: how clients outside reach an endpoint on another node. Without it `--dsr` says.
    pub forwarding: Option<Forwarding>,
    /// Labels that hand the Service to somebody else.
    pub opt_out: OptOut,
}

/// How a client outside reaches an endpoint on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Through the node that it dialled, both ways, with an address of that node.
    Snat,
    /// Its packets go to the endpoint's node in a tunnel, and that node answers it directly (direct server return).
    Dsr,
}

/// How a client's endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The hash says which place of the list: with every endpoint more or less most flows would be chosen for anew.
    Hash,
    /// The hash says which cell of a table: few flows would.
    Maglev,
}

/// Weights of endpoints, by their address or by the name of their pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// By address.
    pub by_address: BTreeMap<IpAddr, u8>,
    /// By pod.
    pub by_pod: BTreeMap<Box<str>, u8>,
}

impl Weights {
    /// Largest weight: with it one endpoint still leaves a cell for each other one.
    pub const MAX: u8 = 100;

    /// The weight of an endpoint, which its address says before its pod.
    pub fn of(&self, endpoint: &Endpoint) -> u8 {
        let by_pod = || endpoint.pod.as_ref().and_then(|pod| self.by_pod.get(pod));
        self.by_address
            .get(&endpoint.address)
            .or_else(by_pod)
            .copied()
            .unwrap_or(1)
    }
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The name; empty if unnamed. Endpoints are matched by it, never by number.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number that clients dial.
    pub port: u16,
    /// The NodePort, honoured whenever set, whatever the type says (§1.3).
    pub node_port: Option<u16>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// The default.
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on addresses that a load balancer was given.
    LoadBalancer,
    /// A DNS alias; nothing to proxy.
    ExternalName,
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Every endpoint may be chosen.
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// Labels by which an object opts out of proxying (§1.1). Only their presence counts, not their value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptOut {
    /// `service.kubernetes.io/service-proxy-name`: another proxy serves it.
    pub proxy_name: bool,
    /// `service.kubernetes.io/headless`.
    pub headless: bool,
}

impl OptOut {
    /// Is either label there?
    pub fn any(self) -> bool {
        self.proxy_name || self.headless
    }
}

/// Why a Service is not served (§1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// No ClusterIP, or `None`.
    NoClusterIp,
    /// `type: ExternalName`, even with a stray ClusterIP.
    ExternalName,
    /// Carries the label `service.kubernetes.io/service-proxy-name`.
    OtherProxy,
    /// Carries the label `service.kubernetes.io/headless`.
    HeadlessLabel,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoClusterIp => "it has no ClusterIP (headless)",
            Self::ExternalName => "its type is ExternalName",
            Self::OtherProxy => "its label service.kubernetes.io/service-proxy-name gives it to another proxy",
            Self::HeadlessLabel => "it carries the label service.kubernetes.io/headless",
        })
    }
}

impl Service {
    /// Why this Service is not served, or `None` if it is (§1.2).
    pub fn exclusion(&self) -> Option<Exclusion> {
        if self.service_type == ServiceType::ExternalName {
            Some(Exclusion::ExternalName)
        } else if self.opt_out.proxy_name {
            Some(Exclusion::OtherProxy)
        } else if self.opt_out.headless {
            Some(Exclusion::HeadlessLabel)
        } else if self.cluster_ips.is_empty() {
            Some(Exclusion::NoClusterIp)
        } else {
            None
        }
    }

    /// The ClusterIP of a family. Without one the Service does not exist in that family (§1.2).
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips
            .iter()
            .copied()
            .find(|address| Family::of(*address) == family)
    }

    /// Has this port an address for clients outside the cluster, in this family (§3.1 `externallyAccessible`)?
    pub fn externally_accessible(&self, port: &ServicePort, family: Family) -> bool {
        let of_family = |address: &IpAddr| Family::of(*address) == family;
        port.node_port.is_some()
            || self.load_balancer_vips.iter().any(of_family)
            || self.external_ips.iter().any(of_family)
    }

    /// Should nodes answer clients of this port directly? Where `externalTrafficPolicy: Local` is in force they do so anyway.
    pub fn asks_for_dsr(&self, port: &ServicePort, family: Family, node: &NodeView) -> bool {
        let asks = match self.forwarding {
            Some(forwarding) => forwarding == Forwarding::Dsr,
            None => node.dsr_protocols.contains(&port.protocol),
        };
        asks && !self.external_is_local()
            && self.cluster_ip(family).is_some()
            && self.externally_accessible(port, family)
    }

    /// Is `internalTrafficPolicy: Local` in force?
    pub fn internal_is_local(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local
    }

    /// Is `externalTrafficPolicy: Local` in force? It counts only for a Service meant for clients outside (§1.3).
    pub fn external_is_local(&self) -> bool {
        let meant_for_outside = match self.service_type {
            ServiceType::NodePort | ServiceType::LoadBalancer => true,
            ServiceType::ClusterIp => !self.external_ips.is_empty(),
            ServiceType::ExternalName => false,
        };
        self.external_policy == TrafficPolicy::Local && meant_for_outside
    }

    /// Should a load balancer probe this Service's own health port (type LoadBalancer and eTP Local, §1.3)?
    pub fn wants_health_port(&self) -> bool {
        self.service_type == ServiceType::LoadBalancer && self.external_is_local()
    }

    /// The port on which health of the local endpoints is to be served, if any (§1.3, §6.2).
    pub fn health_port(&self) -> Option<u16> {
        self.health_check_node_port
            .filter(|_| self.exclusion().is_none() && self.wants_health_port())
    }
}
