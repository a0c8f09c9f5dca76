//! Attaching: which programs sit on which device, pinned so that they outlive the agent, exchanged in place when a
//! new agent comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::{
    LinkOrder, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::{self, XdpLink},
};
use lb_common::layout::names;

use super::{load::Datapath, raw};

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

impl XdpPolicy {
    /// Where the program is wanted.
    #[must_use]
    pub fn mode(self) -> Option<XdpMode> {
        match self {
            Self::Native | Self::Auto => Some(XdpMode::Native),
            Self::Generic => Some(XdpMode::Generic),
            Self::Off => None,
        }
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// Behind the driver, when the packet has a socket buffer.
    Generic,
}

/// What came of XDP on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum XdpOutcome {
    /// The program is there.
    On(XdpMode),
    /// It isn't, for this reason.
    Off(String),
}

impl fmt::Display for XdpOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On(XdpMode::Native) => f.write_str("native"),
            Self::On(XdpMode::Generic) => f.write_str("generic"),
            Self::Off(reason) => write!(f, "off: {reason}"),
        }
    }
}

/// What is attached to a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attached {
    /// Device name.
    pub name: String,
    /// tc programs.
    pub tc: bool,
    /// XDP program, once that was tried.
    pub xdp: Option<XdpOutcome>,
}

/// All attachments of the agent, by device index.
pub struct Attachments {
    links: PathBuf,
    devices: BTreeMap<u32, Attached>,
    /// Where a program was missing at the last look.
    suspects: BTreeSet<(u32, Direction)>,
}

