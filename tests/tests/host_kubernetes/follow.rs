//! What is there, and what changes: lists in every form, watches, selectors.

use rstest::rstest;
use serde_json::{Value, json};
use tests::api_server::cluster::{Cluster, RealServer};
use tests::api_server::{ApiServer, Resource};

use crate::scene::{SOON, Source, asked, node, server, service, service_cidr, slice};

/// How a server gives lists.
fn streamed(_: &ApiServer) {}
fn in_pages(server: &ApiServer) {
    server.fault(|faults| faults.no_streamed_lists = true);
}
/// Of another make, perhaps behind a proxy: it takes the request for an ordinary watch.
fn unheard_of(server: &ApiServer) {
    server.fault(|faults| faults.ignores_streamed_lists = true);
}

/// Before Kubernetes 1.31: Services can't be selected by fields, and lists are not streamed.
fn before_1_31(server: &ApiServer) {
    server.fault(|faults| (faults.no_fields_of_services, faults.no_streamed_lists) = (true, true));
}

#[rstest]
#[case::streamed(streamed)]
#[case::in_pages(in_pages)]
#[case::unheard_of(unheard_of)]
#[case::before_1_31(before_1_31)]
#[tokio::test]
async fn lists_and_watches_become_changes(#[case] prepare: fn(&ApiServer)) {
    let server = server([service("web"), slice("web-1", &["10.0.0.1"]), node("a")]);
    prepare(&server);
    let mut source = Source::of(&server.kubeconfig());
    let expected = [
        "+shop/web",
        "node in zone a",
        "synced EndpointSlices",
        "synced Services",
        "~+shop/web-1",
    ];
    let mut seen = source.next(5).await;
    // Whatever was begun in vain is told again.
    while !expected.iter().all(|word| seen.iter().any(|seen| seen == word)) {
        seen.extend(source.next(1).await);
    }
    source.well().await;
    assert!(
        source
            .status
            .borrow()
            .origin
            .starts_with("Kubernetes API at http://127.0.0.1:")
    );

    server.put([service("api")]).unwrap();
    source.until("+shop/api").await;
    server.put([slice("web-1", &["10.0.0.2"])]).unwrap();
    assert_eq!(source.next(1).await, ["~+shop/web-1"]);
    server.delete(Resource::EndpointSlices, "shop", "web-1").unwrap();
    assert_eq!(source.next(1).await, ["~-shop/web-1"]);
    server.delete(Resource::Services, "shop", "web").unwrap();
    assert_eq!(source.next(1).await, ["-shop/web"]);
    server.put([node("a"), node("")]).unwrap();
    assert_eq!(
        source.next(1).await,
        ["node in zone none"],
        "only what changed, and an empty label is none"
    );
}

#[tokio::test]
async fn a_streamed_list_needs_one_request() {
    let server = server((0..1_200).map(|number| service(&format!("web{number}"))));
    let mut source = Source::of(&server.kubeconfig());
    source.next(1_202).await;
    source.well().await;
    let of_services = server
        .requests()
        .iter()
        .filter(|target| target.starts_with("/api/v1/services"))
        .count();
    assert_eq!(
        (of_services, server.asked(Resource::Services, "sendInitialEvents=true")),
        (1, 1)
    );
}

#[rstest]
#[case::in_time(false, 3, 0)]
#[case::too_late(true, 1, 1)]
#[tokio::test]
async fn long_lists_come_in_pages(#[case] expire: bool, #[case] pages: usize, #[case] without_limit: usize) {
    let server = server((0..1_200).map(|number| service(&format!("web{number}"))));
    server.fault(|faults| {
        (faults.no_streamed_lists, faults.pages_expire) = (true, expire);
    });
    let mut source = Source::of(&server.kubeconfig());
    let mut seen = source.until("synced Services").await;
    seen.retain(|word| word.starts_with('+'));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1_200, "every object is told");
    let requests = server.requests();
    let lists = requests
        .iter()
        .filter(|target| target.starts_with("/api/v1/services?") && !target.contains("watch="));
    let lists: Vec<_> = lists.collect();
    let with_limit = lists.iter().filter(|target| target.contains("limit=500")).count();
    let continued = lists.iter().filter(|target| target.contains("continue=")).count();
    assert_eq!(lists.len() - with_limit, without_limit, "{lists:#?}");
    assert_eq!(
        with_limit - continued + if expire { 0 } else { continued },
        pages,
        "{lists:#?}"
    );
    source.well().await;
}

