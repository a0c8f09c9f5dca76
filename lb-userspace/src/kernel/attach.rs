//! Attaching: which programs sit on which device, pinned so that they outlive the agent, exchanged in place when a
//! new agent comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::{
    LinkOrder, TcAttachType, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};
use lb_common::layout::names;

use super::load::Datapath;

/// Where on a device a program sits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// tc, where packets arrive.
    Ingress,
    /// tc, where packets leave.
    Egress,
    /// XDP, in the driver or right behind it.
    Xdp,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Xdp => "xdp",
        })
    }
}

/// Whether frames of a device begin with an Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// Ethernet, loopback, veth, bridge, VXLAN, …
    Ethernet,
    /// tun, WireGuard, IPIP, …: frames are bare IP packets.
    None,
}

/// How the XDP tier is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum XdpPolicy {
    /// In the driver if it can, otherwise not at all.
    Native,
    /// Behind the driver, on any device: for tests, slower than tc on most devices.
    Generic,
    /// In the driver if it can, otherwise tc alone does the work.
    Auto,
    /// Not at all.
    Off,
}

/// What is attached to a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attached {
    /// Device name.
    pub name: String,
    /// tc programs.
    pub tc: bool,
    /// `native`, `generic` or `off: reason`.
    pub xdp: String,
}

/// All attachments of the agent, by device index.
pub struct Attachments {
    links: PathBuf,
    devices: BTreeMap<u32, Attached>,
}

impl Attachments {
    /// Attachments whose links are pinned in `links`.
    #[must_use]
    pub fn new(links: PathBuf) -> Self {
        Self {
            links,
            devices: BTreeMap::new(),
        }
    }

    /// What is attached, by device index.
    #[must_use]
    pub fn devices(&self) -> &BTreeMap<u32, Attached> {
        &self.devices
    }

