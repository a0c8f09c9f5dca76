//! bpf-linker: the one that setup built, or one in PATH, and the LLVM inside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use std::collections::BTreeMap;

use crate::process;
use crate::repository::Repository;

/// The version whose flags are used here.
pub(crate) const VERSION: &str = "0.13.0";

/// The LLVM versions it can be built with, oldest first; the last is its default, and what its releases contain.
pub(crate) const LLVMS: [u32; 3] = [21, 22, 23];

#[derive(Debug, Clone)]
pub(crate) struct Linker {
    pub(crate) program: PathBuf,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

impl Linker {
    /// A linker that reads the bitcode of a compiler with this LLVM: its own must be as new or newer.
    pub(crate) fn find(repository: &Repository, llvm_of_compiler: u32) -> Option<Self> {
        let found = Self::of_setup(repository).or_else(Self::in_path)?;
        (found.llvm >= llvm_of_compiler).then_some(found)
    }

    /// The one in target/toolchain. Cargo noted there with which LLVM it was built.
    fn of_setup(repository: &Repository) -> Option<Self> {
        let folder = repository.toolchain_dir();
        let program = folder.join("bin/bpf-linker");
        let notes = fs::read_to_string(folder.join(".crates2.json")).ok()?;
        let llvm = llvm_in(&notes)?;
        runs(&program).then_some(Self { program, llvm })
    }

    /// One that somebody put into PATH: of the right version, taken to be as released.
    fn in_path() -> Option<Self> {
        let program = process::find_program("bpf-linker")?;
        runs(&program).then_some(Self {
            program,
            llvm: LLVMS[LLVMS.len() - 1],
        })
    }
}

/// It may be there and still not run, once the LLVM it was built with is gone.
fn runs(program: &Path) -> bool {
    let answer = process::capture(Command::new(program).arg("--version").env_remove("LD_LIBRARY_PATH"));
    answer.is_ok_and(|answer| answer.trim_end() == format!("bpf-linker {VERSION}"))
}

fn llvm_in(notes: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Notes {
        installs: BTreeMap<String, Install>,
    }
    #[derive(Deserialize)]
    struct Install {
        features: Vec<String>,
    }
    let notes: Notes = serde_json::from_str(notes).ok()?;
    let wanted = format!("bpf-linker {VERSION} ");
    let (_, install) = notes
        .installs
        .iter()
        .find(|(package, _)| package.starts_with(&wanted))?;
    install
        .features
        .iter()
        .find_map(|feature| feature.strip_prefix("llvm-")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_notes_tell_the_llvm() {
        let notes = |package: &str| {
            format!(
                r#"{{"installs": {{"{package} (registry)": {{"bins": ["bpf-linker"], "features": ["llvm-22"]}}}}}}"#
            )
        };
        assert_eq!(llvm_in(&notes("bpf-linker 0.13.0")), Some(22));
        assert_eq!(
            llvm_in(&notes("bpf-linker 0.12.0")),
            None,
            "another version does not count"
        );
        assert_eq!(llvm_in("{}"), None);
    }

    #[test]
    fn a_linker_that_is_not_there_does_not_run() {
        assert!(!runs(Path::new("/nowhere/bpf-linker")));
        assert!(!runs(Path::new("/bin/true")));
    }
}
