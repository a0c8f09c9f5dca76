//! A Service as a row says it: `service("web").cluster_ip("web:80").node_port(30_080).to(&["pod:8080 local"])`.

/// What kind of frontend an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A ClusterIP.
    ClusterIp,
    /// A port of every node address.
    NodePort,
    /// An ExternalIP.
    External,
    /// A load-balancer address: source ranges apply.
    LoadBalancer,
}

/// A list of endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum List {
    /// No policy asks for it.
    Absent,
    /// Nobody in the whole cluster.
    Reject,
    /// Somebody, but nobody here.
    Drop,
    /// A slot that was never written.
    Dangling(u32),
    /// These, one slot each.
    Backends(Vec<String>),
}

/// A Service.
#[derive(Clone, Debug)]
pub struct ServiceSketch {
    pub(super) name: String,
    pub(super) frontends: Vec<(String, Kind)>,
    pub(super) cluster: List,
    pub(super) local: List,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    pub(super) affinity_s: u32,
    pub(super) sources: Vec<String>,
    pub(super) table: Option<Table>,
    pub(super) internal_maglev: bool,
    pub(super) dsr: bool,
}

/// The Maglev tables of a Service's lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Table {
    /// The ordinals of all cells, again and again.
    Of(Vec<u16>),
    /// Beyond the end of all tables.
    Beyond,
}

/// A Service of this name, without frontends and endpoints.
#[must_use]
pub fn service(name: &str) -> ServiceSketch {
    ServiceSketch {
        name: name.to_owned(),
        frontends: Vec::new(),
        cluster: List::Reject,
        local: List::Absent,
        internal_local: false,
        external_local: false,
        affinity_s: 0,
        sources: Vec::new(),
        table: None,
        internal_maglev: false,
        dsr: false,
    }
}

fn owned(backends: &[&str]) -> Vec<String> {
    backends.iter().map(|backend| (*backend).to_owned()).collect()
}

impl ServiceSketch {
    /// A Service that is named like its only frontend, a ClusterIP.
    #[must_use]
    pub fn new(frontend: &str) -> Self {
        service(frontend).cluster_ip(frontend)
    }

    fn on(mut self, frontend: &str, kind: Kind) -> Self {
        self.frontends.push((frontend.to_owned(), kind));
        self
    }

    /// Served on a ClusterIP and port.
    #[must_use]
    pub fn cluster_ip(self, frontend: &str) -> Self {
        self.on(frontend, Kind::ClusterIp)
    }

    /// Served on a port of the node.
    #[must_use]
    pub fn node_port(self, port: u16) -> Self {
        self.on(&format!("*:{port}"), Kind::NodePort)
    }

    /// Served on an ExternalIP and port.
    #[must_use]
    pub fn external_ip(self, frontend: &str) -> Self {
        self.on(frontend, Kind::External)
    }

    /// Served on a load-balancer address and port.
    #[must_use]
    pub fn load_balancer(self, frontend: &str) -> Self {
        self.on(frontend, Kind::LoadBalancer)
    }

    /// Its endpoints: `"pod:8080"`, or `"pod:8080 local"` for one on this node, `"far:8080 on peer"` for one
    /// on another that is known.
    #[must_use]
    pub fn to(mut self, backends: &[&str]) -> Self {
        self.cluster = List::Backends(owned(backends));
        self
    }

    /// Its endpoints of this node, for clients whose policy is Local.
    #[must_use]
    pub fn here(mut self, backends: &[&str]) -> Self {
        self.local = List::Backends(owned(backends));
        self
    }

    /// It has endpoints, but none of them on this node.
    #[must_use]
    pub fn nobody_here(mut self) -> Self {
        self.local = List::Drop;
        self
    }

    /// It has no endpoint in the whole cluster.
    #[must_use]
    pub fn nobody(mut self) -> Self {
        self.cluster = List::Reject;
        self.local = List::Reject;
        self
    }

    /// Nothing is said about endpoints.
    #[must_use]
    pub fn no_list(mut self) -> Self {
        self.cluster = List::Absent;
        self
    }

    pub(super) fn dangling(mut self, slot: u32) -> Self {
        self.cluster = List::Dangling(slot);
        self
    }

    /// `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.internal_local = true;
        self
    }

    /// `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.external_local = true;
        self
    }

    /// `sessionAffinity: ClientIP` with this timeout.
    #[must_use]
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.affinity_s = seconds;
        self
    }

    /// Its lists have Maglev tables whose cells have these ordinals, again and again.
    #[must_use]
    pub fn table(mut self, ordinals: &[u16]) -> Self {
        self.table = Some(Table::Of(ordinals.to_vec()));
        self
    }

    /// Its lists name Maglev tables beyond the end of all tables.
    #[must_use]
    pub fn table_beyond(mut self) -> Self {
        self.table = Some(Table::Beyond);
        self
    }

    /// Clients of the ClusterIP are led by the tables, too.
    #[must_use]
    pub fn internal_maglev(mut self) -> Self {
        self.internal_maglev = true;
        self
    }

    /// Clients outside are answered directly by the endpoint's node.
    #[must_use]
    pub fn dsr(mut self) -> Self {
        self.dsr = true;
        self
    }

    /// `loadBalancerSourceRanges`, by name.
    #[must_use]
    pub fn sources(mut self, ranges: &[&str]) -> Self {
        self.sources = owned(ranges);
        self
    }
}
