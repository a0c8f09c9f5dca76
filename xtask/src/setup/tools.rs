//! Programs that the build and the tests call, and the packages they come in.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use super::{Gap, Session};
use crate::process;

/// A program and the packages that bring it, the usual one first.
#[derive(Debug)]
pub(crate) struct Tool {
    program: &'static str,
    packages: &'static [&'static str],
    purpose: &'static str,
    /// What the package would run all the time, and nobody here wants: labs start the program themselves.
    service: Option<&'static str>,
}

pub(crate) const TOOLS: [Tool; 15] = [
    Tool {
        program: "cc",
        packages: &["gcc"],
        purpose: "links every build, and compiles the C in TLS",
        service: None,
    },
    Tool {
        program: "ip",
        packages: &["iproute2"],
        purpose: "builds the networks of labs and demo",
        service: None,
    },
    Tool {
        program: "ethtool",
        packages: &["ethtool"],
        purpose: "switches offloads of devices in labs",
        service: None,
    },
    Tool {
        program: "nsenter",
        packages: &["util-linux"],
        purpose: "looks into a lab's namespaces",
        service: None,
    },
    Tool {
        program: "bpftool",
        packages: &["bpftool", "linux-tools-common"],
        purpose: "shows what is loaded",
        service: None,
    },
    Tool {
        program: "tcpdump",
        packages: &["tcpdump"],
        purpose: "shows what passes in labs",
        service: None,
    },
    Tool {
        program: "curl",
        packages: &["curl"],
        purpose: "is a client in labs that nobody here wrote",
        service: None,
    },
    Tool {
        program: "python3",
        packages: &["python3"],
        purpose: "asks sockets in labs for what no library asks",
        service: None,
    },
    Tool {
        program: "dnsmasq",
        packages: &["dnsmasq-base"],
        purpose: "is a name server and a resolver in labs that nobody here wrote",
        service: None,
    },
    Tool {
        program: "openssl",
        packages: &["openssl"],
        purpose: "makes certificates for labs",
        service: None,
    },
    Tool {
        program: "nginx",
        // On older distributions a package of this name only brings one of the others along.
        packages: &["nginx", "nginx-light", "nginx-core"],
        purpose: "is an ingress in labs that nobody here wrote",
        service: Some("nginx"),
    },
    Tool {
        program: "nft",
        packages: &["nftables"],
        purpose: "writes kube-proxy's rules in labs",
        service: None,
    },
    Tool {
        program: "iptables-nft-restore",
        packages: &["iptables"],
        purpose: "writes kube-proxy's rules in labs, those of its other mode",
        service: None,
    },
    Tool {
        program: "ipset",
        packages: &["ipset"],
        purpose: "writes kube-proxy's sets in labs, those of its IPVS mode",
        service: None,
    },
    Tool {
        program: "kubectl",
        packages: &["kubernetes-client"],
        purpose: "writes to a real API server in tests, and renders manifests",
        service: None,
    },
];

/// The C library's headers: gcc does not bring them along when recommended packages are left out.
const LIBC_HEADER: &str = "/usr/include/stdlib.h";
const LIBC_PACKAGE: &str = "libc6-dev";

fn missing() -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| process::find_program(tool.program).is_none())
        .collect()
}

pub(crate) fn gap() -> Option<Gap> {
    let missing = missing();
    let no_headers = !Path::new(LIBC_HEADER).exists();
    if missing.is_empty() && !no_headers {
        return None;
    }
    let describe = |tool: &&Tool| format!("{} ({})", tool.program, tool.purpose);
    let headers = no_headers.then(|| "the C library's headers".to_owned());
    let what: Vec<_> = missing.iter().map(describe).chain(headers).collect();
    let packages = missing
        .iter()
        .map(|tool| tool.packages[0])
        .chain(no_headers.then_some(LIBC_PACKAGE));
    let packages: Vec<_> = packages.collect();
    Some(Gap {
        what: what.join(", "),
        by_hand: vec![format!(
            "apt-get install --no-install-recommends {}",
            packages.join(" ")
        )],
    })
}

pub(crate) fn install(session: &mut Session) -> Result<()> {
    let Some(gap) = gap() else { return Ok(()) };
    let Some(apt) = session.apt.as_mut() else {
        bail!(
            "missing: {}. This distribution has no apt-get: install the programs with its own package manager",
            gap.what
        );
    };
    let missing = missing();
    let names: Vec<_> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let first: Vec<_> = missing.iter().map(|tool| tool.packages[0]).collect();
    let policies = apt.fresh_policies(&names, &first)?;
    let mut wanted = Vec::new();
    for tool in &missing {
        let offered = |name: &&&str| policies.get(**name).is_some_and(|policy| policy.candidate.is_some());
        let package = tool.packages.iter().find(offered);
        wanted.push(*package.with_context(|| {
            format!(
                "apt offers no package with {}: tried {}",
                tool.program,
                tool.packages.join(", ")
            )
        })?);
    }
    if !Path::new(LIBC_HEADER).exists() {
        wanted.push(LIBC_PACKAGE);
    }
    apt.install(&wanted)?;
    for service in missing.iter().filter_map(|tool| tool.service) {
        apt.disable_service(service)?;
    }
    match missing
        .iter()
        .find(|tool| process::find_program(tool.program).is_none())
    {
        Some(tool) => bail!(
            "{} was installed, but there is no program {}",
            tool.packages.join(" or "),
            tool.program
        ),
        None => Ok(()),
    }
}

/// Clippy for the kernel programs, from the same packages as their compiler. Only lint wants it, so a distribution
/// without it loses that check and nothing else.
pub(crate) fn install_bpf_clippy(session: &mut Session) -> Result<bool> {
    let Some(apt) = session.apt.as_mut() else {
        return Ok(false);
    };
    let policies = Apt::policies(&super::compiler::all_names())?;
    let Some(package) = super::compiler::clippy_package(&policies) else {
        return Ok(false);
    };
    if policies.get(package).is_none_or(|policy| policy.candidate.is_none()) {
        return Ok(false);
    }
    apt.install(&[package])?;
    Ok(true)
}
