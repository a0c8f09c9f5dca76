//! Builds the namespaces, links, addresses and routes of a lab with as few calls of `ip` as possible.
//!
//! Addresses are in `plan`, choices in `options`. Nothing here leads out of the lab: every link has both ends inside.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, setpriority_process};

use super::host::Host;
use super::options::{LabBuilder, Topology};
use super::plan::{
    BRIDGE_MAC, BRIDGE_V4, BRIDGE_V6, CLIENT_MAC, CLIENT_V4, CLIENT_V6, NODE_MAC, NODE_V4, NODE_V6, POD_GATEWAY_MAC,
    PODS_V4, PODS_V6, SERVICES_V4, SERVICES_V6, VIPS_V4, VIPS_V6, backend_mac, backend_v4, backend_v6, pod_device,
};
use super::{cleanup, exec};

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

/// Makes the namespaces and everything in them.
pub(super) fn build(options: &LabBuilder, client: &Host, node: &Host, pods: &[Host]) -> Result<()> {
    // Held throughout: an interrupt that arrives now removes the lab when it is whole.
    let _building = cleanup::lock();
    let hosts: Vec<&Host> = [client, node].into_iter().chain(pods).collect();
    let mut lines = String::new();
    for host in &hosts {
        writeln!(lines, "netns add {}", host.namespace.name())?;
    }
    exec::ip_batch(None, &lines).context("making network namespaces needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN)")?;
    for host in &hosts {
        sysctls(host, EVERYWHERE)?;
    }
    sysctls(client, CLIENT)?;
    let rp_filter = options.rp_filter.to_string();
    sysctls(
        node,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", &rp_filter),
            ("net/ipv4/conf/default/rp_filter", &rp_filter),
        ],
    )?;
    exec::ip_batch(Some(node.namespace.name()), &node_lines(options, client, pods)?)?;
    exec::ip_batch(Some(client.namespace.name()), &client_lines(options)?)?;
    for (number, pod) in (1..).zip(pods) {
        exec::ip_batch(Some(pod.namespace.name()), &pod_lines(options, number)?)?;
    }
    if options.topology == Topology::Routed {
        sysctls(node, &proxy_arp(pods.len()))?;
    }
    for host in std::iter::once(client).chain(pods) {
        offloads(host, options.gro, options.partial_checksums)?;
    }
    if options.wire {
        offloads(node, true, false)?;
        receive_in_a_thread(client)?;
    }
    Ok(())
}

fn node_lines(options: &LabBuilder, client: &Host, pods: &[Host]) -> Result<String> {
    let mut lines = String::from("link set lo up\n");
    writeln!(
        lines,
        "link add name eth0 address {NODE_MAC} mtu {mtu} type veth peer name eth0 address {CLIENT_MAC} mtu {mtu} netns {}",
        client.namespace.name(),
        mtu = options.outward_mtu,
    )?;
    writeln!(lines, "link set eth0 up")?;
    writeln!(lines, "addr add {NODE_V4}/24 dev eth0")?;
    writeln!(lines, "addr add {NODE_V6}/64 dev eth0 nodad")?;
    // Host processes can address ClusterIPs; whatever isn't translated ends at the client, which forwards nothing.
    writeln!(lines, "route add default via {CLIENT_V4} dev eth0")?;
    writeln!(lines, "route add default via {CLIENT_V6} dev eth0")?;
    neighbour(&mut lines, options, CLIENT_V4, CLIENT_MAC, "eth0")?;
    neighbour(&mut lines, options, CLIENT_V6, CLIENT_MAC, "eth0")?;
    if options.topology == Topology::Bridge {
        writeln!(
            lines,
            "link add name cni0 address {BRIDGE_MAC} mtu {} type bridge forward_delay 0",
            options.pod_mtu
        )?;
        writeln!(lines, "link set cni0 up")?;
        writeln!(lines, "addr add {BRIDGE_V4}/24 dev cni0")?;
        writeln!(lines, "addr add {BRIDGE_V6}/64 dev cni0 nodad")?;
    }
    for (number, pod) in (1..).zip(pods) {
        let (device, mac) = (pod_device(number), backend_mac(number));
        let near_mac = match options.topology {
            Topology::Routed => POD_GATEWAY_MAC.to_owned(),
            Topology::Bridge => format!("02:51:03:00:00:{number:02x}"),
        };
        writeln!(
            lines,
            "link add name {device} address {near_mac} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {}",
            pod.namespace.name(),
            mtu = options.pod_mtu,
        )?;
        let (v4, v6) = (backend_v4(number), backend_v6(number));
        let toward = match options.topology {
            Topology::Routed => {
                writeln!(lines, "link set {device} up")?;
                writeln!(lines, "addr add fe80::1/64 dev {device} nodad")?;
                writeln!(lines, "route add {v4}/32 dev {device}")?;
                writeln!(lines, "route add {v6}/128 dev {device}")?;
                device.as_str()
            }
            Topology::Bridge => {
                writeln!(lines, "link set {device} master cni0 up")?;
                // A pod may reach itself through a Service: the frame goes back out of the port it came in by.
                writeln!(lines, "link set {device} type bridge_slave hairpin on")?;
                "cni0"
            }
        };
        neighbour(&mut lines, options, v4, &mac, toward)?;
        neighbour(&mut lines, options, v6, &mac, toward)?;
    }
    Ok(lines)
}

