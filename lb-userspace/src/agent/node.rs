//! What the kernel programs must know about the node: who is a pod, where NodePorts are served, which addresses are
//! whose, and with which address connections are masqueraded. Brought up to date when devices, the Node object or the
//! ServiceCIDRs change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::layout::{
    Address, AddressFlags, Device as DeviceRecord, DeviceFlags, Node, NodeFlags, Range, SERVICE_RANGES, V4, V6, VlanKey,
};
use tracing::{error, info};

use super::{Agent, peers::peers, xdp::xdp_flags};
use crate::{
    kernel::XdpMode,
    model::{Cidr, Family, NodeView, Protocol},
    plan::{Detector, NodePortAddresses},
    source::devices::{
        Device, Devices, node_addresses,
        vlan::{card_of, tags_on_card},
    },
    tables::{NodeTable, TableError, TableFamily, node_range},
};

/// How the node takes part in proxying, as it was told on the command line.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Stands for the Node object's address of its family.
    pub bind_address: Option<IpAddr>,
    /// How pods are told from others.
    pub detector: Detector,
    /// Every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// Where NodePorts are served.
    pub node_ports: NodePortAddresses,
    /// TCP clients are told by a reset when their endpoint is gone for good.
    pub resets_removed: bool,
    /// Protocols of which endpoints answer clients outside directly, where the Service doesn't say it itself.
    pub dsr_protocols: Box<[Protocol]>,
    /// How packets get to the node of such an endpoint.
    pub tunnel: TunnelKind,
}

/// How packets get to an endpoint's node that is to answer directly. Every node takes both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TunnelKind {
    /// IP in IP (RFC 2003, RFC 2473): 20 octets more over IPv4, 40 over IPv6
    #[default]
    Ipip,
    /// IP in UDP, port 6080 (GUE variant 1): 28 octets more over IPv4, 48 over IPv6; network cards spread it over their queues
    Gue,
}

impl Agent {
    /// Brings what the kernel programs know of the node up to date.
    pub(super) fn follow_node(&mut self) {
        if self.devices.is_empty() {
            // Not heard of yet: what an earlier agent has written holds until then. No host is without loopback.
            return;
        }
        let devices = self.devices.clone();
        let store = self.reconciler.store();
        let (node, ranges) = (store.node().clone(), store.service_cidrs().to_vec());
        let (v4, v6) = node_addresses(&devices);
        let options = &self.options.node;
        let record4 = node_record::<V4>(v4.map(Into::into), options, &node, &ranges);
        let record6 = node_record::<V6>(v6.map(Into::into), options, &node, &ranges);
        let host4 = host_addresses::<V4>(&devices, &options.node_ports, &node);
        let host6 = host_addresses::<V6>(&devices, &options.node_ports, &node);
        let records = device_records(&devices, &options.detector, |device| self.xdp_mode(device));
        let mut problems: Vec<String> = Vec::new();
        let mut refused = false;
        let mut note = |result: Result<bool, TableError>| {
            if let Err(error) = result {
                refused = true;
                problems.push(error.to_string());
            }
        };
        note(put(&mut self.node4, &mut self.record4, record4));
        note(put(&mut self.node6, &mut self.record6, record6));
        // What XDP may do on a device is part of a next hop.
        let devices_written = self.device_table.put_all(&records);
        let vlans_written = self.vlan_table.put_all(&vlan_records(&devices));
        let is_other = !matches!((&devices_written, &vlans_written), (Ok(false), Ok(false)));
        note(devices_written);
        note(vlans_written);
        if is_other {
            note(self.routes.advance().map(|()| true));
        }
        note(self.reconciler.set_host_addresses(&host4, &host6));
        // Before the first sync an earlier agent's list is better than part of one.
        let store = self.reconciler.store();
        if let Some(others) = store.other_nodes().filter(|_| store.is_synced()) {
            note(self.peers4.put_all(&peers::<V4>(others, &node, &devices)));
            note(self.peers6.put_all(&peers::<V6>(others, &node, &devices)));
        }
        problems.extend(self.routes_problem.clone());
        for family in Family::BOTH {
            let known = ranges.iter().filter(|range| range.family() == family).count();
            if known > SERVICE_RANGES {
                problems.push(format!(
                    "{known} ServiceCIDRs of {}, of which the first {SERVICE_RANGES} are known to the datapath: packets to unallocated addresses of the others are not dropped",
                    family.api_name()
                ));
            }
        }
        let knows_pods = Family::BOTH
            .iter()
            .any(|family| options.detector.pods(*family, &node).is_some());
        if options.detector == Detector::NodeCidr && !knows_pods {
            problems.push(
                "--detect-local-mode node-cidr: the Node object has no pod range (spec.podCIDRs) yet: nothing counts as a \
                 pod's connection"
                    .to_owned(),
            );
        }
        if problems != self.state.node_problems {
            for problem in &problems {
                error!(%problem, "what the datapath knows of the node is not as it should be");
            }
            self.state.node_problems = problems;
        }
        self.node_is_refused = refused;
        self.state_is_old = true;
    }
}