impl Attachments {
    /// Attachments whose links are pinned in `links`.
    #[must_use]
    pub fn new(links: PathBuf) -> Self {
        Self {
            links,
            devices: BTreeMap::new(),
            suspects: BTreeSet::new(),
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

    /// Puts the XDP program on a device, in this mode, and says in which it runs: a link that an earlier agent left is given the new
    /// program in place and stays in the mode in which it is `found`.
    ///
    /// # Errors
    /// If the kernel refuses: then tc does all the work.
    pub fn attach_xdp(
        &self,
        datapath: &mut Datapath,
        ifindex: u32,
        mode: XdpMode,
        found: Option<XdpMode>,
    ) -> Result<XdpMode> {
        let pin = self.pin(ifindex, Direction::Xdp);
        let program = datapath.xdp(names::XDP)?;
        if let Some(old) = open_link(&pin) {
            let adopted = XdpLink::try_from(FdLink::from(old))
                .map_err(anyhow::Error::from)
                .and_then(|link| Ok(program.attach_to_link(link)?));
            if let Ok(id) = adopted {
                drop(program.take_link(id)?);
                return Ok(found.unwrap_or(mode));
            }
            fs::remove_file(&pin).with_context(|| format!("remove the dead link {}", pin.display()))?;
        }
        let flags = match mode {
            XdpMode::Native => xdp::XdpMode::Driver,
            XdpMode::Generic => xdp::XdpMode::Skb,
        };
        let id = program
            .attach_to_if_index(ifindex, flags)
            .context("the device refuses the program")?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(pin)?;
        Ok(mode)
    }

    /// The devices on which one of our programs is no more, by somebody else's doing, each with the hook: those that were so the last time,
    /// too, since the list of devices comes a little later than what happens to them. They count as not attached from now on: to be
    /// attached anew. What can't be looked at counts as attached.
    pub fn check(&mut self, datapath: &Datapath) -> Vec<(u32, String, Direction)> {
        let ids = |names: [&str; 2]| names.map(|name| datapath.program_id(name));
        let programs = [
            (Direction::Ingress, ids([names::TC_INGRESS, names::TC_L3_INGRESS])),
            (Direction::Egress, ids([names::TC_EGRESS, names::TC_L3_EGRESS])),
            (Direction::Xdp, ids([names::XDP, names::XDP])),
        ];
        let mut suspects = BTreeSet::new();
        let mut lost = Vec::new();
        for (ifindex, device) in &self.devices {
            for (direction, ours) in &programs {
                let is_wanted = match direction {
                    Direction::Xdp => matches!(device.xdp, Some(XdpOutcome::On(_))),
                    Direction::Ingress | Direction::Egress => device.tc,
                };
                let is_known = ours.iter().any(Option::is_some);
                if !is_wanted || !is_known || self.is_there(*ifindex, *direction, ours) {
                    continue;
                }
                if self.suspects.contains(&(*ifindex, *direction)) {
                    lost.push((*ifindex, device.name.clone(), *direction));
                } else {
                    suspects.insert((*ifindex, *direction));
                }
            }
        }
        self.suspects = suspects;
        for (ifindex, _, direction) in &lost {
            if let Some(device) = self.devices.get_mut(ifindex) {
                match direction {
                    Direction::Xdp => device.xdp = None,
                    Direction::Ingress | Direction::Egress => device.tc = false,
                }
            }
        }
        lost
    }

    /// Whether one of these programs is on a device by our link, as far as can be seen. A link that was taken off can't be used again: its
    /// pin goes. One with another program is given ours again in place.
    fn is_there(&self, ifindex: u32, direction: Direction, ours: &[Option<u32>]) -> bool {
        let pin = self.pin(ifindex, direction);
        let link = match raw::PinnedLink::open(&pin) {
            Ok(link) => link.inspect_device(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(_) => return true,
        };
        match link {
            Ok(link) if link.ifindex == ifindex => ours.contains(&Some(link.program)),
            Ok(_) => {
                let _ = fs::remove_file(&pin);
                false
            }
            Err(_) => true,
        }
    }

    /// Takes note that the XDP program is on a device no more: it is to be attached anew.
    pub fn lose_xdp(&mut self, ifindex: u32) {
        self.detach_xdp(ifindex);
        if let Some(device) = self.devices.get_mut(&ifindex) {
            device.xdp = None;
        }
    }

    /// Takes the XDP program off a device, if it is there.
    pub fn detach_xdp(&self, ifindex: u32) {
        let _ = fs::remove_file(self.pin(ifindex, Direction::Xdp));
    }

    /// Where the XDP program runs on a device, if it does. Before this agent has attached anything there, it is where an earlier one has
    /// left a link, in the mode in which it is `found`; and where there is nothing at all yet, where it is `wanted`.
    #[must_use]
    pub fn xdp(&self, ifindex: u32, found: Option<XdpMode>, wanted: Option<XdpMode>) -> Option<XdpMode> {
        match self.devices.get(&ifindex).and_then(|device| device.xdp.as_ref()) {
            Some(XdpOutcome::On(mode)) => Some(*mode),
            Some(XdpOutcome::Off(_)) => None,
            None if self.pin(ifindex, Direction::Xdp).exists() => found.or(wanted),
            None if self.pin(ifindex, Direction::Ingress).exists() => None,
            None => wanted,
        }
    }

    /// Remembers what came of XDP on a device.
    pub fn note_xdp(&mut self, ifindex: u32, name: &str, outcome: XdpOutcome) {
        let device = self.devices.entry(ifindex).or_default();
        name.clone_into(&mut device.name);
        device.xdp = Some(outcome);
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
    fn xdp_is_where_it_was_left_or_wanted_before_it_is_known() {
        use XdpMode::{Generic, Native};
        let links = tempfile::tempdir().expect("a folder");
        let mut attachments = Attachments::new(links.path().to_owned());
        assert_eq!(
            attachments.xdp(2, None, Some(Native)),
            Some(Native),
            "it is about to be"
        );
        assert_eq!(attachments.xdp(2, None, None), None);
        fs::write(attachments.pin(2, Direction::Ingress), "").expect("a pin");
        assert_eq!(
            attachments.xdp(2, None, Some(Native)),
            None,
            "an earlier agent had none there"
        );
        fs::write(attachments.pin(2, Direction::Xdp), "").expect("a pin");
        assert_eq!(
            attachments.xdp(2, Some(Generic), Some(Native)),
            Some(Generic),
            "left there"
        );
        assert_eq!(attachments.xdp(2, Some(Native), None), Some(Native));
        assert_eq!(
            attachments.xdp(2, None, Some(Native)),
            Some(Native),
            "a dead link is replaced"
        );
        attachments.note_xdp(2, "eth0", XdpOutcome::Off("switched off".to_owned()));
        assert_eq!(attachments.xdp(2, Some(Native), Some(Native)), None);
        attachments.note_xdp(2, "eth0", XdpOutcome::On(Native));
        assert_eq!(attachments.xdp(2, None, None), Some(Native));
    }
}
