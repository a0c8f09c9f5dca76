//! The node's network devices and addresses, followed over rtnetlink: every change yields a fresh list.
//!
//! Not an API object: the agent attaches programs to what is listed here and takes the node's address from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        address::{AddressAttribute, AddressScope},
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType},
        route::RouteAttribute,
    },
};
use tokio::sync::mpsc::Sender;

/// A network device of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What its frames begin with; nothing if it is of a kind that carries no IP packets.
    pub framing: Option<Framing>,
    /// Its MTU in octets.
    pub mtu: u32,
    /// The bridge or other device that it is a port of.
    pub controller: Option<u32>,
    /// The first at which this node sees what comes from it; see [`is_first`].
    pub is_first: bool,
    /// A default route leads through it.
    pub has_default_route: bool,
    /// Addresses with more than link scope, in the kernel's order.
    pub addresses: Vec<IpAddr>,
}

/// What frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    None,
}

/// All devices by index.
pub type Devices = BTreeMap<u32, Device>;

/// The node's own addresses for masquerading: of the device with the default route if there is one, else the first of
/// any device. IPv4 and IPv6.
#[must_use]
pub fn node_addresses(devices: &Devices) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let ordered = || {
        let outward = devices.values().filter(|device| device.has_default_route);
        outward.chain(devices.values()).flat_map(|device| &device.addresses)
    };
    let v4 = ordered().find_map(|address| match address {
        IpAddr::V4(address) if !address.is_loopback() => Some(*address),
        _ => None,
    });
    let v6 = ordered().find_map(|address| match address {
        IpAddr::V6(address) if !address.is_loopback() => Some(*address),
        _ => None,
    });
    (v4, v6)
}

/// How long a burst of changes is gathered before the list is read again.
const SETTLE: Duration = Duration::from_millis(20);

/// Sends the list now and after every change, until the receiver is gone.
///
/// # Errors
/// If the kernel refuses rtnetlink.
pub async fn follow(updates: Sender<Devices>) -> Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut messages) =
        new_multicast_connection(&groups).context("open rtnetlink to follow the network devices")?;
    tokio::spawn(connection);
    let mut last = Devices::new();
    loop {
        let devices = list(&handle).await?;
        if devices != last || last.is_empty() {
            last.clone_from(&devices);
            if updates.send(devices).await.is_err() {
                return Ok(());
            }
        }
        if messages.next().await.is_none() {
            return Err(anyhow::anyhow!(
                "the kernel closed rtnetlink: devices are no longer followed"
            ));
        }
        tokio::time::sleep(SETTLE).await;
        while tokio::time::timeout(Duration::ZERO, messages.next())
            .await
            .is_ok_and(|message| message.is_some())
        {}
    }
}

/// The list as it is now.
///
/// # Errors
/// If the kernel refuses rtnetlink.
pub async fn once() -> Result<Devices> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open rtnetlink to list the network devices")?;
    tokio::spawn(connection);
    list(&handle).await
}

async fn list(handle: &Handle) -> Result<Devices> {
    let outward = default_route_devices(handle).await?;
    let mut devices = Devices::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("list the network devices")? {
        let ifindex = link.header.index;
        let mut device = Device {
            ifindex,
            name: String::new(),
            framing: framing(link.header.link_layer_type),
            mtu: 0,
            controller: None,
            is_first: false,
            has_default_route: outward.contains(&ifindex),
            addresses: Vec::new(),
        };
        let (mut kind, mut crosses) = (None, false);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                LinkAttribute::Controller(ifindex) => device.controller = Some(ifindex).filter(|ifindex| *ifindex != 0),
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                LinkAttribute::LinkNetNsId(_) => crosses = true,
                _ => {}
            }
        }
        device.is_first = link.header.link_layer_type != LinkLayerType::Loopback && is_first(kind.as_ref(), crosses);
        devices.insert(ifindex, device);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await.context("list the addresses")? {
        if !matches!(address.header.scope, AddressScope::Universe | AddressScope::Site) {
            continue;
        }
        let Some(device) = devices.get_mut(&address.header.index) else {
            continue;
        };
        // IPv4 has the own address in Local, IPv6 in Address (RFC-less: see the kernel's if_addr.h).
        let mut own = None;
        for attribute in address.attributes {
            match attribute {
                AddressAttribute::Local(address) => own = Some(address),
                AddressAttribute::Address(address) => own = own.or(Some(address)),
                _ => {}
            }
        }
        device.addresses.extend(own);
    }
    Ok(devices)
}

