//! A Kubernetes cluster as source: watches of Services, EndpointSlices, ServiceCIDRs and the own Node, and of the other Nodes
//! once somebody needs them.
//!
//! The only file that says `kube`. Selectors are the server's business, as kube-proxy has it (behaviour reference §1.1):
//! an object that gains an excluding label comes as deleted. Objects are converted as they come and not kept; managed
//! fields and all that is not read go with them. It needs nothing but `get`, `list` and `watch`. Services and slices make
//! the source synced; it waits neither for the Node nor for ServiceCIDRs, and does without ServiceCIDRs where the server
//! has none or does not show them. Not here: what objects mean (`source::convert`), noticing what vanished (`relist`). [`run`] is called by the agent's main loop.

mod complaints;
mod others;
mod relist;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice as ApiEndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR as ApiServiceCidr;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use self::complaints::Complaints;
use self::others::Others;
use self::relist::{Relist, Seen, Told};
use super::convert::{self, HEADLESS_LABEL, PROXY_NAME_LABEL};
use super::problem::{Closed, SourceProblem, SourceStatus};
use crate::model::{Change, Cidr, NodeFacts, ObjectRef, Problem, ServiceKey, Severity, SliceKey, SyncedKind};

/// What the watch of ServiceCIDRs is called in complaints.
const SERVICE_CIDRS: &str = "ServiceCIDRs";
/// When a server that has no ServiceCIDRs, or does not show them, is asked again.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// How often problems of objects are published, and failures that did not recur forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(1);

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
    /// Neither a pod's service account nor a kubeconfig was found.
    #[error(
        "no way to the API server is known: {0}. In a pod, mount a service account token; outside, name a kubeconfig file"
    )]
    NoConfig(Box<str>),
    /// No client can be made of the configuration.
    #[error("cannot make a client for the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The agent is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Watches a cluster and tells Services, EndpointSlices, ServiceCIDRs and the own Node as [`Change`]s, for ever; the other
/// Nodes, too, from when `wants_others` has become true.
///
/// Without a `kubeconfig` the pod's service account is used, or what `kubectl` would use. While the server cannot be
/// reached, what was told stays in force, `status` says why, and attempts go on. It ends only when nobody receives changes
/// any more, or before it began with an error. Drop the future to stop it.
pub async fn run(
    kubeconfig: Option<PathBuf>,
    node_name: String,
    mut wants_others: watch::Receiver<bool>,
    changes: mpsc::Sender<Change>,
    status: watch::Sender<SourceStatus>,
) -> Result<(), KubernetesError> {
    let config = config(kubeconfig).await?;
    status.send_modify(|status| status.origin = format!("Kubernetes API at {}", config.cluster_url).into());
    let client = Client::try_from(config).map_err(|error| KubernetesError::Client(Box::new(error)))?;

    let not_opted_out = format!("!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}");
    let of_services = watcher::Config::default()
        .labels(&not_opted_out)
        .fields("spec.clusterIP!=None");
    let of_slices = watcher::Config::default().labels(&not_opted_out);
    let of_node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
    let mut services = pin!(watcher(Api::<ApiService>::all(client.clone()), of_services).default_backoff());
    let mut slices = pin!(watcher(Api::<ApiEndpointSlice>::all(client.clone()), of_slices).default_backoff());
    let mut node = pin!(watcher(Api::<ApiNode>::all(client.clone()), of_node).default_backoff());
    let all = watcher::Config::default();
    let mut others = pin!(watcher(Api::<ApiNode>::all(client.clone()), all.clone()).default_backoff());
    let mut ranges = pin!(watcher(Api::<ApiServiceCidr>::all(client), all).default_backoff());

    let mut tidy = interval(TIDY_EVERY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller::new(&node_name, changes, status);
    let mut asks_for_others = *wants_others.borrow_and_update();
    loop {
        tokio::select! {
            Some(event) = services.next() => teller.service_event(event).await?,
            Some(event) = slices.next() => teller.slice_event(event).await?,
            Some(event) = node.next() => teller.node_event(event).await?,
            Some(event) = others.next(), if asks_for_others => teller.other_node_event(event).await?,
            Ok(()) = wants_others.changed(), if !asks_for_others => asks_for_others = *wants_others.borrow_and_update(),
            Some(event) = ranges.next(), if teller.asks_for_ranges() => teller.service_cidr_event(event).await?,
            _ = tidy.tick() => teller.tidy(),
            () = teller.changes.closed() => return Err(Closed.into()),
        }
    }
}

/// The named file, else the pod's service account, else what `kubectl` on this machine would use.
async fn config(kubeconfig: Option<PathBuf>) -> Result<Config, KubernetesError> {
    let options = KubeConfigOptions::default();
    match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(&path);
            let config = match read {
                Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            };
            config.map_err(|error| KubernetesError::Kubeconfig {
                path,
                reason: error.to_string().into(),
            })
        }
        None => match Config::incluster() {
            Ok(config) => Ok(config),
            Err(in_pod) => Config::from_kubeconfig(&options).await.map_err(|outside| {
                KubernetesError::NoConfig(format!("as a pod: {in_pod}; as a user: {outside}").into())
            }),
        },
    }
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
    /// When the server last refused to show them.
    ranges_refused: Option<Instant>,
}

