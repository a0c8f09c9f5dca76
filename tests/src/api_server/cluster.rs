//! A cluster for a test: the server in this process, and a real kube-apiserver where there is one.
//!
//! A real one is meant by `SLUICE_TEST_KUBECONFIG` or `KUBECONFIG`, and written to by `kubectl` in a namespace of the test's own,
//! which is removed afterwards. Its other objects are no business of the test's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{ApiServer, Resource};

/// What can be written to.
pub enum Cluster {
    /// In this process.
    InProcess(ApiServer),
    /// Somewhere else.
    Real(RealServer),
}

/// A kube-apiserver, or something that claims to be one.
pub struct RealServer {
    kubeconfig: PathBuf,
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
        Ok(all)
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
        let namespace = format!("sluice-test-{}", std::process::id());
        let server = Self {
            kubeconfig: kubeconfig.to_owned(),
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
        let collection = Resource::of(object)?.path_in(&self.namespace);
        let name = object["metadata"]["name"].as_str().context("an object has a name")?;
        let path = format!("{collection}/{name}");
        if self.kubectl(&["get", "--raw", &path], None).is_ok() {
            self.kubectl(&["replace", "--raw", &path], Some(object))
        } else {
            self.kubectl(&["create", "--raw", &collection], Some(object))
        }
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.kubectl(&["delete", "--raw", path], None)
    }

    fn kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Result<()> {
        let mut command = Command::new("kubectl");
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
        Ok(())
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
