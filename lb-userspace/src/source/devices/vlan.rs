//! VLAN devices: which card they stand on, and which tags their frames have there.

use lb_common::layout::{Tag, Tags};

use super::{Device, Devices};

/// What makes a device a VLAN's, on a device of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The device that it stands on: a card, or another VLAN device.
    pub lower: u32,
    /// Its tag there.
    pub tag: Tag,
    /// It is up. What comes for it while it is not, the kernel drops.
    pub is_up: bool,
}

/// The device at the bottom of a VLAN device. Nothing for other devices.
#[must_use]
pub fn card_of<'a>(devices: &'a Devices, device: &Device) -> Option<&'a Device> {
    let mut vlan = device.vlan?;
    // Nobody can make a circle of them; but this is somebody else's list.
    for _ in 0..=devices.len() {
        let lower = devices.get(&vlan.lower)?;
        match lower.vlan {
            Some(next) => vlan = next,
            None => return Some(lower),
        }
    }
    None
}

/// The same, and the tags of its frames there, as the kernel programs know them: two at most, and all that it stands on is up.
#[must_use]
pub fn tags_on_card<'a>(devices: &'a Devices, device: &Device) -> Option<(&'a Device, Tags)> {
    let card = card_of(devices, device)?;
    let (mut tags, mut next) = (Vec::new(), Some(device));
    while let Some(vlan) = next.and_then(|device| device.vlan) {
        if !vlan.is_up {
            return None;
        }
        tags.push(vlan.tag);
        next = devices.get(&vlan.lower);
    }
    match *tags.as_slice() {
        [tag] => Some((card, Tags::new(tag, Tag::NONE))),
        [inner, outer] => Some((card, Tags::new(outer, inner))),
        _ => None,
    }
}

/// The VLAN devices whose frames come by a device: those that stand on it, or on the bridge or bonding device that it is a port of.
pub fn on_top<'a>(devices: &'a Devices, device: &Device) -> impl Iterator<Item = &'a Device> {
    let (ifindex, controller) = (device.ifindex, device.controller);
    devices.values().filter(move |vlan| {
        let card = card_of(devices, vlan).map(|card| card.ifindex);
        card.is_some_and(|card| card == ifindex || Some(card) == controller)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Tag = Tag(0x1064);

    fn devices() -> Devices {
        let vlan = |lower, tag, is_up| Some(Vlan { lower, tag, is_up });
        let rows = [
            (2, None, None),
            (3, vlan(2, SERVICE, true), None),
            (4, vlan(3, Tag(200), true), None),
            (5, vlan(4, Tag(300), true), None),
            (6, vlan(2, Tag(600), false), None),
            (7, vlan(6, Tag(700), true), None),
            (8, vlan(99, Tag(800), true), None),
            (9, None, Some(10)),
            (10, None, None),
            (11, vlan(10, Tag(1100), true), None),
        ];
        let device = |(ifindex, vlan, controller)| Device {
            ifindex,
            vlan,
            controller,
            ..Device::default()
        };
        rows.map(device).map(|device| (device.ifindex, device)).into()
    }

    #[test]
    fn a_vlan_device_is_known_by_its_card_and_up_to_two_tags() {
        let devices = devices();
        let of = |ifindex| tags_on_card(&devices, &devices[&ifindex]).map(|(card, tags)| (card.ifindex, tags));
        assert_eq!(of(2), None, "a card");
        assert_eq!(of(3), Some((2, Tags::new(SERVICE, Tag::NONE))));
        assert_eq!(of(4), Some((2, Tags::new(SERVICE, Tag(200)))));
        assert_eq!(of(5), None, "three tags");
        assert_eq!(of(6), None, "down");
        assert_eq!(of(7), None, "on one that is down");
        assert_eq!(of(8), None, "on a device of another network namespace");
    }

    #[test]
    fn frames_of_a_vlan_come_by_its_card_and_by_the_ports_of_it() {
        let devices = devices();
        let on = |ifindex| -> Vec<u32> {
            on_top(&devices, &devices[&ifindex])
                .map(|device| device.ifindex)
                .collect()
        };
        assert_eq!(on(2), [3, 4, 5, 6, 7], "those that are down, too");
        assert_eq!((on(9), on(10)), (vec![11], vec![11]), "a port and its bond");
        assert_eq!(on(3), Vec::<u32>::new(), "they come by the card");
    }
}
