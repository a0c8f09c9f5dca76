//! A folder of manifests that changes under a running agent.
//!
//! A file is always replaced whole (written beside, then renamed), as configuration managers do it; what happens to a folder that
//! is changed carelessly is for tests that write files themselves.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::manifests::{Service, node, render};
use crate::lab::Host;

/// A folder of manifests that an agent watches.
#[derive(Clone, Debug)]
pub struct ManifestFolder {
    path: PathBuf,
}

impl ManifestFolder {
    /// Makes the folder if it isn't there.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("creating the manifest folder {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The folder of the lab's agent.
    pub fn of(lab: &crate::lab::Lab) -> Result<Self> {
        Self::create(&lab.directory().join("manifests"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a Service as `<name>.yaml`, in place of what was there.
    pub fn apply(&self, service: &Service) -> Result<()> {
        self.write(&format!("{}.yaml", service.name), &service.to_yaml())
    }

    /// Writes the Node objects of these nodes as `nodes.yaml`.
    pub fn apply_nodes<'a>(&self, nodes: impl IntoIterator<Item = &'a Host>) -> Result<()> {
        let documents: Vec<Value> = nodes.into_iter().map(node).collect();
        self.write("nodes.yaml", &render(&documents))
    }

    /// Replaces a file in one step.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let (draft, target) = (self.path.join(format!(".{file}.draft")), self.path.join(file));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &target))
            .with_context(|| format!("writing {}", target.display()))
    }

    /// Removes a file, and with it its Services.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Copies all `*.yaml` of another folder into this one.
    pub fn copy_from(&self, source: &Path) -> Result<()> {
        let mut count = 0;
        for entry in fs::read_dir(source).with_context(|| format!("reading {}", source.display()))? {
            let from = entry.with_context(|| format!("reading {}", source.display()))?.path();
            if from.extension().is_some_and(|extension| extension == "yaml")
                && let Some(name) = from.file_name()
            {
                let text = fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?;
                self.write(&name.to_string_lossy(), &text)?;
                count += 1;
            }
        }
        ensure!(
            count > 0,
            "{} has no *.yaml files: is it the folder with the examples?",
            source.display()
        );
        Ok(())
    }

    /// Changes a file: every document of it is passed to `change`, then the file is replaced in one step.
    pub fn edit(&self, file: &str, mut change: impl FnMut(&mut Value)) -> Result<()> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut documents = Vec::new();
        for document in serde_norway::Deserializer::from_str(&text) {
            documents
                .push(Value::deserialize(document).with_context(|| format!("{} is not sound YAML", path.display()))?);
        }
        documents.iter_mut().for_each(&mut change);
        self.write(file, &render(&documents))
    }

    /// Keeps only those endpoints of a file's slices whose address passes.
    pub fn keep_endpoints(&self, file: &str, keep: impl Fn(IpAddr) -> bool) -> Result<()> {
        self.edit(file, |document| {
            if let Some(endpoints) = document.get_mut("endpoints").and_then(Value::as_array_mut) {
                endpoints.retain(|endpoint| {
                    let address = endpoint["addresses"][0].as_str().and_then(|text| text.parse().ok());
                    address.is_some_and(&keep)
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ManifestFolder;
    use crate::traffic::manifests::{Endpoint, Service};
    use std::net::IpAddr;

    #[test]
    fn a_service_becomes_documents_and_can_be_scaled() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut service = Service::new("web", [address("10.96.0.10"), address("fd00:10:96::10")]).port("TCP", 80, 8080);
        service.endpoints = ["10.244.1.11", "10.244.1.12", "fd00:10:244:1::11"]
            .map(|text| Endpoint::local(address(text)))
            .into();
        let scratch = tempfile::tempdir().expect("a folder for the test");
        let folder = ManifestFolder::create(scratch.path()).expect("it can be used");
        folder.apply(&service).expect("it can be written");
        folder
            .keep_endpoints("web.yaml", |address| !address.to_string().ends_with("12"))
            .expect("it can be edited");
        let text = std::fs::read_to_string(scratch.path().join("web.yaml")).expect("it is there");
        assert_eq!(text.matches("kind: EndpointSlice").count(), 2, "{text}");
        assert!(
            text.contains("10.244.1.11") && text.contains("fd00:10:244:1::11"),
            "{text}"
        );
        assert!(!text.contains("10.244.1.12"), "{text}");
        assert!(text.contains("clusterIP: 10.96.0.10"), "{text}");
        assert_eq!(
            std::fs::read_dir(scratch.path()).expect("readable").count(),
            1,
            "no draft stays behind"
        );
    }
}
