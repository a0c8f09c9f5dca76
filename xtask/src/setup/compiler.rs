//! A compiler for BPF: which way is open on this machine, and taking it.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Session;
use super::apt::{Apt, Policies, Policy};
use crate::process;
use crate::toolchain::{Compiler, Version};

/// Packages that belong together: a rustc, the core library compiled for BPF by the same version, and its clippy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PackageSet {
    pub(crate) rustc: &'static str,
    pub(crate) core: &'static str,
    pub(crate) clippy: &'static str,
}

/// Debian's stable releases carry a current compiler for their browsers under a name of its own.
const PACKAGE_SETS: [PackageSet; 2] = [
    PackageSet {
        rustc: "rustc-web",
        core: "libstd-rust-web-dev-bpf",
        clippy: "rust-web-clippy",
    },
    PackageSet {
        rustc: "rustc",
        core: "libstd-rust-dev-bpf",
        clippy: "rust-clippy",
    },
];

const RUSTUP_NIGHTLY: [&str; 9] = [
    "toolchain",
    "install",
    "nightly",
    "--profile",
    "minimal",
    "--component",
    "rust-src",
    "--component",
    "clippy",
];

/// Takes the first way that is open: the distribution's packages, then rustup's nightly.
pub(crate) fn install(session: &mut Session) -> Result<Compiler> {
    let mut closed = Vec::new();
    for (way, take) in [
        (
            "distribution packages",
            of_distribution as fn(&mut Session) -> Result<()>,
        ),
        ("rustup's nightly", of_rustup),
    ] {
        match take(session) {
            Ok(()) => match Compiler::find() {
                Some(compiler) => return Ok(compiler),
                None => closed.push(format!("{way}: installed, yet no core library for BPF is found")),
            },
            Err(why) => closed.push(format!("{way}: {why:#}")),
        }
    }
    bail!(
        "no way to a compiler for BPF is open on this machine.\n  {}\nBy hand:\n  {}",
        closed.join("\n  "),
        by_hand().join("\n  ")
    )
}

/// What a person would type; by apt's own answer where it has one.
pub(crate) fn by_hand() -> Vec<String> {
    let policies = Apt::open().and_then(|_| Apt::policies(&all_names()).ok());
    let typed = |set: &PackageSet| {
        format!(
            "apt-get install --no-install-recommends {} {} {}",
            set.rustc, set.core, set.clippy
        )
    };
    match policies.as_ref().and_then(|policies| choose(policies).ok()) {
        Some(set) => vec![typed(set)],
        None => vec![
            typed(&PACKAGE_SETS[0]),
            format!(
                "  (or, where the distribution has no such packages: {})",
                typed(&PACKAGE_SETS[1])
            ),
            format!("  (or, where it has neither: rustup {})", RUSTUP_NIGHTLY.join(" ")),
        ],
    }
}

/// The clippy package that fits the distribution's compiler, if that is the one in use.
pub(crate) fn clippy_package(policies: &Policies) -> Option<&'static str> {
    let installed = |set: &&PackageSet| policies.get(set.rustc).is_some_and(|policy| policy.installed.is_some());
    PACKAGE_SETS.iter().find(installed).map(|set| set.clippy)
}

pub(crate) fn all_names() -> Vec<&'static str> {
    PACKAGE_SETS
        .iter()
        .flat_map(|set| [set.rustc, set.core, set.clippy])
        .collect()
}

fn of_distribution(session: &mut Session) -> Result<()> {
    let apt = session.apt.as_mut().context("this distribution has no apt-get")?;
    let mut policies = Apt::policies(&all_names())?;
    if choose(&policies).is_err() {
        policies = apt.fresh_policies(&all_names(), &[PACKAGE_SETS[0].core])?;
    }
    let set = choose(&policies)?;
    apt.install(&[set.rustc, set.core])
}

fn of_rustup(_session: &mut Session) -> Result<()> {
    let rustup = process::find_program("rustup").context("there is no rustup")?;
    println!("setup: installing rustup's nightly with the sources of the core library");
    process::capture(Command::new(rustup).args(RUSTUP_NIGHTLY))
        .map(drop)
        .context("it cannot be fetched")
}

