//! The eBPF toolchain that is on this machine: which compiler knows a core library for BPF, which linker fits it, and
//! how cargo is called with the two. Nothing is installed here; `setup` does that.

pub(crate) mod linker;
pub(crate) mod rustc;

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use self::linker::Linker;
pub(crate) use self::rustc::{Rustc, Version};
use crate::process;
use crate::repository::Repository;

pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Where distributions put their compiler. rustup's, which builds everything else, stands before it in PATH.
pub(crate) const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// The first LLVM whose BPF backend can be told that unaligned loads are fine; without it every field of a packet is
/// loaded byte by byte.
const LLVM_WITH_MISALIGNED_ACCESS: u32 = 22;

/// How the core library for BPF comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The distribution ships it compiled, for its own rustc.
    Distribution,
    /// rustup's nightly compiles it from its sources, with `-Z build-std`.
    Nightly,
}

/// A compiler that can make BPF bitcode.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    pub(crate) way: Way,
    pub(crate) rustc: Rustc,
}

impl Compiler {
    /// The compiler that is ready on this machine, if one is.
    pub(crate) fn find() -> Option<Self> {
        Self::of_distribution().or_else(Self::of_rustup)
    }

    fn of_distribution() -> Option<Self> {
        let program = Path::new(DISTRIBUTION_RUSTC);
        if !process::is_executable(program) {
            return None;
        }
        let rustc = Rustc::ask(program).ok()?;
        let ready = rustc.version >= Version::oldest_accepted() && has_core_library(&rustc.sysroot().ok()?);
        ready.then_some(Self {
            way: Way::Distribution,
            rustc,
        })
    }

    fn of_rustup() -> Option<Self> {
        let rustup = process::find_program("rustup")?;
        // Looking must not fetch anything.
        let which = process::capture(Command::new(rustup).env("RUSTUP_AUTO_INSTALL", "0").args([
            "which",
            "--toolchain",
            "nightly",
            "rustc",
        ]));
        let rustc = Rustc::ask(Path::new(which.ok()?.trim_end())).ok()?;
        let sources = rustc.sysroot().ok()?.join("lib/rustlib/src/rust/library/core");
        sources.is_dir().then_some(Self {
            way: Way::Nightly,
            rustc,
        })
    }
}

fn has_core_library(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with("libcore-"))
}

impl std::fmt::Display for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rustc {
            program, release, llvm, ..
        } = &self.rustc;
        match self.way {
            Way::Distribution => write!(
                f,
                "{} {release} of the distribution (LLVM {llvm}), with its compiled core library for BPF",
                program.display()
            ),
            Way::Nightly => write!(
                f,
                "rustup's nightly {release} (LLVM {llvm}), compiling the core library for BPF from source"
            ),
        }
    }
}

/// Compiler and linker, ready to build.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

impl Toolchain {
    pub(crate) fn find(repository: &Repository) -> Option<Self> {
        let compiler = Compiler::find()?;
        let linker = Linker::find(repository, compiler.rustc.llvm)?;
        Some(Self { compiler, linker })
    }

    /// Cargo for the package at `manifest`, set up for BPF. Nothing of the caller's flags, profiles or wrappers gets in.
    pub(crate) fn cargo(&self, repository: &Repository, verb: &str, manifest: &Path, target_dir: &Path) -> Command {
        let mut cargo = self.bare_cargo(repository);
        self.add_target(cargo.arg(verb), manifest, target_dir);
        cargo
    }

    /// The clippy that belongs to the compiler, on the package at `manifest`; none where it is not installed.
    pub(crate) fn clippy(&self, repository: &Repository, manifest: &Path, target_dir: &Path) -> Option<Command> {
        let program = self.clippy_program()?;
        let cargo = self.bare_cargo(repository);
        let mut clippy = Command::new(program);
        clippy.current_dir(repository.root()).env("CARGO", cargo.get_program());
        for (name, value) in cargo.get_envs() {
            match value {
                Some(value) => clippy.env(name, value),
                None if name == "CARGO" => &mut clippy,
                None => clippy.env_remove(name),
            };
        }
        self.add_target(clippy.arg("clippy"), manifest, target_dir);
        Some(clippy)
    }

    pub(crate) fn clippy_program(&self) -> Option<PathBuf> {
        let program = self.compiler.rustc.program.with_file_name("cargo-clippy");
        process::is_executable(&program).then_some(program)
    }

