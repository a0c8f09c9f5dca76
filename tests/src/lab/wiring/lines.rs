//! The lines for `ip -batch` that give each host of a lab its links, addresses, routes and neighbours.

use std::fmt::{Display, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::lab::Lab;
use crate::lab::host::Host;
use crate::lab::options::{LabBuilder, Topology};
use crate::lab::plan::{
    ALL_PODS_V4, ALL_PODS_V6, CLIENT_MAC, CLIENT_V4, CLIENT_V6, FAR_CLIENT_OTHER_V4, FAR_CLIENT_OTHER_V6,
    FAR_CLIENT_V4, FAR_CLIENT_V6, NODE_MAC, NODE_V4, NODE_V6, NODES_V4, NODES_V6, POD_GATEWAY_MAC, PODS_V4, PODS_V6,
    ROUTER_FAR_MAC, ROUTER_FAR_V4, ROUTER_FAR_V6, ROUTER_MAC, ROUTER_V4, ROUTER_V6, SERVICES_V4, SERVICES_V6, VIPS_V4,
    VIPS_V6, backend_mac, bridge_mac, bridge_v4, bridge_v6, lan_device, lan_mac, node_mac, node_v4, node_v6,
    pod_device, pods_v4, pods_v6,
};

/// What the router says of its ways on: the largest packet that it forwards, if that is less than its devices take.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct Way(pub(in crate::lab) Option<u32>);

impl Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Locked: the kernel then asks for nothing else when it forwards.
        self.0.map_or(Ok(()), |bytes| write!(f, "mtu lock {bytes}"))
    }
}

/// The router's table for what comes from the client and from itself.
pub(super) const CLIENTS_TABLE: &str = "100";

/// Where a host's default route leads.
struct Gateway {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    mac: &'static str,
}

/// A node: its uplink, its pods' links, and its ways to the pods of the other nodes.
pub(super) fn node(options: &LabBuilder, node: u8, lab: &Lab) -> Result<String> {
    let mut lines = String::from("link set lo up\n");
    let mac = node_mac(node);
    let (peer, gateway) = match &lab.router {
        None => {
            let (namespace, mtu) = (lab.client.namespace.name(), options.outward_mtu);
            let peer = format!("mtu {mtu} type veth peer name eth0 address {CLIENT_MAC} mtu {mtu} netns {namespace}");
            // Whatever isn't translated ends at the client, which forwards nothing.
            (
                peer,
                Gateway {
                    v4: CLIENT_V4,
                    v6: CLIENT_V6,
                    mac: CLIENT_MAC,
                },
            )
        }
        Some(router) => {
            let (namespace, device, mac) = (router.namespace.name(), lan_device(node), lan_mac(node));
            let peer = format!("type veth peer name {device} address {mac} netns {namespace}");
            (
                peer,
                Gateway {
                    v4: ROUTER_V4,
                    v6: ROUTER_V6,
                    mac: ROUTER_MAC,
                },
            )
        }
    };
    writeln!(lines, "link add name eth0 address {mac} {peer}")?;
    writeln!(lines, "link set eth0 up")?;
    writeln!(lines, "addr add {}/24 dev eth0", node_v4(node))?;
    writeln!(lines, "addr add {}/64 dev eth0 nodad", node_v6(node))?;
    // Host processes can address ClusterIPs.
    writeln!(lines, "route add default via {} dev eth0", gateway.v4)?;
    writeln!(lines, "route add default via {} dev eth0", gateway.v6)?;
    neighbour(&mut lines, options, gateway.v4, gateway.mac, "eth0")?;
    neighbour(&mut lines, options, gateway.v6, gateway.mac, "eth0")?;
    for other in (1..).take(lab.nodes.len()).filter(|other| *other != node) {
        let (v4, v6, mac) = (node_v4(other), node_v6(other), node_mac(other));
        writeln!(lines, "route add {} via {v4} dev eth0", pods_v4(other))?;
        writeln!(lines, "route add {} via {v6} dev eth0", pods_v6(other))?;
        neighbour(&mut lines, options, v4, &mac, "eth0")?;
        neighbour(&mut lines, options, v6, &mac, "eth0")?;
    }
    if options.topology == Topology::Bridge {
        let (mac, mtu) = (bridge_mac(node), options.pod_mtu);
        writeln!(
            lines,
            "link add name cni0 address {mac} mtu {mtu} type bridge forward_delay 0"
        )?;
        writeln!(lines, "link set cni0 up")?;
        writeln!(lines, "addr add {}/24 dev cni0", bridge_v4(node))?;
        writeln!(lines, "addr add {}/64 dev cni0 nodad", bridge_v6(node))?;
    }
    for (_, number, pod) in lab.pods().filter(|(host, ..)| *host == node) {
        pod_link(&mut lines, options, number, pod)?;
    }
    Ok(lines)
}