fn put<F: TableFamily>(
    table: &mut NodeTable<F>,
    known: &mut Node<F::Addr>,
    record: Node<F::Addr>,
) -> Result<bool, TableError> {
    if *known == record {
        return Ok(false);
    }
    table.put(record)?;
    if known.address != record.address {
        info!(address = %record.address, "node address for masquerading");
    }
    *known = record;
    Ok(true)
}

/// What the kernel programs must know about the node, of one family; `address` is for masquerading.
#[must_use]
pub fn node_record<F: TableFamily>(
    address: Option<F::Addr>,
    options: &NodeOptions,
    node: &NodeView,
    service_cidrs: &[Cidr],
) -> Node<F::Addr> {
    let family = if F::NUMBER == 4 { Family::V4 } else { Family::V6 };
    let mut flags = NodeFlags::default();
    let pods = options.detector.pods(family, node).and_then(node_range::<F>);
    if pods.is_some() {
        flags = flags.with(NodeFlags::PODS_BY_ADDRESS);
    }
    if options.detector.is_by_device() {
        flags = flags.with(NodeFlags::PODS_BY_DEVICE);
    }
    if options.masquerade_all {
        flags = flags.with(NodeFlags::MASQUERADE_ALL);
    }
    if options.tunnel == TunnelKind::Gue {
        flags = flags.with(NodeFlags::GUE);
    }
    let mut services = [Range::default(); SERVICE_RANGES];
    let known = service_cidrs.iter().copied().filter_map(node_range::<F>);
    for (place, range) in services.iter_mut().zip(known) {
        *place = range;
    }
    Node {
        pods: pods.unwrap_or_default(),
        services,
        address: address.unwrap_or_default(),
        flags,
        own: node.tunnel_address(family).and_then(F::from_ip).unwrap_or_default(),
        rest: Default::default(),
        fill: Default::default(),
    }
}

/// All addresses of the host, those of loopback included, and what each is.
#[must_use]
pub fn host_addresses<F: TableFamily>(
    devices: &Devices,
    node_ports: &NodePortAddresses,
    node: &NodeView,
) -> BTreeMap<F::Addr, AddressFlags> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let all = devices.values().flat_map(|device| &device.addresses).chain(&loopback);
    let mut flags_of = BTreeMap::new();
    for address in all {
        let Some(key) = F::from_ip(*address) else { continue };
        let mut flags = AddressFlags::HOST;
        if address.is_loopback() {
            flags = flags.with(AddressFlags::LOOPBACK);
        }
        if node_ports.serve_on(*address, node) {
            flags = flags.with(AddressFlags::NODE_PORTS);
        }
        flags_of.insert(key.looked_up(), flags);
    }
    flags_of
}

/// Which VLAN device a frame with these tags belongs to that comes by this card.
#[must_use]
pub(super) fn vlan_records(devices: &Devices) -> BTreeMap<VlanKey, u32> {
    let record = |device: &Device| {
        let (card, tags) = tags_on_card(devices, device)?;
        let ifindex = card.ifindex;
        Some((VlanKey { ifindex, tags }, device.ifindex))
    };
    devices.values().filter_map(record).collect()
}

