//! `cargo xtask image`: the agent as an OCI image.

mod oci;

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::cli::ImageArgs;
use crate::setup::Session;

pub(crate) fn run(session: &mut Session<'_>, args: &ImageArgs) -> Result<()> {
    let agent = build::static_agent(session)?;
    let program = fs::read(&agent).with_context(|| format!("read {}", agent.display()))?;
    if !is_static(&program) {
        bail!("{} asks for a loader, which is not in the image", agent.display());
    }
    let archive = oci::archive(&program, &args.tag)?;
    // For deploy/Dockerfile.
    let context = session.repository.root().join("target/image");
    fs::create_dir_all(&context).with_context(|| format!("make {}", context.display()))?;
    fs::copy(&agent, context.join("sluice")).with_context(|| format!("copy {}", agent.display()))?;
    let output = session.repository.root().join(&args.output);
    fs::write(&output, &archive).with_context(|| format!("write {}", output.display()))?;
    println!("image: {} ({} octets), {}", output.display(), archive.len(), args.tag);
    Ok(())
}

/// Whether a 64-bit ELF program names no loader (PT_INTERP) to be run by.
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = program.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    };
    let headers = || -> Option<(usize, usize, usize)> {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        Some((usize::try_from(start).ok()?, size as usize, count as usize))
    };
    let Some((start, size, count)) = headers().filter(|_| program.starts_with(b"\x7fELF\x02\x01")) else {
        return false;
    };
    (0..count).all(|header| number(start + header * size, 4).is_some_and(|kind| kind != u64::from(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one program header of this kind behind it.
    fn elf(kind: u32) -> Vec<u8> {
        let mut program = vec![0; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[32], program[54], program[56]) = (64, 56, 1);
        program[64..68].copy_from_slice(&kind.to_le_bytes());
        program
    }

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        assert!(is_static(&elf(1)));
        assert!(!is_static(&elf(3)));
        assert!(!is_static(&elf(1)[..60]), "cut off");
        assert!(!is_static(b"#!/bin/sh\n"));
        let own = fs::read("/proc/self/exe").unwrap();
        assert!(!is_static(&own), "tests are linked dynamically");
    }
}
