//! Finds the eBPF object that `cargo xtask build-ebpf` made, so that the library can embed it.
//!
//! When there is one, the crate is compiled with `cfg(sluice_bpf_object)` and the environment variable
//! `SLUICE_BPF_OBJECT` holds its absolute path. When there is none, everything still compiles (for editors, clippy and
//! documentation) and a warning says what to run. Nothing is built here: an eBPF build inside a build script would
//! hide its errors and its choice of compiler.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const VARIABLE: &str = "SLUICE_BPF_OBJECT";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(sluice_bpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");

    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR for build scripts");
    let repository = PathBuf::from(manifest_dir).join("..");

    if let Some(chosen) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        // A relative path starts where one types it: at the root of the repository, not in this folder.
        let chosen = repository.join(chosen);
        match fs::canonicalize(&chosen) {
            Ok(object) => embed(&object),
            Err(why) => println!(
                "cargo::error={VARIABLE} names {}, which cannot be opened: {why}. \
                 Point it at an eBPF object or unset it",
                chosen.display()
            ),
        }
        return;
    }

    let objects = repository.join("target/bpf");
    match fs::canonicalize(objects.join("lb.bpf.o")) {
        Ok(object) => embed(&object),
        Err(_) => await_object(&objects),
    }
}

/// Hands the object to the crate. `include_bytes!` makes rustc watch the content; the line here makes cargo notice
/// when the file goes away.
fn embed(object: &Path) {
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env={VARIABLE}={}", object.display());
    println!("cargo::rustc-cfg=sluice_bpf_object");
}

/// Builds without an object, and asks cargo to come back once the folder of objects changes. Cargo takes a watched
/// path that does not exist for changed every time, so the (still empty) folder is made first.
fn await_object(objects: &Path) {
    if fs::create_dir_all(objects).is_ok() {
        println!("cargo::rerun-if-changed={}", objects.display());
    }
    println!(
        "cargo::warning=no eBPF object in target/bpf: this build of sluice has no kernel programs to load. \
         Run `cargo xtask build-ebpf`, or `cargo xtask build` for the whole"
    );
}
