//! The kernel settings that processes on the host itself depend on to reach Services, both of `lo`, through which
//! translated packets come to them. Set where they stand in the way, said in the log, and left alone otherwise. No other
//! device is touched: its `rp_filter` may be a CNI's guard against forged sources.
//!
//! | setting of `lo` | why |
//! |---|---|
//! | `rp_filter` → 2 (loose) | replies carry the service address as source, which is routed elsewhere (RFC 3704 §2.2) |
//! | `accept_local` → 1 | a host process that reaches a backend on the same host: both addresses are local |
//! | `route_localnet` → 1 | replies to a process that dials a NodePort on 127.0.0.1; of `lo` only, which no packet from outside comes by (CVE-2020-8558 needs it on a device that leads somewhere) |

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

const LOOPBACK: &str = "lo";
const LOOSE: &str = "2";

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
    // The kernel takes the larger of this and the value for all devices, which somebody may make strict at any time.
    let loosened = set(device, "rp_filter", LOOSE);
    let more = [("accept_local", "1"), ("route_localnet", "1")];
    let more = more
        .into_iter()
        .filter_map(|(setting, value)| set(device, setting, value));
    loosened.into_iter().chain(more).collect()
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
