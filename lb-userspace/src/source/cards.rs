//! Rings and queues of network cards, asked of the kernel's generic netlink family `ethtool` (since Linux 5.7;
//! `Documentation/networking/ethtool-netlink.rst` in its sources), and what about them could be better.

use std::{collections::BTreeMap, fs, future::ready};

use anyhow::{Context as _, Result};
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolMessage, EthtoolRingAttr};
use futures::{TryStream, TryStreamExt as _};
use netlink_packet_generic::GenlMessage;
use serde::Serialize;

use super::vlan_features::{VlanFeatures, command, vlan_features_by};

/// From here on a larger ring costs more in the CPU's caches than it saves in bursts.
const RING_MAX: u32 = 4_096;

/// How many there are, and how many there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Now.
    pub now: u32,
    /// At most; 0 if the device has nothing of the kind.
    pub max: u32,
}

/// Rings and queues of a card. What a device has none of, or doesn't tell, is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Places of each ring for packets that arrive.
    pub rx_ring: Amount,
    /// Places of each ring for packets that leave.
    pub tx_ring: Amount,
    /// Queues for both directions.
    pub combined_queues: Amount,
    /// Queues for packets that arrive, beside those.
    pub rx_queues: Amount,
    /// What it does with VLAN tags.
    pub vlan: VlanFeatures,
}

impl Card {
    /// What could be better, with the command that does it. A virtual device without rings has nothing that waits in one, and
    /// is on no trunk.
    #[must_use]
    pub fn hints(&self, device: &str, cpus: u32) -> Vec<String> {
        if self.rx_ring.max == 0 {
            return Vec::new();
        }
        let mut hints = Vec::new();
        let hiding = self.vlan.hiding();
        if !hiding.is_empty() && !self.vlan.filters {
            hints.push(format!(
                "takes VLAN tags out: frames of VLANs that have no device here count as untagged in XDP: {}",
                command(device, &hiding)
            ));
        }
        for (ring, amount) in [("rx", self.rx_ring), ("tx", self.tx_ring)] {
            let better = amount.max.min(RING_MAX);
            if amount.now < better {
                let Amount { now, max } = amount;
                hints.push(format!(
                    "{ring} ring {now} of {max}: ethtool -G {device} {ring} {better}"
                ));
            }
        }
        for (word, amount) in [("combined", self.combined_queues), ("rx", self.rx_queues)] {
            let better = amount.max.min(cpus);
            let receiving = self.combined_queues.now + self.rx_queues.now;
            if receiving < cpus && amount.now < better {
                let Amount { now, max } = amount;
                hints.push(format!(
                    "{now} of {max} {word} queues for {cpus} CPUs: ethtool -L {device} {word} {better}"
                ));
            }
        }
        hints
    }

    fn learn(&mut self, message: &EthtoolMessage) {
        for attribute in &message.nlas {
            let (place, value) = match attribute {
                EthtoolAttr::Ring(EthtoolRingAttr::Rx(value)) => (&mut self.rx_ring.now, value),
                EthtoolAttr::Ring(EthtoolRingAttr::RxMax(value)) => (&mut self.rx_ring.max, value),
                EthtoolAttr::Ring(EthtoolRingAttr::Tx(value)) => (&mut self.tx_ring.now, value),
                EthtoolAttr::Ring(EthtoolRingAttr::TxMax(value)) => (&mut self.tx_ring.max, value),
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(value)) => {
                    (&mut self.combined_queues.now, value)
                }
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(value)) => (&mut self.combined_queues.max, value),
                EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(value)) => (&mut self.rx_queues.now, value),
                EthtoolAttr::Channel(EthtoolChannelAttr::RxMax(value)) => (&mut self.rx_queues.max, value),
                _ => continue,
            };
            *place = *value;
        }
    }
}

/// Asks for some devices.
///
/// # Errors
/// If the kernel refuses generic netlink. A device that tells nothing is no error.
pub async fn cards(devices: &[&str]) -> Result<BTreeMap<String, Card>> {
    let (connection, mut handle, _) = ethtool::new_connection().context("open generic netlink to ask for rings")?;
    tokio::spawn(connection);
    let features = vlan_features_by(&mut handle, devices).await?;
    let mut cards = BTreeMap::new();
    for device in devices {
        let mut card = Card {
            vlan: features.get(*device).copied().unwrap_or_default(),
            ..Card::default()
        };
        learn_all(&mut card, handle.ring().get(Some(device)).execute().await).await;
        learn_all(&mut card, handle.channel().get(Some(device)).execute().await).await;
        cards.insert((*device).to_owned(), card);
    }
    Ok(cards)
}

