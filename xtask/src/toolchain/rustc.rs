//! What a rustc says of itself: its version and the LLVM inside.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// A Rust version as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    /// The oldest compiler that the crates accept, from the workspace's manifest.
    pub(crate) fn oldest_accepted() -> Self {
        Self::parse(env!("CARGO_PKG_RUST_VERSION")).expect("the workspace's rust-version is a version")
    }

    /// Reads the beginning of `1.96.0-nightly`, `1.96.0+dfsg1-1` or `1.89`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Rustc {
    pub(crate) program: PathBuf,
    pub(crate) version: Version,
    /// The whole version, for messages: `1.96.0`.
    pub(crate) release: String,
    /// Major version of the LLVM that writes its bitcode.
    pub(crate) llvm: u32,
}

impl Rustc {
    /// Asks the compiler. An error means that it cannot run or does not say what a rustc says.
    pub(crate) fn ask(program: &Path) -> Result<Self> {
        let answer = process::capture(bare(program).arg("-vV"))?;
        let read = Self::read(program, &answer);
        read.with_context(|| {
            format!(
                "`{} -vV` gives no release and LLVM version:\n{answer}",
                program.display()
            )
        })
    }

    fn read(program: &Path, answer: &str) -> Option<Self> {
        let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let release = field("release:")?;
        let llvm = field("LLVM version:")?.split('.').next()?;
        Some(Self {
            program: program.to_owned(),
            version: Version::parse(release)?,
            release: release.to_owned(),
            llvm: llvm.parse().ok()?,
        })
    }

    /// The folder with its libraries.
    pub(crate) fn sysroot(&self) -> Result<PathBuf> {
        let answer = process::capture(bare(&self.program).args(["--print", "sysroot"]))?;
        Ok(PathBuf::from(answer.trim_end()))
    }
}

/// Cargo and rustup point LD_LIBRARY_PATH at the host compiler's libraries; another compiler must not see them.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read() {
        let answer = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                      host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let rustc = Rustc::read(Path::new("/usr/bin/rustc"), answer).unwrap();
        assert_eq!((rustc.version, rustc.llvm), (Version { major: 1, minor: 96 }, 22));
        assert!(Rustc::read(Path::new("gcc"), "gcc (Debian) 12\n").is_none());
    }

    #[test]
    fn versions_of_packages_and_nightlies_compare() {
        let debian = Version::parse("1.96.0+dfsg1-1~deb12u2").unwrap();
        let nightly = Version::parse("1.97.0-nightly").unwrap();
        assert!(Version::parse("1.63.0+dfsg1-2").unwrap() < debian && debian < nightly);
        assert_eq!(Version::parse("(none)"), None);
        assert!(Version::oldest_accepted() >= Version { major: 1, minor: 85 });
    }

    #[test]
    fn this_machines_compiler_answers() {
        let rustc = Rustc::ask(&process::find_program("rustc").unwrap()).unwrap();
        assert!(rustc.version >= Version::oldest_accepted());
        assert!(rustc.sysroot().unwrap().is_dir());
    }
}
