//! A list of the network devices: what rtnetlink tells of links, addresses and default routes, and what drivers do for XDP.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use lb_common::layout::Tag;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressScope},
        link::{
            InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
            VlanProtocol, XdpAttached,
        },
        route::RouteAttribute,
    },
};

use super::{
    Device, Devices, Framing, Vlan, XdpProgram,
    vlan::{card_of, on_top},
};
use crate::{
    netfilter::IPVS_DEVICE,
    source::{
        netdev::Netdev,
        vlan_features::{VlanFeatures, vlan_features},
    },
};

/// All devices as they are now.
pub(super) async fn list(handle: &Handle, netdev: Option<&mut Netdev>) -> Result<Devices> {
    let outward = default_route_devices(handle).await?;
    let mut devices = Devices::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("list the network devices")? {
        let mut device = device(link);
        device.has_default_route = outward.contains(&device.ifindex);
        devices.insert(device.ifindex, device);
    }
    learn_of_vlans(&mut devices).await;
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await.context("list the addresses")? {
        if !matches!(address.header.scope, AddressScope::Universe | AddressScope::Site) {
            continue;
        }
        let Some(device) = devices.get_mut(&address.header.index) else {
            continue;
        };
        // What kube-proxy's IPVS mode has there are Services' addresses, of which none is the host's.
        if device.name == IPVS_DEVICE {
            continue;
        }
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
    if let Some(netdev) = netdev {
        match netdev.features().await {
            Ok(features) => devices
                .values_mut()
                .for_each(|device| device.xdp_features = features.get(&device.ifindex).copied()),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "what drivers do for XDP is not known"),
        }
    }
    Ok(devices)
}

/// What is known of VLAN devices by what they stand on, and of cards by what stands on them.
async fn learn_of_vlans(devices: &mut Devices) {
    // The device below leaves tagged packets alone, so that this is the first after it.
    let first: Vec<u32> = devices
        .values()
        .filter(|device| card_of(devices, device).is_some_and(|card| card.is_first))
        .map(|device| device.ifindex)
        .collect();
    for ifindex in first {
        devices.entry(ifindex).and_modify(|device| device.is_first = true);
    }
    let carry = devices
        .values()
        .filter(|device| on_top(devices, device).next().is_some());
    let carry: Vec<(u32, String)> = carry.map(|device| (device.ifindex, device.name.clone())).collect();
    if carry.is_empty() {
        return;
    }
    let names: Vec<&str> = carry.iter().map(|(_, name)| name.as_str()).collect();
    let features = vlan_features(&names).await.unwrap_or_else(|error| {
        let error = format!("{error:#}");
        tracing::warn!(
            error,
            "whether cards take VLAN tags out is not known: no XDP where VLAN devices are"
        );
        Default::default()
    });
    for (ifindex, name) in &carry {
        let known = features.get(name).copied();
        let unknown = VlanFeatures {
            parses: true,
            ..VlanFeatures::default()
        };
        let hides_tags = known.unwrap_or(unknown).hiding();
        devices
            .entry(*ifindex)
            .and_modify(|device| device.hides_tags = hides_tags);
    }
}

/// What rtnetlink tells of a device itself.
fn device(link: LinkMessage) -> Device {
    let mut device = Device {
        ifindex: link.header.index,
        framing: framing(link.header.link_layer_type),
        ..Device::default()
    };
    let (mut kind, mut crosses) = (None, false);
    let (mut bus, mut parent) = (None, None);
    let (mut lower, mut tag) = (None, Tag::NONE);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Address(address) => device.link = address.try_into().ok(),
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::Controller(ifindex) => device.controller = Some(ifindex).filter(|ifindex| *ifindex != 0),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(found) => kind = Some(found),
                        LinkInfo::Data(InfoData::Vlan(data)) => tag = tag_of(&data),
                        _ => {}
                    }
                }
            }
            LinkAttribute::Link(ifindex) => lower = Some(ifindex),
            LinkAttribute::LinkNetNsId(_) => crosses = true,
            LinkAttribute::Xdp(attributes) => device.xdp = xdp_program(&attributes),
            LinkAttribute::ParentDevName(name) => parent = Some(name),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            _ => {}
        }
    }
    // What stands on a device of another network namespace is told by that one's index.
    device.vlan = lower.filter(|_| tag != Tag::NONE && !crosses).map(|lower| Vlan {
        lower,
        tag,
        is_up: link.header.flags.contains(LinkFlags::Up),
    });
    device.is_first = link.header.link_layer_type != LinkLayerType::Loopback && is_first(kind.as_ref(), crosses);
    device.driver = match (kind, bus, parent) {
        (Some(kind), ..) => Some(kind.to_string()),
        (None, Some(bus), Some(parent)) => driver(&bus, &parent),
        _ => None,
    };
    device
}

/// The tag of a VLAN device's frames.
fn tag_of(data: &[InfoVlan]) -> Tag {
    let (mut ethertype, mut identifier) = (Tag::CUSTOMER, 0);
    for attribute in data {
        match attribute {
            InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => ethertype = Tag::SERVICE,
            InfoVlan::Id(id) => identifier = *id,
            _ => {}
        }
    }
    Tag::from_wire(ethertype, identifier.to_be_bytes())
}

/// The driver of a card. The bus is the same in every network namespace, `/sys/class/net` isn't.
fn driver(bus: &str, parent: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/bus/{bus}/devices/{parent}/driver")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

fn xdp_program(attributes: &[LinkXdp]) -> Option<XdpProgram> {
    let id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) | LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    let is_generic = attributes.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
    id.map(|id| XdpProgram { id, is_generic })
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
    fn a_vlan_device_says_what_it_stands_on_and_its_tag() {
        let message = |attributes: &[LinkAttribute]| {
            let mut message = LinkMessage::default();
            message.header.flags = LinkFlags::Up;
            message.header.link_layer_type = LinkLayerType::Ether;
            let data = InfoData::Vlan(vec![InfoVlan::Protocol(VlanProtocol::Ieee8021Ad), InfoVlan::Id(100)]);
            message.attributes = vec![
                LinkAttribute::Link(2),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)]),
            ];
            message.attributes.extend_from_slice(attributes);
            device(message)
        };
        let vlan = Vlan {
            lower: 2,
            tag: Tag(0x1064),
            is_up: true,
        };
        assert_eq!(message(&[]).vlan, Some(vlan));
        let elsewhere = message(&[LinkAttribute::LinkNetNsId(0)]);
        assert_eq!(elsewhere.vlan, None, "the index is another network namespace's");
    }

    #[test]
    fn the_program_in_the_driver_is_told_from_one_behind_it() {
        use XdpAttached::{Driver, Multiple, None as Nothing, SocketBuffer};
        let program = |id, is_generic| Some(XdpProgram { id, is_generic });
        let rows = [
            (vec![LinkXdp::Attached(Nothing)], None),
            (
                vec![LinkXdp::Attached(Driver), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)],
                program(7, false),
            ),
            (
                vec![
                    LinkXdp::Attached(SocketBuffer),
                    LinkXdp::ProgId(8),
                    LinkXdp::SkbProgId(8),
                ],
                program(8, true),
            ),
            // Both at once: the kernel names no single program then.
            (
                vec![
                    LinkXdp::Attached(Multiple),
                    LinkXdp::SkbProgId(8),
                    LinkXdp::DrvProgId(7),
                ],
                program(7, false),
            ),
        ];
        for (attributes, expected) in rows {
            assert_eq!(xdp_program(&attributes), expected, "{attributes:?}");
        }
    }
}