/// The set whose compiler and core library have one version that is new enough. One that is already there is
/// preferred, since the two sets exclude each other.
fn choose(policies: &Policies) -> Result<&'static PackageSet> {
    let unknown = Policy::default();
    let mut reasons = Vec::new();
    let mut usable = Vec::new();
    for set in &PACKAGE_SETS {
        let rustc = policies.get(set.rustc).unwrap_or(&unknown);
        let core = policies.get(set.core).unwrap_or(&unknown);
        match (&rustc.candidate, &core.candidate) {
            (Some(rustc), Some(core)) if rustc != core => {
                reasons.push(format!("{} is {rustc} but {} is {core}", set.rustc, set.core));
            }
            (Some(version), Some(_)) if Version::parse(version) < Some(Version::oldest_accepted()) => {
                reasons.push(format!(
                    "{} {version} is older than {}",
                    set.rustc,
                    Version::oldest_accepted()
                ));
            }
            (Some(_), Some(_)) => usable.push((rustc.installed.is_none(), set)),
            (_, None) => reasons.push(format!("no package {}", set.core)),
            (None, _) => reasons.push(format!("no package {}", set.rustc)),
        }
    }
    usable.sort_by_key(|(is_new, _)| *is_new);
    let first = usable.first().map(|(_, set)| *set);
    first.with_context(|| format!("apt offers no fitting pair ({})", reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(offers: &[(&str, Option<&str>, &str)]) -> Policies {
        let policy = |(name, installed, candidate): &(&str, Option<&str>, &str)| {
            let policy = Policy {
                installed: installed.map(str::to_owned),
                candidate: Some((*candidate).to_owned()),
            };
            ((*name).to_owned(), policy)
        };
        offers.iter().map(policy).collect()
    }

    #[test]
    fn debian_12_has_the_browsers_compiler() {
        let policies = offer(&[
            ("rustc", None, "1.63.0+dfsg1-2"),
            ("rustc-web", None, "1.96.0+dfsg1-1~deb12u2"),
            ("libstd-rust-web-dev-bpf", None, "1.96.0+dfsg1-1~deb12u2"),
        ]);
        assert_eq!(choose(&policies).unwrap().rustc, "rustc-web");
    }

    #[test]
    fn newer_releases_have_the_plain_names() {
        let policies = offer(&[("rustc", None, "1.97.0-1"), ("libstd-rust-dev-bpf", None, "1.97.0-1")]);
        assert_eq!(choose(&policies).unwrap().rustc, "rustc");
    }

    #[test]
    fn what_is_installed_is_kept() {
        let both = [
            ("rustc-web", None, "1.96.0"),
            ("libstd-rust-web-dev-bpf", None, "1.96.0"),
            ("rustc", Some("1.95.0"), "1.95.0"),
            ("libstd-rust-dev-bpf", None, "1.95.0"),
        ];
        assert_eq!(choose(&offer(&both)).unwrap().rustc, "rustc");
    }

    #[test]
    fn versions_that_differ_or_are_too_old_are_refused_with_the_reason() {
        let differ = offer(&[
            ("rustc-web", None, "1.96.0"),
            ("libstd-rust-web-dev-bpf", None, "1.85.0"),
        ]);
        let why = choose(&differ).unwrap_err().to_string();
        assert!(
            why.contains("rustc-web is 1.96.0 but libstd-rust-web-dev-bpf is 1.85.0"),
            "{why}"
        );
        let old = offer(&[("rustc", None, "1.63.0"), ("libstd-rust-dev-bpf", None, "1.63.0")]);
        assert!(
            choose(&old)
                .unwrap_err()
                .to_string()
                .contains("rustc 1.63.0 is older than")
        );
        assert!(
            choose(&Policies::new())
                .unwrap_err()
                .to_string()
                .contains("no package libstd-rust-web-dev-bpf")
        );
    }

    #[test]
    fn clippy_comes_from_the_set_in_use() {
        let policies = offer(&[("rustc-web", Some("1.96.0"), "1.96.0")]);
        assert_eq!(clippy_package(&policies), Some("rust-web-clippy"));
        assert_eq!(clippy_package(&Policies::new()), None);
    }
}
