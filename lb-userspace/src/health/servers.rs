//! The listeners of health ports: opened, closed and moved as Services change (behaviour reference §6.2).
//!
//! One listener for a Service, whatever families it has. A port that cannot be bound is a problem of its Service, which
//! works otherwise; each update tries it again. Not here: which ports there are and what they say (`ports`). Owned by the
//! agent.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ports::{HealthPort, answer};
use super::state::{Health, Moment};
use crate::http::{ListenError, listen, serve};
use crate::model::{ObjectRef, Problem, ServiceKey, Severity};

/// On which addresses health ports are open: where NodePorts are (§2.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenOn {
    /// NodePorts are served on every address of the host.
    EveryAddress,
    /// NodePorts are served on these.
    Addresses(BTreeSet<IpAddr>),
}

/// An open health port.
struct Server {
    port: u16,
    local_endpoints: watch::Sender<usize>,
    /// One for each address; they end when this is dropped.
    listeners: JoinSet<Infallible>,
}

/// All health ports of the node.
pub struct HealthPortServers {
    health: watch::Receiver<Health>,
    listen_on: ListenOn,
    open: BTreeMap<ServiceKey, Server>,
    problems: BTreeMap<ServiceKey, Problem>,
}

impl HealthPortServers {
    /// No ports yet. `health` says whether the proxy keeps up.
    pub fn new(health: watch::Receiver<Health>) -> Self {
        Self {
            health,
            listen_on: ListenOn::EveryAddress,
            open: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Makes the open ports and what they say as wanted. Needs a tokio runtime; waits only for closed listeners to end.
    pub async fn update(&mut self, wanted: &[HealthPort], listen_on: &ListenOn) {
        let ports: BTreeMap<_, _> = wanted.iter().map(|wanted| (&wanted.service, wanted.port)).collect();
        let moved = self.listen_on != *listen_on;
        self.listen_on.clone_from(listen_on);
        // First all that close: one Service may be given the port of another.
        for (service, mut server) in std::mem::take(&mut self.open) {
            if !moved && ports.get(&service) == Some(&server.port) {
                self.open.insert(service, server);
            } else {
                server.listeners.shutdown().await;
            }
        }
        self.problems.retain(|service, _| ports.contains_key(service));
        for wanted in wanted {
            match self.open.get(&wanted.service) {
                Some(server) => drop(server.local_endpoints.send_replace(wanted.local_endpoints)),
                None => self.open(wanted),
            }
        }
    }

    /// Health ports that cannot be served, with the reason.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }

    /// How many health ports are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Is no health port open?
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn open(&mut self, wanted: &HealthPort) {
        let listeners = match self.listen(wanted.port) {
            Ok(listeners) => listeners,
            Err(reason) => return self.complain(wanted, reason),
        };
        if self.problems.remove(&wanted.service).is_some() {
            tracing::info!(
                "Service {}: its health port {} is open now",
                wanted.service,
                wanted.port
            );
        }
        let (local_endpoints, count) = watch::channel(wanted.local_endpoints);
        let mut server = Server {
            port: wanted.port,
            local_endpoints,
            listeners: JoinSet::new(),
        };
        for listener in listeners {
            let (service, health, count) = (wanted.service.clone(), self.health.clone(), count.clone());
            let respond = move |_path: String| {
                let healthy = health.borrow().is_healthy(Moment::now().steady);
                std::future::ready(answer(&service, *count.borrow(), healthy))
            };
            server.listeners.spawn(serve(listener, respond));
        }
        self.open.insert(wanted.service.clone(), server);
    }

    /// All listeners of a port, or none.
    fn listen(&self, port: u16) -> Result<Vec<TcpListener>, String> {
        let on = |address: IpAddr| listen(SocketAddr::new(address, port), "a Service's health port");
        let listeners: Result<Vec<_>, ListenError> = match &self.listen_on {
            ListenOn::EveryAddress => {
                let listener = match on(Ipv6Addr::UNSPECIFIED.into()) {
                    // A kernel without IPv6.
                    Err(error) if error.source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                        on(Ipv4Addr::UNSPECIFIED.into())
                    }
                    listener => listener,
                };
                listener.map(|listener| vec![listener])
            }
            ListenOn::Addresses(addresses) if addresses.is_empty() => {
                return Err(
                    "no address of this node is selected for NodePorts, so load balancers cannot ask for \
                     the Service's endpoints; see --nodeport-addresses"
                        .to_owned(),
                );
            }
            ListenOn::Addresses(addresses) => addresses.iter().map(|address| on(*address)).collect(),
        };
        listeners.map_err(|error| {
            format!("{error}. Load balancers are not told of the Service's endpoints here; it is tried again")
        })
    }

    /// Says it once in the log, until it is another problem.
    fn complain(&mut self, wanted: &HealthPort, reason: String) {
        let problem = Problem {
            severity: Severity::Warning,
            object: ObjectRef::Service(wanted.service.clone()),
            field: "spec.healthCheckNodePort".into(),
            reason: reason.into(),
        };
        if self.problems.get(&wanted.service) != Some(&problem) {
            tracing::warn!("{problem}");
            self.problems.insert(wanted.service.clone(), problem);
        }
    }
}
