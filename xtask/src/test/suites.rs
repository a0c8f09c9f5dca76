//! Which test binaries there are and on which rung each stands. Cargo builds them and says where they are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::process;
use crate::repository::{Repository, TESTS_PACKAGE};

/// The three kinds of test, by what they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    /// Nothing: pure code.
    Host,
    /// Root: single packets through loaded programs.
    Packet,
    /// Root, and the machine for itself: network namespaces.
    Lab,
}

impl Rung {
    pub(crate) fn needs_root(self) -> bool {
        self != Self::Host
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Packet => "packet",
            Self::Lab => "lab",
        }
    }

    /// Unit tests are pure. Of the test files of the package tests the name tells: `lab` and `lab_…`; `host_…` and
    /// `script…` (YAML to table dump, no kernel) need nothing; what is left feeds packets to loaded programs.
    fn of(package: &str, target: &str, kind: &str) -> Self {
        match (package, kind) {
            (TESTS_PACKAGE, "test") if target == "lab" || target.starts_with("lab_") => Self::Lab,
            (TESTS_PACKAGE, "test") if target.starts_with("script") || target.starts_with("host_") => Self::Host,
            (TESTS_PACKAGE, "test") => Self::Packet,
            _ => Self::Host,
        }
    }
}

/// One test binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suite {
    pub(crate) rung: Rung,
    /// For messages: `lb-common (lib)`, `tests (lab_upgrade)`.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The package's folder, where tests expect to be started.
    pub(crate) folder: PathBuf,
}

/// The packages with tests. All are named in every call, whichever rungs are chosen: cargo settles the features of the
/// dependencies by the packages it is called with, and another choice would compile half of them again.
const PACKAGES: [&str; 4] = ["lb-common", "lb-userspace", TESTS_PACKAGE, "xtask"];

/// Builds the test binaries of these rungs. Sorted: the cheap rungs first.
pub(crate) fn build(repository: &Repository, rungs: &[Rung]) -> Result<Vec<Suite>> {
    let mut cargo = process::cargo(repository);
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    if rungs.contains(&Rung::Host) {
        cargo.args(["--lib", "--bins", "--tests"]);
    } else {
        let metadata = repository.workspace()?;
        let mut files = metadata.targets(TESTS_PACKAGE, "test");
        files.retain(|file| rungs.contains(&Rung::of(TESTS_PACKAGE, file, "test")));
        if files.is_empty() {
            return Ok(Vec::new());
        }
        for file in files {
            cargo.args(["--test", file]);
        }
    }
    cargo.stderr(std::process::Stdio::inherit());
    let output = cargo
        .output()
        .with_context(|| format!("cannot start {}", process::shown(&cargo)))?;
    if !output.status.success() {
        bail!(
            "the tests do not compile; the compiler says why above ({} {})",
            process::shown(&cargo),
            process::ended(output.status)
        );
    }
    let mut suites = read(&String::from_utf8_lossy(&output.stdout))?;
    suites.retain(|suite| rungs.contains(&suite.rung));
    suites.sort();
    Ok(suites)
}

/// Picks the test binaries from cargo's messages.
fn read(messages: &str) -> Result<Vec<Suite>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut suites = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("reading what `cargo test --no-run` says")?;
        let (Some(target), Some(executable), Some(manifest)) =
            (message.target, message.executable, message.manifest_path)
        else {
            continue;
        };
        if message.reason != "compiler-artifact" || !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        let folder = manifest.parent().unwrap_or(Path::new("/")).to_owned();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = target.kind.first().map_or("", String::as_str);
        let rung = Rung::of(&package, &target.name, kind);
        let part = match kind {
            "lib" => "lib".to_owned(),
            "bin" => format!("bin {}", target.name),
            _ => target.name,
        };
        suites.push(Suite {
            rung,
            name: format!("{package} ({part})"),
            executable,
            folder,
        });
    }
    Ok(suites)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_test_file_tells_its_rung() {
        assert_eq!(Rung::of("lb-common", "lb_common", "lib"), Rung::Host);
        assert_eq!(Rung::of("tests", "lab_upgrade", "test"), Rung::Lab);
        assert_eq!(Rung::of("tests", "lab", "test"), Rung::Lab);
        assert_eq!(Rung::of("tests", "label", "test"), Rung::Packet);
        assert_eq!(Rung::of("tests", "scripts", "test"), Rung::Host);
        assert_eq!(Rung::of("tests", "host_publishing", "test"), Rung::Host);
        assert_eq!(Rung::of("tests", "verifier_budget", "test"), Rung::Packet);
        assert_eq!(Rung::of("tests", "tests", "lib"), Rung::Host);
    }

    #[test]
    fn test_binaries_are_picked_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/r/tests/Cargo.toml","target":{"name":"lab_tcp","kind":["test"]},"profile":{"test":true},"executable":"/t/lab_tcp-1"}
{"reason":"compiler-artifact","manifest_path":"/r/tests/Cargo.toml","target":{"name":"demo","kind":["bin"]},"profile":{"test":false},"executable":"/t/demo"}
{"reason":"compiler-artifact","manifest_path":"/c/anyhow/Cargo.toml","target":{"name":"anyhow","kind":["lib"]},"profile":{"test":false},"executable":null}
{"reason":"build-script-executed","linked_libs":[]}
{"reason":"build-finished","success":true}"#;
        let suites = read(messages).unwrap();
        assert_eq!(
            suites,
            [Suite {
                rung: Rung::Lab,
                name: "tests (lab_tcp)".into(),
                executable: "/t/lab_tcp-1".into(),
                folder: "/r/tests".into()
            }]
        );
    }
}
