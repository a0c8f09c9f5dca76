//! A cluster for a test: the server in this process, and a real kube-apiserver where there is one.
//!
//! A real one is meant by `SLUICE_TEST_KUBECONFIG` or `KUBECONFIG`, or made of the binaries that `KUBEBUILDER_ASSETS` names (`assets`). It
//! is written to by `kubectl` in a namespace of the test's own, which is removed afterwards. Its other objects are no business of
//! the test's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::store::merge;
use super::{ApiServer, Refusal, Resource, assets};

/// What can be written to.
pub enum Cluster {
    /// In this process.
    InProcess(ApiServer),
    /// Somewhere else.
    Real(RealServer),
}

/// A kube-apiserver, or something that claims to be one.
pub struct RealServer {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// The text of a kubeconfig of somebody who may do nothing, if there is somebody.
    nobody: Option<String>,
    namespace: String,
    has_namespaces: bool,
}

impl Cluster {
    /// All that there are: the one in this process always.
    pub fn all() -> Result<Vec<Self>> {
        let mut all = vec![Self::InProcess(ApiServer::start()?)];
        let named = ["SLUICE_TEST_KUBECONFIG", "KUBECONFIG"]
            .into_iter()
            .find_map(std::env::var_os);
        if let Some(kubeconfig) = named {
            all.push(Self::Real(RealServer::at(Path::new(&kubeconfig), true)?));
        }
        if let Some(server) = assets::server() {
            let server = server?;
            let mut real = RealServer::by(server.kubectl(), &server.admin(), true)?;
            real.nobody = Some(server.nobody()?);
            all.push(Self::Real(real));
        }
        Ok(all)
    }

    /// The text of a kubeconfig with which no Event can be written, if there is a way to get one.
    pub fn kubeconfig_without_events(&self) -> Option<String> {
        match self {
            Self::InProcess(server) => {
                server.fault(|faults| faults.refuse = [(Resource::Events, Refusal::code(403))].into());
                Some(server.kubeconfig())
            }
            Self::Real(server) => server.nobody.clone(),
        }
    }

    /// The namespace to write in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::InProcess(_) => "shop",
            Self::Real(server) => &server.namespace,
        }
    }

    /// The text of a kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> Result<String> {
        match self {
            Self::InProcess(server) => Ok(server.kubeconfig()),
            Self::Real(server) => std::fs::read_to_string(&server.kubeconfig)
                .with_context(|| format!("reading {}", server.kubeconfig.display())),
        }
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: &Value) -> Result<()> {
        match self {
            Self::InProcess(server) => server.put([object.clone()]),
            Self::Real(server) => server.put(object),
        }
    }

    /// All objects of a kind in the namespace.
    pub fn list(&self, resource: Resource) -> Result<Vec<Value>> {
        match self {
            Self::InProcess(server) => {
                let of_namespace = |object: &Value| object["metadata"]["namespace"] == *self.namespace();
                Ok(server.objects(resource).into_iter().filter(of_namespace).collect())
            }
            Self::Real(server) => server.list(resource),
        }
    }

    /// Deletes an object of the namespace.
    pub fn delete(&self, resource: Resource, name: &str) -> Result<()> {
        match self {
            Self::InProcess(server) => server.delete(resource, self.namespace(), name),
            Self::Real(server) => server.delete(&format!("{}/{name}", resource.path_in(&server.namespace))),
        }
    }
}

impl RealServer {
    /// The server that a kubeconfig leads to. Some have no namespaces to be made first.
    pub fn at(kubeconfig: &Path, has_namespaces: bool) -> Result<Self> {
        Self::by(Path::new("kubectl"), kubeconfig, has_namespaces)
    }

    fn by(kubectl: &Path, kubeconfig: &Path, has_namespaces: bool) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("sluice-test-{}-{made}", std::process::id());
        let server = Self {
            kubectl: kubectl.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            nobody: None,
            namespace,
            has_namespaces,
        };
        if has_namespaces {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": server.namespace}});
            server.kubectl(&["create", "--raw", "/api/v1/namespaces"], Some(&object))?;
        }
        Ok(server)
    }

    fn put(&self, object: &Value) -> Result<()> {
        let resource = Resource::of(object)?;
        let mut object = object.clone();
        object["apiVersion"] = resource.type_meta().0.into();
        let collection = resource.path_in(&self.namespace);
        let name = object["metadata"]["name"].as_str().context("an object has a name")?;
        let path = format!("{collection}/{name}");
        let Ok(before) = self.kubectl(&["get", "--raw", &path], None) else {
            return self.kubectl(&["create", "--raw", &collection], Some(&object)).map(drop);
        };
        // A server wants to be told what it has given out itself: the version, a Service's addresses.
        let mut after: Value = serde_json::from_str(&before).context("reading an object")?;
        for of_its_author in ["labels", "annotations"] {
            after["metadata"][of_its_author] = object["metadata"][of_its_author].clone();
        }
        merge(&mut after, &object);
        self.kubectl(&["replace", "--raw", &path], Some(&after)).map(drop)
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.kubectl(&["delete", "--raw", path], None).map(drop)
    }

    fn list(&self, resource: Resource) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", "--raw", &resource.path_in(&self.namespace)], None)?;
        let list: Value = serde_json::from_str(&text).context("reading a list")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// What it prints.
    fn kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        if input.is_some() {
            command.args(["-f", "-"]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl, which writes to a real API server")?;
        if let (Some(mut stdin), Some(object)) = (child.stdin.take(), input) {
            stdin
                .write_all(object.to_string().as_bytes())
                .context("writing to kubectl")?;
        }
        let output = child.wait_with_output().context("waiting for kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        if self.has_namespaces
            && let Err(error) = self.delete(&format!("/api/v1/namespaces/{}", self.namespace))
        {
            eprintln!("the namespace {} is left behind: {error:#}", self.namespace);
        }
    }
}