impl Teller {
    fn new(node_name: &str, changes: mpsc::Sender<Change>, status: watch::Sender<SourceStatus>) -> Self {
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
            ranges_refused: None,
        }
    }

    /// A server that refuses to show ServiceCIDRs is asked again after a while only: kube logs each refusal.
    fn asks_for_ranges(&self) -> bool {
        self.ranges_refused
            .is_none_or(|refused| refused.elapsed() >= REFUSED_AGAIN_AFTER)
    }

    async fn service_event(&mut self, event: watcher::Result<Event<ApiService>>) -> Result<(), Closed> {
        let Some(event) = self.answer("Services", event) else {
            return Ok(());
        };
        let Some(seen) = seen(event, |meta| {
            Some(ServiceKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?))
        }) else {
            return Ok(());
        };
        for told in self.services.fold(seen) {
            let change = match told {
                Told::Apply((key, object)) => {
                    let (service, problems) = convert::service(key, &object);
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

    async fn slice_event(&mut self, event: watcher::Result<Event<ApiEndpointSlice>>) -> Result<(), Closed> {
        let Some(event) = self.answer("EndpointSlices", event) else {
            return Ok(());
        };
        let Some(seen) = seen(event, |meta| {
            Some(SliceKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?))
        }) else {
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

    async fn node_event(&mut self, event: watcher::Result<Event<ApiNode>>) -> Result<(), Closed> {
        let Some(event) = self.answer("the own Node", event) else {
            return Ok(());
        };
        let Some(seen) = seen(event, name) else {
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

    async fn other_node_event(&mut self, event: watcher::Result<Event<ApiNode>>) -> Result<(), Closed> {
        let Some(event) = self.answer("the other Nodes", event) else {
            return Ok(());
        };
        let Some(seen) = seen(event, name) else {
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

    async fn service_cidr_event(&mut self, event: watcher::Result<Event<ApiServiceCidr>>) -> Result<(), Closed> {
        let Some(event) = self.answer(SERVICE_CIDRS, event) else {
            return Ok(());
        };
        let Some(seen) = seen(event, name) else {
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

    /// The event, if the server gave one; else the failure becomes a problem.
    fn answer<T>(&mut self, watched: &'static str, event: watcher::Result<Event<T>>) -> Option<Event<T>> {
        let event = match event {
            // kube announces a list before it asks for it: no answer yet.
            Ok(Event::Init) => return Some(Event::Init),
            Ok(event) => event,
            Err(error) => {
                // The server forgot where we were: kube lists anew, nothing is wrong.
                if matches!(&error, watcher::Error::WatchError(status) if status.code == 410) {
                    tracing::debug!("watching {watched}: {error}; listing anew");
                    return None;
                }
                let problem = |severity, remedy: &str| {
                    SourceProblem::general(severity, None, format!("watching {watched}: {error}. {remedy}"))
                };
                if watched == SERVICE_CIDRS && matches!(refusal(&error), Some(403 | 404)) {
                    self.ranges_refused = Some(Instant::now());
                    let problem = problem(Severity::Info, WITHOUT_SERVICE_CIDRS);
                    self.complaints.done_without(watched, problem);
                } else {
                    let problem = problem(Severity::Error, remedy(&error));
                    self.complaints.failed(watched, problem, Instant::now());
                }
                self.publish();
                return None;
            }
        };
        if self.complaints.works(watched) {
            self.publish();
        }
        Some(event)
    }

    fn complain(&mut self, object: ObjectRef, problems: Vec<Problem>) {
        self.unpublished |= self.complaints.about(object, problems);
    }

    fn tidy(&mut self) {
        if self.complaints.forget_recovered(Instant::now()) || self.unpublished {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.unpublished = false;
        let synced = self.services.is_synced() && self.slices.is_synced();
        SourceStatus::publish(&self.status, synced, self.complaints.list());
    }
}

/// An event in the words of the fold; `None` for an object without a name, which no server sends.
fn seen<K: Clone, T: Resource>(event: Event<T>, key: fn(&ObjectMeta) -> Option<K>) -> Option<Seen<K, (K, T)>> {
    let name = |object: &T| key(object.meta());
    Some(match event {
        Event::Init => Seen::ListStarts,
        Event::InitDone => Seen::ListEnds,
        Event::InitApply(object) => {
            let key = name(&object)?;
            Seen::Listed(key.clone(), (key, object))
        }
        Event::Apply(object) => {
            let key = name(&object)?;
            Seen::Applied(key.clone(), (key, object))
        }
        Event::Delete(object) => Seen::Deleted(name(&object)?),
    })
}

/// The name of an object that lives in no namespace.
fn name(meta: &ObjectMeta) -> Option<Box<str>> {
    meta.name.as_deref().map(Into::into)
}

const WITHOUT_SERVICE_CIDRS: &str = "The agent does without them: packets to a ClusterIP that no Service has are not \
     dropped. Kubernetes has them from 1.33 on, and the service account's ClusterRole needs get, list and watch on \
     servicecidrs.networking.k8s.io";

/// With which code the server refused, if it answered at all.
fn refusal(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// What a person can do about it.
fn remedy(error: &watcher::Error) -> &'static str {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchFailed};
    let Some(code) = refusal(error) else {
        return match error {
            InitialListFailed(kube::Error::SerdeError(_)) => {
                "The server's answer was not understood; is its version supported?"
            }
            WatchFailed(_) => "The connection broke; it is resumed where it broke off",
            NoResourceVersion => "The server does not support watching; is it an API server?",
            _ => {
                "Is the API server running and its address right? The address must not be the ClusterIP of the Service \
                 kubernetes, which this agent serves: in a pod, set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT \
                 to the server itself"
            }
        };
    };
    match code {
        401 => "The credentials were refused; is the service account token or the kubeconfig out of date?",
        403 => {
            "The service account needs a ClusterRole with get, list and watch on services, nodes, \
             endpointslices.discovery.k8s.io and servicecidrs.networking.k8s.io"
        }
        404 => "The server does not know this kind; Kubernetes 1.21 or later is needed",
        429 | 500.. => "The server is overloaded or starting; it is asked again",
        _ => "It is asked again",
    }
}
