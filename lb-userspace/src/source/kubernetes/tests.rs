//! The whole source against an API server of a hundred lines: lists, watches, failures, in plain HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use super::{KubernetesError, run};
use crate::model::{Change, Severity};
use crate::source::SourceStatus;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Longer than two rounds of kube's first back-offs.
const SOON: Duration = Duration::from_secs(10);

/// What the server answers to lists; watches get what is sent to `events`: path and line.
struct Server {
    lists: Mutex<HashMap<&'static str, (u16, Value)>>,
    events: broadcast::Sender<(&'static str, String)>,
    queries: Mutex<Vec<String>>,
}

impl Server {
    fn set(&self, path: &'static str, objects: &Value) {
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": objects});
        self.lists.lock().unwrap().insert(path, (200, list));
    }

    fn refuse(&self, path: &'static str, code: u16) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "x", "message": "no"});
        self.lists.lock().unwrap().insert(path, (code, status));
    }

    fn event(&self, path: &'static str, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string();
        self.events.send((path, line)).unwrap();
    }

    /// Answers requests on one connection; a watch is the last of them.
    async fn serve(self: Arc<Self>, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        while let Some(first) = lines.next_line().await? {
            while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
            let target = first.split(' ').nth(1).unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            self.queries.lock().unwrap().push(target.to_owned());
            if query.contains("watch=true") {
                let mut events = self.events.subscribe();
                write
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
                    )
                    .await?;
                while let Ok((to, line)) = events.recv().await {
                    if to == path {
                        write
                            .write_all(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes())
                            .await?;
                    }
                }
                return Ok(());
            }
            let (code, body) = self.lists.lock().unwrap()[path].clone();
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            write.write_all((head + &body).as_bytes()).await?;
        }
        Ok(())
    }
}

struct Lab {
    server: Arc<Server>,
    changes: mpsc::Receiver<Change>,
    status: watch::Receiver<SourceStatus>,
    wants_others: watch::Sender<bool>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Lab {
    async fn start(prepare: impl FnOnce(&Server)) -> Self {
        let server = Arc::new(Server {
            lists: Mutex::default(),
            events: broadcast::channel(64).0,
            queries: Mutex::default(),
        });
        for path in [SERVICES, SLICES, NODES, RANGES] {
            server.set(path, &json!([]));
        }
        prepare(&server);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(kubeconfig.path(), text.to_string()).unwrap();
        let (sender, changes) = mpsc::channel(64);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (wants_others, wanted) = watch::channel(false);
        tokio::spawn(run(
            Some(kubeconfig.path().to_owned()),
            "n1".to_owned(),
            wanted,
            sender,
            status_sender,
        ));
        Self {
            server,
            changes,
            status,
            wants_others,
            _kubeconfig: kubeconfig,
        }
    }

    /// The next so many changes, sorted: the watches run side by side.
    async fn next(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        while words.len() < count {
            let change = timeout(SOON, self.changes.recv())
                .await
                .expect("a change in time")
                .unwrap();
            words.push(match change {
                Change::ServiceApply(service) => format!("+{}", service.key),
                Change::ServiceDelete(key) => format!("-{key}"),
                Change::SliceApply(slice) => format!("~+{}", slice.key),
                Change::SliceDelete(key) => format!("~-{key}"),
                Change::Node(Some(facts)) => {
                    let (zone, eligible) = (facts.zone.as_deref(), facts.eligible());
                    format!(
                        "node in zone {}{}",
                        zone.unwrap_or("none"),
                        if eligible { "" } else { ", leaving" }
                    )
                }
                Change::Node(None) => "no node".to_owned(),
                Change::OtherNodes(nodes) => {
                    let names: Vec<_> = nodes.keys().map(|name| &**name).collect();
                    format!("others {}", names.join(" "))
                }
                Change::ServiceCidrs(ranges) => {
                    let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
                    format!("ranges {}", ranges.join(" "))
                }
                Change::Synced(kind) => format!("synced {kind:?}"),
            });
        }
        words.sort();
        words
    }

    async fn problem(&mut self) -> String {
        let status = timeout(SOON, self.status.wait_for(|status| !status.problems.is_empty()))
            .await
            .unwrap()
            .unwrap();
        status.problems[0].to_string()
    }

    /// Waits until this kind is watched.
    async fn watched(&self, path: &str) {
        let watches = |query: &String| query.starts_with(path) && query.contains("watch=true");
        let waiting = async {
            while !self.server.queries.lock().unwrap().iter().any(watches) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, waiting).await.expect("a watch in time");
    }
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "2", "managedFields": [{"manager": "x"}]},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}})
}

fn slice(name: &str, addresses: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "2",
        "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": addresses}], "ports": [{"name": "", "port": 80, "protocol": "TCP"}]})
}

