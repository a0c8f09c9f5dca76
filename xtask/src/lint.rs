//! `cargo xtask lint`: formatting, clippy for both sides, lock files, and the tree rules. Runs them all before it
//! says what failed, so that one round shows everything.

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::repository::Repository;
use crate::setup::Session;
use crate::tidy;

pub(crate) fn run(session: &mut Session<'_>) -> Result<()> {
    session.components()?;
    let repository = session.repository;
    let mut failed = Vec::new();
    let mut check = |name: &str, outcome: Result<()>| {
        println!("lint: {name}: {}", if outcome.is_ok() { "good" } else { "FAILED" });
        if let Err(why) = outcome {
            eprintln!("{why:#}");
            failed.push(name.to_owned());
        }
    };
    check("tree rules", tidy::run(repository));
    check("lock files", lock_files(repository));
    check("format", format(repository));
    check("clippy", clippy(repository));
    check("docs of lb-common", documented(repository));
    match kernel_clippy(session) {
        Ok(Some(outcome)) => check("clippy of the kernel programs", outcome),
        Ok(None) => println!("lint: clippy of the kernel programs: left out, their compiler has no clippy here"),
        Err(why) => check("clippy of the kernel programs", Err(why)),
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

/// A lock file that a manifest has outgrown would be changed silently by the next build.
fn lock_files(repository: &Repository) -> Result<()> {
    for manifest in [repository.root().join("Cargo.toml"), repository.ebpf_manifest()] {
        let mut cargo = process::cargo(repository);
        cargo
            .args(["metadata", "--locked", "--format-version=1", "--manifest-path"])
            .arg(&manifest);
        process::capture(&mut cargo)?;
    }
    Ok(())
}

/// Names the files that rustfmt would change; both sides are looked at before it fails.
fn format(repository: &Repository) -> Result<()> {
    let mut workspace = process::cargo(repository);
    let mut kernel = process::cargo(repository);
    workspace.args(["fmt", "--all"]);
    kernel.args(["fmt", "--manifest-path"]).arg(repository.ebpf_manifest());
    let outcomes =
        [workspace, kernel].map(|mut cargo| process::run(cargo.args(["--", "--check", "--files-with-diff"])));
    let remedy = "the files above are not formatted: `cargo fmt --all`, and the same in lb-ebpf";
    outcomes.into_iter().collect::<Result<()>>().context(remedy)
}

fn clippy(repository: &Repository) -> Result<()> {
    let mut cargo = process::cargo(repository);
    process::run(cargo.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]))
}

/// What kernel and agent share is documented whole.
fn documented(repository: &Repository) -> Result<()> {
    let mut cargo = process::cargo(repository);
    cargo.args([
        "clippy",
        "--quiet",
        "--package",
        "lb-common",
        "--",
        "-Dwarnings",
        "-Dmissing_docs",
    ]);
    process::run(&mut cargo)
}

/// None where the compiler for BPF has no clippy of its own: another compiler's would not know its core library.
fn kernel_clippy(session: &mut Session<'_>) -> Result<Option<Result<()>>> {
    let toolchain = session.toolchain()?;
    let repository = session.repository;
    let target_dir = repository.ebpf_target_dir().join("clippy");
    let Some(mut clippy) = toolchain.clippy(repository, &repository.ebpf_manifest(), &target_dir) else {
        return Ok(None);
    };
    Ok(Some(process::run(clippy.args([
        "--quiet",
        "--bins",
        "--",
        "-Dwarnings",
    ]))))
}
