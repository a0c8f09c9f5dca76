//! Where things are: the repository's root, the folders the verbs write to, and the targets cargo knows of.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

/// The checkout this xtask was started for.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    root: PathBuf,
}

/// The package that holds the packet tables, labs, scripts, benches and the demo.
pub(crate) const TESTS_PACKAGE: &str = "tests";

impl Repository {
    /// Cargo says where the package xtask is; the repository is the folder above it.
    pub(crate) fn locate() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).join("..");
        let root = root.canonicalize().with_context(|| {
            format!(
                "{} does not exist: run `cargo xtask` inside a checkout of Sluice",
                root.display()
            )
        })?;
        Ok(Self { root })
    }

    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where setup puts bpf-linker, and where it keeps what it needs to prove that the toolchain works.
    pub(crate) fn toolchain_dir(&self) -> PathBuf {
        self.root.join("target/toolchain")
    }

    pub(crate) fn ebpf_manifest(&self) -> PathBuf {
        self.root.join("lb-ebpf/Cargo.toml")
    }

    /// Cargo's target folder for the kernel programs, apart from the host's so that neither waits for the other's lock.
    pub(crate) fn ebpf_target_dir(&self) -> PathBuf {
        self.root.join("target/bpf")
    }

    /// The finished object of one binary of lb-ebpf. The path never changes; the agent's build script looks here.
    pub(crate) fn ebpf_object(&self, bin: &str) -> PathBuf {
        self.ebpf_target_dir().join(format!("{bin}.bpf.o"))
    }

    /// What cargo knows of the workspace at `manifest`, without looking at dependencies.
    pub(crate) fn metadata(&self, manifest: &Path) -> Result<Metadata> {
        let mut cargo = process::cargo(self);
        cargo
            .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
            .arg(manifest);
        let text = process::capture(&mut cargo)?;
        serde_json::from_str(&text).context("reading the answer of `cargo metadata`")
    }

    pub(crate) fn workspace(&self) -> Result<Metadata> {
        self.metadata(&self.root.join("Cargo.toml"))
    }
}

/// The part of `cargo metadata` that is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Metadata {
    /// A binary as `cargo build --release` leaves it.
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target_directory.join("release").join(name)
    }

    /// A binary as `cargo build --release --target` leaves it.
    pub(crate) fn target_binary(&self, target: &str, name: &str) -> PathBuf {
        self.target_directory.join(target).join("release").join(name)
    }

    /// Names of a package's targets of a kind (`bin`, `test`, `lib` …), sorted.
    pub(crate) fn targets(&self, package: &str, kind: &str) -> BTreeSet<&str> {
        let of_package = self.packages.iter().filter(|candidate| candidate.name == package);
        let targets = of_package.flat_map(|package| &package.targets);
        targets
            .filter(|target| target.kind.iter().any(|of| of == kind))
            .map(|target| target.name.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_package_and_kind() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"target_directory": "/t", "packages": [
                {"name": "tests", "targets": [
                    {"name": "tests", "kind": ["lib"]},
                    {"name": "lab_tcp", "kind": ["test"]},
                    {"name": "demo", "kind": ["bin"]}]},
                {"name": "xtask", "targets": [{"name": "xtask", "kind": ["bin"]}]}]}"#,
        )
        .unwrap();
        assert_eq!(metadata.targets("tests", "test"), BTreeSet::from(["lab_tcp"]));
        assert_eq!(metadata.targets("tests", "bin"), BTreeSet::from(["demo"]));
        assert_eq!(metadata.targets("tests", "bench"), BTreeSet::new());
        assert_eq!(metadata.release_binary("sluice"), Path::new("/t/release/sluice"));
    }

    #[test]
    fn this_checkout_is_found() {
        let repository = Repository::locate().unwrap();
        assert!(repository.root().join("xtask/src/repository.rs").is_file());
    }
}
