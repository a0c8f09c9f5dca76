//! Services of IPVS, and the device on which kube-proxy's IPVS mode has their addresses.
//!
//! A service's connections need it: without it they are reset (with `expire_nodest_conn`, which kube-proxy sets; else their packets are
//! dropped), and without its address packets to it don't get there at all. So what has connections stays, address by address, until they have
//! ended. Both open ones and closed ones are counted: IPVS forgets these after two minutes, UDP after five.
//!
//! Asking for the family `IPVS` of generic netlink loads IPVS, where that is a module: nothing is asked before it is there.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};
use genetlink::message::RawGenlMessage;
use lb_common::layout::Proto;
use netlink_packet_generic::{
    GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::{
    packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED, NlasIterator},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkMessage},
    },
};

use super::socket::Socket;

/// The device on which kube-proxy's IPVS mode has the addresses of Services.
pub const IPVS_DEVICE: &str = "kube-ipvs0";
/// There while IPVS is, in this network namespace.
const PRESENCE: &str = "/proc/thread-self/net/ip_vs";
// Of `linux/ip_vs.h`.
const FAMILY: &str = "IPVS";
const VERSION: u8 = 1;
const IPVS_CMD_DEL_SERVICE: u8 = 3;
const IPVS_CMD_GET_SERVICE: u8 = 4;
const IPVS_CMD_GET_DEST: u8 = 8;
const IPVS_CMD_ATTR_SERVICE: u16 = 1;
const IPVS_CMD_ATTR_DEST: u16 = 2;
const IPVS_SVC_ATTR_AF: u16 = 1;
const IPVS_SVC_ATTR_PROTOCOL: u16 = 2;
const IPVS_SVC_ATTR_ADDR: u16 = 3;
const IPVS_SVC_ATTR_PORT: u16 = 4;
const IPVS_DEST_ATTR_ACTIVE_CONNS: u16 = 7;
const IPVS_DEST_ATTR_INACT_CONNS: u16 = 8;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `union nf_inet_addr`.
const ADDRESS_LEN: usize = 16;

/// What became of kube-proxy's services of IPVS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    /// How many were taken away.
    pub(super) services: usize,
    /// Which stay, for their connections.
    pub(super) staying: Staying,
    /// How many connections IPVS knows of those.
    pub(super) connections: u64,
}

/// Services that wait for the end of their connections.
pub type Staying = BTreeSet<Service>;

/// A service, by what a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    at: SocketAddr,
    proto: Proto,
}

/// NodePorts of kube-proxy's.
pub(super) type NodePorts = BTreeSet<(Proto, u16)>;

impl Service {
    /// Whether it is kube-proxy's: its address is on the device, or it is a NodePort at another address of this host's.
    fn is_own(self, host: &Host, node_ports: &NodePorts) -> bool {
        let (address, is_node_port) = (self.at.ip(), node_ports.contains(&(self.proto, self.at.port())));
        host.on_device.contains(&address) || host.elsewhere.contains(&address) && is_node_port
    }

    /// What goes, or stays, as a whole: an address of the device, since packets of a service that is gone would find the host there; or
    /// else one port.
    fn place(self, host: &Host) -> (IpAddr, Option<(Proto, u16)>) {
        let address = self.at.ip();
        let is_on_device = host.on_device.contains(&address);
        (address, (!is_on_device).then_some((self.proto, self.at.port())))
    }
}

/// Whether the device is there.
pub(super) fn has_device() -> Result<bool> {
    Ok(Device::find()?.is_some())
}

/// How many services are kube-proxy's, which has these NodePorts.
pub(super) fn find(node_ports: &NodePorts) -> Result<usize> {
    match Ipvs::open()? {
        Some(mut ipvs) => Ok(ipvs.own(&Host::find()?, node_ports)?.len()),
        None => Ok(0),
    }
}

