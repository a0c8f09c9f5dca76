//! What Services look like, and who dials them.

use std::net::IpAddr;

use lb_common::{
    datapath::Hook,
    layout::{FlowKey, Ip4, Port, Proto},
};
use lb_userspace::{
    model::{Algorithm, Cidr, Family, Protocol, ServiceKey},
    plan::{self, BackendState, DesiredPort, Frontend, FrontendKind, PortId, Scope, WhenEmpty},
};

/// An endpoint, whose address says its number: on this node or not, serving or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) number: u8,
    pub(crate) here: bool,
    pub(crate) serves: bool,
}

/// A Service with one port; all of them have a ClusterIP, a NodePort and an address of a load balancer unless said.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) frontends: Vec<FrontendKind>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) affinity: bool,
    pub(crate) algorithm: Option<Algorithm>,
    /// The endpoint that gets three shares.
    pub(crate) heavy: Option<u8>,
    /// The only client that may dial the load balancer's address, by its last octet.
    pub(crate) only: Option<u8>,
}

pub(crate) const KINDS: [FrontendKind; 3] = [
    FrontendKind::ClusterIp,
    FrontendKind::NodePort,
    FrontendKind::LoadBalancer,
];

/// `"1 2h 3-"`: 2 is here, 3 does not serve.
pub(crate) fn to(endpoints: &str) -> Look {
    let endpoint = |word: &str| Endpoint {
        number: word[..1].parse().expect("a digit"),
        here: word.contains('h'),
        serves: !word.contains('-'),
    };
    Look {
        endpoints: endpoints.split_whitespace().map(endpoint).collect(),
        frontends: KINDS.to_vec(),
        internal_local: false,
        external_local: false,
        affinity: false,
        algorithm: None,
        heavy: None,
        only: None,
    }
}

impl Look {
    pub(crate) fn itp(mut self) -> Self {
        self.internal_local = true;
        self
    }

    pub(crate) fn etp(mut self) -> Self {
        self.external_local = true;
        self
    }

    pub(crate) fn affinity(mut self) -> Self {
        self.affinity = true;
        self
    }

    pub(crate) fn by(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    pub(crate) fn heavy(mut self, endpoint: u8) -> Self {
        self.heavy = Some(endpoint);
        self
    }

    fn weight(&self, endpoint: u8) -> u8 {
        if self.heavy == Some(endpoint) { 3 } else { 1 }
    }

    /// Whether a list has a Maglev table, as `plan` decides.
    fn has_table(&self, local: bool) -> bool {
        let external = self.is_external() && self.algorithm != Some(Algorithm::Hash);
        let internal = self.algorithm == Some(Algorithm::Maglev) && self.internal_local == local;
        external && (!local || self.external_local) || internal
    }

    pub(crate) fn only(mut self, client: u8) -> Self {
        self.only = Some(client);
        self
    }

    pub(crate) fn at(mut self, frontends: &[FrontendKind]) -> Self {
        self.frontends = frontends.to_vec();
        self
    }

    pub(crate) fn is_external(&self) -> bool {
        self.frontends.iter().any(|kind| *kind != FrontendKind::ClusterIp)
    }

    /// The list for a policy; nothing if no client is ever to use it.
    pub(crate) fn list(&self, local: bool) -> Option<Vec<Endpoint>> {
        let used = if local {
            self.internal_local || self.external_local && self.is_external()
        } else {
            !self.internal_local || self.is_external()
        };
        let all = self.endpoints.iter().filter(|one| one.serves && (one.here || !local));
        used.then(|| all.copied().collect())
    }

    pub(crate) fn desired(&self, service: &str) -> DesiredPort {
        let backend = |one: &Endpoint| plan::Backend {
            address: endpoint(service, one.number),
            port: 8080,
            local: one.here,
            weight: self.weight(one.number),
            tunnel: plan::Tunnel::None,
            state: if one.serves {
                BackendState::Ready
            } else {
                BackendState::NotServing
            },
        };
        let somebody = self.endpoints.iter().any(|one| one.serves);
        let scope = |local| {
            self.list(local).map(|list| Scope {
                backends: list.iter().map(backend).collect(),
                when_empty: if local && somebody {
                    WhenEmpty::Drop
                } else {
                    WhenEmpty::Reject
                },
                maglev: self.has_table(local),
            })
        };
        let (cluster, local) = (scope(false), scope(true));
        let is_listed = |one: &plan::Backend| {
            let lists = [&cluster, &local];
            lists.into_iter().flatten().any(|scope| scope.backends.contains(one))
        };
        let others = self
            .endpoints
            .iter()
            .map(backend)
            .filter(|one| !is_listed(one))
            .collect();
        let (address, port) = (|kind| dialled(service, kind).0, |kind| dialled(service, kind).1);
        let frontend = |kind: &FrontendKind| Frontend {
            address: if *kind == FrontendKind::NodePort {
                IpAddr::from([0; 4])
            } else {
                address(*kind)
            },
            port: port(*kind),
            kind: *kind,
        };
        DesiredPort {
            frontends: self.frontends.iter().map(frontend).collect(),
            internal_local: self.internal_local,
            external_local: self.external_local && local.is_some(),
            dsr: false,
            internal_maglev: self.algorithm == Some(Algorithm::Maglev),
            no_sockets: false,
            cluster,
            local,
            others,
            affinity_timeout_s: self.affinity.then_some(60),
            sources: self
                .only
                .map(|client| vec![Cidr::of_one(IpAddr::from([10, 0, 0, client]))]),
            resets: false,
        }
    }
}

/// A Service's name gives its addresses, so that no two Services share an endpoint.
pub(crate) fn endpoint(service: &str, number: u8) -> IpAddr {
    IpAddr::from([10, 244, service.as_bytes()[0], number])
}

pub(crate) const NODE: [u8; 4] = [192, 168, 3, 4];

pub(crate) fn dialled(service: &str, kind: FrontendKind) -> (IpAddr, u16) {
    let letter = service.as_bytes()[0];
    match kind {
        FrontendKind::ClusterIp => (IpAddr::from([10, 96, 0, letter]), 80),
        FrontendKind::NodePort => (NODE.into(), 30_000 + u16::from(letter)),
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => (IpAddr::from([203, 0, 113, letter]), 80),
    }
}

pub(crate) fn port_id(service: &str) -> PortId {
    PortId {
        service: ServiceKey::new("default", service),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// Who dials what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) service: &'static str,
    pub(crate) kind: FrontendKind,
    /// A process of the host, or somebody outside.
    pub(crate) hook: Hook,
    /// Its last octet.
    pub(crate) octet: u8,
    pub(crate) port: u16,
}

impl Client {
    pub(crate) fn key(&self) -> FlowKey<Ip4> {
        let source = Ip4 {
            octets: [10, 0, 0, self.octet],
        };
        let (IpAddr::V4(address), port) = dialled(self.service, self.kind) else {
            unreachable!("IPv4 only")
        };
        FlowKey::new(
            source,
            Port::new(self.port),
            address.into(),
            Port::new(port),
            Proto::TCP,
        )
    }

    pub(crate) fn is_external(&self) -> bool {
        self.kind != FrontendKind::ClusterIp
    }
}