fn client_lines(options: &LabBuilder) -> Result<String> {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    writeln!(lines, "addr add {CLIENT_V4}/24 dev eth0")?;
    writeln!(lines, "addr add {CLIENT_V6}/64 dev eth0 nodad")?;
    for range in [SERVICES_V4, VIPS_V4, PODS_V4] {
        writeln!(lines, "route add {range} via {NODE_V4} dev eth0")?;
    }
    for range in [SERVICES_V6, VIPS_V6, PODS_V6] {
        writeln!(lines, "route add {range} via {NODE_V6} dev eth0")?;
    }
    neighbour(&mut lines, options, NODE_V4, NODE_MAC, "eth0")?;
    neighbour(&mut lines, options, NODE_V6, NODE_MAC, "eth0")?;
    Ok(lines)
}

fn pod_lines(options: &LabBuilder, number: u8) -> Result<String> {
    let (v4, v6) = (backend_v4(number), backend_v6(number));
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    match options.topology {
        Topology::Routed => {
            writeln!(lines, "addr add {v4}/32 dev eth0")?;
            writeln!(lines, "addr add {v6}/128 dev eth0 nodad")?;
            writeln!(lines, "route add 169.254.1.1 dev eth0 scope link")?;
            writeln!(lines, "route add default via 169.254.1.1 dev eth0")?;
            writeln!(lines, "route add default via fe80::1 dev eth0")?;
            neighbour(&mut lines, options, "169.254.1.1", POD_GATEWAY_MAC, "eth0")?;
            neighbour(&mut lines, options, "fe80::1", POD_GATEWAY_MAC, "eth0")?;
        }
        Topology::Bridge => {
            writeln!(lines, "addr add {v4}/24 dev eth0")?;
            writeln!(lines, "addr add {v6}/64 dev eth0 nodad")?;
            writeln!(lines, "route add default via {BRIDGE_V4} dev eth0")?;
            writeln!(lines, "route add default via {BRIDGE_V6} dev eth0")?;
            neighbour(&mut lines, options, BRIDGE_V4, BRIDGE_MAC, "eth0")?;
            neighbour(&mut lines, options, BRIDGE_V6, BRIDGE_MAC, "eth0")?;
        }
    }
    Ok(lines)
}

fn neighbour(
    lines: &mut String,
    options: &LabBuilder,
    address: impl std::fmt::Display,
    mac: &str,
    device: &str,
) -> Result<()> {
    if !options.learn_neighbours {
        writeln!(lines, "neigh replace {address} lladdr {mac} dev {device} nud permanent")?;
    }
    Ok(())
}

/// 169.254.1.1 is nobody's address: the node answers for it on every pod link, at once (the kernel's default is to wait 0.8 s).
fn proxy_arp(pods: usize) -> Vec<(String, &'static str)> {
    (1u8..)
        .take(pods)
        .map(pod_device)
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

fn offloads(host: &Host, gro: bool, partial_checksums: bool) -> Result<()> {
    let gro = if gro { "on" } else { "off" };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", host.namespace.path().display()));
    command.args(["--", "ethtool", "-K", "eth0", "gro", gro]);
    if !partial_checksums {
        command.args(["tx", "off"]);
    }
    exec::output(&mut command)
        .map(drop)
        .with_context(|| format!("setting offloads of eth0 in {}", host.namespace.name()))
}

/// Lets `eth0` receive in a kernel thread of its own, which goes before everything else: a network card doesn't wait for a
/// processor either, and a thread that does lets its ring of 256 frames run over.
fn receive_in_a_thread(host: &Host) -> Result<()> {
    let before = receive_threads();
    // The one use of `ip netns exec`: it shows the namespace's own /sys, where this setting is.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host.namespace.name()]);
    command.args(["sh", "-c", "echo 1 >/sys/class/net/eth0/threaded"]);
    exec::output(&mut command).with_context(|| {
        format!(
            "letting eth0 of {} receive in a thread (Linux 5.12 or newer)",
            host.namespace.name()
        )
    })?;
    for pid in receive_threads()
        .difference(&before)
        .filter_map(|pid| Pid::from_raw(*pid))
    {
        setpriority_process(Some(pid), -20).with_context(|| {
            format!(
                "giving the receive thread {pid:?} of {} precedence",
                host.namespace.name()
            )
        })?;
    }
    Ok(())
}

/// Kernel threads that receive for some `eth0`.
fn receive_threads() -> BTreeSet<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_one =
        |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("napi/eth0-"));
    let ours = processes.filter(|process| is_one(&process.path()));
    ours.filter_map(|process| process.file_name().to_str()?.parse().ok())
        .collect()
}