/// Each device's own addresses for masquerading, whether pods are behind it, whether tc sees there first what comes from it, and what
/// XDP may do there; `xdp` says where it runs on a device.
#[must_use]
pub fn device_records(
    devices: &Devices,
    detector: &Detector,
    xdp: impl Fn(&Device) -> Option<XdpMode>,
) -> BTreeMap<u32, DeviceRecord> {
    let vlans = devices.values().filter_map(|device| device.vlan.as_ref());
    let vlan_cards: BTreeSet<u32> = vlans.map(|vlan| vlan.lower).collect();
    let record = |device: &Device| {
        let controller = device.controller.and_then(|ifindex| devices.get(&ifindex));
        // What XDP does with a VLAN device's frames, it does on the card.
        let card = card_of(devices, device).unwrap_or(device);
        let mode = xdp(card);
        let mut record = DeviceRecord {
            flags: xdp_flags(card, mode),
            link: device.link.map_or([0; 2], DeviceRecord::link_of),
            ..DeviceRecord::default()
        };
        if let Some((card, tags)) = tags_on_card(devices, device) {
            (record.lower, record.tags) = (card.ifindex, tags);
        } else if card.ifindex != device.ifindex {
            record.flags = DeviceFlags::default();
        }
        if detector.is_pod_device(&device.name, controller.map(|controller| controller.name.as_str())) {
            record.flags = record.flags.with(DeviceFlags::PODS);
        }
        if device.controller.is_some() || vlan_cards.contains(&device.ifindex) {
            record.flags = record.flags.with(DeviceFlags::LOWER);
        }
        if device.is_first && mode.is_none() {
            record.flags = record.flags.with(DeviceFlags::FIRST);
        }
        // The first of each family, as the kernel's own MASQUERADE takes the primary one.
        for address in device.addresses.iter().rev().filter(|address| !address.is_loopback()) {
            match address {
                IpAddr::V4(address) => record.ipv4 = (*address).into(),
                IpAddr::V6(address) => record.ipv6 = (*address).into(),
            }
        }
        record
    };
    let records = devices.iter().map(|(ifindex, device)| (*ifindex, record(device)));
    records
        .filter(|(_, record)| *record != DeviceRecord::default())
        .collect()
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{Tag, Tags};

    use super::*;
    use crate::source::devices::{Framing, Vlan, XdpFeatures};

    /// A card with XDP, VLAN devices on it (one of them down), and another card without.
    fn devices() -> Devices {
        let vlan = |lower, tag, is_up| {
            let tag = Tag(tag);
            Some(Vlan { lower, tag, is_up })
        };
        let device = |ifindex, vlan, link| Device {
            ifindex,
            vlan,
            link: Some([2, 0, 0, 0, 0, link]),
            framing: Some(Framing::Ethernet),
            driver: Some("ixgbe".to_owned()),
            is_first: true,
            xdp_features: Some(XdpFeatures {
                runs: true,
                transmits: true,
                scatters: false,
            }),
            ..Device::default()
        };
        let devices = [
            device(2, None, 1),
            device(3, vlan(2, 100, true), 2),
            device(4, vlan(2, 200, false), 1),
            device(5, None, 5),
            device(6, vlan(5, 100, true), 5),
        ];
        devices.map(|device| (device.ifindex, device)).into()
    }

    #[test]
    fn a_vlan_device_is_what_xdp_makes_of_its_card() {
        let on_the_card = |device: &Device| (device.ifindex == 2).then_some(XdpMode::Native);
        let records = device_records(&devices(), &Detector::default(), on_the_card);
        let sends = DeviceFlags::FORWARDS.with(DeviceFlags::TURNS);
        let vlan = records[&3];
        let card = (sends.with(DeviceFlags::LOWER), 0);
        assert_eq!((records[&2].flags, records[&2].lower), card, "others are on it");
        assert_eq!(
            (vlan.flags, vlan.lower, vlan.tags),
            (sends, 2, Tags::new(Tag(100), Tag::NONE))
        );
        assert_eq!(vlan.link, DeviceRecord::link_of([2, 0, 0, 0, 0, 2]), "its own address");
        assert_eq!(
            (records[&4].flags, records[&4].lower),
            (DeviceFlags::default(), 0),
            "down"
        );
        assert_eq!(
            records[&6].flags,
            DeviceFlags::FIRST,
            "no XDP on its card: tc sees its packets first"
        );
    }

    #[test]
    fn tags_on_a_card_name_a_vlan_device_that_is_up() {
        let key = |ifindex| VlanKey {
            ifindex,
            tags: Tags::new(Tag(100), Tag::NONE),
        };
        assert_eq!(vlan_records(&devices()), [(key(2), 3), (key(5), 6)].into());
    }
}