/// Takes away what has no connections of kube-proxy's services. Nothing is done, and told, if there is one of that kind that was not among
/// those that were left: then kube-proxy runs, and writes them.
pub(super) fn release(node_ports: &NodePorts, left: Option<&Staying>) -> Result<Option<Released>> {
    let host = Host::find()?;
    let mut released = Released::default();
    let mut kept = BTreeSet::new();
    if let Some(mut ipvs) = Ipvs::open()? {
        let services = ipvs.own(&host, node_ports)?;
        for service in &services {
            let connections = ipvs.connections(*service)?;
            released.connections += connections;
            if connections > 0 {
                kept.insert(service.place(&host));
            } else if left.is_some_and(|left| !left.contains(service)) {
                return Ok(None);
            }
        }
        for service in services {
            if kept.contains(&service.place(&host)) {
                released.staying.insert(service);
            } else {
                ipvs.delete(service)?;
                released.services += 1;
            }
        }
    }
    if let Some(device) = host.device {
        let gone = host
            .on_device
            .iter()
            .filter(|address| !kept.contains(&(**address, None)));
        for address in gone {
            device.delete_address(*address)?;
        }
    }
    Ok(Some(released))
}

/// Deletes the device. False if there was none.
pub(super) fn delete_device() -> Result<bool> {
    match Device::find()? {
        Some(device) => device.delete().map(|()| true),
        None => Ok(false),
    }
}

/// A conversation with IPVS.
struct Ipvs {
    socket: Socket,
    family: u16,
}

impl Ipvs {
    /// Nothing if there is no IPVS.
    fn open() -> Result<Option<Self>> {
        if !Path::new(PRESENCE).exists() {
            return Ok(None);
        }
        let mut socket = Socket::generic()?;
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        });
        let mut family = None;
        let find = socket.get(question, |answer: GenlMessage<GenlCtrl>| {
            family = answer.payload.nlas.iter().find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(number) => Some(*number),
                _ => None,
            });
        });
        let what = "find the family IPVS of generic netlink";
        find.context(what)?;
        let family = family.ok_or(io::ErrorKind::InvalidData).map_err(io::Error::from);
        Ok(Some(Self {
            socket,
            family: family.context(what)?,
        }))
    }

    fn message(&self, command: u8, payload: Vec<u8>) -> RawGenlMessage {
        let header = GenlHeader {
            cmd: command,
            version: VERSION,
        };
        RawGenlMessage::new(header, payload, self.family)
    }

    /// All services but those by firewall mark, which kube-proxy has none of.
    fn services(&mut self) -> Result<Vec<Service>> {
        let question = self.message(IPVS_CMD_GET_SERVICE, Vec::new());
        let mut services = Vec::new();
        let list = self.socket.list(question, |answer: RawGenlMessage| {
            services.extend(read_service(&answer.payload));
        });
        list.context("list the services of IPVS")?;
        Ok(services)
    }

    /// Those that are kube-proxy's.
    fn own(&mut self, host: &Host, node_ports: &NodePorts) -> Result<Vec<Service>> {
        let mut services = self.services()?;
        services.retain(|service| service.is_own(host, node_ports));
        Ok(services)
    }

    /// How many connections a service has.
    fn connections(&mut self, service: Service) -> Result<u64> {
        let question = self.message(IPVS_CMD_GET_DEST, service_attribute(service));
        let mut connections = Some(0);
        let list = self.socket.list(question, |answer: RawGenlMessage| {
            connections = connections
                .zip(read_connections(&answer.payload))
                .map(|(all, of_one)| all + of_one);
        });
        let what = || format!("list the endpoints of {} {} in IPVS", service.at, service.proto);
        list.with_context(what)?;
        // Rather stay than cut off whom nobody has counted.
        connections
            .context("an answer that says nothing of connections")
            .with_context(what)
    }

    fn delete(&mut self, service: Service) -> Result<()> {
        let message = self.message(IPVS_CMD_DEL_SERVICE, service_attribute(service));
        match self.socket.act(message) {
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.with_context(|| format!("delete {} {} from IPVS", service.at, service.proto)),
        }
    }
}

/// By which a service is named in a message.
fn service_attribute(service: Service) -> Vec<u8> {
    let mut address = [0; ADDRESS_LEN];
    let family = match service.at.ip() {
        IpAddr::V4(ip) => {
            address[..4].copy_from_slice(&ip.octets());
            AF_INET
        }
        IpAddr::V6(ip) => {
            address = ip.octets();
            AF_INET6
        }
    };
    let parts = [
        DefaultNla::new(IPVS_SVC_ATTR_AF, family.to_ne_bytes().to_vec()),
        DefaultNla::new(
            IPVS_SVC_ATTR_PROTOCOL,
            u16::from(service.proto.0).to_ne_bytes().to_vec(),
        ),
        DefaultNla::new(IPVS_SVC_ATTR_ADDR, address.to_vec()),
        DefaultNla::new(IPVS_SVC_ATTR_PORT, service.at.port().to_be_bytes().to_vec()),
    ];
    let mut inner = vec![0; parts.as_slice().buffer_len()];
    parts.as_slice().emit(&mut inner);
    let whole = DefaultNla::new(IPVS_CMD_ATTR_SERVICE | NLA_F_NESTED, inner);
    let mut octets = vec![0; whole.buffer_len()];
    whole.emit(&mut octets);
    octets
}

