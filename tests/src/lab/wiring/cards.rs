//! What a network card does, on devices that are none: checksums, large segments, receiving apart from the sender.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, setpriority_process};

use crate::lab::exec;
use crate::lab::host::Host;

/// Sets the offloads of `eth0`.
pub(super) fn offloads(host: &Host, gro: bool, partial_checksums: bool) -> Result<()> {
    offloads_of(host, "eth0", gro, partial_checksums)
}

/// Sets the offloads of a device.
pub(super) fn offloads_of(host: &Host, device: &str, gro: bool, partial_checksums: bool) -> Result<()> {
    let gro = if gro { "on" } else { "off" };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", host.namespace.path().display()));
    command.args(["--", "ethtool", "-K", device, "gro", gro]);
    if !partial_checksums {
        command.args(["tx", "off"]);
    }
    exec::output(&mut command)
        .map(drop)
        .with_context(|| format!("setting offloads of {device} in {}", host.namespace.name()))
}

/// Lets `eth0` receive in a kernel thread of its own, which goes before everything else: a network card doesn't wait for a
/// processor either, and a thread that does lets its ring of 256 frames run over.
pub(super) fn receive_in_a_thread(host: &Host) -> Result<()> {
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