async fn default_route_devices(handle: &Handle) -> Result<BTreeSet<u32>> {
    let requests = [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ];
    let mut devices = BTreeSet::new();
    for request in requests {
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await.context("list the routes")? {
            let is_default = route.header.destination_prefix_length == 0;
            for attribute in route.attributes {
                if let RouteAttribute::Oif(ifindex) = attribute
                    && is_default
                    && ifindex != 1
                {
                    devices.insert(ifindex);
                }
            }
        }
    }
    Ok(devices)
}

/// Whether no other device of this node's own network has seen a packet before it arrives by a device of this kind, whose other
/// end is in another network namespace or not. Not so on what stands on other devices (bridge, VLAN, bonding, macvlan): those saw
/// it first. What a tunnel brings has been in another packet until then.
fn is_first(kind: Option<&InfoKind>, crosses: bool) -> bool {
    match kind {
        // A network card.
        None => true,
        Some(InfoKind::Veth | InfoKind::Netkit) => crosses,
        Some(
            InfoKind::Tun
            | InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::GreTap
            | InfoKind::GreTap6
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::Vti
            | InfoKind::Xfrm
            | InfoKind::Wireguard,
        ) => true,
        Some(_) => false,
    }
}

fn framing(kind: LinkLayerType) -> Option<Framing> {
    match kind {
        LinkLayerType::Ether | LinkLayerType::Loopback => Some(Framing::Ethernet),
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre
        | LinkLayerType::Ppp => Some(Framing::None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ifindex: u32, has_default_route: bool, addresses: &[&str]) -> (u32, Device) {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect();
        let name = format!("eth{ifindex}");
        (
            ifindex,
            Device {
                ifindex,
                name,
                framing: Some(Framing::Ethernet),
                mtu: 1500,
                controller: None,
                is_first: true,
                has_default_route,
                addresses,
            },
        )
    }

    #[test]
    fn the_outward_device_gives_the_nodes_address() {
        let devices = Devices::from([
            device(1, false, &["127.0.0.1", "::1"]),
            device(2, false, &["10.244.0.1"]),
            device(3, true, &["192.168.0.11"]),
            device(4, false, &["fd00::1"]),
        ]);
        let (v4, v6) = node_addresses(&devices);
        assert_eq!(v4, Some(Ipv4Addr::new(192, 168, 0, 11)));
        assert_eq!(v6, Some("fd00::1".parse().expect("an address")));
    }

    #[test]
    fn first_is_what_stands_on_no_other_device() {
        assert!(is_first(None, false), "a network card");
        assert!(
            is_first(Some(&InfoKind::Veth), true) && is_first(Some(&InfoKind::Netkit), true),
            "to a pod"
        );
        assert!(!is_first(Some(&InfoKind::Veth), false), "both ends are this node's");
        for kind in [
            InfoKind::Vxlan,
            InfoKind::Geneve,
            InfoKind::Wireguard,
            InfoKind::Tun,
            InfoKind::IpIp,
        ] {
            assert!(is_first(Some(&kind), false), "{kind:?}");
        }
        for kind in [
            InfoKind::Bridge,
            InfoKind::Vlan,
            InfoKind::Bond,
            InfoKind::MacVlan,
            InfoKind::Vrf,
            InfoKind::Ifb,
        ] {
            assert!(!is_first(Some(&kind), false), "{kind:?}");
        }
    }

    #[test]
    fn a_node_with_loopback_only_has_no_address() {
        assert_eq!(
            node_addresses(&Devices::from([device(1, false, &["127.0.0.1", "::1"])])),
            (None, None)
        );
    }
}
