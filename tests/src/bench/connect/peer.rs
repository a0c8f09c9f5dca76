//! The rules of another balancer, as `nft list ruleset` or `iptables-save` print them: loaded into a node's namespace, and read for the
//! ClusterIPs that they serve on port 80.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::lab::Host;

/// A file with rules, plain or compressed by gzip.
pub(super) struct PeerRules {
    path: PathBuf,
    is_nft: bool,
    /// What is served on port 80 by TCP: each has five endpoints, at 10.128.0.0 and so on, port 8080.
    pub cluster_ips: Vec<Ipv4Addr>,
}

impl PeerRules {
    /// Reads it.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let output = Command::new("gzip")
            .args(["--decompress", "--stdout", "--force"])
            .stdin(fs::File::open(path).with_context(|| format!("open {}", path.display()))?)
            .output()
            .context("run gzip")?;
        let text = String::from_utf8(output.stdout).with_context(|| format!("{} is no text", path.display()))?;
        let is_nft = !text.starts_with(['#', '*']);
        let mut cluster_ips: Vec<Ipv4Addr> = text
            .lines()
            .filter_map(if is_nft { nft_ip } else { iptables_ip })
            .collect();
        cluster_ips.sort_unstable();
        cluster_ips.dedup();
        if cluster_ips.is_empty() {
            bail!("{} names no ClusterIP that is served on port 80", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            is_nft,
            cluster_ips,
        })
    }

    /// Loads it into a node.
    pub(super) fn load(&self, node: &Host) -> Result<()> {
        let tool = if self.is_nft {
            "nft -f -"
        } else {
            // A module that counts in a file system, which few kernels have.
            "sed 's/-m nfacct --nfacct-name *[^ ]*//' | iptables-legacy-restore"
        };
        let mut command = node.command("sh");
        command.args([
            "-c",
            &format!("gzip --decompress --stdout --force < \"$1\" | {tool}"),
            "sh",
        ]);
        let output = command
            .arg(&self.path)
            .stdin(Stdio::null())
            .output()
            .context("run sh")?;
        if !output.status.success() {
            bail!(
                "{tool} does not take {}: {}",
                self.path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// Of an element of the map from addresses to Services.
fn nft_ip(line: &str) -> Option<Ipv4Addr> {
    let (address, _) = line.split_once(" . tcp . 80 : goto service-")?;
    address.rsplit(['{', ' ', '\t']).next()?.parse().ok()
}

fn iptables_ip(line: &str) -> Option<Ipv4Addr> {
    let rule = line.strip_prefix("-A KUBE-SERVICES -d ")?;
    let is_service = rule.contains("-p tcp") && rule.contains("--dport 80 ") && rule.contains("-j KUBE-SVC-");
    let (address, _) = rule.split_once('/')?;
    is_service.then(|| address.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ips_are_found_in_both_formats() {
        let ip = Some(Ipv4Addr::new(10, 105, 7, 0));
        for line in [
            "\t\t\t     10.105.7.0 . tcp . 80 : goto service-W3CDB6MC-bulk/svc-07960/tcp/p0,",
            "\t\telements = { 10.105.7.0 . tcp . 80 : goto service-W3CDB6MC-bulk/svc-07960/tcp/p0,",
        ] {
            assert_eq!(nft_ip(line), ip);
        }
        assert_eq!(nft_ip("\t\t\t     10.96.0.10 . tcp . 53 : goto service-X,"), None);
        assert_eq!(nft_ip("\t\telements = { 10.128.0.0 . 10.128.0.0 . tcp . 8080,"), None);
        let rule = "-A KUBE-SERVICES -d 10.105.7.0/32 -p tcp -m comment --comment \"bulk/svc-00580:p0 cluster IP\" -m tcp --dport 80 -j KUBE-SVC-PJ";
        assert_eq!(iptables_ip(rule), ip);
        assert_eq!(iptables_ip(&rule.replace("--dport 80", "--dport 8080")), None);
        assert_eq!(iptables_ip(&rule.replace("KUBE-SVC", "KUBE-MARK")), None);
    }
}
