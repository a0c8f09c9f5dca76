//! The kernel settings that processes on the host itself depend on to reach Services, both of `lo`, through which
//! translated packets come to them. Set where they stand in the way, said in the log, and left alone otherwise. No other
//! device is touched: its `rp_filter` may be a CNI's guard against forged sources.
//!
//! | setting of `lo` | why |
//! |---|---|
//! | `rp_filter` → 2 (loose) | replies carry the service address as source, which is routed elsewhere (RFC 3704 §2.2) |
//! | `accept_local` → 1 | a host process that reaches a backend on the same host: both addresses are local |
//! | `route_localnet` → 1 | replies to a process that dials a NodePort on 127.0.0.1; of `lo` only, which no packet from outside comes by (CVE-2020-8558 needs it on a device that leads somewhere) |

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::state::State;

const LOOPBACK: &str = "lo";
/// What `lo` needs. The kernel takes the larger `rp_filter` of this and the value for all devices, which somebody may make strict
/// at any time.
const WANTED: [(&str, &str); 3] = [("rp_filter", "2"), ("accept_local", "1"), ("route_localnet", "1")];

/// A setting that was changed, and what it was: `sluice cleanup` puts it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedSetting {
    /// Its file below `/proc/sys`.
    pub file: PathBuf,
    /// Its value before.
    pub before: String,
}

impl ChangedSetting {
    /// Puts the setting back. A device that is gone has taken its settings with it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn restore(&self) -> std::io::Result<()> {
        if !self.file.starts_with("/proc/sys/net/ipv4/conf") || !self.file.exists() {
            return Ok(());
        }
        fs::write(&self.file, &self.before)
    }
}

/// Makes a device ready for translated packets, and says what was changed.
pub(super) fn prepare_device(device: &str) -> Vec<ChangedSetting> {
    if device != LOOPBACK {
        return Vec::new();
    }
    let set = WANTED
        .into_iter()
        .filter_map(|(setting, value)| set(device, setting, value));
    set.collect()
}

/// Makes this machine ready before any agent, with rights that an agent does not need afterwards. What was changed goes into the
/// state, by which `sluice cleanup` puts it back.
///
/// # Errors
/// If a setting can't be set, or the state can't be written.
pub fn prepare_host(run_dir: &Path) -> Result<Vec<ChangedSetting>> {
    let changed = prepare_device(LOOPBACK);
    for (setting, value) in WANTED {
        if get(LOOPBACK, setting).is_some_and(|now| now != value) {
            bail!(
                "net.ipv4.conf.{LOOPBACK}.{setting} can't be set to {value}: run it as root with a writable /proc/sys, in a pod \
                 with securityContext.privileged"
            );
        }
    }
    let mut state = State::read(run_dir).ok().flatten().unwrap_or_default();
    state.note_settings(changed.iter().cloned());
    if !changed.is_empty() {
        state
            .write(run_dir)
            .with_context(|| format!("write the state in {}", run_dir.display()))?;
    }
    Ok(changed)
}

fn path(device: &str, setting: &str) -> Option<PathBuf> {
    // Names of devices can't contain slashes, but may contain dots; `..` would lead elsewhere.
    let safe = !device.is_empty() && !device.contains('/') && device != "." && device != "..";
    safe.then(|| PathBuf::from(format!("/proc/sys/net/ipv4/conf/{device}/{setting}")))
}

fn get(device: &str, setting: &str) -> Option<String> {
    fs::read_to_string(path(device, setting)?)
        .ok()
        .map(|value| value.trim().to_owned())
}

fn set(device: &str, setting: &str, value: &str) -> Option<ChangedSetting> {
    let file = path(device, setting)?;
    let before = get(device, setting)?;
    if before == value {
        return None;
    }
    match fs::write(&file, value) {
        Ok(()) => {
            info!(
                device,
                setting, value, "set, so that processes on the host reach Services"
            );
            Some(ChangedSetting { file, before })
        }
        Err(error) => {
            warn!(
                device,
                setting,
                %error,
                "could not be set: processes on the host may not reach Services; set {} to {value} by hand",
                file.display()
            );
            None
        }
    }
}