#[tokio::test]
async fn the_own_node_is_told_when_what_is_read_of_it_changes() {
    let server = server([node("a")]);
    let mut source = Source::of(&server.kubeconfig());
    assert!(source.next(3).await.contains(&"node in zone a".to_owned()));
    let mut heartbeat = node("a");
    heartbeat["status"] = json!({"images": [{"names": ["x"], "sizeBytes": 1}]});
    let mut leaving = node("a");
    leaving["spec"] = json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
    let mut another = node("z");
    another["metadata"]["name"] = "n2".into();
    server.put([heartbeat, another, leaving]).unwrap();
    assert_eq!(
        source.next(1).await,
        ["node in zone a, leaving"],
        "neither the heartbeat nor another node"
    );
    server.delete(Resource::Nodes, "", "n1").unwrap();
    assert_eq!(source.next(1).await, ["no node"]);
    server.put([node("b")]).unwrap();
    assert_eq!(source.next(1).await, ["node in zone b"]);
}

#[tokio::test]
async fn other_nodes_are_watched_once_somebody_asks_for_them() {
    let named = |name: &str| {
        let mut other = node("a");
        other["metadata"]["name"] = name.into();
        other
    };
    let server = server([node("a"), named("n2"), named("n3")]);
    let mut source = Source::of(&server.kubeconfig());
    source.next(3).await;
    asked(&server, Resource::Nodes, "watch=true", 1).await;
    let own = server.asked(Resource::Nodes, "fieldSelector=metadata.name%3Dn1");
    assert_eq!(server.asked(Resource::Nodes, ""), own, "nobody has asked");
    source.wants_others.send(true).unwrap();
    assert_eq!(source.next(1).await, ["others n2 n3"], "together, without the own one");
    server.delete(Resource::Nodes, "", "n3").unwrap();
    assert_eq!(source.next(1).await, ["others n2"]);
}

#[tokio::test]
async fn service_ranges_are_told_as_their_union() {
    let first = service_cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/112"]);
    let second = service_cidr("more", &["10.97.0.0/16", "10.96.0.0/16"]);
    let server = server([first, second]);
    let mut source = Source::of(&server.kubeconfig());
    let both = "ranges 10.96.0.0/16 10.97.0.0/16 fd00:96::/112".to_owned();
    assert!(source.next(3).await.contains(&both));
    server.delete(Resource::ServiceCidrs, "", "more").unwrap();
    assert_eq!(source.next(1).await, ["ranges 10.96.0.0/16 fd00:96::/112"]);
    server.delete(Resource::ServiceCidrs, "", "kubernetes").unwrap();
    assert_eq!(source.next(1).await, ["ranges "]);
}

#[tokio::test]
async fn the_server_is_asked_for_what_a_proxy_needs() {
    let server = server([]);
    let mut source = Source::of(&server.kubeconfig());
    source.next(2).await;
    asked(&server, Resource::Nodes, "watch=true", 1).await;
    let labels = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";
    assert_eq!(server.asked(Resource::Services, labels), 1);
    assert_eq!(server.asked(Resource::EndpointSlices, labels), 1);
    assert_eq!(
        server.asked(Resource::Services, "fieldSelector=spec.clusterIP%21%3DNone"),
        1
    );
    assert_eq!(server.asked(Resource::Nodes, "fieldSelector=metadata.name%3Dn1"), 1);
    let bookmarks = Resource::WATCHED.map(|resource| server.asked(resource, "allowWatchBookmarks=true"));
    assert!(bookmarks.iter().all(|times| *times > 0), "{:#?}", server.requests());
}

