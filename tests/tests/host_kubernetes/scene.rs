//! A source that follows a server, and what it says; objects as a server has them.

use std::time::Duration;

use lb_userspace::model::Change;
use lb_userspace::source::SourceStatus;
use lb_userspace::source::kubernetes::{Access, KubernetesError, Patience, run};
use serde_json::{Value, json};
use tests::api_server::{ApiServer, Resource};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, on a busy machine, too.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long nothing must come where nothing is due.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);
/// The name of the own node.
pub(crate) const NODE: &str = "n1";

/// As in production, but for the times.
pub(crate) const PATIENCE: Patience = Patience {
    answer: Duration::from_millis(700),
    retry_min: Duration::from_millis(20),
    retry_max: Duration::from_millis(200),
    refused: Duration::from_millis(400),
    event: Duration::from_millis(50),
};

/// The source, as the agent runs it.
pub(crate) struct Source {
    changes: mpsc::Receiver<Change>,
    pub(crate) status: watch::Receiver<SourceStatus>,
    pub(crate) task: JoinHandle<Result<(), KubernetesError>>,
    /// Whether somebody needs the other Nodes.
    pub(crate) wants_others: watch::Sender<bool>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Source {
    /// Follows the server that a kubeconfig leads to.
    pub(crate) fn of(kubeconfig: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), kubeconfig).expect("a written file");
        let access = Access {
            kubeconfig: Some(file.path().to_owned()),
            api_server: None,
        };
        Self::by(access, file)
    }

    pub(crate) fn by(access: Access, kubeconfig: tempfile::NamedTempFile) -> Self {
        let (sender, changes) = mpsc::channel(65_536);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (wants_others, wanted) = watch::channel(false);
        let task = tokio::spawn(run(access, PATIENCE, NODE.to_owned(), wanted, sender, status_sender));
        Self {
            changes,
            status,
            task,
            wants_others,
            _kubeconfig: kubeconfig,
        }
    }

    /// Nobody hears it any more.
    pub(crate) fn unheard(self) -> JoinHandle<Result<(), KubernetesError>> {
        self.task
    }

    /// The next so many changes, sorted, since the watches run side by side.
    pub(crate) async fn next(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        while words.len() < count {
            let change = timeout(SOON, self.changes.recv()).await;
            let change =
                change.unwrap_or_else(|_| panic!("{count} changes were awaited, and only these came: {words:?}"));
            words.push(word(&change.expect("the source goes on")));
        }
        words.sort();
        words
    }

    /// Changes up to this one, in the order in which they came.
    pub(crate) async fn until(&mut self, last: &str) -> Vec<String> {
        let mut words = Vec::new();
        while words.last().is_none_or(|word| word != last) {
            let change = timeout(SOON, self.changes.recv()).await;
            let change = change.unwrap_or_else(|_| panic!("{last} was awaited, and only these came: {words:?}"));
            words.push(word(&change.expect("the source goes on")));
        }
        words
    }

    /// The next change itself.
    pub(crate) async fn change(&mut self) -> Change {
        timeout(SOON, self.changes.recv())
            .await
            .expect("a change in time")
            .expect("the source goes on")
    }

    /// Nothing comes.
    pub(crate) async fn nothing(&mut self) {
        if let Ok(change) = timeout(SILENCE, self.changes.recv()).await {
            panic!("nothing is due, and this came: {:?}", change.as_ref().map(word));
        }
    }

    /// Waits until the status is so.
    pub(crate) async fn status(&mut self, what: &str, is_so: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        let waited = timeout(SOON, self.status.wait_for(|status| is_so(status)))
            .await
            .map(|found| found.expect("the source goes on").clone());
        waited.unwrap_or_else(|_| panic!("{what}: {:#?}", *self.status.borrow()))
    }

    /// Waits for a problem that says this, and gives it.
    pub(crate) async fn problem(&mut self, part: &str) -> String {
        let find = |status: &SourceStatus| {
            status
                .problems
                .iter()
                .map(ToString::to_string)
                .find(|text| text.contains(part))
        };
        let status = self.status(part, |status| find(status).is_some()).await;
        find(&status).expect("it was there")
    }

    /// Waits until nothing is wrong.
    pub(crate) async fn well(&mut self) {
        self.status("nothing is wrong", |status| {
            status.synced && status.problems.is_empty() && status.away_since.is_none()
        })
        .await;
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.status.borrow().problems.iter().map(ToString::to_string).collect()
    }
}

fn word(change: &Change) -> String {
    match change {
        Change::OtherNodes(nodes) => {
            let names: Vec<_> = nodes.keys().map(|name| &**name).collect();
            format!("others {}", names.join(" "))
        }
        Change::ServiceApply(service) => format!("+{}", service.key),
        Change::ServiceDelete(key) => format!("-{key}"),
        Change::SliceApply(slice) => format!("~+{}", slice.key),
        Change::SliceDelete(key) => format!("~-{key}"),
        Change::Node(Some(facts)) => {
            let (zone, eligible) = (facts.zone.as_deref(), facts.eligible());
            let leaving = if eligible { "" } else { ", leaving" };
            format!("node in zone {}{leaving}", zone.unwrap_or("none"))
        }
        Change::Node(None) => "no node".to_owned(),
        Change::ServiceCidrs(ranges) => {
            let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            format!("ranges {}", ranges.join(" "))
        }
        Change::Synced(kind) => format!("synced {kind:?}"),
    }
}

/// A server with these objects.
pub(crate) fn server(objects: impl IntoIterator<Item = Value>) -> ApiServer {
    let server = ApiServer::start().expect("a server");
    server.put(objects).expect("objects");
    server
}

/// Waits until a kind has been asked for with this in the request so many times.
pub(crate) async fn asked(server: &ApiServer, resource: Resource, part: &str, times: usize) {
    let waiting = async {
        while server.asked(resource, part) < times {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(SOON, waiting).await;
    waited.unwrap_or_else(|_| {
        panic!(
            "no {times} requests for {resource:?} with {part}: {:#?}",
            server.requests()
        )
    });
}

pub(crate) fn service(name: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}})
}

pub(crate) fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    json!({"kind": "EndpointSlice", "metadata": {"name": name, "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80, "protocol": "TCP"}]})
}

pub(crate) fn node(zone: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": zone}}})
}

pub(crate) fn service_cidr(name: &str, ranges: &[&str]) -> Value {
    json!({"kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": ranges}})
}
