//! `sluice prepare`: what needs more rights than an agent has, once per boot, before it.

use anyhow::Result;

use super::Place;
use crate::agent::prepare_host;

pub(super) fn prepare(place: &Place) -> Result<()> {
    place.pins().ensure_bpf_file_system()?;
    let changed = prepare_host(&place.run_dir)?;
    for setting in &changed {
        println!("set {} (it was {})", setting.file.display(), setting.before);
    }
    println!("ready: a BPF file system is mounted, and processes on this host can reach Services");
    Ok(())
}
