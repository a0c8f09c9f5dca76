//! Whose tunnels the kernel programs take, and to whom they may send any: the other nodes of the cluster, by every address that
//! their objects say.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    model::{NodeView, OtherNodes, reachable},
    source::devices::Devices,
    tables::TableFamily,
};

/// The addresses of one family of all other nodes. What is this node's own is nobody else's, whatever another Node object says.
#[must_use]
pub(super) fn peers<F: TableFamily>(others: &OtherNodes, node: &NodeView, devices: &Devices) -> BTreeSet<F::Addr> {
    let of_object = node.facts.iter().flat_map(|facts| &facts.addresses);
    let of_devices = devices.values().flat_map(|device| &device.addresses);
    let own: BTreeSet<IpAddr> = of_object
        .chain(of_devices)
        .chain(&node.detected)
        .chain(&node.bind_address)
        .copied()
        .collect();
    let addresses = others.values().flat_map(|addresses| reachable(addresses));
    addresses
        .filter(|address| !own.contains(address))
        .filter_map(F::from_ip)
        .collect()
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{V4, V6};

    use super::*;
    use crate::{model::NodeFacts, source::devices::Device};

    fn ips(texts: &[&str]) -> Box<[IpAddr]> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn all_addresses_of_all_others_and_none_of_ones_own() {
        let others = OtherNodes::from([
            ("n2".into(), ips(&["192.0.2.2", "2001:db8::2", "203.0.113.2"])),
            // A node may say what it likes.
            (
                "n3".into(),
                ips(&[
                    "192.0.2.1",
                    "192.0.2.11",
                    "192.0.2.12",
                    "127.0.0.1",
                    "0.0.0.0",
                    "fe80::3",
                    "ff02::1",
                ]),
            ),
            ("n4".into(), ips(&[])),
        ]);
        let node = NodeView {
            facts: Some(NodeFacts {
                addresses: ips(&["192.0.2.1"]),
                ..NodeFacts::default()
            }),
            bind_address: Some([192, 0, 2, 11].into()),
            ..NodeView::named("n1")
        };
        let device = Device {
            addresses: ips(&["192.0.2.12"]).into(),
            ..Device::default()
        };
        let devices = Devices::from([(2, device)]);
        let found = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let v4 = peers::<V4>(&others, &node, &devices)
            .into_iter()
            .map(V4::to_ip)
            .collect();
        let v6 = peers::<V6>(&others, &node, &devices)
            .into_iter()
            .map(V6::to_ip)
            .collect();
        assert_eq!(found(v4), ["192.0.2.2", "203.0.113.2"]);
        assert_eq!(found(v6), ["2001:db8::2"]);
    }
}
