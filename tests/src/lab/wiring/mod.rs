//! Builds the namespaces, links, addresses and routes of a lab with as few calls of `ip` as possible.
//!
//! Addresses are in `plan`, choices in `options`, the lines for `ip` in `lines`. Nothing here leads out of the lab: every link has
//! both ends inside.

mod cards;
mod lines;

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::host::Host;
use super::options::{LabBuilder, Topology};
use super::plan::{lan_device, pod_device};
use super::{Lab, cleanup, exec};

pub(super) use lines::Way;

/// Sysctls for every namespace: no waiting for duplicate address detection, no router solicitations, no noise.
const EVERYWHERE: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/all/router_solicitations", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
];

/// Sysctls for the client: ports enough for thousands of connections a second.
const CLIENT: &[(&str, &str)] = &[
    ("net/ipv4/ip_local_port_range", "10000 65000"),
    ("net/ipv4/tcp_tw_reuse", "1"),
];

/// How long the devices of a host may take to be up.
const UP_WAIT: Duration = Duration::from_secs(5);

/// Makes the namespaces and everything in them.
pub(super) fn build(options: &LabBuilder, lab: &Lab) -> Result<()> {
    // Held throughout: an interrupt that arrives now removes the lab when it is whole.
    let _building = cleanup::lock();
    let mut names = String::new();
    for host in lab.hosts() {
        writeln!(names, "netns add {}", host.namespace.name())?;
    }
    exec::ip_batch(None, &names).context("making network namespaces needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN)")?;
    for host in lab.hosts() {
        sysctls(host, EVERYWHERE)?;
    }
    sysctls(&lab.client, CLIENT)?;
    for node in &lab.nodes {
        sysctls(node, &forwarding(&options.rp_filter.to_string()))?;
    }
    // Nodes make their links, and with them the devices at the other ends.
    for (number, node) in (1..).zip(&lab.nodes) {
        exec::ip_batch(Some(node.namespace.name()), &lines::node(options, number, lab)?)?;
    }
    if let Some(router) = &lab.router {
        sysctls(router, &forwarding("0"))?;
        exec::ip_batch(Some(router.namespace.name()), &lines::router(options, lab)?)?;
        // A batch of `ip rule` is of one family. What the router sends itself are errors about what Services have sent.
        for (family, from) in [("-4", "client0"), ("-4", "lo"), ("-6", "client0"), ("-6", "lo")] {
            let mut rule = Command::new("ip");
            rule.args([family, "-n", router.namespace.name(), "rule", "add", "iif", from]);
            exec::output(rule.args(["lookup", lines::CLIENTS_TABLE]))?;
        }
    }
    exec::ip_batch(Some(lab.client.namespace.name()), &lines::client(options, lab)?)?;
    for (node, _, pod) in lab.pods() {
        exec::ip_batch(Some(pod.namespace.name()), &lines::pod(options, node, pod)?)?;
    }
    if options.topology == Topology::Routed {
        for (number, node) in (1..).zip(&lab.nodes) {
            let pods = lab.pods().filter(|(node, ..)| *node == number);
            sysctls(node, &proxy_arp(pods.map(|(_, pod, _)| pod)))?;
        }
    }
    for host in std::iter::once(&lab.client).chain(&lab.backends) {
        cards::offloads(host, options.gro, options.partial_checksums)?;
    }
    if let Some(router) = &lab.router {
        for node in (1..).take(lab.nodes.len()) {
            cards::offloads_of(router, &lan_device(node), options.gro, true)?;
        }
    }
    if options.wire {
        for node in &lab.nodes {
            cards::offloads(node, true, false)?;
        }
        cards::receive_in_a_thread(&lab.client)?;
    }
    for host in lab.nodes.iter().chain(&lab.router) {
        wait_until_up(host, &host.devices()?)?;
    }
    let only = ["eth0".to_owned()];
    std::iter::once(&lab.client)
        .chain(&lab.backends)
        .try_for_each(|host| wait_until_up(host, &only))
}

/// A device whose other end has just come up sends nothing before the kernel's link watch has looked at it, which may take a second
/// where it has looked at another one before. Asking for the one device makes it look at once (Linux 6.12).
fn wait_until_up(host: &Host, devices: &[String]) -> Result<()> {
    let questions: String = devices
        .iter()
        .map(|device| format!("link show dev {device}\n"))
        .collect();
    let start = Instant::now();
    loop {
        let said = exec::ip_batch(Some(host.namespace.name()), &questions)?;
        if said.matches(" state UP ").count() == devices.len() {
            return Ok(());
        }
        if start.elapsed() > UP_WAIT {
            bail!(
                "devices of {} are not up after {UP_WAIT:?}:\n{said}",
                host.namespace.name()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Leads ClusterIPs, VIPs and ExternalIPs to one of the nodes, from the router on.
pub(super) fn lead_services(router: &Host, way: Way, node: u8) -> Result<()> {
    exec::ip_batch(Some(router.namespace.name()), &lines::services(way, node)?).map(drop)
}

/// Settings of a host that forwards.
fn forwarding(rp_filter: &str) -> [(&'static str, &str); 5] {
    [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", rp_filter),
        ("net/ipv4/conf/default/rp_filter", rp_filter),
    ]
}

/// 169.254.1.1 is nobody's address: the node answers for it on every pod link, at once (the kernel's default is to wait 0.8 s).
fn proxy_arp(pods: impl Iterator<Item = u8>) -> Vec<(String, &'static str)> {
    pods.map(pod_device)
        .flat_map(|device| {
            [
                (format!("net/ipv4/conf/{device}/proxy_arp"), "1"),
                (format!("net/ipv4/neigh/{device}/proxy_delay"), "0"),
            ]
        })
        .collect()
}

fn sysctls(host: &Host, settings: &[(impl AsRef<str> + Sync, &str)]) -> Result<()> {
    host.run(|| {
        for (key, value) in settings {
            // Below /proc/sys/net a thread sees the settings of the namespace it is in.
            let path = format!("/proc/sys/{}", key.as_ref());
            std::fs::write(&path, value)
                .with_context(|| format!("setting {path} to {value} in {}", host.namespace.name()))?;
        }
        Ok(())
    })
}
