//! A Kubernetes cluster as source: watches of Services, EndpointSlices and the own Node.
//!
//! The only file that says `kube`. Selectors are the server's business, as kube-proxy has it (behaviour reference §1.1):
//! an object that gains an excluding label comes as deleted. Objects are converted as they come and not kept; managed
//! fields and all that is not read go with them. It needs nothing but `list` and `watch`. Not here: what objects mean
//! (`source::convert`), noticing what vanished (`relist`). [`run`] is called by the agent's main loop.

mod complaints;
mod relist;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice as ApiEndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use self::complaints::Complaints;
use self::relist::{Relist, Seen, Told};
use super::convert::{self, HEADLESS_LABEL, PROXY_NAME_LABEL};
use super::problem::{Closed, SourceProblem, SourceStatus};
use crate::model::{Change, ObjectRef, Problem, ServiceKey, Severity, SliceKey, SyncedKind};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
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

/// Watches a cluster and tells Services, EndpointSlices and the own node's zone as [`Change`]s, for ever.
///
/// Without a `kubeconfig` the pod's service account is used, or what `kubectl` would use. While the server cannot be
/// reached, what was told stays in force, `status` says why, and attempts go on. It ends only when nobody receives changes
/// any more, or before it began with an error. Drop the future to stop it.
pub async fn run(
    kubeconfig: Option<PathBuf>,
    node_name: String,
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
    let mut node = pin!(watcher(Api::<PartialObjectMeta<ApiNode>>::all(client), of_node).default_backoff());

    let mut tidy = interval(TIDY_EVERY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller::new(changes, status);
    loop {
        tokio::select! {
            Some(event) = services.next() => teller.service_event(event).await?,
            Some(event) = slices.next() => teller.slice_event(event).await?,
            Some(event) = node.next() => teller.node_event(event).await?,
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
    zone: Option<Box<str>>,
}

impl Teller {
    fn new(changes: mpsc::Sender<Change>, status: watch::Sender<SourceStatus>) -> Self {
        let (services, slices) = (Relist::default(), Relist::default());
        Self {
            changes,
            status,
            complaints: Complaints::default(),
            unpublished: false,
            services,
            slices,
            zone: None,
        }
    }

    async fn service_event(&mut self, event: watcher::Result<Event<ApiService>>) -> Result<(), Closed> {
        let Some(event) = self.answer("Services", event) else {
            return Ok(());
        };
        let Some(seen) = seen(event, ServiceKey::new) else {
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
        let Some(seen) = seen(event, SliceKey::new) else {
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

    async fn node_event(&mut self, event: watcher::Result<Event<PartialObjectMeta<ApiNode>>>) -> Result<(), Closed> {
        let Some(event) = self.answer("the own Node", event) else {
            return Ok(());
        };
        // A Node that is deleted keeps its zone: the machine has not moved, and endpoints should not for that.
        let (Event::Apply(node) | Event::InitApply(node)) = event else {
            return Ok(());
        };
        let zone = node.metadata.labels.and_then(|mut labels| labels.remove(ZONE_LABEL));
        let zone: Option<Box<str>> = zone.filter(|zone| !zone.is_empty()).map(Into::into);
        if zone == self.zone {
            return Ok(());
        }
        self.zone = zone.clone();
        self.tell(Change::NodeZone(zone)).await
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
                let reason = format!("watching {watched}: {error}. {}", remedy(&error));
                self.complaints.failed(
                    watched,
                    SourceProblem::general(Severity::Error, None, reason),
                    Instant::now(),
                );
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
fn seen<K: Clone, T: Resource>(event: Event<T>, key: fn(&str, &str) -> K) -> Option<Seen<K, (K, T)>> {
    let name = |object: &T| {
        let meta = object.meta();
        Some(key(meta.namespace.as_deref()?, meta.name.as_deref()?))
    };
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

/// What a person can do about it.
fn remedy(error: &watcher::Error) -> &'static str {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    let code = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.code,
        InitialListFailed(kube::Error::SerdeError(_)) => {
            return "The server's answer was not understood; is its version supported?";
        }
        WatchFailed(_) => return "The connection broke; it is resumed where it broke off",
        NoResourceVersion => return "The server does not support watching; is it an API server?",
        InitialListFailed(_) | WatchStartFailed(_) => {
            return "Is the API server running and its address right? The address must not be the ClusterIP of the Service \
                    kubernetes, which this agent serves: in a pod, set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT \
                    to the server itself";
        }
    };
    match code {
        401 => "The credentials were refused; is the service account token or the kubeconfig out of date?",
        403 => {
            "The service account needs a ClusterRole with list and watch on services, nodes and \
             endpointslices.discovery.k8s.io"
        }
        404 => "The server does not know this kind; Kubernetes 1.21 or later is needed",
        429 | 500.. => "The server is overloaded or starting; it is asked again",
        _ => "It is asked again",
    }
}
