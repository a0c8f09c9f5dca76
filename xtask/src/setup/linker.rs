//! bpf-linker: built from source into target/toolchain, against an LLVM that reads what the compiler writes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Session;
use super::apt::{Apt, Policies};
use crate::process;
use crate::repository::Repository;
use crate::toolchain::linker::{LLVMS, VERSION};
use crate::toolchain::{Compiler, Linker};

/// Builds it. Takes a minute or two.
pub(crate) fn install(session: &mut Session, compiler: &Compiler) -> Result<Linker> {
    let (major, prefix) = find_or_install_llvm(session, compiler.rustc.llvm)?;
    println!("setup: building bpf-linker {VERSION} with LLVM {major} into target/toolchain (a minute or two)");
    let folder = session.repository.toolchain_dir();
    let mut cargo = process::cargo_without_settings(session.repository);
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--force",
        "--no-default-features",
    ]);
    cargo
        .args(["--features", &format!("llvm-{major}"), "--root"])
        .arg(&folder);
    cargo.env(prefix_variable(major), &prefix).env("LLVM_PREFIX", &prefix);
    cargo.env("PATH", process::path_beginning_with(&prefix.join("bin"))?);
    process::capture(&mut cargo).with_context(|| format!("cannot build bpf-linker {VERSION} with LLVM {major}"))?;
    Linker::find(session.repository, compiler.rustc.llvm).with_context(|| {
        format!(
            "bpf-linker was built, but {} does not run or does not fit",
            folder.join("bin/bpf-linker").display()
        )
    })
}

/// What a person would type. `llvm` is that of the compiler, where one is already there.
pub(crate) fn by_hand(repository: &Repository, llvm: Option<u32>) -> Vec<String> {
    let folder = repository.toolchain_dir();
    let Some(needed) = llvm else {
        let read = "/usr/bin/rustc -vV | sed -n 's/^LLVM version: \\([0-9]*\\).*/\\1/p'";
        let mut lines = vec![format!("N=$({read})")];
        lines.extend(typed("$N", &folder));
        return lines;
    };
    typed(
        &LLVMS
            .into_iter()
            .find(|major| *major >= needed)
            .unwrap_or(needed)
            .to_string(),
        &folder,
    )
}

fn typed(major: &str, folder: &Path) -> Vec<String> {
    let prefix = format!("/usr/lib/llvm-{major}");
    let braced = if major.starts_with('$') {
        "${N}".to_owned()
    } else {
        major.to_owned()
    };
    vec![
        format!("apt-get install --no-install-recommends llvm-{major}-dev"),
        format!(
            "env LLVM_PREFIX={prefix} LLVM_SYS_{braced}1_PREFIX={prefix} PATH={prefix}/bin:\"$PATH\" \
             cargo install bpf-linker --version {VERSION} --locked --no-default-features --features llvm-{major} --root {}",
            folder.display()
        ),
    ]
}

/// The variable that the crate llvm-sys reads: 22 → `LLVM_SYS_221_PREFIX`, after its own version scheme.
fn prefix_variable(major: u32) -> String {
    format!("LLVM_SYS_{major}1_PREFIX")
}

fn find_or_install_llvm(session: &mut Session, needed: u32) -> Result<(u32, PathBuf)> {
    if let Some(found) = installed_llvm(Path::new("/usr/lib"), needed) {
        return Ok(found);
    }
    let Some(apt) = session.apt.as_mut() else {
        bail!(
            "bpf-linker needs the development files of LLVM {needed} or newer (up to {}) under /usr/lib/llvm-N, and \
             this distribution has no apt-get. Install bpf-linker {VERSION} into PATH yourself, as its project describes",
            LLVMS[LLVMS.len() - 1]
        );
    };
    let names: Vec<_> = LLVMS.iter().map(|major| package(*major)).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let policies = match Apt::policies(&names) {
        Ok(policies) if choose(&policies, needed).is_some() => policies,
        _ => apt.fresh_policies(&names, &names)?,
    };
    let major = choose(&policies, needed).with_context(|| {
        format!(
            "apt offers none of {} that is at least LLVM {needed}, which the compiler uses",
            names.join(", ")
        )
    })?;
    apt.install(&[&package(major)])?;
    installed_llvm(Path::new("/usr/lib"), needed).with_context(|| {
        format!(
            "{} was installed, but there is no /usr/lib/llvm-{major}",
            package(major)
        )
    })
}

fn package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

/// The oldest that serves: the nearer to the compiler's, the fewer surprises.
fn choose(policies: &Policies, needed: u32) -> Option<u32> {
    let offered = |major: &u32| {
        policies
            .get(&package(*major))
            .is_some_and(|policy| policy.candidate.is_some())
    };
    LLVMS.into_iter().filter(|major| *major >= needed).find(offered)
}

fn installed_llvm(folder: &Path, needed: u32) -> Option<(u32, PathBuf)> {
    let prefixes = LLVMS.into_iter().filter(|major| *major >= needed);
    let mut prefixes = prefixes.map(|major| (major, folder.join(format!("llvm-{major}"))));
    // llvm-config comes with the plain package; the header only with the -dev one.
    prefixes.find(|(_, prefix)| prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c").exists())
}

#[cfg(test)]
mod tests {
    use super::super::apt::Policy;
    use super::*;
    use std::fs;

    #[test]
    fn the_nearest_llvm_that_is_new_enough_is_chosen() {
        let offered = |majors: &[u32]| -> Policies {
            let policy = Policy {
                installed: None,
                candidate: Some("1:1".into()),
            };
            majors.iter().map(|major| (package(*major), policy.clone())).collect()
        };
        assert_eq!(choose(&offered(&[21, 22, 23]), 22), Some(22));
        assert_eq!(choose(&offered(&[21, 23]), 22), Some(23));
        assert_eq!(choose(&offered(&[21]), 22), None);
        assert_eq!(
            choose(&offered(&[19, 21]), 19),
            Some(21),
            "19 is older than bpf-linker supports"
        );
    }

    #[test]
    fn an_llvm_without_its_development_files_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("llvm-22");
        fs::create_dir_all(prefix.join("bin")).unwrap();
        fs::write(prefix.join("bin/llvm-config"), "").unwrap();
        assert_eq!(installed_llvm(folder.path(), 22), None);
        fs::create_dir_all(prefix.join("include/llvm-c")).unwrap();
        assert_eq!(installed_llvm(folder.path(), 22), Some((22, prefix)));
        assert_eq!(installed_llvm(folder.path(), 23), None);
    }

    #[test]
    fn the_commands_by_hand_name_the_version() {
        let repository = Repository::at(Path::new("/r"));
        let lines = by_hand(&repository, Some(22));
        assert_eq!(lines[0], "apt-get install --no-install-recommends llvm-22-dev");
        assert!(
            lines[1].contains("LLVM_SYS_221_PREFIX=/usr/lib/llvm-22"),
            "{}",
            lines[1]
        );
        assert!(
            lines[1].contains("--features llvm-22 --root /r/target/toolchain"),
            "{}",
            lines[1]
        );
        let lines = by_hand(&repository, None);
        assert!(
            lines[0].starts_with("N=$(") && lines[2].contains("LLVM_SYS_${N}1_PREFIX"),
            "{lines:?}"
        );
    }
}
