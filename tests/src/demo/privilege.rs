//! Namespaces and eBPF need root: gets there through sudo where that is possible.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Variables that the demo reads and sudo would drop.
const KEPT: [&str; 6] = [
    "PATH",
    "TERM",
    "NO_COLOR",
    "SLUICE_BIN",
    "SLUICE_BPF_OBJECT",
    "CARGO_TARGET_DIR",
];

/// Returns if this is root. Otherwise the process becomes `sudo` of itself, or this is an error.
pub(super) fn become_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let itself = std::env::current_exe().context("finding this program to run it again as root")?;
    let there = |folder: std::path::PathBuf| folder.join("sudo").is_file();
    if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(there) {
        bail!(
            "the demo makes network namespaces and loads eBPF programs, which needs root, and there is no sudo here; run it as root"
        );
    }
    eprintln!("The demo makes network namespaces and loads eBPF programs: running it again through sudo.");
    let mut sudo = Command::new("sudo");
    sudo.arg("env");
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            let mut word = std::ffi::OsString::from(format!("{name}="));
            word.push(value);
            sudo.arg(word);
        }
    }
    let why = sudo.arg(itself).args(std::env::args_os().skip(1)).exec();
    Err(why).context("starting sudo")
}
