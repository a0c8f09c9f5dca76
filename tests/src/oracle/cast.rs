//! Who takes part in random worlds: few addresses, so that clients are endpoints, load balancers' addresses are the
//! node's, and Services share what they have.
//!
//! Here: addresses and numbers of both families. Not here: who of them is chosen (`random`).

use std::net::IpAddr;
use std::sync::LazyLock;

use lb_userspace::model::{Cidr, Family};

/// The addresses of one family.
pub struct Cast {
    /// The family.
    pub family: Family,
    /// The node's own: the first is that of the Node object, the last that of the bridge, which is in the pod range.
    pub node: [IpAddr; 3],
    /// Loopback: the usual address, and (IPv4) another.
    pub loopback: [IpAddr; 2],
    /// Pods on this node. Each has a device, `pod0` and so on.
    pub local_pods: [IpAddr; 3],
    /// Pods on another node.
    pub remote_pods: [IpAddr; 2],
    /// Another node.
    pub other_node: IpAddr,
    /// Clients outside.
    pub outside: [IpAddr; 2],
    /// Addresses for Services, of which the last two are never given away: one is of the range, one is not.
    pub cluster_ips: [IpAddr; 6],
    /// Addresses of load balancers; the last is on a device of the host in some worlds.
    pub vips: [IpAddr; 2],
    /// Further addresses.
    pub external: IpAddr,
    /// The range of all pods, and that of this node's.
    pub pods: [Cidr; 2],
    /// The range of Services.
    pub services: Cidr,
    /// Ranges for `loadBalancerSourceRanges`.
    pub source_ranges: [Cidr; 5],
    /// Ranges for `nodePortAddresses`.
    pub node_port_ranges: [Cidr; 5],
}

/// Numbers that Services listen on.
pub const PORTS: [u16; 5] = [80, 443, 53, 8080, 30_080];
/// Numbers that nodes listen on.
pub const NODE_PORTS: [u16; 4] = [30_080, 30_443, 30_053, 31_000];
/// Numbers that endpoints listen on.
pub const TARGETS: [u16; 4] = [8080, 80, 443, 30_080];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn range(text: &str) -> Cidr {
    Cidr::parse_leniently(text).unwrap_or_else(|| panic!("{text} is no range"))
}

impl Cast {
    /// The cast of a family.
    #[must_use]
    pub fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                family,
                node: ["192.168.3.4", "192.168.9.4", "10.244.1.1"].map(ip),
                loopback: ["127.0.0.1", "127.0.0.9"].map(ip),
                local_pods: ["10.244.1.7", "10.244.1.8", "10.244.1.10"].map(ip),
                remote_pods: ["10.244.2.8", "10.244.2.9"].map(ip),
                other_node: ip("192.168.3.40"),
                outside: ["198.51.100.9", "203.0.113.80"].map(ip),
                cluster_ips: [
                    "10.96.0.10",
                    "10.96.0.11",
                    "10.96.0.12",
                    "10.97.0.13",
                    "10.96.0.99",
                    "10.97.0.99",
                ]
                .map(ip),
                vips: ["203.0.113.50", "203.0.113.51"].map(ip),
                external: ip("198.51.100.77"),
                pods: ["10.244.0.0/16", "10.244.1.0/24"].map(range),
                services: range("10.96.0.0/16"),
                source_ranges: [
                    "192.168.3.0/24",
                    "198.51.100.0/25",
                    "10.244.1.0/29",
                    "203.0.113.80/32",
                    "0.0.0.0/0",
                ]
                .map(range),
                node_port_ranges: [
                    "192.168.3.0/24",
                    "192.168.9.4/32",
                    "127.0.0.1/32",
                    "10.0.0.0/8",
                    "0.0.0.0/0",
                ]
                .map(range),
            },
            Family::V6 => Self {
                family,
                node: ["fd00:192:168:3::4", "fd00:192:168:9::4", "fd00:244:1::1"].map(ip),
                loopback: ["::1", "::1"].map(ip),
                local_pods: ["fd00:244:1::7", "fd00:244:1::8", "fd00:244:1::10"].map(ip),
                remote_pods: ["fd00:244:2::8", "fd00:244:2::9"].map(ip),
                other_node: ip("fd00:192:168:3::40"),
                outside: ["2001:db8:100::9", "2001:db8:113::80"].map(ip),
                cluster_ips: [
                    "fd00:96::a",
                    "fd00:96::b",
                    "fd00:96::c",
                    "fd00:97::d",
                    "fd00:96::99",
                    "fd00:97::99",
                ]
                .map(ip),
                vips: ["2001:db8:113::50", "2001:db8:113::51"].map(ip),
                external: ip("2001:db8:100::77"),
                pods: ["fd00:244::/32", "fd00:244:1::/64"].map(range),
                services: range("fd00:96::/112"),
                source_ranges: [
                    "fd00:192:168:3::/64",
                    "2001:db8:100::/112",
                    "fd00:244:1::/125",
                    "2001:db8:113::80/128",
                    "::/0",
                ]
                .map(range),
                node_port_ranges: [
                    "fd00:192:168:3::/64",
                    "fd00:192:168:9::4/128",
                    "::1/128",
                    "fd00::/8",
                    "::/0",
                ]
                .map(range),
            },
        }
    }

    /// The casts of both families.
    #[must_use]
    pub fn both() -> &'static [Self; 2] {
        static BOTH: LazyLock<[Cast; 2]> = LazyLock::new(|| Family::BOTH.map(Cast::of));
        &BOTH
    }

    /// Every address that somebody may send from or run at, but for loopback.
    #[must_use]
    pub fn everybody(&self) -> Vec<IpAddr> {
        let groups: [&[IpAddr]; 4] = [&self.local_pods, &self.remote_pods, &self.node, &self.outside];
        let mut all = groups.concat();
        all.push(self.other_node);
        all
    }

    /// The device by which packets of an address arrive.
    #[must_use]
    pub fn device_of(&self, address: IpAddr) -> String {
        match self.local_pods.iter().position(|pod| *pod == address) {
            Some(number) => format!("pod{number}"),
            None => "eth0".to_owned(),
        }
    }
}