    /// Puts the tc programs on a device; links that an earlier agent left are given the new program in place, so no
    /// packet sees a device without one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach_tc(&mut self, datapath: &mut Datapath, ifindex: u32, name: &str, kind: LinkKind) -> Result<()> {
        let (ingress, egress) = match kind {
            LinkKind::Ethernet => (names::TC_INGRESS, names::TC_EGRESS),
            LinkKind::None => (names::TC_L3_INGRESS, names::TC_L3_EGRESS),
        };
        // Egress first: a reply needs it from the moment on at which the first packet is translated.
        for (program, direction) in [(egress, Direction::Egress), (ingress, Direction::Ingress)] {
            let pin = self.pin(ifindex, direction);
            self.attach_classifier(datapath, program, name, direction, &pin)
                .with_context(|| format!("attach {program} to {name} ({direction})"))?;
        }
        let device = self.devices.entry(ifindex).or_default();
        name.clone_into(&mut device.name);
        device.tc = true;
        Ok(())
    }

    fn attach_classifier(
        &self,
        datapath: &mut Datapath,
        program: &str,
        device: &str,
        direction: Direction,
        pin: &Path,
    ) -> Result<()> {
        let classifier = datapath.classifier(program)?;
        if let Some(old) = open_link(pin) {
            let adopted = SchedClassifierLink::try_from(FdLink::from(old))
                .map_err(anyhow::Error::from)
                .and_then(|link| Ok(classifier.attach_to_link(link)?));
            match adopted {
                Ok(id) => {
                    // The pin stays and keeps the link; only our descriptor of it is closed.
                    drop(classifier.take_link(id)?);
                    return Ok(());
                }
                Err(error) => {
                    // A pin outlives its device: the link of a vanished device whose index was given out again.
                    tracing::debug!(%error, pin = %pin.display(), "the pinned link is dead, attaching anew");
                    fs::remove_file(pin).with_context(|| format!("remove the dead link {}", pin.display()))?;
                }
            }
        }
        let attach_type = if direction == Direction::Ingress {
            TcAttachType::Ingress
        } else {
            TcAttachType::Egress
        };
        // First on the way in, last on the way out: programs of the CNI see client and backend, as netfilter does.
        let order = if direction == Direction::Ingress {
            LinkOrder::first()
        } else {
            LinkOrder::last()
        };
        let id = classifier.attach_with_options(device, attach_type, TcAttachOptions::TcxOrder(order))?;
        let link: FdLink = classifier.take_link(id)?.try_into()?;
        link.pin(pin)?;
        Ok(())
    }

    /// Puts the XDP program on a device, as the policy says, and remembers what came of it. Never an error: without
    /// XDP, tc does all the work.
    pub fn attach_xdp(&mut self, datapath: &mut Datapath, ifindex: u32, name: &str, policy: XdpPolicy) {
        let pin = self.pin(ifindex, Direction::Xdp);
        let outcome = match policy {
            XdpPolicy::Off => {
                let _ = fs::remove_file(&pin);
                "off: switched off".to_owned()
            }
            XdpPolicy::Generic => Self::try_xdp(datapath, ifindex, &pin, XdpMode::Skb)
                .map_or_else(|error| format!("off: {error:#}"), |()| "generic".to_owned()),
            XdpPolicy::Native | XdpPolicy::Auto => Self::try_xdp(datapath, ifindex, &pin, XdpMode::Driver)
                .map_or_else(|error| format!("off: {error:#}"), |()| "native".to_owned()),
        };
        if outcome.starts_with("off") && !matches!(policy, XdpPolicy::Off) {
            tracing::warn!(device = name, %outcome, "no XDP on this device; tc does all the work there");
        }
        let device = self.devices.entry(ifindex).or_default();
        name.clone_into(&mut device.name);
        device.xdp = outcome;
    }

    /// Whether XDP sees the packets of a device before tc does. Before this agent has attached anything there, it does if an earlier
    /// one has left a link; and where there is nothing at all yet, if it is `wanted`.
    #[must_use]
    pub fn has_xdp(&self, ifindex: u32, wanted: bool) -> bool {
        match self.devices.get(&ifindex) {
            Some(device) if !device.xdp.is_empty() => matches!(device.xdp.as_str(), "native" | "generic"),
            _ => {
                self.pin(ifindex, Direction::Xdp).exists() || wanted && !self.pin(ifindex, Direction::Ingress).exists()
            }
        }
    }

    /// Remembers why a device has no XDP program.
    pub fn note_xdp(&mut self, ifindex: u32, name: &str, outcome: &str) {
        let device = self.devices.entry(ifindex).or_default();
        name.clone_into(&mut device.name);
        outcome.clone_into(&mut device.xdp);
    }

    fn try_xdp(datapath: &mut Datapath, ifindex: u32, pin: &Path, mode: XdpMode) -> Result<()> {
        let program = datapath.xdp(names::XDP)?;
        if let Some(old) = open_link(pin) {
            let adopted = XdpLink::try_from(FdLink::from(old))
                .map_err(anyhow::Error::from)
                .and_then(|link| Ok(program.attach_to_link(link)?));
            if let Ok(id) = adopted {
                drop(program.take_link(id)?);
                return Ok(());
            }
            fs::remove_file(pin).with_context(|| format!("remove the dead link {}", pin.display()))?;
        }
        let id = program
            .attach_to_if_index(ifindex, mode)
            .context("the device refuses the program")?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(pin)?;
        Ok(())
    }

    /// Forgets a device that has gone: the kernel has detached the programs, the pins are removed here.
    pub fn forget(&mut self, ifindex: u32) {
        self.devices.remove(&ifindex);
        for direction in [Direction::Ingress, Direction::Egress, Direction::Xdp] {
            let _ = fs::remove_file(self.pin(ifindex, direction));
        }
    }

    /// Removes pins of devices that are not in `present`: they went while no agent was running.
    ///
    /// # Errors
    /// If the folder of links can't be read.
    pub fn forget_all_but(&mut self, present: &BTreeSet<u32>) -> Result<()> {
        for entry in fs::read_dir(&self.links).with_context(|| format!("list {}", self.links.display()))? {
            let name = entry?.file_name();
            let ifindex = name
                .to_str()
                .and_then(|name| name.split('-').next())
                .and_then(|index| index.parse().ok());
            if let Some(ifindex) = ifindex
                && !present.contains(&ifindex)
            {
                self.forget(ifindex);
            }
        }
        Ok(())
    }

    fn pin(&self, ifindex: u32, direction: Direction) -> PathBuf {
        // bpffs refuses dots in names.
        self.links.join(format!("{ifindex}-{direction}"))
    }
}

fn open_link(pin: &Path) -> Option<PinnedLink> {
    pin.exists().then(|| PinnedLink::from_pin(pin).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdp_is_there_if_it_was_left_or_wanted_before_it_is_known() {
        let links = tempfile::tempdir().expect("a folder");
        let mut attachments = Attachments::new(links.path().to_owned());
        assert!(attachments.has_xdp(2, true), "nothing yet: it is about to be");
        assert!(!attachments.has_xdp(2, false));
        fs::write(attachments.pin(2, Direction::Ingress), "").expect("a pin");
        assert!(!attachments.has_xdp(2, true), "an earlier agent had none there");
        fs::write(attachments.pin(2, Direction::Xdp), "").expect("a pin");
        assert!(
            attachments.has_xdp(2, true) && attachments.has_xdp(2, false),
            "left there"
        );
        attachments.note_xdp(2, "eth0", "off: switched off");
        assert!(!attachments.has_xdp(2, true));
        attachments.note_xdp(2, "eth0", "native");
        assert!(attachments.has_xdp(2, false));
    }
}
