//! The two kernel settings that replies to processes on the host itself depend on. Set where they stand in the way,
//! said in the log, and left alone otherwise.
//!
//! | setting | why |
//! |---|---|
//! | `rp_filter` of a device, if 1 (strict) → 2 (loose) | replies from pods to host processes carry the service address as source, which is routed elsewhere (RFC 3704 §2.2) |
//! | `accept_local` of `lo` → 1 | a host process that reaches a backend on the same host: both addresses are local |

use std::{fs, path::PathBuf};

use tracing::{info, warn};

const STRICT: &str = "1";
const LOOSE: &str = "2";

/// Makes a device ready for translated packets.
pub(super) fn prepare_device(device: &str) {
    if device == "lo" {
        set(device, "accept_local", "1");
        return;
    }
    // The kernel takes the larger of this and the value for all devices.
    let strict = [device, "all"]
        .into_iter()
        .any(|name| get(name, "rp_filter").as_deref() == Some(STRICT));
    if strict && get(device, "rp_filter").as_deref() != Some(LOOSE) {
        set(device, "rp_filter", LOOSE);
    }
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

fn set(device: &str, setting: &str, value: &str) {
    let Some(path) = path(device, setting) else { return };
    if get(device, setting).as_deref() == Some(value) {
        return;
    }
    match fs::write(&path, value) {
        Ok(()) => info!(
            device,
            setting, value, "set, so that replies reach processes on the host"
        ),
        Err(error) => warn!(
            device,
            setting,
            %error,
            "could not be set: processes on the host may not reach Services; set {} to {value} by hand",
            path.display()
        ),
    }
}