fn node(zone: &str) -> Value {
    json!({"metadata": {"name": "n1", "resourceVersion": "2", "labels": {"topology.kubernetes.io/zone": zone}}})
}

#[tokio::test]
async fn other_nodes_are_watched_once_somebody_asks_for_them() {
    let node = |name: &str| json!({"metadata": {"name": name, "resourceVersion": "2"}});
    let mut lab = Lab::start(|server| server.set(NODES, &json!([node("n1")]))).await;
    lab.next(3).await;
    lab.watched(NODES).await;
    let of_all = |query: &String| query.starts_with(NODES) && !query.contains("fieldSelector");
    assert!(
        !lab.server.queries.lock().unwrap().iter().any(of_all),
        "nobody has asked"
    );
    lab.server.set(NODES, &json!([node("n1"), node("n2"), node("n3")]));
    lab.wants_others.send(true).unwrap();
    assert_eq!(lab.next(1).await, ["others n2 n3"], "together, without the own one");
}

fn service_cidr(name: &str, ranges: &Value) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "2"}, "spec": {"cidrs": ranges}})
}

#[tokio::test]
async fn lists_and_watches_become_changes() {
    let mut lab = Lab::start(|server| {
        server.set(SERVICES, &json!([service("web")]));
        server.set(SLICES, &json!([slice("web-1", &json!(["10.0.0.1"]))]));
        server.set(NODES, &json!([node("a")]));
    })
    .await;
    let expected = [
        "+default/web",
        "node in zone a",
        "synced EndpointSlices",
        "synced Services",
        "~+default/web-1",
    ];
    assert_eq!(lab.next(5).await, expected);
    let status = timeout(SOON, lab.status.wait_for(|status| status.synced))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(status.origin.starts_with("Kubernetes API at http://127.0.0.1:") && status.problems.is_empty());

    for path in [SERVICES, SLICES, NODES] {
        lab.watched(path).await;
    }
    lab.server.event(SERVICES, "ADDED", &service("api"));
    assert_eq!(lab.next(1).await, ["+default/api"]);
    lab.server
        .event(SLICES, "MODIFIED", &slice("web-1", &json!(["10.0.0.2"])));
    assert_eq!(lab.next(1).await, ["~+default/web-1"]);
    lab.server
        .event(SLICES, "DELETED", &slice("web-1", &json!(["10.0.0.2"])));
    assert_eq!(lab.next(1).await, ["~-default/web-1"]);
    lab.server.event(SERVICES, "DELETED", &service("web"));
    assert_eq!(lab.next(1).await, ["-default/web"]);
    lab.server.event(NODES, "MODIFIED", &node("a"));
    lab.server.event(NODES, "MODIFIED", &node(""));
    assert_eq!(
        lab.next(1).await,
        ["node in zone none"],
        "only what changed, and an empty label is none"
    );
}

#[tokio::test]
async fn the_own_node_is_told_when_what_is_read_of_it_changes() {
    let mut lab = Lab::start(|server| server.set(NODES, &json!([node("a")]))).await;
    assert!(lab.next(3).await.contains(&"node in zone a".to_owned()));
    lab.watched(NODES).await;
    let mut heartbeat = node("a");
    heartbeat["status"] = json!({"images": [{"names": ["x"], "sizeBytes": 1}]});
    lab.server.event(NODES, "MODIFIED", &heartbeat);
    let mut leaving = node("a");
    leaving["spec"] = json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
    lab.server.event(NODES, "MODIFIED", &leaving);
    assert_eq!(lab.next(1).await, ["node in zone a, leaving"], "not for the heartbeat");
    lab.server.event(NODES, "DELETED", &leaving);
    assert_eq!(lab.next(1).await, ["no node"]);
    lab.server.event(NODES, "ADDED", &node("b"));
    assert_eq!(lab.next(1).await, ["node in zone b"]);
}

#[tokio::test]
async fn service_ranges_are_told_as_their_union() {
    let first = service_cidr("kubernetes", &json!(["10.96.0.0/16", "fd00:96::/112"]));
    let second = service_cidr("more", &json!(["10.97.0.0/16", "10.96.0.0/16"]));
    let mut lab = Lab::start(|server| server.set(RANGES, &json!([first, second]))).await;
    assert!(
        lab.next(3)
            .await
            .contains(&"ranges 10.96.0.0/16 10.97.0.0/16 fd00:96::/112".to_owned())
    );
    lab.watched(RANGES).await;
    lab.server.event(RANGES, "DELETED", &second);
    assert_eq!(lab.next(1).await, ["ranges 10.96.0.0/16 fd00:96::/112"]);
    lab.server.event(RANGES, "DELETED", &first);
    assert_eq!(lab.next(1).await, ["ranges "]);
}