/// Waits for a change about this object and passes over those about others: a real cluster has some of its own.
async fn told(source: &mut Source, expected: &str) {
    let waited = tokio::time::timeout(SOON, async {
        loop {
            if source.next(1).await == [expected] {
                return;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{expected} is not told"));
}

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    // A real server gives an address out itself.
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("clusterIP");
    }
    object
}

async fn label_selectors_are_the_servers_business(cluster: &Cluster) {
    let namespace = cluster.namespace().to_owned();
    let mut source = Source::of(&cluster.kubeconfig().unwrap());
    let web = in_namespace(service("web"), &namespace);
    for (label, value) in [
        ("service.kubernetes.io/service-proxy-name", "other"),
        ("service.kubernetes.io/service-proxy-name", ""),
        ("service.kubernetes.io/headless", ""),
    ] {
        cluster.put(&web).unwrap();
        told(&mut source, &format!("+{namespace}/web")).await;
        let mut handed_over = web.clone();
        handed_over["metadata"]["labels"] = json!({label: value});
        cluster.put(&handed_over).unwrap();
        told(&mut source, &format!("-{namespace}/web")).await;
    }
    cluster
        .put(&in_namespace(slice("web-1", &["10.0.0.1"]), &namespace))
        .unwrap();
    told(&mut source, &format!("~+{namespace}/web-1")).await;
    cluster.delete(Resource::EndpointSlices, "web-1").unwrap();
    told(&mut source, &format!("~-{namespace}/web-1")).await;
    cluster.delete(Resource::Services, "web").unwrap();
}

/// What was there before, what changes, and what an agent finds that comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_followed_from_what_is_there_on() {
    for cluster in Cluster::all().unwrap() {
        let namespace = cluster.namespace().to_owned();
        let (web, api) = (format!("{namespace}/web"), format!("{namespace}/api"));
        cluster.put(&in_namespace(service("web"), &namespace)).unwrap();
        cluster
            .put(&in_namespace(slice("web-1", &["10.0.0.1"]), &namespace))
            .unwrap();
        let mut source = Source::of(&cluster.kubeconfig().unwrap());
        let mut told = Vec::new();
        while !["synced Services", "synced EndpointSlices"]
            .iter()
            .all(|word| told.contains(&(*word).to_owned()))
        {
            told.extend(source.next(1).await);
        }
        for word in [format!("+{web}"), format!("~+{web}-1")] {
            assert_eq!(
                told.iter().filter(|told| **told == word).count(),
                1,
                "{word}: {told:#?}"
            );
        }
        cluster.put(&in_namespace(service("api"), &namespace)).unwrap();
        source.until(&format!("+{api}")).await;
        cluster
            .put(&in_namespace(slice("web-1", &["10.0.0.2"]), &namespace))
            .unwrap();
        source.until(&format!("~+{web}-1")).await;
        cluster.delete(Resource::Services, "web").unwrap();
        source.until(&format!("-{web}")).await;
        let mut later = Source::of(&cluster.kubeconfig().unwrap());
        let found = later.until("synced Services").await;
        assert!(
            found.contains(&format!("+{api}")) && !found.contains(&format!("+{web}")),
            "{found:#?}"
        );
        cluster.delete(Resource::EndpointSlices, "web-1").unwrap();
        source.until(&format!("~-{web}-1")).await;
        cluster.delete(Resource::Services, "api").unwrap();
        later.until(&format!("-{api}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_handed_to_another_proxy_counts_as_gone() {
    for cluster in Cluster::all().unwrap() {
        label_selectors_are_the_servers_business(&cluster).await;
    }
}

/// The way to a real server, by kubectl, to the one in this process: so that it is known to work when somebody has a real one.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_is_written_to_by_kubectl() {
    let server = server([]);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kubeconfig.path(), server.kubeconfig()).unwrap();
    let cluster = Cluster::Real(RealServer::at(kubeconfig.path(), false).unwrap());
    label_selectors_are_the_servers_business(&cluster).await;
}
