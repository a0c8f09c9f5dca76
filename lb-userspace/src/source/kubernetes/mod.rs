//! A Kubernetes cluster as source: watches of Services, EndpointSlices, ServiceCIDRs and the own Node, and of the other Nodes
//! once somebody needs them.
//!
//! Selectors are the server's business, as kube-proxy has it (behaviour reference §1.1): an object that gains an excluding
//! label comes as deleted. Objects are converted as they come and not kept. It needs nothing but `get`, `list` and `watch`.
//! Services and slices make the source synced; it waits neither for the Node nor for ServiceCIDRs, and does without
//! ServiceCIDRs where the server has none or does not show them. Here: what is asked for, and what is told. Not here: the way to
//! the server (`access`), listing and watching (`follow`), noticing what vanished (`relist`), what objects mean
//! (`source::convert`), writing Events (`events`), which nothing of this depends on. [`run`] is called by the agent's main loop.

mod access;
mod complaints;
mod events;
mod failure;
mod follow;
mod lines;
mod notice;
mod objects;
mod others;
mod relist;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Node as ApiNode, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice as ApiEndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR as ApiServiceCidr;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

pub use self::access::Access;
use self::complaints::Complaints;
pub use self::events::{EventCounts, write_events};
use self::failure::Cause;
pub use self::follow::Patience;
use self::follow::{Kind, News, follow};
pub use self::notice::{Notice, Reason};
use self::objects::{Name, Object, Wanted};
use self::others::Others;
use self::relist::{Relist, Seen, Told};
use super::convert::{self, HEADLESS_LABEL, PROXY_NAME_LABEL};
use super::problem::{Closed, SourceProblem, SourceStatus};
use crate::model::{Change, Cidr, NodeFacts, ObjectRef, Problem, Service, ServiceKey, Severity, SliceKey, SyncedKind};

/// What the watch of ServiceCIDRs is called in complaints.
const SERVICE_CIDRS: &str = "ServiceCIDRs";
/// How often problems of objects are published.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// News of a kind that may wait; the connection waits for more.
const NEWS_QUEUE: usize = 1024;
/// How far a server's clock may be off without a word. `Date` has whole seconds, and answers take a while.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(30);

