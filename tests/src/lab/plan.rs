//! The addresses of a lab: the same in every topology, so that manifests, examples and documentation fit all of them.
//!
//! ```text
//! client 172.18.0.9 ── eth0 ─ node 172.18.0.2 ── pod1 … podN ── backend-1 10.244.1.11 … backend-N 10.244.1.(10+N)
//!        fd00:172:18::9       fd00:172:18::2                              fd00:10:244:1::11 …
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
/// The node's address in the pod network, where a bridge CNI puts one.
pub const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// The bridge's address, IPv6.
pub const BRIDGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1);

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
/// The bridge `cni0`.
pub const BRIDGE_MAC: &str = "02:51:02:00:00:01";

/// The address of `backend-<number>`; the first is number 1.
pub fn backend_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 10 + number)
}

/// The IPv6 address of `backend-<number>`: it reads like the IPv4 one, `…::11` for number 1.
pub fn backend_v6(number: u8) -> Ipv6Addr {
    let digits = (10 + u16::from(number)).to_string();
    let last = u16::from_str_radix(&digits, 16).expect("decimal digits are hexadecimal digits");
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, last)
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
