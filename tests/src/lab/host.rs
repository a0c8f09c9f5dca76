//! A host of the lab: a network namespace with its addresses, and what can be asked of its devices.
//!
//! How hosts are wired is said in the topologies.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::exec;
use super::namespace::Namespace;

/// A machine or pod of the lab.
#[derive(Clone, Debug)]
pub struct Host {
    /// `client`, `node` or `backend-<n>`.
    pub name: String,
    /// Its address on `eth0`.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on `eth0`.
    pub v6: Ipv6Addr,
    /// Where it lives.
    pub namespace: Namespace,
}

/// What a device has counted since it was made.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct DirectionCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Broken packets.
    pub errors: u64,
    /// Packets thrown away.
    pub dropped: u64,
}

/// Both directions of a device.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Received.
    pub rx: DirectionCounters,
    /// Sent.
    pub tx: DirectionCounters,
}

impl Host {
    /// Runs a closure in the host's network, on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work)
    }

    /// Starts a thread in the host's network.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        self.namespace.spawn(name, work)
    }

    /// A command that will run in the host's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// What a device has counted.
    pub fn counters(&self, device: &str) -> Result<DeviceCounters> {
        let list = exec::ip_json(self.namespace.name(), ["-statistics", "link", "show", "dev", device])?;
        list.get(0)
            .and_then(|link| link.get("stats64"))
            .and_then(|stats| DeviceCounters::deserialize(stats).ok())
            .with_context(|| {
                format!(
                    "`ip -s link show dev {device}` of {} has no counters: {list}",
                    self.name
                )
            })
    }

    /// What a device's driver has counted, by the driver's own names, such as `rx_queue_0_xdp_tx`.
    pub fn driver_counters(&self, device: &str) -> Result<BTreeMap<String, u64>> {
        let text = exec::output(self.command("ethtool").args(["-S", device]))?;
        let counters = text.lines().filter_map(|line| {
            let (name, count) = line.split_once(": ")?;
            Some((name.trim().to_owned(), count.trim().parse().ok()?))
        });
        Ok(counters.collect())
    }

    /// The names of its devices, without `lo`.
    pub fn devices(&self) -> Result<Vec<String>> {
        let list = exec::ip_json(self.namespace.name(), ["link", "show"])?;
        let links = list.as_array().into_iter().flatten();
        let names = links.filter_map(|link| link.get("ifname")?.as_str().map(str::to_owned));
        Ok(names.filter(|name| name != "lo").collect())
    }
}
