//! `sluice cleanup`: ends the datapath.

use std::fs;

use anyhow::{Context as _, Result};

use super::Place;
use crate::agent::state_file;

pub(super) fn cleanup(place: &Place) -> Result<()> {
    let removed = place.pins().remove()?;
    let state = state_file(&place.run_dir);
    if state.exists() {
        fs::remove_file(&state).with_context(|| format!("remove {}", state.display()))?;
        // Only if nothing else lies there.
        let _ = fs::remove_dir(&place.run_dir);
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
