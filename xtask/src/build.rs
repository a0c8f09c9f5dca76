//! Builds the kernel programs, and the agent that carries them.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::object::{is_bpf, without_debug_info, write_if_changed};
use crate::process;
use crate::repository::{Repository, TESTS_PACKAGE};
use crate::setup::Session;
use crate::toolchain::TARGET;

/// The agent's build script and the tests take the object from here instead of target/bpf when it is set.
pub(crate) const OBJECT_VARIABLE: &str = "SLUICE_BPF_OBJECT";

const EBPF_PACKAGE: &str = "lb-ebpf";

/// The binary of lb-ebpf that the agent loads.
const AGENT_PROGRAMS: &str = "lb";

const AGENT_PACKAGE: &str = "lb-userspace";
const AGENT: &str = "sluice";

/// What `build` leaves behind.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The agent, `sluice`.
    pub(crate) agent: PathBuf,
    /// The object it carries.
    pub(crate) object: PathBuf,
}

/// Compiles every binary of lb-ebpf and puts each object at its stable place. Returns the one the agent carries.
pub(crate) fn kernel_programs(session: &mut Session<'_>) -> Result<PathBuf> {
    let toolchain = session.toolchain()?;
    let repository = session.repository;
    let manifest = repository.ebpf_manifest();
    let target_dir = repository.ebpf_target_dir();
    let mut cargo = toolchain.cargo(repository, "build", &manifest, &target_dir);
    process::run(cargo.arg("--bins")).with_context(|| {
        format!(
            "the kernel programs do not compile with {}; the compiler says why above",
            toolchain.compiler
        )
    })?;

    let metadata = repository.metadata(&manifest)?;
    let bins = metadata.targets(EBPF_PACKAGE, "bin");
    for bin in &bins {
        let compiled = target_dir.join(TARGET).join("release").join(bin);
        let bytes = fs::read(&compiled).with_context(|| format!("cannot read {}", compiled.display()))?;
        if !is_bpf(&bytes) {
            bail!(
                "{} is not a BPF object, though compiler and linker reported success",
                compiled.display()
            );
        }
        let bytes = without_debug_info(&bytes).with_context(|| format!("cannot use {}", compiled.display()))?;
        let object = repository.ebpf_object(bin);
        let news = if write_if_changed(&object, &bytes)? {
            "new"
        } else {
            "unchanged"
        };
        let shown = object.strip_prefix(repository.root()).unwrap_or(&object);
        println!("build-ebpf: {} ({} bytes, {news})", shown.display(), bytes.len());
    }
    remove_objects_of_no_program(repository, &bins)?;
    if !bins.contains(AGENT_PROGRAMS) {
        bail!(
            "{} has no binary named {AGENT_PROGRAMS}, which the agent loads",
            manifest.display()
        );
    }
    Ok(repository.ebpf_object(AGENT_PROGRAMS))
}

/// An object whose source is gone would still be found by benches and tests.
fn remove_objects_of_no_program(repository: &Repository, bins: &BTreeSet<&str>) -> Result<()> {
    for entry in fs::read_dir(repository.ebpf_target_dir())?.flatten() {
        let name = entry.file_name();
        let stale = name
            .to_str()
            .and_then(|name| name.strip_suffix(".bpf.o"))
            .is_some_and(|bin| !bins.contains(bin));
        if stale {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove the left-over {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// The kernel programs, then the release build of the agent and of `programs`, binaries of the package tests.
pub(crate) fn everything(session: &mut Session<'_>, programs: &[&str]) -> Result<Built> {
    let object = kernel_programs(session)?;
    let repository = session.repository;
    let metadata = repository.workspace()?;
    let mut cargo = process::cargo(repository);
    // Both packages, always: cargo settles the features of the dependencies by the packages it is called with. So the
    // agent that is shown, measured and tested is the one that `build` makes, and is compiled once.
    cargo.args([
        "build",
        "--release",
        "--package",
        AGENT_PACKAGE,
        "--package",
        TESTS_PACKAGE,
        "--bin",
        AGENT,
    ]);
    for program in programs {
        if !metadata.targets(TESTS_PACKAGE, "bin").contains(program) {
            bail!("the package {TESTS_PACKAGE} has no binary {program} (tests/src/bin/{program}.rs)");
        }
        cargo.args(["--bin", program]);
    }
    process::run(&mut cargo).context("the agent does not compile; the compiler says why above")?;
    let agent = metadata.release_binary(AGENT);
    if !agent.is_file() {
        bail!(
            "cargo built the agent, but there is no {}: is `build.target` set in a cargo configuration?",
            agent.display()
        );
    }
    let chosen = env::var_os(OBJECT_VARIABLE).filter(|value| !value.is_empty());
    let object = chosen.map_or(object, |chosen| repository.root().join(chosen));
    Ok(Built { agent, object })
}

/// The kernel programs, then an agent that needs nothing but a kernel: linked statically with the host's own C library, since that
/// is there wherever the agent is built. (Names are resolved without the modules of a system: by /etc/hosts and DNS.)
pub(crate) fn static_agent(session: &mut Session<'_>) -> Result<PathBuf> {
    kernel_programs(session)?;
    let repository = session.repository;
    let host = host_triple()?;
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_"));
    let mut cargo = process::cargo(repository);
    // With a target of its own, what runs while compiling is not linked so.
    cargo
        .args([
            "build",
            "--release",
            "--package",
            AGENT_PACKAGE,
            "--bin",
            AGENT,
            "--target",
            &host,
        ])
        .env(flags, "-C target-feature=+crt-static");
    process::run(&mut cargo).context("the static agent does not compile; the compiler says why above")?;
    Ok(repository.workspace()?.target_binary(&host, AGENT))
}

/// Which machine cargo compiles for.
fn host_triple() -> Result<String> {
    let said = process::capture(std::process::Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_without_a_program_go_away_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::at(root.path());
        fs::create_dir_all(repository.ebpf_target_dir()).unwrap();
        for name in ["lb.bpf.o", "gone.bpf.o", ".rustc_info.json"] {
            fs::write(repository.ebpf_target_dir().join(name), "").unwrap();
        }
        remove_objects_of_no_program(&repository, &BTreeSet::from(["lb"])).unwrap();
        assert!(repository.ebpf_object("lb").exists());
        assert!(!repository.ebpf_object("gone").exists());
        assert!(repository.ebpf_target_dir().join(".rustc_info.json").exists());
    }
}