    fn bare_cargo(&self, repository: &Repository) -> Command {
        let settled = process::cargo_without_settings(repository);
        let mut cargo = match self.compiler.way {
            Way::Distribution => settled,
            // -Z flags need the nightly's own cargo.
            Way::Nightly => {
                let mut cargo = Command::new(self.compiler.rustc.program.with_file_name("cargo"));
                cargo.current_dir(repository.root());
                for (name, _) in settled.get_envs() {
                    cargo.env_remove(name);
                }
                cargo
            }
        };
        cargo.env("RUSTC", &self.compiler.rustc.program);
        // The BPF target is nightly-only in aya-ebpf; this lets a stable compiler take it.
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.rustflags().join("\u{1f}"));
        cargo
    }

    fn add_target(&self, cargo: &mut Command, manifest: &Path, target_dir: &Path) {
        cargo
            .args(["--release", "--target", TARGET, "--manifest-path"])
            .arg(manifest);
        cargo.arg("--target-dir").arg(target_dir);
        if self.compiler.way == Way::Nightly {
            cargo.arg("-Zbuild-std=core");
        }
    }

    /// `-Ctarget-cpu` reaches the linker by itself (which generates the code); `-Ctarget-feature` would too, but
    /// warns that the feature is unstable, so that one is said to the linker alone. Measured with LLVM 22: the same
    /// instructions either way, and a four-byte field of a packet is one load.
    fn rustflags(&self) -> Vec<String> {
        let mut flags = vec![
            "-Cdebuginfo=2".to_owned(),
            "-Ctarget-cpu=v3".to_owned(),
            format!("-Clinker={}", self.linker.program.display()),
            "-Clink-arg=--btf".to_owned(),
        ];
        if self.linker.llvm >= LLVM_WITH_MISALIGNED_ACCESS {
            flags.push("-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned());
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn toolchain(way: Way, llvm: u32) -> Toolchain {
        let rustc = Rustc {
            program: "/usr/bin/rustc".into(),
            version: Version { major: 1, minor: 96 },
            release: "1.96.0".into(),
            llvm,
        };
        let linker = Linker {
            program: "/t/bpf-linker".into(),
            llvm,
        };
        Toolchain {
            compiler: Compiler { way, rustc },
            linker,
        }
    }

    #[test]
    fn unaligned_loads_are_asked_for_where_llvm_knows_them() {
        let asks = |llvm| {
            toolchain(Way::Distribution, llvm)
                .rustflags()
                .iter()
                .any(|flag| flag.contains("misaligned"))
        };
        assert!(asks(22) && asks(23));
        assert!(!asks(21));
    }

    #[test]
    fn the_flags_of_the_build_are_the_only_ones() {
        let repository = Repository::at(Path::new("/r"));
        let cargo = toolchain(Way::Distribution, 22).cargo(&repository, "build", Path::new("m"), Path::new("t"));
        let envs: Vec<_> = cargo.get_envs().collect();
        assert!(envs.contains(&("RUSTC".as_ref(), Some("/usr/bin/rustc".as_ref()))));
        let flags = envs
            .iter()
            .find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS")
            .unwrap()
            .1
            .unwrap();
        assert!(flags.to_str().unwrap().contains("\u{1f}-Clink-arg=--btf"));
        assert!(!cargo.get_args().any(|arg| arg == "-Zbuild-std=core"));
    }

    #[test]
    fn nightly_compiles_the_core_library() {
        let repository = Repository::at(Path::new("/r"));
        let cargo = toolchain(Way::Nightly, 22).cargo(&repository, "build", Path::new("m"), Path::new("t"));
        assert_eq!(cargo.get_program(), "/usr/bin/cargo");
        assert!(cargo.get_args().any(|arg| arg == "-Zbuild-std=core"));
    }

    #[test]
    fn the_core_library_is_looked_for_as_a_file() {
        let sysroot = tempfile::tempdir().unwrap();
        assert!(!has_core_library(sysroot.path()));
        let folder = sysroot.path().join("lib/rustlib/bpfel-unknown-none/lib");
        fs::create_dir_all(&folder).unwrap();
        assert!(!has_core_library(sysroot.path()));
        fs::write(folder.join("libcore-0123.rlib"), "").unwrap();
        assert!(has_core_library(sysroot.path()));
    }
}
