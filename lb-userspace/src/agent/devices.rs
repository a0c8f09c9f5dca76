//! Following the node's devices: attaching to what comes, and forgetting what went.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use lb_common::layout::names;
use tracing::{error, info, warn};

use super::{
    Agent, DeviceState, sysctl,
    xdp::{vlan_words, why_no_transmit, why_refused, why_tags_are_hidden},
};
use crate::{
    kernel::{LinkKind, XdpMode, XdpOutcome, XdpPolicy},
    source::devices::{Device, Devices, Framing, Listing, node_addresses, vlan::card_of},
};

impl Agent {
    /// Brings attachments and node addresses up to the list.
    pub(super) fn follow_devices(&mut self, listing: &Listing) {
        let devices = &listing.devices;
        let present: BTreeSet<u32> = devices.keys().copied().collect();
        if let Err(error) = self.attachments.forget_all_but(&present) {
            warn!(%error, "pins of vanished devices could not be removed");
        }
        let gone: Vec<u32> = self
            .attachments
            .devices()
            .keys()
            .copied()
            .filter(|ifindex| !present.contains(ifindex))
            .collect();
        for ifindex in gone {
            info!(ifindex, "device gone");
            self.attachments.forget(ifindex);
        }
        let before = std::mem::replace(&mut self.devices, devices.clone());
        self.notice_lost_xdp(listing.begun);
        let (v4, v6) = node_addresses(devices);
        let addresses = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from));
        self.reconciler.see_host_addresses(addresses.collect());
        self.follow_node();
        self.attach_all(&before);
        if !std::mem::replace(&mut self.devices_followed, true) {
            self.follow_sockets();
            self.write_state();
        }
    }

    /// Attaches what is not attached yet, and says how it is; `before` is what the devices were.
    pub(super) fn attach_all(&mut self, before: &Devices) {
        // While programs are attached, tc must not take for direct what XDP has translated.
        let expected = self.xdp_modes();
        let devices = self.devices.clone();
        let states = devices
            .iter()
            .map(|(ifindex, device)| self.attach(device, before.get(ifindex)));
        self.state.devices = states.collect();
        if self.xdp_modes() != expected {
            self.follow_node();
        }
        self.state_is_old = true;
    }

    /// Where our XDP program should be, and is not on the list, it is attached again; if another is there, tc does all the work.
    fn notice_lost_xdp(&mut self, begun: Instant) {
        // An older list may not know of it yet.
        if self.xdp_attached_at.is_none_or(|attached| begun <= attached) {
            return;
        }
        let Some(ours) = self.datapath.program_id(names::XDP) else {
            return;
        };
        for device in self.devices.values() {
            let known = self.attachments.devices().get(&device.ifindex);
            let was_on = matches!(known.and_then(|known| known.xdp.as_ref()), Some(XdpOutcome::On(_)));
            if was_on && device.xdp.is_none_or(|program| program.id != ours) {
                warn!(device = %device.name, "somebody has taken the XDP program off this device; it is attached again");
                self.attachments.lose_xdp(device.ifindex);
            }
        }
    }

    /// Attaches what is not attached yet, and says how it is.
    fn attach(&mut self, device: &Device, before: Option<&Device>) -> DeviceState {
        let (tc, outcome) = match device.framing {
            Some(framing) => self.attach_programs(device, framing, before),
            None => {
                let reason = "not a device for IP packets";
                (format!("off: {reason}"), XdpOutcome::Off(reason.to_owned()))
            }
        };
        let mode = match &outcome {
            XdpOutcome::On(mode) => Some(*mode),
            XdpOutcome::Off(_) => None,
        };
        let is_generic = mode == Some(XdpMode::Generic);
        // A VLAN device's frames are sent by its card.
        let (sender, sends) = match card_of(&self.devices, device) {
            Some(card) => (card, self.xdp_mode(card)),
            None => (device, mode),
        };
        let because = match self.options.xdp {
            XdpPolicy::Generic => "asked for by --xdp generic",
            _ => "an earlier agent has attached it so; sluice cleanup ends that",
        };
        DeviceState {
            ifindex: device.ifindex,
            name: device.name.clone(),
            driver: device.driver.clone(),
            mtu: device.mtu,
            is_outward: self.is_outward(device),
            tc,
            xdp: outcome.to_string(),
            xdp_generic_because: is_generic.then(|| because.to_owned()),
            xdp_transmit: why_no_transmit(sender, sends)
                .map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}")),
            vlans: vlan_words(device, &self.devices),
        }
    }

    /// What came of tc and of XDP.
    fn attach_programs(&mut self, device: &Device, framing: Framing, before: Option<&Device>) -> (String, XdpOutcome) {
        let known = self.attachments.devices().get(&device.ifindex);
        let known = known.filter(|known| known.tc && known.name == device.name).cloned();
        let is_known = known.is_some();
        let tc = if is_known {
            "attached".to_owned()
        } else {
            self.attach_tc(device, framing)
        };
        let outcome = match known.and_then(|known| known.xdp) {
            Some(outcome) if !self.is_xdp_to_be_tried(before, device) => outcome,
            _ => self.attach_xdp(device),
        };
        self.attachments.note_xdp(device.ifindex, &device.name, outcome.clone());
        (tc, outcome)
    }

    fn attach_tc(&mut self, device: &Device, framing: Framing) -> String {
        let kind = match framing {
            Framing::Ethernet => LinkKind::Ethernet,
            Framing::None => LinkKind::None,
        };
        self.state.note_settings(sysctl::prepare_device(&device.name));
        let attached = self
            .attachments
            .attach_tc(&mut self.datapath, device.ifindex, &device.name, kind);
        match attached {
            Ok(()) => {
                info!(device = %device.name, ifindex = device.ifindex, "attached");
                "attached".to_owned()
            }
            Err(error) => {
                error!(device = %device.name, error = format!("{error:#}"), "not attached: packets of this device are not translated");
                format!("off: {error:#}")
            }
        }
    }

    /// Whether what XDP depends on is otherwise than when it was tried and didn't come to anything; or it must not be there any more.
    fn is_xdp_to_be_tried(&self, before: Option<&Device>, now: &Device) -> bool {
        let matters = |device: &Device| {
            let runs = device.xdp_features.map(|features| features.runs);
            (self.why_no_xdp(device), device.mtu, runs)
        };
        if self.xdp_mode(now).is_some() {
            return why_tags_are_hidden(now, &self.devices).is_some();
        }
        before.is_some_and(|before| matters(before) != matters(now))
    }

    fn attach_xdp(&mut self, device: &Device) -> XdpOutcome {
        if let Some(reason) = self.why_no_xdp(device) {
            if why_tags_are_hidden(device, &self.devices).is_some() {
                warn!(device = %device.name, %reason, "no XDP on this device; tc does all the work there");
                self.attachments.detach_xdp(device.ifindex);
            }
            return XdpOutcome::Off(reason);
        }
        let Some(mode) = self.options.xdp.mode() else {
            self.attachments.detach_xdp(device.ifindex);
            return XdpOutcome::Off("switched off (--xdp off)".to_owned());
        };
        let attached = self
            .attachments
            .attach_xdp(&mut self.datapath, device.ifindex, mode, found_mode(device));
        match attached {
            Ok(mode) => {
                self.xdp_attached_at = Some(Instant::now());
                XdpOutcome::On(mode)
            }
            Err(error) => {
                let reason = why_refused(device, &error);
                warn!(device = %device.name, %reason, "no XDP on this device; tc does all the work there");
                XdpOutcome::Off(reason)
            }
        }
    }

    fn xdp_modes(&self) -> Vec<(u32, Option<XdpMode>)> {
        let devices = self.devices.values();
        devices.map(|device| (device.ifindex, self.xdp_mode(device))).collect()
    }

    /// Where XDP sees the packets of a device, which is before tc does, as far as is known.
    pub(super) fn xdp_mode(&self, device: &Device) -> Option<XdpMode> {
        let wanted = self.options.xdp.mode().filter(|_| self.why_no_xdp(device).is_none());
        self.attachments.xdp(device.ifindex, found_mode(device), wanted)
    }

    fn why_no_xdp(&self, device: &Device) -> Option<String> {
        if device.framing != Some(Framing::Ethernet) || !self.is_outward(device) {
            return Some("not an outward device".to_owned());
        }
        if let Some(card) = card_of(&self.devices, device) {
            return Some(format!("a VLAN device: what XDP does, it does on {}", card.name));
        }
        why_tags_are_hidden(device, &self.devices)
    }

    /// Whether a device leads out of the node: by itself, or for a VLAN device on it.
    fn is_outward(&self, device: &Device) -> bool {
        let by_itself = |device: &Device| {
            if self.options.outward_devices.is_empty() {
                device.has_default_route
            } else {
                self.options.outward_devices.contains(&device.name)
            }
        };
        let is_under = |vlan: &Device| card_of(&self.devices, vlan).is_some_and(|card| card.ifindex == device.ifindex);
        by_itself(device) || self.devices.values().any(|vlan| by_itself(vlan) && is_under(vlan))
    }
}

/// Where a program runs on a device now, whoever's it is.
fn found_mode(device: &Device) -> Option<XdpMode> {
    device.xdp.map(|program| {
        if program.is_generic {
            XdpMode::Generic
        } else {
            XdpMode::Native
        }
    })
}