#[tokio::test]
async fn without_service_ranges_the_source_is_synced_and_says_what_is_missing() {
    for code in [403, 404] {
        let mut lab = Lab::start(|server| server.refuse(RANGES, code)).await;
        assert_eq!(lab.next(2).await, ["synced EndpointSlices", "synced Services"]);
        let told = |status: &SourceStatus| status.synced && !status.problems.is_empty();
        let status = timeout(SOON, lab.status.wait_for(told)).await.unwrap().unwrap().clone();
        let [problem] = &*status.problems else {
            panic!("{status:?}")
        };
        assert_eq!(problem.severity, Severity::Info, "{problem}");
        let text = problem.to_string();
        assert!(text.starts_with("watching ServiceCIDRs: "), "{text}");
        assert!(text.contains("The agent does without them"), "{text}");
    }
}

#[tokio::test]
async fn the_server_is_asked_for_what_a_proxy_needs() {
    let mut lab = Lab::start(|_| {}).await;
    lab.next(2).await;
    lab.watched(NODES).await;
    let queries = lab.server.queries.lock().unwrap().clone();
    let has = |path: &str, part: &str| {
        queries
            .iter()
            .any(|query| query.starts_with(path) && query.contains(part))
    };
    let labels = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";
    assert!(has(SERVICES, labels) && has(SLICES, labels), "{queries:?}");
    assert!(has(SERVICES, "fieldSelector=spec.clusterIP%21%3DNone"), "{queries:?}");
    assert!(has(NODES, "fieldSelector=metadata.name%3Dn1"), "{queries:?}");
}

#[tokio::test]
async fn a_list_after_an_interruption_takes_away_what_vanished() {
    let mut lab = Lab::start(|server| server.set(SERVICES, &json!([service("web"), service("api")]))).await;
    lab.next(4).await;
    lab.watched(SERVICES).await;
    lab.server.set(SERVICES, &json!([service("web")]));
    lab.server.event(
        SERVICES,
        "ERROR",
        &json!({"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}),
    );
    assert_eq!(lab.next(2).await, ["+default/web", "-default/api"]);
    assert!(
        lab.status.borrow().problems.is_empty(),
        "an old watch is nothing to complain about"
    );
}

#[tokio::test]
async fn a_refusal_is_reported_with_its_remedy_until_it_ends() {
    let mut lab = Lab::start(|server| server.refuse(SLICES, 403)).await;
    let problem = lab.problem().await;
    assert!(problem.starts_with("watching EndpointSlices: "), "{problem}");
    assert!(
        problem.contains("needs a ClusterRole with get, list and watch"),
        "{problem}"
    );
    assert_eq!(lab.next(1).await, ["synced Services"]);
    assert!(!lab.status.borrow().synced);
    lab.server.set(SLICES, &json!([]));
    assert_eq!(lab.next(1).await, ["synced EndpointSlices"]);
    let healthy = |status: &SourceStatus| status.synced && status.problems.is_empty();
    timeout(SOON, lab.status.wait_for(healthy)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_bad_endpoint_is_reported_and_costs_only_itself() {
    let mut lab = Lab::start(|server| server.set(SLICES, &json!([slice("web-1", &json!(["127.0.0.1"]))]))).await;
    let expected = "EndpointSlice default/web-1: endpoints[0].addresses[0]: 127.0.0.1 is a loopback address";
    assert!(lab.problem().await.starts_with(expected));
    assert!(lab.next(3).await.contains(&"~+default/web-1".to_owned()));
    lab.watched(SLICES).await;
    lab.server
        .event(SLICES, "DELETED", &slice("web-1", &json!(["127.0.0.1"])));
    timeout(SOON, lab.status.wait_for(|status| status.problems.is_empty()))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_named() {
    let (sender, _changes) = mpsc::channel(1);
    let (status, _) = watch::channel(SourceStatus::default());
    let (_, wanted) = watch::channel(false);
    let error = run(
        Some("/nowhere/kubeconfig".into()),
        "n1".to_owned(),
        wanted,
        sender,
        status,
    )
    .await
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot use the kubeconfig file /nowhere/kubeconfig: "),
        "{error}"
    );
}

/// A server over TLS: that the client can be made at all shows that a cryptography provider is built in.
#[tokio::test]
async fn tls_is_built_in() {
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    std::fs::write(kubeconfig.path(), text.to_string()).unwrap();
    let (sender, changes) = mpsc::channel(1);
    let (status_sender, mut status) = watch::channel(SourceStatus::default());
    let task = tokio::spawn(run(
        Some(kubeconfig.path().to_owned()),
        "n1".to_owned(),
        watch::channel(false).1,
        sender,
        status_sender,
    ));
    let refused = timeout(SOON, status.wait_for(|status| !status.problems.is_empty()))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(
        refused.problems[0]
            .to_string()
            .contains("Is the API server running and its address right?")
    );
    drop(changes);
    assert!(matches!(
        timeout(SOON, task).await.unwrap().unwrap(),
        Err(KubernetesError::Closed(_))
    ));
}