/// The attributes inside of the one of this kind.
fn inside(payload: &[u8], kind: u16) -> Option<Vec<(u16, Vec<u8>)>> {
    let whole = NlasIterator::new(payload)
        .filter_map(Result::ok)
        .find(|part| part.kind() == kind)?;
    let parts = NlasIterator::new(whole.value()).filter_map(Result::ok);
    Some(parts.map(|part| (part.kind(), part.value().to_vec())).collect())
}

fn read_service(payload: &[u8]) -> Option<Service> {
    let parts = inside(payload, IPVS_CMD_ATTR_SERVICE)?;
    let part = |kind| {
        parts
            .iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value.as_slice())
    };
    let number = |kind| Some(u16::from_ne_bytes(*part(kind)?.first_chunk()?));
    let address = part(IPVS_SVC_ATTR_ADDR)?;
    let ip = match number(IPVS_SVC_ATTR_AF)? {
        AF_INET => IpAddr::from(Ipv4Addr::from(*address.first_chunk()?)),
        AF_INET6 => IpAddr::from(Ipv6Addr::from(*address.first_chunk()?)),
        _ => return None,
    };
    let port = u16::from_be_bytes(*part(IPVS_SVC_ATTR_PORT)?.first_chunk()?);
    let proto = Proto(u8::try_from(number(IPVS_SVC_ATTR_PROTOCOL)?).ok()?);
    Some(Service {
        at: SocketAddr::new(ip, port),
        proto,
    })
}

/// Open and closed ones of an endpoint; nothing if one of the two is missing.
fn read_connections(payload: &[u8]) -> Option<u64> {
    let parts = inside(payload, IPVS_CMD_ATTR_DEST)?;
    let count = |kind| {
        let (_, value) = parts.iter().find(|(found, _)| *found == kind)?;
        Some(u64::from(u32::from_ne_bytes(*value.first_chunk()?)))
    };
    Some(count(IPVS_DEST_ATTR_ACTIVE_CONNS)? + count(IPVS_DEST_ATTR_INACT_CONNS)?)
}

/// What this host has addresses on.
#[derive(Default)]
struct Host {
    device: Option<Device>,
    on_device: BTreeSet<IpAddr>,
    /// Of all other devices.
    elsewhere: BTreeSet<IpAddr>,
}

impl Host {
    fn find() -> Result<Self> {
        let device = Device::find()?;
        let mut host = Self {
            device,
            ..Self::default()
        };
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let list = Socket::route()?.list(all, |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                let is_on_device = host
                    .device
                    .as_ref()
                    .is_some_and(|device| device.ifindex == message.header.index);
                let addresses = if is_on_device {
                    &mut host.on_device
                } else {
                    &mut host.elsewhere
                };
                addresses.extend(own_address(&message.attributes));
            }
        });
        list.context("list the addresses of this host")?;
        Ok(host)
    }
}

/// kube-proxy's device.
struct Device {
    ifindex: u32,
}

impl Device {
    /// Nothing if there is none.
    fn find() -> Result<Option<Self>> {
        let mut socket = Socket::route()?;
        let what = || format!("look for device {IPVS_DEVICE}");
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(IPVS_DEVICE.to_owned()));
        let mut ifindex = None;
        let find = socket.get(RouteNetlinkMessage::GetLink(question), |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                ifindex = Some(link.header.index);
            }
        });
        match find {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            find => find.with_context(what)?,
        }
        Ok(ifindex.map(|ifindex| Self { ifindex }))
    }

    fn delete_address(&self, address: IpAddr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = self.ifindex;
        (message.header.family, message.header.prefix_len) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.attributes.push(AddressAttribute::Local(address));
        match Socket::route()?.act(RouteNetlinkMessage::DelAddress(message)) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other.with_context(|| format!("take {address} from {IPVS_DEVICE}")),
        }
    }

    fn delete(&self) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex;
        match Socket::route()?.act(RouteNetlinkMessage::DelLink(message)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.with_context(|| format!("delete device {IPVS_DEVICE}")),
        }
    }
}

