//! The part of `sluice status` about devices: a few lines for each that leads out of the node, one for each other.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::text::table;
use crate::{
    agent::DeviceState,
    source::cards::{Amount, Card, cards, cpus_online},
};

/// Rings and queues of the outward devices, as the kernel says now.
#[derive(Debug, Serialize)]
pub(super) struct Cards {
    /// CPUs that are switched on.
    cpus: u32,
    /// Cards by device name.
    devices: BTreeMap<String, Card>,
    /// What could be better.
    hints: Vec<String>,
}

impl Cards {
    /// Asks the kernel.
    pub(super) fn of(devices: &[DeviceState]) -> Result<Self> {
        let outward = devices.iter().filter(|device| device.is_outward);
        let names: Vec<&str> = outward.map(|device| device.name.as_str()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        let (cpus, devices) = (cpus_online()?, runtime.block_on(cards(&names))?);
        let hints = devices.iter().flat_map(|(name, card)| card.hints(name, cpus)).collect();
        Ok(Self { cpus, devices, hints })
    }
}

/// Devices for people.
pub(super) fn text(devices: &[DeviceState], cards: Option<&Cards>) -> String {
    let (outward, others): (Vec<_>, Vec<_>) = devices.iter().partition(|device| device.is_outward);
    let mut text = String::new();
    for device in outward {
        let driver = driver(device);
        text += &format!(
            "{} leads out: index {}, {driver}, MTU {}\n",
            device.name, device.ifindex, device.mtu
        );
        let because = device.xdp_generic_because.as_ref();
        let because = because.map_or(String::new(), |reason| format!(", {reason}"));
        text += &format!("  tc:       {}\n", device.tc);
        text += &format!("  XDP:      {}{because}\n", device.xdp);
        text += &format!("  XDP out:  {}\n", device.xdp_transmit);
        if !device.vlans.is_empty() {
            text += &format!("  VLANs:    {}\n", device.vlans.join(", "));
        }
        if let Some(cards) = cards
            && let Some(card) = cards.devices.get(&device.name)
        {
            text += &card_lines(&device.name, card, cards.cpus);
        }
        text.push('\n');
    }
    let rows: Vec<Vec<String>> = others
        .into_iter()
        .map(|device| {
            vec![
                device.name.clone(),
                device.ifindex.to_string(),
                driver(device).to_owned(),
                device.mtu.to_string(),
                device.tc.clone(),
                device.xdp_transmit.clone(),
            ]
        })
        .collect();
    text + &table(&["DEVICE", "INDEX", "DRIVER", "MTU", "TC", "XDP OUT"], &rows)
}

fn driver(device: &DeviceState) -> &str {
    device.driver.as_deref().unwrap_or("-")
}

fn card_lines(name: &str, card: &Card, cpus: u32) -> String {
    let amounts = [
        ("rx ring", card.rx_ring),
        ("tx ring", card.tx_ring),
        ("combined queues", card.combined_queues),
        ("rx queues", card.rx_queues),
    ];
    let amounts = amounts.iter().filter(|(_, amount)| amount.max > 0);
    let amounts: Vec<String> = amounts
        .map(|(what, Amount { now, max })| format!("{what} {now} of {max}"))
        .collect();
    let mut lines = String::new();
    if !amounts.is_empty() {
        lines += &format!("  card:     {}, {cpus} CPUs\n", amounts.join(", "));
    }
    for hint in card.hints(name, cpus) {
        lines += &format!("  hint:     {hint}\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::vlan_features::VlanFeatures;

    #[test]
    fn outward_devices_have_lines_and_others_rows() {
        let device = |ifindex, name: &str, driver: Option<&str>| DeviceState {
            ifindex,
            name: name.to_owned(),
            driver: driver.map(str::to_owned),
            mtu: 1500,
            is_outward: name == "eth0",
            tc: "attached".to_owned(),
            xdp: "generic".to_owned(),
            xdp_generic_because: Some("asked for by --xdp generic".to_owned()),
            xdp_transmit: "yes".to_owned(),
            vlans: Vec::new(),
        };
        let devices = [
            DeviceState {
                xdp_transmit: "no: lo does not transmit for XDP".to_owned(),
                ..device(1, "lo", None)
            },
            DeviceState {
                vlans: vec!["eth0.100 (802.1Q 100)".to_owned()],
                ..device(2, "eth0", Some("ixgbe"))
            },
            device(13, "cali12345678901", Some("veth")),
        ];
        let card = Card {
            rx_ring: Amount { now: 512, max: 4096 },
            tx_ring: Amount { now: 4096, max: 4096 },
            combined_queues: Amount { now: 8, max: 64 },
            rx_queues: Amount::default(),
            vlan: VlanFeatures::default(),
        };
        let cards = Cards {
            cpus: 8,
            devices: BTreeMap::from([("eth0".to_owned(), card)]),
            hints: card.hints("eth0", 8),
        };
        let expected = "\
eth0 leads out: index 2, ixgbe, MTU 1500
  tc:       attached
  XDP:      generic, asked for by --xdp generic
  XDP out:  yes
  VLANs:    eth0.100 (802.1Q 100)
  card:     rx ring 512 of 4096, tx ring 4096 of 4096, combined queues 8 of 64, 8 CPUs
  hint:     rx ring 512 of 4096: ethtool -G eth0 rx 4096

DEVICE           INDEX  DRIVER  MTU   TC        XDP OUT
lo               1      -       1500  attached  no: lo does not transmit for XDP
cali12345678901  13     veth    1500  attached  yes
";
        assert_eq!(text(&devices, Some(&cards)), expected);
    }
}
