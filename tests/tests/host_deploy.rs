//! What is in `deploy/`: rendered by the programs that people render it with, held against the API's own types, and against what
//! it was (`tests/goldens/deploy`; `SLUICE_UPDATE_GOLDENS=1` writes them, look at the difference).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use rstest::rstest;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a program prints; an error is what it complains about.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}: is it installed? cargo xtask setup"))?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("text"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn kustomize() -> String {
    output(
        Command::new("kubectl")
            .arg("kustomize")
            .arg(root().join("deploy/kustomize")),
    )
    .expect("it can be rendered")
}

/// The chart with these values.
fn helm(values: &[&str]) -> Result<String, String> {
    let own = root().join("target/toolchain/helm/helm");
    let program = if own.exists() { own } else { PathBuf::from("helm") };
    let mut command = Command::new(program);
    command
        .args(["template", "sluice"])
        .arg(root().join("deploy/helm/sluice"));
    command.args(["--namespace", "kube-system", "--kube-version", "1.33.0"]);
    for value in values {
        command.args(["--set", value]);
    }
    output(&mut command)
}

const API_SERVER: &str = "apiServer=https://192.0.2.10:6443";
const ALL: [&str; 6] = [
    API_SERVER,
    "metrics.dashboard.enabled=true",
    "metrics.bindAddress=::",
    "config.xdp=native",
    "config.clusterCidr={10.244.0.0/16,fd00:10:244::/56}",
    "podLabels.team=network",
];

/// The documents of a text, each by kind and name, in this order whatever renders them.
fn documents(text: &str) -> Vec<(String, Value)> {
    let documents =
        serde_norway::Deserializer::from_str(text).map(|document| Value::deserialize(document).expect("YAML"));
    let mut named: Vec<(String, Value)> = documents
        .filter(|document| !document.is_null())
        .map(|document| {
            (
                format!("{} {}", document["kind"], document["metadata"]["name"]).replace('"', ""),
                document,
            )
        })
        .collect();
    named.sort_by(|one, other| one.0.cmp(&other.0));
    named
}

/// An object that has a field which its type does not have, or has another type, comes back otherwise.
fn check<T: DeserializeOwned + Serialize>(name: &str, object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut back = serde_json::to_value(typed).expect("JSON");
    // The types say what they are by themselves.
    back["apiVersion"] = object["apiVersion"].clone();
    back["kind"] = object["kind"].clone();
    assert_eq!(back, *object, "{name} has fields that the API does not know");
}

fn check_schema(documents: &[(String, Value)]) {
    for (name, object) in documents {
        match (object["apiVersion"].as_str(), object["kind"].as_str()) {
            (Some("apps/v1"), Some("DaemonSet")) => check::<DaemonSet>(name, object),
            (Some("v1"), Some("ConfigMap")) => check::<ConfigMap>(name, object),
            (Some("v1"), Some("Service")) => check::<Service>(name, object),
            (Some("v1"), Some("ServiceAccount")) => check::<ServiceAccount>(name, object),
            (Some("rbac.authorization.k8s.io/v1"), Some("ClusterRole")) => check::<ClusterRole>(name, object),
            (Some("rbac.authorization.k8s.io/v1"), Some("ClusterRoleBinding")) => {
                check::<ClusterRoleBinding>(name, object);
            }
            other => panic!("{name}: {other:?} is no kind that is deployed"),
        }
    }
}

#[rstest]
#[case("kustomize", kustomize())]
#[case("helm", helm(&[API_SERVER]).unwrap())]
#[case("helm-all", helm(&ALL).unwrap())]
fn rendered_as_before_and_as_the_api_has_it(#[case] name: &str, #[case] rendered: String) {
    let documents = documents(&rendered);
    check_schema(&documents);
    let text: Vec<String> = documents
        .iter()
        .map(|(_, object)| serde_norway::to_string(object).expect("YAML"))
        .collect();
    let text = text.join("---\n");
    let golden = root().join("tests/goldens/deploy").join(name).with_extension("yaml");
    if std::env::var_os("SLUICE_UPDATE_GOLDENS").is_some() {
        fs::write(&golden, &text).expect("it can be written");
    }
    assert_eq!(
        text,
        fs::read_to_string(&golden).unwrap_or_default(),
        "{} says otherwise",
        golden.display()
    );
}

