//! What XDP may do on a device, and in words why it may not: what `DEVICES` and `sluice status` say.

use lb_common::layout::{DeviceFlags, Tag};

use crate::{
    kernel::XdpMode,
    source::{
        devices::{
            Device, Devices, Framing,
            vlan::{on_top, tags_on_card},
        },
        vlan_features::command,
    },
};

/// The kind of one end of a pair of virtual Ethernet devices.
const VETH: &str = "veth";
/// Without fragments a packet has one page of 4096 octets, less 256 of headroom, some 320 that describe it (`struct skb_shared_info`),
/// and the link header.
const MTU_OF_ONE_PAGE: u32 = 3_500;

/// What the kernel programs must know of a device on which XDP runs in this mode.
pub(super) fn xdp_flags(device: &Device, mode: Option<XdpMode>) -> DeviceFlags {
    let mut flags = DeviceFlags::default();
    if why_no_transmit(device, mode).is_none() {
        flags = flags.with(DeviceFlags::FORWARDS);
        if device.xdp_features.is_some_and(|features| features.scatters) {
            flags = flags.with(DeviceFlags::SCATTERS);
        }
    }
    match mode {
        // What a program turns round on a veth device is left lying if the other end has no program (`veth_xdp_rcv` in the kernel's
        // drivers/net/veth.c flushes redirects alone); what it redirects to the same device isn't.
        Some(XdpMode::Native) if device.driver.as_deref() != Some(VETH) => flags.with(DeviceFlags::TURNS),
        Some(XdpMode::Native) | None => flags,
        Some(XdpMode::Generic) => flags.with(DeviceFlags::GENERIC),
    }
}

/// Why XDP may not send out of a device on which it runs in this mode, if it may not. Only to devices of its own kind: one towards pods
/// has a CNI's programs and policies, which a frame of XDP's would pass by.
pub(super) fn why_no_transmit(device: &Device, mode: Option<XdpMode>) -> Option<String> {
    if mode.is_none() {
        return Some("XDP does not run on it".to_owned());
    }
    if device.framing != Some(Framing::Ethernet) {
        return Some("its frames are not Ethernet's".to_owned());
    }
    let driver = device.driver.as_deref().unwrap_or("its driver");
    match device.xdp_features {
        Some(features) if features.transmits => None,
        Some(_) if driver == VETH => {
            Some("its other end has neither GRO nor XDP (there: ethtool -K DEV gro on)".to_owned())
        }
        Some(features) if features.runs => Some(format!("{driver} does not transmit for XDP as it is set up now")),
        Some(_) => Some(format!("{driver} does not transmit for XDP")),
        None => Some("the kernel does not tell what its driver can do".to_owned()),
    }
}

/// Why a device has refused the program, as far as is known, with what the kernel said.
pub(super) fn why_refused(device: &Device, error: &anyhow::Error) -> String {
    let driver = device.driver.as_deref().unwrap_or("its driver");
    match (device.xdp, device.xdp_features) {
        (Some(other), _) => format!(
            "another XDP program is on it; see: bpftool prog show id {} ({error:#})",
            other.id
        ),
        (None, Some(features)) if !features.runs => format!("{driver} runs no XDP programs ({error:#})"),
        _ if device.mtu > MTU_OF_ONE_PAGE => format!(
            "perhaps its MTU of {} is too large: drivers that put a frame into one buffer take some {MTU_OF_ONE_PAGE} ({error:#})",
            device.mtu
        ),
        _ => format!("{error:#}"),
    }
}

