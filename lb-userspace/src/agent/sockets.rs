//! The socket tier: attached once the tables say everything and tc is there for what sockets leave to it; looked after from then on.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr};

use anyhow::{Context as _, Result, bail};
use lb_common::layout::{SocketFlags, SocketTier, limits::LEFT_CGROUPS_MAX};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Agent;
use crate::kernel::{SocketLinks, SocketPolicy, cgroup_number, cgroup_root, namespace_cookie};

/// How the socket tier is wanted.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Whether at all.
    pub policy: SocketPolicy,
    /// The cgroup whose processes are served, instead of the root.
    pub cgroup: Option<PathBuf>,
    /// Only sockets of the host's own network namespace are served.
    pub host_only: bool,
    /// Sockets with this mark are left to the tc tier.
    pub leave_mark: Option<Mark>,
    /// Processes in these cgroups, and below, are left to it.
    pub leave_cgroups: Vec<PathBuf>,
}

/// A value of `SO_MARK` in some bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    value: u32,
    mask: u32,
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
            hexadecimal.map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16))
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        match (number(value), number(mask)) {
            (Ok(value), Ok(mask)) if mask != 0 && value & !mask == 0 => Ok(Self { value, mask }),
            _ => Err("not a mark such as 0x100, or one with a mask such as 0x100/0xf00".to_owned()),
        }
    }
}

/// What came of the socket tier, as `sluice status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum SocketState {
    /// It has not been tried yet.
    #[default]
    Unknown,
    /// Its programs are on this cgroup.
    On(PathBuf),
    /// They aren't, for this reason.
    Off(String),
}

impl fmt::Display for SocketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not tried yet"),
            Self::On(cgroup) => write!(f, "on, at {}", cgroup.display()),
            Self::Off(reason) => write!(f, "off: {reason}"),
        }
    }
}

impl Agent {
    /// Attaches the socket programs, or makes sure that they still are, or aren't.
    pub(super) fn follow_sockets(&mut self) {
        if !self.reconciler.is_ready() || !self.devices_followed {
            return;
        }
        let links = SocketLinks::new(self.options.pins.links());
        let state = match self.options.sockets.policy {
            SocketPolicy::Off => {
                links.detach();
                SocketState::Off("switched off (--socket-tier off)".to_owned())
            }
            SocketPolicy::Auto => match self.attach_sockets(&links) {
                Ok(cgroup) => SocketState::On(cgroup),
                Err(error) => {
                    // Programs that run by half would tell other addresses than they translate.
                    links.detach();
                    SocketState::Off(format!("{error:#}"))
                }
            },
        };
        if self.state.sockets == state {
            return;
        }
        match &state {
            SocketState::On(cgroup) => info!(cgroup = %cgroup.display(), "sockets are served"),
            SocketState::Off(reason) if self.options.sockets.policy == SocketPolicy::Auto => {
                warn!(%reason, "sockets are not served; tc does all the work");
            }
            _ => {}
        }
        self.state.sockets = state;
        self.state_is_old = true;
    }

    fn attach_sockets(&mut self, links: &SocketLinks) -> Result<PathBuf> {
        let options = &self.options.sockets;
        let cgroup = match &options.cgroup {
            Some(cgroup) => cgroup.clone(),
            None => cgroup_root()?,
        };
        let (tier, left) = records(options)?;
        self.socket_table.put(tier, &left)?;
        if self.state.sockets == SocketState::On(cgroup.clone()) {
            match links.check(&self.datapath, &cgroup) {
                Ok(()) => return Ok(cgroup),
                Err(error) => warn!(error = format!("{error:#}"), "the socket programs are attached again"),
            }
        }
        links.attach(&mut self.datapath, &cgroup)?;
        Ok(cgroup)
    }
}

/// What the programs must know.
fn records(options: &SocketOptions) -> Result<(SocketTier, BTreeSet<u64>)> {
    let mut left = BTreeSet::new();
    for cgroup in &options.leave_cgroups {
        // One that is made later is left from then on.
        if cgroup.exists() {
            left.insert(cgroup_number(cgroup)?);
        }
    }
    if left.len() > LEFT_CGROUPS_MAX as usize {
        bail!("--socket-leave-cgroup names more than {LEFT_CGROUPS_MAX} cgroups; name a common parent");
    }
    let mut flags = SocketFlags::default();
    if options.host_only {
        flags = flags.with(SocketFlags::HOST_ONLY);
    }
    if !left.is_empty() {
        flags = flags.with(SocketFlags::CGROUPS);
    }
    let mark = options.leave_mark.unwrap_or(Mark { value: 0, mask: 0 });
    let tier = SocketTier {
        host: namespace_cookie().context("ask for this network namespace's cookie")?,
        mask: mark.mask,
        mark: mark.value,
        flags,
        pad: 0,
    };
    Ok((tier, left))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0x100", Some((0x100, u32::MAX)))]
    #[case("256/0xf00", Some((0x100, 0xf00)))]
    #[case::bits_that_are_not_asked_for("0x101/0x100", None)]
    #[case::no_bits("0/0", None)]
    #[case::nonsense("mark", None)]
    #[case::empty("", None)]
    fn marks(#[case] text: &str, #[case] expected: Option<(u32, u32)>) {
        let mark = text.parse::<Mark>().ok();
        assert_eq!(mark.map(|mark| (mark.value, mark.mask)), expected);
    }
}
