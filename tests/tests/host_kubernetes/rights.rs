//! What the deployed manifests allow is what an agent asks for.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use lb_userspace::model::ServiceKey;
use lb_userspace::source::kubernetes::{Notice, Reason};
use serde::Deserialize as _;
use tests::api_server::Resource;
use tokio::time::sleep;

use crate::events::Writer;
use crate::scene::{PATIENCE, Source, asked, node, server, service, service_cidr, slice};

fn rules() -> Vec<PolicyRule> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/deploy/kustomize.yaml");
    let text = std::fs::read_to_string(path).expect("what the manifests come to");
    let objects = serde_norway::Deserializer::from_str(&text)
        .map(|object| serde_norway::Value::deserialize(object).expect("YAML"));
    let mut roles = objects.filter(|object| object["kind"] == "ClusterRole");
    let role: ClusterRole = serde_norway::from_value(roles.next().expect("a ClusterRole")).expect("a ClusterRole");
    role.rules.expect("rules")
}

/// Group, resource and verb of a request, as RBAC has them.
fn right(method: &str, target: &str) -> [String; 3] {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let group = if parts.remove(0) == "apis" { parts.remove(0) } else { "" };
    let _version = parts.remove(0);
    if parts.first() == Some(&"namespaces") {
        parts.drain(..2);
    }
    let verb = match (method, parts.len()) {
        ("GET", 2) => "get",
        ("GET", _) if query.contains("watch=true") => "watch",
        ("GET", _) => "list",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        other => panic!("{other:?} {target}"),
    };
    [group, parts[0], verb].map(str::to_owned)
}

#[tokio::test]
async fn the_manifests_allow_what_is_asked_for_and_no_other_writing() {
    let objects = [
        service("web"),
        slice("web-1", &["10.0.0.1"]),
        node("a"),
        service_cidr("kubernetes", &["10.96.0.0/16"]),
    ];
    let server = server(objects);
    server.fault(|faults| faults.no_streamed_lists = true);
    let mut source = Source::of(&server.kubeconfig());
    source.wants_others.send(true).expect("it is heard");
    source.well().await;
    asked(&server, Resource::Nodes, "watch=true", 2).await;
    let writer = Writer::to(&server.kubeconfig());
    let web = ServiceKey::new("shop", "web");
    for written in 1..=2 {
        writer.say(&Notice::of_service(Reason::NotServedAsWritten, &web, "what is wrong"));
        writer.came_to(written, 0).await;
        sleep(PATIENCE.event).await;
    }

    let used: BTreeSet<_> = server
        .asked_for()
        .iter()
        .map(|(method, target)| right(method.as_str(), target))
        .collect();
    let mut allowed = BTreeSet::new();
    for rule in rules() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                allowed.extend(rule.verbs.iter().map(|verb| [group, resource, verb].map(Clone::clone)));
            }
        }
    }
    assert_eq!(used.difference(&allowed).next(), None, "{used:#?}");
    let reading = ["get", "list", "watch"];
    let unused = allowed.difference(&used);
    let writing: Vec<_> = unused.filter(|right| !reading.contains(&right[2].as_str())).collect();
    assert!(writing.is_empty(), "{writing:?}");
}
