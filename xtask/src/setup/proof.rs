//! The proof that a toolchain works: compiles a small program with the very flags of the real build, and looks at what
//! came out. Versions that fit on paper have failed here before.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::object::{is_bpf, write_if_changed};
use crate::process;
use crate::repository::Repository;
use crate::toolchain::{TARGET, Toolchain};

const MANIFEST: &str = "\
[workspace]
[package]
name = \"proof\"
version = \"0.0.0\"
edition = \"2024\"
publish = false
[profile.release]
lto = true
codegen-units = 1
panic = \"abort\"
debug = 2
";

const PROGRAM: &str = "\
//! Written by `cargo xtask setup` to see whether the eBPF toolchain works.
#![no_std]
#![no_main]
#[unsafe(no_mangle)]
#[unsafe(link_section = \"xdp\")]
pub extern \"C\" fn proof(_context: *mut core::ffi::c_void) -> u32 { 2 }
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
";

pub(crate) fn compile(repository: &Repository, toolchain: &Toolchain) -> Result<()> {
    let folder = repository.toolchain_dir().join("proof");
    write_if_changed(&folder.join("Cargo.toml"), MANIFEST.as_bytes())?;
    write_if_changed(&folder.join("src/main.rs"), PROGRAM.as_bytes())?;
    let target_dir = folder.join("target");
    let mut cargo = toolchain.cargo(repository, "build", &folder.join("Cargo.toml"), &target_dir);
    process::capture(&mut cargo).with_context(|| {
        format!(
            "{} and {} cannot compile a small program to BPF",
            toolchain.compiler,
            toolchain.linker.program.display()
        )
    })?;
    let object = target_dir.join(TARGET).join("release/proof");
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    if !is_bpf(&bytes) {
        bail!(
            "{} is not a BPF object, though compiler and linker reported success",
            object.display()
        );
    }
    Ok(())
}