/// Why a device must not have XDP on account of VLAN devices whose frames come by it: the card, or a port of the bonding device, takes the
/// tags out, and XDP would take what is in a VLAN for what is not.
pub(super) fn why_tags_are_hidden(device: &Device, devices: &Devices) -> Option<String> {
    let names: Vec<&str> = on_top(devices, device).map(|vlan| vlan.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let ports = devices.values().filter(|port| port.controller == Some(device.ifindex));
    let commands: Vec<String> = std::iter::once(device)
        .chain(ports)
        .filter(|device| !device.hides_tags.is_empty())
        .map(|device| command(&device.name, &device.hides_tags))
        .collect();
    (!commands.is_empty()).then(|| {
        format!(
            "the card takes VLAN tags out, and XDP could not tell packets of {} from others; it starts after: {}",
            names.join(", "),
            commands.join("; ")
        )
    })
}

/// The VLAN devices that XDP knows on a card, with their tags.
pub(super) fn vlan_words(card: &Device, devices: &Devices) -> Vec<String> {
    let word = |Tag(word): Tag| match Tag(word).to_wire([0; 2]) {
        [0x88, 0xa8, a, b] => format!("802.1ad {}", u16::from_be_bytes([a, b])),
        [.., a, b] => format!("802.1Q {}", u16::from_be_bytes([a, b])),
    };
    let words = devices.values().filter_map(|device| {
        let (lower, tags) = tags_on_card(devices, device)?;
        let tags = [tags.outer(), tags.inner()];
        let tags: Vec<String> = tags.into_iter().filter(|tag| *tag != Tag::NONE).map(word).collect();
        (lower.ifindex == card.ifindex).then(|| format!("{} ({})", device.name, tags.join(", ")))
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use rstest::rstest;

    use super::*;
    use crate::source::devices::{Vlan, XdpFeatures, XdpProgram};

    const ALL: XdpFeatures = XdpFeatures {
        runs: true,
        transmits: true,
        scatters: false,
    };
    const JUMBO: XdpFeatures = XdpFeatures { scatters: true, ..ALL };
    const RUNS: XdpFeatures = XdpFeatures {
        runs: true,
        transmits: false,
        scatters: false,
    };
    const NONE: XdpFeatures = XdpFeatures {
        runs: false,
        transmits: false,
        scatters: false,
    };

    fn device(driver: &str, xdp_features: Option<XdpFeatures>) -> Device {
        Device {
            framing: Some(Framing::Ethernet),
            driver: Some(driver.to_owned()),
            xdp_features,
            mtu: 1500,
            ..Device::default()
        }
    }

    #[rstest]
    #[case::a_card("ixgbe", Some(ALL), Some(XdpMode::Native), &[DeviceFlags::FORWARDS, DeviceFlags::TURNS])]
    #[case::a_card_that_does_not_transmit_yet("virtio_net", Some(RUNS), Some(XdpMode::Native), &[DeviceFlags::TURNS])]
    #[case::a_card_in_generic_mode("e1000e", Some(NONE), Some(XdpMode::Generic), &[DeviceFlags::GENERIC])]
    #[case::a_card_that_sends_jumbo_frames(
        "mlx5_core",
        Some(JUMBO),
        Some(XdpMode::Native),
        &[DeviceFlags::FORWARDS, DeviceFlags::SCATTERS, DeviceFlags::TURNS]
    )]
    #[case::a_card_without("ixgbe", Some(ALL), None, &[])]
    #[case::veth_turns_nothing("veth", Some(ALL), Some(XdpMode::Native), &[DeviceFlags::FORWARDS])]
    #[case::veth_whose_peer_has_no_napi("veth", Some(RUNS), None, &[])]
    #[case::a_bridge("bridge", Some(NONE), None, &[])]
    #[case::unknown("ixgbe", None, Some(XdpMode::Native), &[DeviceFlags::TURNS])]
    fn flags(
        #[case] driver: &str,
        #[case] features: Option<XdpFeatures>,
        #[case] mode: Option<XdpMode>,
        #[case] expected: &[DeviceFlags],
    ) {
        let expected = expected.iter().copied().fold(DeviceFlags::default(), DeviceFlags::with);
        assert_eq!(xdp_flags(&device(driver, features), mode), expected);
    }

    #[rstest]
    #[case(device("ixgbe", Some(ALL)), None)]
    #[case(
        device("virtio_net", Some(RUNS)),
        Some("virtio_net does not transmit for XDP as it is set up now")
    )]
    #[case(device("bridge", Some(NONE)), Some("bridge does not transmit for XDP"))]
    #[case(
        device("veth", Some(RUNS)),
        Some("its other end has neither GRO nor XDP (there: ethtool -K DEV gro on)")
    )]
    #[case(device("ixgbe", None), Some("the kernel does not tell what its driver can do"))]
    #[case(Device { framing: Some(Framing::None), ..device("tun", Some(ALL)) }, Some("its frames are not Ethernet's"))]
    fn why_xdp_may_not_send(#[case] device: Device, #[case] expected: Option<&str>) {
        assert_eq!(why_no_transmit(&device, Some(XdpMode::Native)).as_deref(), expected);
        let nowhere = why_no_transmit(&device, None);
        assert_eq!(nowhere.as_deref(), Some("XDP does not run on it"));
    }

    /// A card with VLAN devices, one on top of the other, and one on a bonding device of which the card is a port.
    fn with_vlans(hides_tags: &[&'static str], bond_hides: &[&'static str]) -> Devices {
        let vlan = |lower, tag| {
            let tag = Tag(tag);
            Some(Vlan {
                lower,
                tag,
                is_up: true,
            })
        };
        let named = |ifindex, name: &str, vlan| Device {
            ifindex,
            name: name.to_owned(),
            vlan,
            ..device("ixgbe", Some(ALL))
        };
        let card = Device {
            hides_tags: hides_tags.to_vec(),
            ..named(2, "eth0", None)
        };
        let bond = Device {
            hides_tags: bond_hides.to_vec(),
            ..named(6, "bond0", None)
        };
        let port = Device {
            hides_tags: hides_tags.to_vec(),
            controller: Some(6),
            ..named(7, "eth1", None)
        };
        let devices = [
            card,
            named(3, "eth0.100", vlan(2, 0x1064)),
            named(4, "eth0.100.7", vlan(3, 7)),
            named(5, "eth2", None),
            bond,
            port,
            named(8, "bond0.9", vlan(6, 9)),
        ];
        devices.map(|device| (device.ifindex, device)).into()
    }

    #[rstest]
    #[case::tags_are_in_the_frames(2, &[], None)]
    #[case::the_card_takes_them_out(
        2,
        &["rx-vlan-hw-parse"],
        Some(
            "the card takes VLAN tags out, and XDP could not tell packets of eth0.100, eth0.100.7 from others; it starts after: \
             ethtool -K eth0 rx-vlan-hw-parse off"
        )
    )]
    #[case::nothing_stands_on_it(5, &["rx-vlan-hw-parse"], None)]
    #[case::a_port_of_it_does(
        6,
        &["rx-vlan-stag-hw-parse"],
        Some(
            "the card takes VLAN tags out, and XDP could not tell packets of bond0.9 from others; it starts after: \
             ethtool -K eth1 rx-vlan-stag-hw-parse off"
        )
    )]
    fn why_tags_hide(#[case] ifindex: u32, #[case] hides_tags: &[&'static str], #[case] expected: Option<&str>) {
        let devices = with_vlans(hides_tags, &[]);
        let why = why_tags_are_hidden(&devices[&ifindex], &devices);
        assert_eq!(why.as_deref(), expected);
    }

    #[test]
    fn vlan_devices_are_shown_with_their_tags() {
        let devices = with_vlans(&[], &[]);
        let words = vlan_words(&devices[&2], &devices);
        assert_eq!(words, ["eth0.100 (802.1ad 100)", "eth0.100.7 (802.1ad 100, 802.1Q 7)"]);
        assert!(vlan_words(&devices[&3], &devices).is_empty(), "they are the card's");
    }

    #[rstest]
    #[case(device("e1000e", Some(NONE)), "e1000e runs no XDP programs (EOPNOTSUPP)")]
    #[case(device("ixgbe", Some(ALL)), "EOPNOTSUPP")]
    #[case(
        Device { mtu: 9000, ..device("ixgbe", Some(ALL)) },
        "perhaps its MTU of 9000 is too large: drivers that put a frame into one buffer take some 3500 (EOPNOTSUPP)"
    )]
    #[case(
        Device { xdp: Some(XdpProgram { id: 7, is_generic: false }), ..device("ixgbe", Some(ALL)) },
        "another XDP program is on it; see: bpftool prog show id 7 (EOPNOTSUPP)"
    )]
    fn why_a_device_refuses(#[case] device: Device, #[case] expected: &str) {
        assert_eq!(why_refused(&device, &anyhow!("EOPNOTSUPP")), expected);
    }
}
