//! What the benches put into the tables: Services with five endpoints each on this node, both families, as a cluster
//! has them.
//!
//! Addresses are computed, so that packets can be made for the Service of any number.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use lb_userspace::model::{
    AddressType, Change, Cidr, Endpoint, EndpointSlice, Family, Forwarding, OptOut, Protocol, Service, ServiceKey,
    ServicePort, ServiceType, SliceKey, SlicePort, SyncedKind, TrafficPolicy,
};

/// The node on which all endpoints are.
pub(super) const NODE: &str = "bench-node";
/// Another one, where they are if they are elsewhere.
const OTHER_NODE: &str = "other-node";
/// What clients dial.
pub(super) const PORT: u16 = 80;
/// Where endpoints listen.
pub(super) const TARGET_PORT: u16 = 8080;
/// Endpoints of a Service.
pub(super) const ENDPOINTS: u32 = 5;

fn address(family: Family, v4_base: u32, v6_net: u16, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(v4_base + number).into(),
        Family::V6 => Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(v6_net) << 96 | u128::from(number)).into(),
    }
}

/// ClusterIP of the Service of a number.
pub(super) fn cluster_ip(family: Family, service: u32) -> IpAddr {
    address(family, 0x0a60_0001, 0x96, service)
}

/// Load-balancer address of the Service of a number (RFC 2544's range, for benchmarks).
pub(super) fn load_balancer_ip(family: Family, service: u32) -> IpAddr {
    address(family, 0xc612_0001, 0x5180, service)
}

/// Address of an endpoint of a Service.
pub(super) fn endpoint(family: Family, service: u32, endpoint: u32) -> IpAddr {
    address(family, 0x0ac8_0001, 0x200, service * ENDPOINTS + endpoint)
}

/// Address of the other node.
pub(super) fn other_node(family: Family) -> IpAddr {
    address(family, 0x0afb_0001, 0x251, 0)
}

/// Which Services there are: their number, their families and the protocols of their ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Population {
    /// How many.
    pub(super) services: u32,
    /// Of which families each is.
    pub(super) families: &'static [Family],
    /// For which protocols each has a port.
    pub(super) protocols: &'static [Protocol],
    /// What else each has.
    pub(super) features: Features,
}

/// One Service with many ports and addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Large {
    /// Another than those of the population.
    pub(super) number: u32,
}

impl Large {
    /// Ports, all of TCP.
    const PORTS: u16 = 400;
    /// Endpoints, each with all ports.
    pub(super) const ENDPOINTS: u32 = 100;

    fn population(self) -> Population {
        Population {
            services: self.number,
            families: &[Family::V4],
            protocols: &[Protocol::Tcp],
            features: Features::None,
        }
    }

    fn name(port: u16) -> Box<str> {
        format!("port-{port}").into()
    }

    /// The Service: a ClusterIP, two ExternalIPs and an address of a load balancer.
    pub(super) fn service(self) -> Service {
        let port = |port| ServicePort {
            name: Self::name(port),
            protocol: Protocol::Tcp,
            port: 1_000 + port,
            node_port: None,
        };
        let external = |place| load_balancer_ip(Family::V4, self.number + place);
        Service {
            service_type: ServiceType::LoadBalancer,
            ports: (0..Self::PORTS).map(port).collect(),
            external_ips: [external(0), external(1)].into(),
            load_balancer_vips: [external(2)].into(),
            ..self.population().service(self.number)
        }
    }

    /// Its slice, with these of its endpoints.
    pub(super) fn slice(self, endpoints: impl IntoIterator<Item = u32>) -> EndpointSlice {
        let port = |port| SlicePort {
            name: Some(Self::name(port)),
            protocol: Protocol::Tcp,
            port: Some(TARGET_PORT + port),
        };
        EndpointSlice {
            ports: (0..Self::PORTS).map(port).collect(),
            ..self.population().slice(Family::V4, self.number, endpoints)
        }
    }
}

/// What a Service may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Features {
    /// A ClusterIP and nothing else.
    None,
    /// A load-balancer address, too, and all endpoints on another node.
    Elsewhere,
    /// The same, and that node answers clients itself.
    Direct,
    /// A NodePort and a load-balancer address, too, session affinity, source ranges, and clients that are masqueraded.
    All,
}

impl Features {
    /// What clients of the Service of a number dial.
    pub(super) fn dialled(self, family: Family, service: u32) -> IpAddr {
        match self {
            Self::None => cluster_ip(family, service),
            Self::All | Self::Elsewhere | Self::Direct => load_balancer_ip(family, service),
        }
    }
}

/// Where all clients of the packet bench are, among others.
const SOURCE_RANGES: [&str; 4] = ["203.0.113.0/24", "10.240.0.0/12", "2001:db8::/32", "fd00:cc0::/32"];

fn key(service: u32) -> ServiceKey {
    ServiceKey::new("bench", &format!("service-{service}"))
}

