//! Starting other programs: which cargo, with which environment, and errors that show the command that failed.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, bail};

use crate::repository::Repository;

/// Variables that cargo sets for the running xtask and that must not reach another cargo: some build scripts watch
/// them, and would run again each time the user changes between `cargo build` and `cargo xtask build`.
const OF_THIS_PACKAGE: [&str; 6] = [
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
    "RUST_RECURSION_COUNT",
];
const OF_THIS_PACKAGE_PREFIXES: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// Variables under `CARGO_` that say how to reach a registry, not how to compile.
const HOW_TO_FETCH: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// The user's cargo with the user's settings, in the repository.
pub(crate) fn cargo(repository: &Repository) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository.root());
    for (name, _) in env::vars_os() {
        if belongs_to_this_package(&name) {
            command.env_remove(name);
        }
    }
    command
}

/// The user's cargo without anything that chooses a compiler, flags, profile or target folder for the host: for builds
/// that choose all of that themselves.
pub(crate) fn cargo_without_settings(repository: &Repository) -> Command {
    let mut command = cargo(repository);
    for (name, _) in env::vars_os() {
        if chooses_a_build(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn belongs_to_this_package(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    OF_THIS_PACKAGE.contains(&name) || OF_THIS_PACKAGE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn chooses_a_build(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let by_cargo = name.starts_with("CARGO_") && !HOW_TO_FETCH.iter().any(|keep| name.starts_with(keep));
    // LD_LIBRARY_PATH was pointed at the host compiler's libraries by cargo and rustup.
    by_cargo || name.starts_with("RUSTC") || matches!(name, "RUSTFLAGS" | "RUSTDOCFLAGS" | "LD_LIBRARY_PATH")
}

/// Runs it with the terminal as it is. The program's own output says what went wrong; the error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("{} {}", shown(command), ended(status));
    }
    Ok(())
}

/// Runs it silently and returns what it printed; if it fails, the error carries everything it printed.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| cannot_start(command))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        let said = said.trim_end();
        bail!(
            "{} {}{}{said}",
            shown(command),
            ended(output.status),
            if said.is_empty() { "" } else { "\n" }
        );
    }
    Ok(stdout)
}

/// The command as one would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains([' ', '"', '\'', '$', '*']) {
                format!("{word:?}")
            } else {
                word.into_owned()
            }
        });
    format!("`{}`", words.collect::<Vec<_>>().join(" "))
}

pub(crate) fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended without saying how".into(),
    }
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", shown(command))
}

/// Finds a program in PATH, or where system tools are when the PATH of an ordinary user leaves those folders out.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|program| is_executable(program))
}

/// PATH with `folder` before everything else.
pub(crate) fn path_beginning_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&path));
    env::join_paths(folders).with_context(|| format!("{} cannot be part of PATH: rename it", folder.display()))
}

pub(crate) fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    program
        .metadata()
        .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chooses_a_build_is_told_from_how_to_fetch() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "CARGO_TARGET_DIR",
        ] {
            assert!(chooses_a_build(name.as_ref()), "{name} must not leak in");
        }
        for name in [
            "CARGO_BUILD_TARGET",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTC_BOOTSTRAP",
            "LD_LIBRARY_PATH",
        ] {
            assert!(chooses_a_build(name.as_ref()), "{name} must not leak in");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_X_TOKEN",
            "PATH",
            "RUSTUP_HOME",
        ] {
            assert!(!chooses_a_build(name.as_ref()), "{name} must stay");
        }
    }

    #[test]
    fn only_this_packages_variables_are_taken_away() {
        assert!(belongs_to_this_package("CARGO_PKG_VERSION".as_ref()));
        assert!(belongs_to_this_package("CARGO_MANIFEST_DIR".as_ref()));
        assert!(!belongs_to_this_package("CARGO_TARGET_DIR".as_ref()));
    }

    #[test]
    fn a_failure_shows_command_code_and_output() {
        let error = capture(Command::new("sh").args(["-c", "echo seen; exit 3"]))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "`sh -c \"echo seen; exit 3\"` ended with exit code 3\nseen");
    }

    #[test]
    fn programs_are_found_or_not() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