async fn learn_all(card: &mut Card, answers: impl TryStream<Ok = GenlMessage<EthtoolMessage>, Error = EthtoolError>) {
    let learned = answers.try_for_each(|answer| {
        card.learn(&answer.payload);
        ready(Ok(()))
    });
    // Most virtual devices answer EOPNOTSUPP.
    if let Err(error) = learned.await {
        tracing::debug!(%error, "a device does not tell its rings or queues");
    }
}

/// How many CPUs are switched on.
///
/// # Errors
/// If the kernel doesn't tell.
pub fn cpus_online() -> Result<u32> {
    let file = "/sys/devices/system/cpu/online";
    let list = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    count(list.trim()).with_context(|| format!("{file} is no list of CPUs: {list}"))
}

/// How many numbers are in a list such as `0-3,8`.
fn count(list: &str) -> Option<u32> {
    let ranges = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<u32>()
            .ok()?
            .checked_sub(first.parse().ok()?)?
            .checked_add(1)
    });
    ranges.sum()
}

#[cfg(test)]
mod tests {
    use ethtool::EthtoolCmd;
    use rstest::rstest;

    use super::*;

    const NO_VLANS: VlanFeatures = VlanFeatures {
        parses: false,
        parses_service: false,
        filters: false,
    };
    const GOOD: Card = Card {
        rx_ring: Amount { now: 4096, max: 8192 },
        tx_ring: Amount { now: 512, max: 512 },
        combined_queues: Amount { now: 4, max: 64 },
        rx_queues: Amount { now: 0, max: 0 },
        vlan: NO_VLANS,
    };

    #[rstest]
    #[case::nothing(GOOD, &[])]
    #[case::a_small_ring(
        Card { rx_ring: Amount { now: 256, max: 4096 }, ..GOOD },
        &["rx ring 256 of 4096: ethtool -G eth0 rx 4096"]
    )]
    #[case::a_ring_that_may_be_huge(
        Card { tx_ring: Amount { now: 1024, max: 16_384 }, ..GOOD },
        &["tx ring 1024 of 16384: ethtool -G eth0 tx 4096"]
    )]
    #[case::few_queues(
        Card { combined_queues: Amount { now: 1, max: 2 }, ..GOOD },
        &["1 of 2 combined queues for 4 CPUs: ethtool -L eth0 combined 2"]
    )]
    #[case::all_queues_of_a_small_card(Card { combined_queues: Amount { now: 2, max: 2 }, ..GOOD }, &[])]
    #[case::queues_for_rx_alone(
        Card { combined_queues: Amount::default(), rx_queues: Amount { now: 1, max: 8 }, ..GOOD },
        &["1 of 8 rx queues for 4 CPUs: ethtool -L eth0 rx 4"]
    )]
    #[case::either_kind_serves_all_cpus(Card { rx_queues: Amount { now: 0, max: 8 }, ..GOOD }, &[])]
    #[case::hidden_tags(
        Card { vlan: VlanFeatures { parses: true, ..NO_VLANS }, ..GOOD },
        &["takes VLAN tags out: frames of VLANs that have no device here count as untagged in XDP: ethtool -K eth0 rx-vlan-hw-parse off"]
    )]
    #[case::hidden_tags_of_vlans_that_are_here(Card { vlan: VlanFeatures { parses: true, filters: true, ..NO_VLANS }, ..GOOD }, &[])]
    #[case::no_rings(Card { combined_queues: Amount { now: 1, max: 8 }, ..Card::default() }, &[])]
    fn hints(#[case] card: Card, #[case] expected: &[&str]) {
        assert_eq!(card.hints("eth0", 4), expected);
    }

    #[test]
    fn answers_are_put_together() {
        let mut card = Card::default();
        card.learn(&EthtoolMessage {
            cmd: EthtoolCmd::RingGetReply,
            nlas: vec![
                EthtoolAttr::Ring(EthtoolRingAttr::RxMax(8192)),
                EthtoolAttr::Ring(EthtoolRingAttr::RxJumboMax(7)),
                EthtoolAttr::Ring(EthtoolRingAttr::TxMax(512)),
                EthtoolAttr::Ring(EthtoolRingAttr::Rx(4096)),
                EthtoolAttr::Ring(EthtoolRingAttr::Tx(512)),
            ],
        });
        card.learn(&EthtoolMessage {
            cmd: EthtoolCmd::ChannelGetReply,
            nlas: vec![
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(64)),
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(4)),
                EthtoolAttr::Channel(EthtoolChannelAttr::OtherCount(1)),
            ],
        });
        assert_eq!(card, GOOD);
    }

    #[rstest]
    #[case("0", Some(1))]
    #[case("0-3", Some(4))]
    #[case("0-3,8,10-11", Some(7))]
    #[case("", None)]
    #[case("3-1", None)]
    fn cpus_are_counted(#[case] list: &str, #[case] expected: Option<u32>) {
        assert_eq!(count(list), expected);
    }
}