impl Population {
    /// The Service of a number.
    pub(super) fn service(&self, number: u32) -> Service {
        let all = self.features == Features::All;
        let has_vip = self.features != Features::None;
        let port = |protocol: &Protocol| ServicePort {
            name: protocol.to_string().into(),
            protocol: *protocol,
            port: PORT,
            // As many as there are numbers for; the others do with their load-balancer address.
            node_port: u16::try_from(30_000 + number).ok().filter(|_| all),
        };
        let vips = self
            .families
            .iter()
            .map(|family| load_balancer_ip(*family, number))
            .filter(|_| has_vip);
        Service {
            key: key(number),
            service_type: if has_vip {
                ServiceType::LoadBalancer
            } else {
                ServiceType::ClusterIp
            },
            cluster_ips: self.families.iter().map(|family| cluster_ip(*family, number)).collect(),
            ports: self.protocols.iter().map(port).collect(),
            external_ips: [].into(),
            load_balancer_vips: vips.collect(),
            source_ranges: SOURCE_RANGES
                .iter()
                .filter(|_| all)
                .filter_map(|range| Cidr::parse_leniently(range))
                .collect(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_timeout_s: all.then_some(10_800),
            health_check_node_port: None,
            resets_removed: None,
            no_sockets: false,
            algorithm: None,
            weights: None,
            forwarding: (self.features == Features::Direct).then_some(Forwarding::Dsr),
            opt_out: OptOut::default(),
        }
    }

    /// The slice of a Service in a family, with these of its endpoints.
    pub(super) fn slice(&self, family: Family, number: u32, endpoints: impl IntoIterator<Item = u32>) -> EndpointSlice {
        let node = if matches!(self.features, Features::Elsewhere | Features::Direct) {
            OTHER_NODE
        } else {
            NODE
        };
        let endpoint = |place| Endpoint {
            address: endpoint(family, number, place),
            ready: true,
            serving: true,
            terminating: false,
            node_name: Some(node.into()),
            zone_hints: [].into(),
            node_hints: [].into(),
            pod: None,
        };
        let port = |protocol: &Protocol| SlicePort {
            name: Some(protocol.to_string().into()),
            protocol: *protocol,
            port: Some(TARGET_PORT),
        };
        EndpointSlice {
            key: SliceKey::new("bench", &format!("service-{number}-{family}")),
            service: Some(key(number)),
            address_type: match family {
                Family::V4 => AddressType::Ipv4,
                Family::V6 => AddressType::Ipv6,
            },
            ports: self.protocols.iter().map(port).collect(),
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            opt_out: OptOut::default(),
            triggered: None,
        }
    }

    /// All that a source tells at its start.
    pub(super) fn first_lists(self) -> impl Iterator<Item = Change> {
        let addresses = Family::BOTH.map(other_node);
        let others = [(OTHER_NODE.into(), addresses.into())].into();
        let direct = self.features == Features::Direct;
        let others = direct.then(|| Change::OtherNodes(Arc::new(others)));
        others.into_iter().chain(
            (0..self.services)
                .flat_map(move |number| {
                    let slice =
                        move |family: &Family| Change::SliceApply(Arc::new(self.slice(*family, number, 0..ENDPOINTS)));
                    let service = Change::ServiceApply(Arc::new(self.service(number)));
                    std::iter::once(service).chain(self.families.iter().map(slice))
                })
                .chain([SyncedKind::Services, SyncedKind::EndpointSlices].map(Change::Synced)),
        )
    }

    /// A Service of TCP and its slices, with so many endpoints each, as YAML documents.
    pub(super) fn yaml(&self, number: u32, endpoints: u32) -> String {
        let addresses: Vec<_> = self
            .families
            .iter()
            .map(|family| format!("\"{}\"", cluster_ip(*family, number)))
            .collect();
        let families: Vec<_> = self.families.iter().map(|family| api_name(*family)).collect();
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: bench}}\nspec:\n  \
             type: ClusterIP\n  clusterIP: {}\n  clusterIPs: [{}]\n  ipFamilies: [{}]\n  ports:\n  \
             - {{name: TCP, protocol: TCP, port: {PORT}, targetPort: {TARGET_PORT}}}\n---\n",
            addresses[0],
            addresses.join(", "),
            families.join(", "),
        );
        for family in self.families {
            let _ = write!(
                text,
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: service-{number}-{family}\n  \
                 namespace: bench\n  labels: {{kubernetes.io/service-name: service-{number}}}\naddressType: {}\n\
                 ports:\n- {{name: TCP, protocol: TCP, port: {TARGET_PORT}}}\nendpoints:\n",
                api_name(*family)
            );
            for place in 0..endpoints {
                let address = endpoint(*family, number, place);
                let _ = writeln!(
                    text,
                    "- {{addresses: [\"{address}\"], conditions: {{ready: true, serving: true, terminating: false}}, \
                     nodeName: {NODE}}}"
                );
            }
            text.push_str("---\n");
        }
        text
    }
}

fn api_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