/// IPv4 has the own address in Local, IPv6 in Address.
fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(at: &str, proto: Proto) -> Service {
        Service {
            at: at.parse().expect("an address"),
            proto,
        }
    }

    #[test]
    fn kube_proxys_are_those_on_its_device_and_its_node_ports() {
        let addresses = |all: &[&str]| all.iter().map(|ip| ip.parse().expect("an address")).collect();
        let host = Host {
            device: Some(Device { ifindex: 7 }),
            on_device: addresses(&["10.96.0.10", "fd00::1"]),
            elsewhere: addresses(&["192.0.2.1"]),
        };
        let node_ports = [(Proto::TCP, 30080)].into();
        let rows = [
            ("10.96.0.10:53", Proto::UDP, true),
            ("[fd00::1]:443", Proto::TCP, true),
            ("192.0.2.1:30080", Proto::TCP, true),
            ("192.0.2.1:30080", Proto::UDP, false),
            ("192.0.2.1:6443", Proto::TCP, false),
            ("203.0.113.5:30080", Proto::TCP, false),
        ];
        for (at, proto, expected) in rows {
            let service = service(at, proto);
            assert_eq!(service.is_own(&host, &node_ports), expected, "{at} {proto}");
        }
        let place = |at| service(at, Proto::TCP).place(&host);
        assert_eq!(place("10.96.0.10:53"), place("10.96.0.10:9153"), "as a whole");
        assert_ne!(place("192.0.2.1:30080"), place("192.0.2.1:30081"));
    }

    #[rustfmt::skip]
    const OF_IPV4: [u8; 48] = [
        48, 0, 1, 0x80,
        6, 0, 1, 0, 2, 0, 0, 0,
        6, 0, 2, 0, 17, 0, 0, 0,
        20, 0, 3, 0, 10, 96, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        6, 0, 4, 0, 0, 53, 0, 0,
    ];

    #[test]
    fn a_service_is_named_by_what_a_client_dials() {
        assert_eq!(service_attribute(service("10.96.0.10:53", Proto::UDP)), OF_IPV4);
        let of_ipv6 = service_attribute(service("[fd00::1]:443", Proto::TCP));
        assert_eq!(of_ipv6[4..20], [6, 0, 1, 0, 10, 0, 0, 0, 6, 0, 2, 0, 6, 0, 0, 0]);
        assert_eq!(of_ipv6[24..40], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(of_ipv6[44..46], [1, 187]);
    }

    #[test]
    fn a_service_is_read_as_it_is_named() {
        assert_eq!(read_service(&OF_IPV4), Some(service("10.96.0.10:53", Proto::UDP)));
        for at in ["[fd00::1]:443", "192.0.2.1:30080"] {
            let named = service(at, Proto::TCP);
            assert_eq!(read_service(&service_attribute(named)), Some(named));
        }
        for len in 0..OF_IPV4.len() {
            // The padding at the end says nothing.
            let expected = (len >= OF_IPV4.len() - 2).then(|| service("10.96.0.10:53", Proto::UDP));
            let read = read_service(&OF_IPV4[..len]);
            assert!(read.is_none() || read == expected, "{len} octets: {read:?}");
        }
    }

    #[test]
    fn services_by_firewall_mark_are_none_of_kube_proxys() {
        #[rustfmt::skip]
        let by_mark = [
            20, 0, 1, 0x80,
            6, 0, 1, 0, 2, 0, 0, 0,
            8, 0, 5, 0, 1, 0, 0, 0,
        ];
        assert_eq!(read_service(&by_mark), None);
    }

    #[test]
    fn open_and_closed_connections_are_counted() {
        #[rustfmt::skip]
        let answer = [
            28, 0, 2, 0x80,
            8, 0, 7, 0, 3, 0, 0, 0,
            8, 0, 8, 0, 2, 1, 0, 0,
            8, 0, 9, 0, 9, 0, 0, 0, // held by persistence
        ];
        assert_eq!(read_connections(&answer), Some(3 + 258));
        for len in 0..answer.len() - 8 {
            assert_eq!(read_connections(&answer[..len]), None, "{len} octets");
        }
    }
}
