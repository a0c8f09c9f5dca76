//! What network cards do with VLAN tags before a program sees a frame, asked of the kernel's generic netlink family `ethtool` (features
//! since Linux 5.7; `Documentation/networking/netdev-features.rst` in its sources).

use std::{collections::BTreeMap, future::ready};

use anyhow::{Context as _, Result};
use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolFeatureBit, EthtoolHandle};
use futures::TryStreamExt as _;
use serde::Serialize;

/// `NETIF_F_HW_VLAN_CTAG_RX`, `rxvlan` for short: the card takes a customer's tag out (802.1Q).
const PARSES: &str = "rx-vlan-hw-parse";
/// `NETIF_F_HW_VLAN_STAG_RX`: the same with a service provider's (802.1ad).
const PARSES_SERVICE: &str = "rx-vlan-stag-hw-parse";
/// `NETIF_F_HW_VLAN_CTAG_FILTER`: the card drops frames of VLANs that have no device here.
const FILTERS: &str = "rx-vlan-filter";

/// What a card does with VLAN tags now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VlanFeatures {
    /// It takes a customer's tag out: XDP sees the frame without.
    pub parses: bool,
    /// It takes a service provider's tag out.
    pub parses_service: bool,
    /// It drops frames of VLANs that have no device here.
    pub filters: bool,
}

impl VlanFeatures {
    /// The features by which a tag is hidden from XDP, as `ethtool -K` knows them.
    #[must_use]
    pub fn hiding(self) -> Vec<&'static str> {
        let all = [(self.parses, PARSES), (self.parses_service, PARSES_SERVICE)];
        all.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect()
    }

    fn learn(&mut self, active: &[EthtoolFeatureBit]) {
        let is_on = |name| active.iter().any(|bit| bit.name == name && bit.value);
        self.parses |= is_on(PARSES);
        self.parses_service |= is_on(PARSES_SERVICE);
        self.filters |= is_on(FILTERS);
    }
}

/// Asks for some devices.
///
/// # Errors
/// If the kernel refuses generic netlink, or doesn't tell.
pub async fn vlan_features(devices: &[&str]) -> Result<BTreeMap<String, VlanFeatures>> {
    let (connection, mut handle, _) = ethtool::new_connection().context("open generic netlink to ask for features")?;
    tokio::spawn(connection);
    vlan_features_by(&mut handle, devices).await
}

/// The same by a connection that is open.
pub(super) async fn vlan_features_by(
    handle: &mut EthtoolHandle,
    devices: &[&str],
) -> Result<BTreeMap<String, VlanFeatures>> {
    let mut known = BTreeMap::new();
    for device in devices {
        let mut features = VlanFeatures::default();
        let answers = handle.feature().get(Some(device)).execute().await;
        let learned = answers.try_for_each(|answer| {
            for attribute in &answer.payload.nlas {
                if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(active)) = attribute {
                    features.learn(active);
                }
            }
            ready(Ok(()))
        });
        learned
            .await
            .with_context(|| format!("ask for the features of {device}"))?;
        known.insert((*device).to_owned(), features);
    }
    Ok(known)
}

/// The command that leaves the tags to XDP.
#[must_use]
pub fn command(device: &str, hiding: &[&str]) -> String {
    let words = hiding.iter().map(|feature| format!(" {feature} off"));
    format!("ethtool -K {device}{}", words.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_tags_is_named_with_the_command_that_ends_it() {
        let bit = |name: &str, value| EthtoolFeatureBit {
            index: 0,
            name: name.to_owned(),
            value,
        };
        let mut features = VlanFeatures::default();
        features.learn(&[bit(PARSES, true), bit(PARSES_SERVICE, false), bit("rx-gro", true)]);
        assert_eq!(features.hiding(), [PARSES]);
        features.learn(&[bit(PARSES_SERVICE, true), bit(FILTERS, true)]);
        assert!(features.filters);
        assert_eq!(
            command("eth0", &features.hiding()),
            "ethtool -K eth0 rx-vlan-hw-parse off rx-vlan-stag-hw-parse off"
        );
        assert_eq!(VlanFeatures::default().hiding(), Vec::<&str>::new());
    }
}