fn pod_link(lines: &mut String, options: &LabBuilder, number: u8, pod: &Host) -> Result<()> {
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
    let (v4, v6) = (pod.v4, pod.v6);
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
    neighbour(lines, options, v4, &mac, toward)?;
    neighbour(lines, options, v6, &mac, toward)
}

/// The router: a network for the nodes, which they share as ports of a switch, and one for the client.
pub(super) fn router(options: &LabBuilder, lab: &Lab) -> Result<String> {
    let (way, mtu) = (Way(options.way_mtu), options.outward_mtu);
    let mut lines = String::from("link set lo up\n");
    writeln!(
        lines,
        "link add name lan0 address {ROUTER_MAC} type bridge forward_delay 0"
    )?;
    writeln!(
        lines,
        "link add name client0 address {ROUTER_FAR_MAC} mtu {mtu} type veth peer name eth0 address {CLIENT_MAC} mtu {mtu} netns {}",
        lab.client.namespace.name()
    )?;
    writeln!(lines, "link set lan0 up")?;
    writeln!(lines, "link set client0 up")?;
    for (address, device) in [(ROUTER_V4, "lan0"), (ROUTER_FAR_V4, "client0")] {
        writeln!(lines, "addr add {address}/24 dev {device}")?;
    }
    for (address, device) in [(ROUTER_V6, "lan0"), (ROUTER_FAR_V6, "client0")] {
        writeln!(lines, "addr add {address}/64 dev {device} nodad")?;
    }
    for client in [FAR_CLIENT_V4, FAR_CLIENT_OTHER_V4] {
        writeln!(lines, "route add {client}/32 dev client0 {way}")?;
        neighbour(&mut lines, options, client, CLIENT_MAC, "client0")?;
    }
    for client in [FAR_CLIENT_V6, FAR_CLIENT_OTHER_V6] {
        writeln!(lines, "route add {client}/128 dev client0 {way}")?;
        neighbour(&mut lines, options, client, CLIENT_MAC, "client0")?;
    }
    for node in (1..).take(lab.nodes.len()) {
        let (v4, v6, mac) = (node_v4(node), node_v6(node), node_mac(node));
        writeln!(lines, "link set {} master lan0 up", lan_device(node))?;
        writeln!(lines, "route add {v4}/32 dev lan0 {way}")?;
        writeln!(lines, "route add {v6}/128 dev lan0 {way}")?;
        writeln!(lines, "route add {} via {v4} dev lan0 {way}", pods_v4(node))?;
        writeln!(lines, "route add {} via {v6} dev lan0 {way}", pods_v6(node))?;
        neighbour(&mut lines, options, v4, &mac, "lan0")?;
        neighbour(&mut lines, options, v6, &mac, "lan0")?;
    }
    for range in [SERVICES_V4, VIPS_V4, SERVICES_V6, VIPS_V6] {
        writeln!(lines, "route add blackhole {range}")?;
    }
    lines.push_str(&services(way, 1)?);
    Ok(lines)
}

