//! Following the node's devices: attaching to what comes, and forgetting what went.

use std::{collections::BTreeSet, net::IpAddr};

use tracing::{error, info, warn};

use super::{Agent, DeviceState, sysctl};
use crate::{
    kernel::{LinkKind, XdpPolicy},
    source::devices::{Device, Devices, Framing, node_addresses},
};

impl Agent {
    /// Brings attachments and node addresses up to the list.
    pub(super) fn follow_devices(&mut self, devices: &Devices) {
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
        self.devices.clone_from(devices);
        let (v4, v6) = node_addresses(devices);
        let addresses = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from));
        self.reconciler.see_host_addresses(addresses.collect());
        self.follow_node();
        // While programs are attached, tc must not take for direct what XDP has translated.
        let expected = self.with_xdp();
        self.state.devices = devices.values().map(|device| self.attach(device)).collect();
        if self.with_xdp() != expected {
            self.follow_node();
        }
        self.state_is_old = true;
        if !std::mem::replace(&mut self.devices_followed, true) {
            self.write_state();
        }
    }

    fn attach(&mut self, device: &Device) -> DeviceState {
        let mut state = DeviceState {
            ifindex: device.ifindex,
            name: device.name.clone(),
            ..DeviceState::default()
        };
        let Some(framing) = device.framing else {
            "off: not a device for IP packets".clone_into(&mut state.tc);
            "off: not a device for IP packets".clone_into(&mut state.xdp);
            return state;
        };
        let known = self.attachments.devices().get(&device.ifindex);
        if let Some(known) = known
            && known.tc
            && known.name == device.name
        {
            "attached".clone_into(&mut state.tc);
            state.xdp.clone_from(&known.xdp);
            return state;
        }
        let kind = match framing {
            Framing::Ethernet => LinkKind::Ethernet,
            Framing::None => LinkKind::None,
        };
        for changed in sysctl::prepare_device(&device.name) {
            let earlier = &mut self.state.settings_changed;
            if !earlier.iter().any(|earlier| earlier.file == changed.file) {
                earlier.push(changed);
            }
        }
        match self
            .attachments
            .attach_tc(&mut self.datapath, device.ifindex, &device.name, kind)
        {
            Ok(()) => {
                info!(device = %device.name, ifindex = device.ifindex, "attached");
                "attached".clone_into(&mut state.tc);
            }
            Err(error) => {
                error!(device = %device.name, error = format!("{error:#}"), "not attached: packets of this device are not translated");
                state.tc = format!("off: {error:#}");
            }
        }
        if self.is_outward(device) && kind == LinkKind::Ethernet {
            let policy = self.options.xdp;
            self.attachments
                .attach_xdp(&mut self.datapath, device.ifindex, &device.name, policy);
            if let Some(attached) = self.attachments.devices().get(&device.ifindex) {
                state.xdp.clone_from(&attached.xdp);
            }
        } else {
            "off: not an outward device".clone_into(&mut state.xdp);
            self.attachments.note_xdp(device.ifindex, &device.name, &state.xdp);
        }
        state
    }

    fn with_xdp(&self) -> BTreeSet<u32> {
        let devices = self.devices.values().filter(|device| self.has_xdp(device));
        devices.map(|device| device.ifindex).collect()
    }

    /// Whether XDP sees the packets of a device before tc does, as far as is known.
    pub(super) fn has_xdp(&self, device: &Device) -> bool {
        let may_have = device.framing == Some(Framing::Ethernet) && self.is_outward(device);
        let wanted = may_have && self.options.xdp != XdpPolicy::Off;
        self.attachments.has_xdp(device.ifindex, wanted)
    }

    fn is_outward(&self, device: &Device) -> bool {
        if self.options.outward_devices.is_empty() {
            device.has_default_route
        } else {
            self.options.outward_devices.contains(&device.name)
        }
    }
}