/// Why watching a cluster ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig file cannot be used.
    #[error("cannot use the kubeconfig file {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// The given address is none.
    #[error("cannot use the API server's address \"{address}\": {reason}")]
    Address {
        /// What was given.
        address: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// Neither a pod's service account nor a kubeconfig was found.
    #[error(
        "no way to the API server is known: {0}. In a pod, mount a service account token; outside, name a kubeconfig file"
    )]
    NoConfig(Box<str>),
    /// No client can be made of the configuration.
    #[error(
        "cannot make a client for the API server: {0}. The cluster's certificate authority is taken from the kubeconfig or the \
         service account, else from this machine's certificates"
    )]
    Client(#[source] Box<kube::Error>),
    /// The agent is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Watches a cluster and tells Services, EndpointSlices, ServiceCIDRs and the own Node as [`Change`]s, for ever; the other
/// Nodes, too, from when `wants_others` has become true.
///
/// While the server cannot be reached, what was told stays in force, `status` says since when and why, and attempts go on. It
/// ends only when nobody receives changes any more, or before it began with an error. Drop the future to stop it.
///
/// # Errors
/// If no client can be made, or nobody receives changes.
pub async fn run(
    access: Access,
    patience: Patience,
    node_name: String,
    mut wants_others: watch::Receiver<bool>,
    changes: mpsc::Sender<Change>,
    status: watch::Sender<SourceStatus>,
) -> Result<(), KubernetesError> {
    let connection = access.connection().await?;
    status.send_modify(|status| status.origin = format!("Kubernetes API at {}", connection.url).into());

    let not_opted_out = format!("!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}");
    let of_services = Kind {
        path: "/api/v1/services",
        label_selector: Some(not_opted_out.clone()),
        field_selector: Some("spec.clusterIP!=None".to_owned()),
        // Before Kubernetes 1.31 Services can't be selected by fields; headless ones are passed over when they come.
        selector_is_dispensable: true,
        optional: false,
    };
    let of_slices = Kind {
        path: "/apis/discovery.k8s.io/v1/endpointslices",
        label_selector: Some(not_opted_out),
        ..Kind::default()
    };
    let of_node = Kind {
        path: "/api/v1/nodes",
        field_selector: Some(format!("metadata.name={node_name}")),
        ..Kind::default()
    };
    let of_ranges = Kind {
        path: "/apis/networking.k8s.io/v1/servicecidrs",
        optional: true,
        ..Kind::default()
    };
    let of_all_nodes = Kind {
        path: "/api/v1/nodes",
        ..Kind::default()
    };
    let mut followers = JoinSet::new();
    let mut services = start::<ApiService>(&mut followers, &connection.client, of_services, patience);
    let mut slices = start::<ApiEndpointSlice>(&mut followers, &connection.client, of_slices, patience);
    let mut node = start::<ApiNode>(&mut followers, &connection.client, of_node, patience);
    let mut ranges = start::<ApiServiceCidr>(&mut followers, &connection.client, of_ranges, patience);

    // Nobody, until somebody asks.
    let mut others: Option<mpsc::Receiver<News<ApiNode>>> = None;
    wants_others.mark_changed();

    let mut tidy = interval(TIDY_EVERY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller::new(&node_name, changes, status, connection.guessed);
    loop {
        tokio::select! {
            Ok(()) = wants_others.changed(), if others.is_none() => {
                if *wants_others.borrow_and_update() {
                    let all = start::<ApiNode>(&mut followers, &connection.client, of_all_nodes.clone(), patience);
                    others = Some(all);
                }
            }
            Some(news) = next(&mut others) => teller.other_node_news(news).await?,
            Some(news) = services.recv() => teller.service_news(news).await?,
            Some(news) = slices.recv() => teller.slice_news(news).await?,
            Some(news) = node.recv() => teller.node_news(news).await?,
            Some(news) = ranges.recv() => teller.service_cidr_news(news).await?,
            _ = tidy.tick() => teller.tidy(),
            () = teller.changes.closed() => return Err(Closed.into()),
        }
    }
}

/// The next news, if anybody is followed.
async fn next<T>(receiver: &mut Option<mpsc::Receiver<News<T>>>) -> Option<News<T>> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Follows a kind on a task of its own.
fn start<T: Wanted>(
    followers: &mut JoinSet<()>,
    client: &kube::Client,
    kind: Kind,
    patience: Patience,
) -> mpsc::Receiver<News<T>> {
    let (sender, receiver) = mpsc::channel(NEWS_QUEUE);
    followers.spawn(follow(client.clone(), kind, patience, sender));
    receiver
}

/// Tells the model what the watches show.
struct Teller {
    changes: mpsc::Sender<Change>,
    status: watch::Sender<SourceStatus>,
    complaints: Complaints,
    /// There is something new about objects; a list of many broken ones is published once, not for each.
    unpublished: bool,
    services: Relist<ServiceKey>,
    slices: Relist<SliceKey>,
    nodes: Relist<Box<str>>,
    /// What was last told of the own Node.
    node: Option<NodeFacts>,
    other_nodes: Relist<Box<str>>,
    others: Others,
    ranges: Relist<Box<str>>,
    ranges_by_name: BTreeMap<Box<str>, Box<[Cidr]>>,
    /// The union that was last told.
    ranges_told: Box<[Cidr]>,
    /// The server's address, if nobody has named it: it may be that of the Service `kubernetes`.
    guessed: Option<IpAddr>,
}

impl Teller {
    fn new(
        node_name: &str,
        changes: mpsc::Sender<Change>,
        status: watch::Sender<SourceStatus>,
        guessed: Option<IpAddr>,
    ) -> Self {
        Self {
            changes,
            status,
            complaints: Complaints::default(),
            unpublished: false,
            services: Relist::default(),
            slices: Relist::default(),
            nodes: Relist::default(),
            node: None,
            other_nodes: Relist::default(),
            others: Others::on_node(node_name),
            ranges: Relist::default(),
            ranges_by_name: BTreeMap::new(),
            ranges_told: Box::default(),
            guessed,
        }
    }

    async fn service_news(&mut self, news: News<ApiService>) -> Result<(), Closed> {
        let Some(seen) = self.seen("Services", news, service_key, ObjectRef::Service) else {
            return Ok(());
        };
        for told in self.services.fold(seen) {
            let change = match told {
                Told::Apply((key, object)) => {
                    let (service, mut problems) = convert::service(key, &object);
                    problems.extend(self.serves_its_own_server(&service));
                    self.complain(ObjectRef::Service(service.key.clone()), problems);
                    Change::ServiceApply(Arc::new(service))
                }
                Told::Delete(key) => Change::ServiceDelete(key),
                Told::Synced => Change::Synced(SyncedKind::Services),
            };
            self.tell(change).await?;
        }
        Ok(())
    }

    async fn slice_news(&mut self, news: News<ApiEndpointSlice>) -> Result<(), Closed> {
        let Some(seen) = self.seen("EndpointSlices", news, slice_key, ObjectRef::EndpointSlice) else {
            return Ok(());
        };
        for told in self.slices.fold(seen) {
            let change = match told {
                Told::Apply((key, object)) => {
                    let (slice, problems) = convert::endpoint_slice(key, &object);
                    self.complain(ObjectRef::EndpointSlice(slice.key.clone()), problems);
                    Change::SliceApply(Arc::new(slice))
                }
                Told::Delete(key) => Change::SliceDelete(key),
                Told::Synced => Change::Synced(SyncedKind::EndpointSlices),
            };
            self.tell(change).await?;
        }
        Ok(())
    }

    async fn node_news(&mut self, news: News<ApiNode>) -> Result<(), Closed> {
        let Some(seen) = self.seen("the own Node", news, bare_name, ObjectRef::Node) else {
            return Ok(());
        };
        for told in self.nodes.fold(seen) {
            let facts = match told {
                Told::Apply((name, object)) => {
                    let (facts, problems) = convert::node(&name, &object);
                    self.complain(ObjectRef::Node(name), problems);
                    Some(facts)
                }
                Told::Delete(name) => {
                    self.complain(ObjectRef::Node(name), vec![]);
                    None
                }
                Told::Synced => continue,
            };
            // The kubelet writes the Node every few minutes, mostly things that are not read.
            if facts != self.node {
                self.node.clone_from(&facts);
                self.tell(Change::Node(facts)).await?;
            }
        }
        Ok(())
    }

    async fn other_node_news(&mut self, news: News<ApiNode>) -> Result<(), Closed> {
        let Some(seen) = self.seen("the other Nodes", news, bare_name, ObjectRef::Node) else {
            return Ok(());
        };
        for told in self.other_nodes.fold(seen) {
            match told {
                Told::Apply((name, object)) if self.others.is_other(&name) => {
                    let (facts, problems) = convert::node(&name, &object);
                    self.complain(ObjectRef::Node(name.clone()), problems);
                    self.others.put(name, Some(facts.addresses));
                }
                Told::Delete(name) if self.others.is_other(&name) => {
                    self.complain(ObjectRef::Node(name.clone()), vec![]);
                    self.others.put(name, None);
                }
                _ => {}
            }
        }
        // Half a list would be a smaller cluster than there is.
        let news = self.other_nodes.is_synced().then(|| self.others.news()).flatten();
        match news {
            Some(change) => self.tell(change).await,
            None => Ok(()),
        }
    }

    async fn service_cidr_news(&mut self, news: News<ApiServiceCidr>) -> Result<(), Closed> {
        let Some(seen) = self.seen(SERVICE_CIDRS, news, bare_name, ObjectRef::ServiceCidr) else {
            return Ok(());
        };
        for told in self.ranges.fold(seen) {
            match told {
                Told::Apply((name, object)) => {
                    let (ranges, problems) = convert::service_cidr(&name, &object);
                    self.complain(ObjectRef::ServiceCidr(name.clone()), problems);
                    self.ranges_by_name.insert(name, ranges);
                }
                Told::Delete(name) => {
                    self.ranges_by_name.remove(&name);
                    self.complain(ObjectRef::ServiceCidr(name), vec![]);
                }
                Told::Synced => {}
            }
        }
        // Half a list would be a smaller cluster than there is.
        let all = convert::union(self.ranges_by_name.values().flatten());
        if !self.ranges.is_synced() || all == self.ranges_told {
            return Ok(());
        }
        self.ranges_told.clone_from(&all);
        self.tell(Change::ServiceCidrs(all)).await
    }

    async fn tell(&mut self, change: Change) -> Result<(), Closed> {
        match &change {
            Change::ServiceDelete(key) => self.complain(ObjectRef::Service(key.clone()), vec![]),
            Change::SliceDelete(key) => self.complain(ObjectRef::EndpointSlice(key.clone()), vec![]),
            Change::Synced(_) => self.publish(),
            _ => {}
        }
        self.changes.send(change).await.map_err(|_| Closed)
    }

    /// What was seen, in the words of the fold; all else becomes a problem, or the end of one.
    fn seen<K: Clone, T>(
        &mut self,
        watched: &'static str,
        news: News<T>,
        key: fn(&Name) -> K,
        object: fn(K) -> ObjectRef,
    ) -> Option<Seen<K, (K, T)>> {
        let (listed, Object { name, content, .. }) = match news {
            News::ListStarts => return Some(Seen::ListStarts),
            News::ListEnds => return Some(Seen::ListEnds),
            News::Deleted(name) => return Some(Seen::Deleted(key(&name))),
            News::Listed(object) => (true, object),
            News::Applied(object) => (false, object),
            News::Answers => {
                if self.complaints.works(watched) {
                    self.publish();
                }
                return None;
            }
            News::Clock { server, own } => {
                self.compare_clocks(server, own);
                return None;
            }
            News::Failed(cause) => {
                self.failed(watched, &cause);
                return None;
            }
        };
        let key = key(&name);
        match content {
            Ok(object) if listed => Some(Seen::Listed(key.clone(), (key, object))),
            Ok(object) => Some(Seen::Applied(key.clone(), (key, object))),
            Err(reason) => {
                let object = object(key.clone());
                let problem = Problem {
                    severity: Severity::Error,
                    object: object.clone(),
                    field: "".into(),
                    reason: format!("it can't be read: {reason}. What it said before stays in force").into(),
                };
                self.complain(object, vec![problem]);
                Some(Seen::Unreadable(key))
            }
        }
    }

    fn failed(&mut self, watched: &'static str, cause: &Cause) {
        let problem = |severity, remedy: &str| {
            SourceProblem::general(severity, None, format!("watching {watched}: {cause}. {remedy}"))
        };
        if watched == SERVICE_CIDRS && cause.is_denied() {
            self.complaints
                .done_without(watched, problem(Severity::Info, WITHOUT_SERVICE_CIDRS));
        } else {
            let problem = problem(Severity::Error, cause.remedy());
            self.complaints.failed(watched, problem, SystemTime::now());
        }
        self.publish();
    }

    /// Nothing here depends on the server's clock, but certificates, tokens and measured latencies do.
    fn compare_clocks(&mut self, server: SystemTime, own: SystemTime) {
        const CLOCK: &str = "clock";
        let (off, way) = match server.duration_since(own) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let changed = if off <= CLOCK_OFF_MAX {
            self.complaints.works(CLOCK)
        } else {
            self.complaints.done_without_if_new(CLOCK, || {
                let reason = format!(
                    "the API server's clock is {} s {way} this machine's: certificates and tokens may be refused, and the latency \
                     of programming is measured wrongly; what is served does not depend on it. Synchronise both (NTP)",
                    off.as_secs()
                );
                SourceProblem::general(Severity::Info, None, reason)
            })
        };
        if changed {
            self.publish();
        }
    }

    /// The Service by whose ClusterIP this agent reaches the API server: that ends with the next reboot.
    fn serves_its_own_server(&self, service: &Service) -> Option<Problem> {
        let guessed = self.guessed.filter(|address| service.cluster_ips.contains(address))?;
        Some(Problem {
            severity: Severity::Warning,
            object: ObjectRef::Service(service.key.clone()),
            field: "spec.clusterIP".into(),
            reason: format!(
                "this agent reaches the API server by it ({guessed}), and serves it itself: after a reboot nobody does, and the \
                 agent can't begin. Name the server itself by --api-server URL (SLUICE_API_SERVER)"
            )
            .into(),
        })
    }

    fn complain(&mut self, object: ObjectRef, problems: Vec<Problem>) {
        self.unpublished |= self.complaints.about(object, problems);
    }

    fn tidy(&mut self) {
        if self.unpublished {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.unpublished = false;
        let synced = self.services.is_synced() && self.slices.is_synced();
        let away_since = self.complaints.away_since();
        SourceStatus::publish(&self.status, synced, away_since, self.complaints.list());
    }
}

fn service_key(name: &Name) -> ServiceKey {
    ServiceKey::new(&name.namespace, &name.name)
}

fn slice_key(name: &Name) -> SliceKey {
    SliceKey::new(&name.namespace, &name.name)
}

/// Of an object that lives in no namespace.
fn bare_name(name: &Name) -> Box<str> {
    name.name.clone()
}

const WITHOUT_SERVICE_CIDRS: &str = "The agent does without them: packets to a ClusterIP that no Service has are not \
     dropped. Kubernetes has them from 1.33 on, and the service account's ClusterRole needs get, list and watch on \
     servicecidrs.networking.k8s.io";