/// The router's ways to Services, by a node. What comes from a node has none: what it did
/// not translate ends at the router, unheard.
pub(super) fn services(way: Way, node: u8) -> Result<String> {
    let mut lines = String::new();
    for range in [SERVICES_V4, VIPS_V4] {
        writeln!(
            lines,
            "route replace {range} via {} dev lan0 {way} table {CLIENTS_TABLE}",
            node_v4(node)
        )?;
    }
    for range in [SERVICES_V6, VIPS_V6] {
        writeln!(
            lines,
            "route replace {range} via {} dev lan0 {way} table {CLIENTS_TABLE}",
            node_v6(node)
        )?;
    }
    Ok(lines)
}

/// The client: it knows the cluster, and nothing else.
pub(super) fn client(options: &LabBuilder, lab: &Lab) -> Result<String> {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    writeln!(lines, "addr add {}/24 dev eth0", lab.client.v4)?;
    writeln!(lines, "addr add {}/64 dev eth0 nodad", lab.client.v6)?;
    let (gateway, ranges_v4, ranges_v6) = if lab.router.is_some() {
        // Other than the first one only for who asks for it: the kernel takes the first address by itself, in IPv6 where the
        // second is deprecated.
        writeln!(lines, "addr add {FAR_CLIENT_OTHER_V4}/24 dev eth0")?;
        writeln!(
            lines,
            "addr add {FAR_CLIENT_OTHER_V6}/64 dev eth0 nodad preferred_lft 0"
        )?;
        (
            Gateway {
                v4: ROUTER_FAR_V4,
                v6: ROUTER_FAR_V6,
                mac: ROUTER_FAR_MAC,
            },
            [SERVICES_V4, VIPS_V4, ALL_PODS_V4, NODES_V4].as_slice(),
            [SERVICES_V6, VIPS_V6, ALL_PODS_V6, NODES_V6].as_slice(),
        )
    } else {
        (
            Gateway {
                v4: NODE_V4,
                v6: NODE_V6,
                mac: NODE_MAC,
            },
            [SERVICES_V4, VIPS_V4, PODS_V4].as_slice(),
            [SERVICES_V6, VIPS_V6, PODS_V6].as_slice(),
        )
    };
    for range in ranges_v4 {
        writeln!(lines, "route add {range} via {} dev eth0", gateway.v4)?;
    }
    for range in ranges_v6 {
        writeln!(lines, "route add {range} via {} dev eth0", gateway.v6)?;
    }
    neighbour(&mut lines, options, gateway.v4, gateway.mac, "eth0")?;
    neighbour(&mut lines, options, gateway.v6, gateway.mac, "eth0")?;
    Ok(lines)
}

/// A pod, whose gateway is its node.
pub(super) fn pod(options: &LabBuilder, node: u8, pod: &Host) -> Result<String> {
    let (v4, v6) = (pod.v4, pod.v6);
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
            let (gateway_v4, gateway_v6, mac) = (bridge_v4(node), bridge_v6(node), bridge_mac(node));
            writeln!(lines, "addr add {v4}/24 dev eth0")?;
            writeln!(lines, "addr add {v6}/64 dev eth0 nodad")?;
            writeln!(lines, "route add default via {gateway_v4} dev eth0")?;
            writeln!(lines, "route add default via {gateway_v6} dev eth0")?;
            neighbour(&mut lines, options, gateway_v4, &mac, "eth0")?;
            neighbour(&mut lines, options, gateway_v6, &mac, "eth0")?;
        }
    }
    Ok(lines)
}

fn neighbour(lines: &mut String, options: &LabBuilder, address: impl Display, mac: &str, device: &str) -> Result<()> {
    if !options.learn_neighbours {
        writeln!(lines, "neigh replace {address} lladdr {mac} dev {device} nud permanent")?;
    }
    Ok(())
}
