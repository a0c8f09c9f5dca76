//! `sluice cleanup`: ends the datapath.

use std::fs;

use anyhow::{Context as _, Result};

use super::Place;
use crate::{
    agent::{State, state_file},
    netfilter,
};

pub(super) fn cleanup(place: &Place) -> Result<()> {
    let removed = place.pins().remove()?;
    // A state that can't be read is no reason to leave the rest behind.
    for setting in State::read(&place.run_dir)
        .ok()
        .flatten()
        .unwrap_or_default()
        .settings_changed
    {
        setting
            .restore()
            .with_context(|| format!("put {} back to {}", setting.file.display(), setting.before))?;
    }
    let state = state_file(&place.run_dir);
    if state.exists() {
        fs::remove_file(&state).with_context(|| format!("remove {}", state.display()))?;
        // Only if nothing else lies there.
        let _ = fs::remove_dir(&place.run_dir);
    }
    match netfilter::let_go() {
        Ok(true) => println!("removed what was kept in nftables for connections of before a takeover"),
        Ok(false) => {}
        Err(error) => eprintln!("nftables can't be asked whether something of a takeover is left there: {error}"),
    }
    if removed.is_empty() {
        println!(
            "nothing to clean up: no datapath is pinned in {}",
            place.pin_dir.display()
        );
    } else {
        println!(
            "removed {} pins from {}; all programs are detached",
            removed.len(),
            place.pin_dir.display()
        );
    }
    Ok(())
}
