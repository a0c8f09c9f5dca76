//! The part of the world that rows can forward to: one more device, and who is reached by it. The kernel's routing table in the
//! sandbox says the same as what is said here.

use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use lb_common::layout::{V4, V6};
use lb_userspace::tables::TableFamily as _;

use super::names::{Named, Version, address};

/// The largest IP packet that the device of a row's packets sends.
pub const DEVICE_MTU: u32 = 1500;

/// The device by which others are reached.
pub const WAN: u32 = 77;
/// Its link address.
pub const WAN_LINK: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
/// The largest IP packet that it sends.
pub const WAN_MTU: u16 = 8000;

/// Who is reached by it, each a neighbour, with the last octet of its link address.
const NEIGHBOURS: [(&str, u8); 4] = [("far", 1), ("far2", 2), ("outside", 3), ("peer", 4)];
/// Who would be reached by it, if it answered.
const MUTE: &str = "mute";

/// Where packets to an address are sent.
#[derive(Clone, Copy, Debug)]
pub struct NextHop {
    /// The device.
    pub ifindex: u32,
    /// The largest IP packet on this way.
    pub mtu: u16,
    /// The neighbour's link address.
    pub to: [u8; 6],
    /// The device's own.
    pub from: [u8; 6],
}

impl NextHop {
    /// The first twelve octets of a frame to it.
    #[must_use]
    pub fn frame_start(&self) -> [u8; 12] {
        let mut octets = [0; 12];
        octets[..6].copy_from_slice(&self.to);
        octets[6..].copy_from_slice(&self.from);
        octets
    }

    /// The same in words of memory.
    #[must_use]
    pub fn link(&self) -> [u32; 3] {
        let octets = self.frame_start();
        [0, 4, 8].map(|at| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]))
    }
}

fn link_of(number: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0x0f, number]
}

/// The next hops of a family by destination.
#[must_use]
pub fn next_hops<F: Named>() -> BTreeMap<F::Addr, NextHop> {
    let hop = |number| NextHop {
        ifindex: WAN,
        mtu: WAN_MTU,
        to: link_of(number),
        from: WAN_LINK,
    };
    NEIGHBOURS
        .iter()
        .map(|(name, number)| (F::named(name), hop(*number)))
        .collect()
}

/// The link addresses of a frame that goes to an address.
#[must_use]
pub fn frame_start(to: IpAddr) -> Option<[u8; 12]> {
    let hop = match to {
        IpAddr::V4(_) => next_hops::<V4>().get(&V4::from_ip(to)?).copied(),
        IpAddr::V6(_) => next_hops::<V6>().get(&V6::from_ip(to)?).copied(),
    };
    hop.map(|hop| hop.frame_start())
}

/// Makes the device and the routes in this thread's network namespace.
///
/// # Errors
/// If `ip` can't.
pub fn set_up() -> Result<()> {
    let colons = |link: [u8; 6]| link.map(|octet| format!("{octet:02x}")).join(":");
    let wan = format!("index {WAN} address {}", colons(WAN_LINK));
    ip(&format!("link set lo mtu {DEVICE_MTU}"))?;
    ip(&format!(
        "link add wan {wan} mtu {WAN_MTU} type veth peer name wan-peer"
    ))?;
    ip("link set wan-peer up")?;
    ip("link set wan up")?;
    for version in [Version::V4, Version::V6] {
        let to = |name: &str| -> (IpAddr, String) {
            let host = address(name, version);
            (host, format!("{host}/{}", if host.is_ipv4() { 32 } else { 128 }))
        };
        for (name, number) in NEIGHBOURS {
            let (host, prefix) = to(name);
            ip(&format!("route add {prefix} dev wan"))?;
            ip(&format!(
                "neigh add {host} lladdr {} dev wan nud permanent",
                colons(link_of(number))
            ))?;
        }
        ip(&format!("route add {} dev wan", to(MUTE).1))?;
    }
    Ok(())
}

/// Makes everybody reachable by that device, whose address says nothing of where it is: for benches.
///
/// # Errors
/// If `ip` can't.
pub fn lead_everywhere() -> Result<()> {
    for version in [Version::V4, Version::V6] {
        let far = address("far", version);
        ip(&format!("route add default via {far} dev wan"))?;
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("start `ip` of iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {arguments}`: {}", said.trim());
    Ok(())
}
