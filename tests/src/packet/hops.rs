//! The part of the world that rows can forward to: more devices, and who is reached by them. The kernel's routing table in the
//! sandbox says the same as what is said here.
//!
//! | device | tags | on the card | who is there |
//! |---|---|---|---|
//! | `WAN` | | itself | `far`, `far2`, `outside` |
//! | `VLAN` | 100 | of the rows | `far-v` |
//! | `QINQ` | 200 (802.1ad), 300 | of the rows | `far-q` |
//! | `WAN_VLAN` | 400 | `WAN` | `far-w` |
//!
//! The VLAN devices are veth devices in the sandbox, whose kernel may have no others: that they stand for VLANs is what the tables say, and
//! the routing table names them alike.

use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use lb_common::layout::{Tag, Tags, V4, V6};
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

/// The card of the rows.
pub const CARD: u32 = 1;
/// A VLAN device on it.
pub const VLAN: u32 = 78;
/// A VLAN device on a service provider's VLAN device on it.
pub const QINQ: u32 = 79;
/// A VLAN device on [`WAN`].
pub const WAN_VLAN: u32 = 80;

/// The VLAN devices, each with its card and its tags there.
#[must_use]
pub const fn vlans() -> [(u32, u32, Tags); 3] {
    let (of_customer, of_provider) = (Tag(100), Tag::from_wire(Tag::SERVICE, [0, 200]));
    [
        (VLAN, CARD, Tags::new(of_customer, Tag::NONE)),
        (QINQ, CARD, Tags::new(of_provider, Tag(300))),
        (WAN_VLAN, WAN, Tags::new(Tag(400), Tag::NONE)),
    ]
}

/// Who is a neighbour, by which device, with the last octet of the link address.
const NEIGHBOURS: [(&str, u32, u8); 7] = [
    ("far", WAN, 1),
    ("far2", WAN, 2),
    ("outside", WAN, 3),
    ("peer", WAN, 7),
    ("far-v", VLAN, 4),
    ("far-q", QINQ, 5),
    ("far-w", WAN_VLAN, 6),
];
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

/// A device's own link address.
const fn own_link(ifindex: u32) -> [u8; 6] {
    if ifindex == WAN {
        WAN_LINK
    } else {
        [0x02, 0, 0, 0, 0x0e, ifindex as u8]
    }
}

const fn link_of(number: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0x0f, number]
}

/// The next hops of a family by destination.
#[must_use]
pub fn next_hops<F: Named>() -> BTreeMap<F::Addr, NextHop> {
    let hop = |ifindex, number| NextHop {
        ifindex,
        mtu: WAN_MTU,
        to: link_of(number),
        from: own_link(ifindex),
    };
    NEIGHBOURS
        .iter()
        .map(|(name, ifindex, number)| (F::named(name), hop(*ifindex, *number)))
        .collect()
}

/// Where packets to an address are sent.
#[must_use]
pub fn next_hop(to: IpAddr) -> Option<NextHop> {
    match to {
        IpAddr::V4(_) => next_hops::<V4>().get(&V4::from_ip(to)?).copied(),
        IpAddr::V6(_) => next_hops::<V6>().get(&V6::from_ip(to)?).copied(),
    }
}

/// The card by which a device's frames are sent.
#[must_use]
pub fn card_of(ifindex: u32) -> u32 {
    let known = vlans().into_iter().find(|(device, ..)| *device == ifindex);
    known.map_or(ifindex, |(_, card, _)| card)
}

/// Makes the device and the routes in this thread's network namespace.
///
/// # Errors
/// If `ip` can't.
pub fn set_up() -> Result<()> {
    let colons = |link: [u8; 6]| link.map(|octet| format!("{octet:02x}")).join(":");
    ip(&format!("link set lo mtu {DEVICE_MTU}"))?;
    let devices = [("wan", WAN), ("vlan", VLAN), ("qinq", QINQ), ("wan-vlan", WAN_VLAN)];
    for (name, ifindex) in devices {
        let own = format!("index {ifindex} address {}", colons(own_link(ifindex)));
        ip(&format!(
            "link add {name} {own} mtu {WAN_MTU} type veth peer name {name}-peer"
        ))?;
        ip(&format!("link set {name}-peer up"))?;
        ip(&format!("link set {name} up"))?;
    }
    for version in [Version::V4, Version::V6] {
        let to = |name: &str| -> (IpAddr, String) {
            let host = address(name, version);
            (host, format!("{host}/{}", if host.is_ipv4() { 32 } else { 128 }))
        };
        for (name, ifindex, number) in NEIGHBOURS {
            let (host, prefix) = to(name);
            let device = devices.iter().find(|(_, index)| *index == ifindex);
            let (device, _) = device.context("a neighbour is at no device")?;
            ip(&format!("route add {prefix} dev {device}"))?;
            ip(&format!(
                "neigh add {host} lladdr {} dev {device} nud permanent",
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
