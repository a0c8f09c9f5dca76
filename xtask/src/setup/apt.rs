//! Debian's and Ubuntu's packages: what is installed, what could be, and installing it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::privilege::Privilege;
use crate::process;

/// Versions of one package, as `apt-cache policy` tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) installed: Option<String>,
    pub(crate) candidate: Option<String>,
}

/// Debian's packages ask this program before they start a service, wherever init is systemd or something else.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Runs a command while the program that is named first forbids all services. One that is there already is left as it is.
const WITHOUT_SERVICES: &str = r#"
policy=$1
shift
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || exit
fi
"$@"
"#;

pub(crate) type Policies = BTreeMap<String, Policy>;

/// The package manager of this machine.
#[derive(Debug)]
pub(crate) struct Apt {
    privilege: Privilege,
    updated: bool,
}

impl Apt {
    /// None on distributions with another one.
    pub(crate) fn open() -> Option<Self> {
        process::find_program("apt-get")?;
        process::find_program("apt-cache")?;
        Some(Self {
            privilege: Privilege::find(),
            updated: false,
        })
    }

    /// What is known of these packages. Looks only; names nobody knows are left out.
    pub(crate) fn policies(names: &[&str]) -> Result<Policies> {
        let answer = process::capture(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(names))?;
        Ok(read_policies(&answer))
    }

    /// The same, after one `apt-get update` if apt has no lists or does not know how to get one of `wanted`.
    pub(crate) fn fresh_policies(&mut self, names: &[&str], wanted: &[&str]) -> Result<Policies> {
        let known = Self::policies(names)?;
        let gettable = |name: &&str| known.get(*name).is_some_and(|policy| policy.candidate.is_some());
        if self.updated || (has_lists() && wanted.iter().all(gettable)) {
            return Ok(known);
        }
        self.update()?;
        Self::policies(names)
    }

    /// Installs packages that apt offers, refreshing the lists once if they turn out to be too old.
    pub(crate) fn install(&mut self, names: &[&str]) -> Result<()> {
        println!(
            "setup: installing {} (apt-get, {})",
            names.join(" "),
            self.privilege.how()
        );
        if !has_lists() {
            self.update()?;
        }
        let first = self.try_install(names);
        if first.is_ok() || self.updated {
            return first;
        }
        self.update()?;
        self.try_install(names)
    }

    fn try_install(&self, names: &[&str]) -> Result<()> {
        let mut command = self.apt_get()?;
        command
            .args(["install", "--yes", "--no-install-recommends"])
            .args(names);
        process::capture(&mut command)
            .map(drop)
            .with_context(|| format!("cannot install {}", names.join(", ")))
    }

    fn update(&mut self) -> Result<()> {
        println!(
            "setup: fetching the package lists (apt-get update, {})",
            self.privilege.how()
        );
        self.updated = true;
        process::capture(self.apt_get()?.arg("update"))
            .map(drop)
            .context("cannot fetch the package lists")
    }

    /// Keeps a service that has just come with a package from starting when the machine does.
    pub(crate) fn disable_service(&self, service: &str) -> Result<()> {
        let mut command = self.privilege.command("update-rc.d", "disable a service")?;
        process::capture(command.args([service, "disable"]))
            .map(drop)
            .with_context(|| format!("cannot keep the service {service} from starting with the machine"))
    }

    /// Asks no questions, starts no services, and waits for another apt-get instead of failing beside it.
    fn apt_get(&self) -> Result<Command> {
        let mut command = self.privilege.command("sh", "install packages")?;
        command.args(["-c", WITHOUT_SERVICES, "sh", SERVICE_POLICY, "env"]);
        command.args(["LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
        command.args(["-o", "DPkg::Lock::Timeout=300"]);
        Ok(command)
    }
}

/// A fresh container image comes without any.
pub(crate) fn has_lists() -> bool {
    let entries = fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().contains("_Packages"))
}

fn read_policies(answer: &str) -> Policies {
    let mut policies = Policies::new();
    let mut current = None;
    for line in answer.lines() {
        if !line.starts_with(' ') {
            current = line
                .strip_suffix(':')
                .map(|name| policies.entry(name.to_owned()).or_default());
        } else if let (Some(policy), Some((field, version))) = (&mut current, line.trim().split_once(": ")) {
            let version = (version != "(none)").then(|| version.to_owned());
            match field {
                "Installed" => policy.installed = version,
                "Candidate" => policy.candidate = version,
                _ => {}
            }
        }
    }
    policies
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "\
rustc-web:
  Installed: 1.96.0+dfsg1-1~deb12u2
  Candidate: 1.96.0+dfsg1-1~deb12u3
  Version table:
 *** 1.96.0+dfsg1-1~deb12u2 500
        500 somewhere bookworm-security/main amd64 Packages
rustc:
  Installed: (none)
  Candidate: 1.63.0+dfsg1-2
  Version table:
     1.63.0+dfsg1-2 500
libstd-rust-dev-bpf:
  Installed: (none)
  Candidate: (none)
";

    #[test]
    fn policies_are_read_per_package() {
        let policies = read_policies(ANSWER);
        assert_eq!(policies.len(), 3);
        assert_eq!(
            policies["rustc-web"].installed.as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(
            policies["rustc-web"].candidate.as_deref(),
            Some("1.96.0+dfsg1-1~deb12u3")
        );
        assert_eq!(policies["rustc"].installed, None);
        assert_eq!(policies["rustc"].candidate.as_deref(), Some("1.63.0+dfsg1-2"));
        assert_eq!(policies["libstd-rust-dev-bpf"], Policy::default());
    }

    #[test]
    fn no_service_starts_while_a_command_runs() {
        let scratch = tempfile::tempdir().unwrap();
        let policy = scratch.path().join("policy");
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", WITHOUT_SERVICES, "sh"]).arg(&policy);
            command
                .args(["sh", "-c", script, "two words"])
                .arg(&policy)
                .status()
                .unwrap()
                .code()
        };
        assert_eq!(run(r#""$1"; test $? = 101 && test "$0" = "two words""#), Some(0));
        assert!(!policy.exists(), "it goes when the command has ended");
        assert_eq!(run("exit 7"), Some(7));
        assert!(!policy.exists());
        fs::write(&policy, "another").unwrap();
        assert_eq!(run("exit 0"), Some(0));
        assert_eq!(
            fs::read_to_string(&policy).unwrap(),
            "another",
            "one that was there stays"
        );
    }

    #[test]
    fn an_empty_answer_knows_nothing() {
        assert_eq!(read_policies(""), Policies::new());
    }
}
