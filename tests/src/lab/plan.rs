//! The addresses of a lab: the same in every topology, so that manifests, examples and documentation fit all of them.
//!
//! ```text
//! client 172.18.0.9 ── eth0 ─ node 172.18.0.2 ── pod1 … podN ── backend-1 10.244.1.11 … backend-N 10.244.1.(10+N)
//!        fd00:172:18::9       fd00:172:18::2                              fd00:10:244:1::11 …
//! ```
//!
//! With two nodes the client is further away, and the pods of the second node continue the numbers of the first one's:
//!
//! ```text
//! client 198.51.100.9 ── client0 ─ router ─ lan0 ─┬─ node  172.18.0.2 ── pod1, pod2 ── backend-1 10.244.1.11 …
//!        2001:db8:198::9       172.18.0.1         │        fd00:172:18::2             fd00:10:244:1::11 …
//!                              fd00:172:18::1     └─ node2 172.18.0.3 ── pod3, pod4 ── backend-3 10.244.2.13 …
//!                                                          fd00:172:18::3             fd00:10:244:2::13 …
//! ```
//!
//! With more nodes it goes on like that; where the first ones only balance, the others have the pods:
//!
//! ```text
//!   … router ─ lan0 ─┬─ node, node2    172.18.0.2, .3
//!                    ├─ node3          172.18.0.4 ── pod1 ── backend-1 10.244.3.11
//!                    ├─ node4          172.18.0.5 ── pod2 ── backend-2 10.244.4.12
//!                    └─ node5          172.18.0.6 ── pod3 ── backend-3 10.244.5.13
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The client: a machine outside the cluster.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 9);
/// The client, IPv6.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 9);
/// The node that runs the agent.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
/// The node, IPv6.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 2);
/// The client where a router is between it and two nodes.
pub const FAR_CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// The same, IPv6.
pub const FAR_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 9);
/// Another address of the far client, in the upper half of its network: for source ranges that leave it out.
pub const FAR_CLIENT_OTHER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 209);
/// The same, IPv6.
pub const FAR_CLIENT_OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0x8000, 0, 0, 0x209);
/// The router, as the far client sees it.
pub const ROUTER_FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The same, IPv6.
pub const ROUTER_FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 1);
/// The router, as the nodes see it.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// The same, IPv6.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1);
/// The network that the nodes are in.
pub const NODES_V4: &str = "172.18.0.0/24";
/// The same, IPv6.
pub const NODES_V6: &str = "fd00:172:18::/64";

/// Where ClusterIPs come from.
pub const SERVICES_V4: &str = "10.96.0.0/12";
/// Where IPv6 ClusterIPs come from.
pub const SERVICES_V6: &str = "fd00:10:96::/108";
/// Addresses for LoadBalancer VIPs and ExternalIPs: routed to the node, owned by nobody.
pub const VIPS_V4: &str = "192.0.2.0/24";
/// Addresses for IPv6 VIPs.
pub const VIPS_V6: &str = "2001:db8:192::/64";
/// The pods of the node.
pub const PODS_V4: &str = "10.244.1.0/24";
/// The pods of the node, IPv6.
pub const PODS_V6: &str = "fd00:10:244:1::/64";

/// The pods of all nodes: what is given as `--cluster-cidr`.
pub const ALL_PODS_V4: &str = "10.244.0.0/16";
/// The pods of all nodes, IPv6.
pub const ALL_PODS_V6: &str = "fd00:10:244::/48";

/// The name that the agent gets for the node, and that local endpoints carry.
pub const NODE_NAME: &str = "node";
/// How many backends a lab may have: their addresses end in 11 to 250.
pub const BACKENDS_MAX: u8 = 240;

/// `eth0` of the client.
pub const CLIENT_MAC: &str = "02:51:00:00:00:09";
/// `eth0` of the node.
pub const NODE_MAC: &str = "02:51:00:00:00:02";
/// The node's end of every pod link, as Calico has it.
pub const POD_GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The router's device toward the far client.
pub const ROUTER_FAR_MAC: &str = "02:51:00:00:01:01";
/// The router's device toward the nodes, the bridge `lan0`.
pub const ROUTER_MAC: &str = "02:51:00:00:00:01";

/// The name of a node; the first is number 1.
pub fn node_name(node: u8) -> String {
    if node == 1 {
        NODE_NAME.to_owned()
    } else {
        format!("{NODE_NAME}{node}")
    }
}

/// The address of a node.
pub fn node_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, 0, 1 + node)
}

/// The IPv6 address of a node.
pub fn node_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1 + u16::from(node))
}

/// `eth0` of a node.
pub fn node_mac(node: u8) -> String {
    format!("02:51:00:00:00:{:02x}", 1 + node)
}

/// The bridge `cni0` of a node.
pub fn bridge_mac(node: u8) -> String {
    format!("02:51:02:00:00:{node:02x}")
}

/// The router's end of the link to a node.
pub fn lan_mac(node: u8) -> String {
    format!("02:51:04:00:00:{node:02x}")
}

/// The router's port toward a node.
pub fn lan_device(node: u8) -> String {
    format!("lan{node}")
}

/// The pods of a node.
pub fn pods_v4(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// The pods of a node, IPv6.
pub fn pods_v6(node: u8) -> String {
    format!("fd00:10:244:{node}::/64")
}

/// The name of the node that an address of the cluster is on: its own, or that of a pod of it.
pub fn node_of(address: IpAddr) -> String {
    let node = match address {
        IpAddr::V4(v4) => match v4.octets() {
            [172, 18, 0, host] => host.saturating_sub(1),
            [10, 244, node, _] => node,
            _ => 1,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd00, 0x172, 0x18, 0, 0, 0, 0, host] => u8::try_from(host.saturating_sub(1)).unwrap_or(1),
            [0xfd00, 0x10, 0x244, node, ..] => u8::try_from(node).unwrap_or(1),
            _ => 1,
        },
    };
    node_name(node.max(1))
}

/// A bridge's address in the pod network of a node.
pub fn bridge_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 1)
}

/// The same, IPv6.
pub fn bridge_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, 1)
}

/// The address of pod `backend-<number>` if it is on this node.
pub fn pod_v4(node: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 10 + number)
}

/// The IPv6 address of pod `backend-<number>` if it is on this node: it reads like the IPv4 one, `…::11` for number 1.
pub fn pod_v6(node: u8, number: u8) -> Ipv6Addr {
    let digits = (10 + u16::from(number)).to_string();
    let last = u16::from_str_radix(&digits, 16).expect("decimal digits are hexadecimal digits");
    Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, last)
}

/// The address of `backend-<number>` of the first node; the first is number 1.
pub fn backend_v4(number: u8) -> Ipv4Addr {
    pod_v4(1, number)
}

/// The IPv6 address of `backend-<number>` of the first node.
pub fn backend_v6(number: u8) -> Ipv6Addr {
    pod_v6(1, number)
}

/// `eth0` of `backend-<number>`.
pub fn backend_mac(number: u8) -> String {
    format!("02:51:01:00:00:{number:02x}")
}

/// The name of a backend: its namespace's role, what its servers answer with.
pub fn backend_name(number: u8) -> String {
    format!("backend-{number}")
}

/// The node's device toward a backend.
pub fn pod_device(number: u8) -> String {
    format!("pod{number}")
}

/// An address of the given family.
pub fn of_family(v4: Ipv4Addr, v6: Ipv6Addr, want_v6: bool) -> IpAddr {
    if want_v6 { v6.into() } else { v4.into() }
}