/// The same from both, but for names and what only the chart can do.
#[test]
fn manifests_and_chart_run_the_same_pod() {
    let pod = |text: &str| -> Value {
        let documents = documents(text);
        let (_, daemon_set) = documents
            .iter()
            .find(|(name, _)| name.starts_with("DaemonSet"))
            .expect("a DaemonSet");
        let mut pod = daemon_set["spec"]["template"]["spec"].clone();
        // A ConfigMap of kustomize's has a hash in its name; the policy of pulling is the chart's.
        let volumes = pod["volumes"].as_array_mut().expect("volumes");
        volumes.iter_mut().for_each(|volume| {
            if let Some(config_map) = volume.get_mut("configMap") {
                config_map["name"] = "sluice".into();
            }
        });
        for containers in ["containers", "initContainers"] {
            for container in pod[containers].as_array_mut().expect("containers") {
                container
                    .as_object_mut()
                    .expect("a container")
                    .remove("imagePullPolicy");
            }
        }
        pod
    };
    assert_eq!(
        pod(&kustomize()),
        pod(&helm(&[API_SERVER]).expect("it can be rendered"))
    );
}

#[rstest]
#[case::no_server(&[], "apiServer is needed")]
#[case::no_url(&["apiServer=192.0.2.10"], "apiServer")]
#[case::a_typing_mistake(&[API_SERVER, "metric.port=1"], "metric")]
#[case::a_port_that_is_none(&[API_SERVER, "metrics.port=70000"], "metrics")]
#[case::a_field_that_the_chart_sets(&[API_SERVER, "config.nodeName=x"], "config")]
fn bad_values_are_refused(#[case] values: &[&str], #[case] named: &str) {
    let complaint = helm(values).expect_err("it is refused");
    assert!(complaint.contains(named), "{complaint}");
}

#[rstest]
#[case::no_metrics(&[API_SERVER, "metrics.bindAddress="], false)]
#[case::no_service(&[API_SERVER, "metrics.service=false"], true)]
fn what_is_switched_off_is_not_there(#[case] values: &[&str], #[case] annotated: bool) {
    let text = helm(values).expect("it can be rendered");
    let documents = documents(&text);
    check_schema(&documents);
    assert!(
        !documents.iter().any(|(name, _)| name.starts_with("Service ")),
        "{text}"
    );
    assert_eq!(text.contains("prometheus.io/scrape"), annotated, "{text}");
}

/// Two pods on a node can't both have its ports: the API refuses `maxSurge` for a pod that declares some.
#[rstest]
#[case::one_after_the_other(&[API_SERVER], true)]
#[case::none_beside(&[API_SERVER, "updateStrategy.rollingUpdate.maxSurge=0"], true)]
#[case::side_by_side(&[API_SERVER, "updateStrategy.rollingUpdate.maxSurge=10%", "updateStrategy.rollingUpdate.maxUnavailable=0"], false)]
fn pods_that_stand_side_by_side_declare_no_ports(#[case] values: &[&str], #[case] declared: bool) {
    let documents = documents(&helm(values).expect("it can be rendered"));
    check_schema(&documents);
    let daemon_set = documents.iter().find(|(name, _)| name.starts_with("DaemonSet"));
    let (_, daemon_set) = daemon_set.expect("a DaemonSet");
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"].is_array(), declared, "{container}");
    let args = container["args"].as_array().expect("arguments");
    assert!(args.iter().any(|word| word == "--wait-for-predecessor"), "{args:?}");
}

/// `docs/metrics.md` is held against the code elsewhere.
#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let path = root().join("deploy/helm/sluice/files/sluice.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).expect("a dashboard")).expect("JSON");
    let known = fs::read_to_string(root().join("docs/metrics.md")).expect("a list of metrics");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = BTreeSet::new();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
    {
        let expression = target["expr"].as_str().expect("an expression");
        let words = expression.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        asked.extend(words.filter(|word| word.starts_with("sluice_") || word.starts_with("kubeproxy_")));
    }
    assert!(asked.len() >= 10, "{asked:?}");
    for metric in asked {
        let name = metric.trim_end_matches("_bucket");
        assert!(
            known.contains(&format!("`{name}`")),
            "{metric} is not in docs/metrics.md"
        );
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panels have numbers of their own");
}
