//! Another kernel: a test that needs what this one lacks runs itself in a virtual machine, which has this machine's files (`guest.sh`).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Names a folder into which a kernel's package was unpacked, such as Debian's `linux-image-…` with `dpkg-deb -x`, and `depmod -b` after it.
pub const KERNEL: &str = "SLUICE_GUEST_KERNEL";
/// What a guest that ends well says last.
const WELL: &str = "the test passed in the guest";
/// An emulated machine is slow; one that hangs is ended.
const SECONDS_MAX: u32 = 900;

/// The folder of a kernel to be used, if one was named.
#[must_use]
pub fn kernel() -> Option<PathBuf> {
    std::env::var_os(KERNEL).map(PathBuf::from)
}

/// Runs one test of this program, by its full name, in a virtual machine after modules were loaded there. What the machine printed.
///
/// # Errors
/// If it can't be started, or the test fails there.
pub fn run(kernel: &std::path::Path, modules: &[&str], test: &str) -> Result<String> {
    let folder = tempfile::tempdir().context("make a folder for the guest")?;
    let mut script = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nip link set lo up\n".to_owned();
    for module in modules {
        writeln!(script, "modprobe {module}")?;
    }
    for (name, value) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
        writeln!(script, "export {}={}", name.to_string_lossy(), quoted(&value))?;
    }
    let program = std::env::current_exe().context("find the test program")?;
    let place = std::env::current_dir().context("find the working folder")?;
    writeln!(
        script,
        "unset {KERNEL}\ncd {}\nif {} --exact {test} --nocapture --test-threads 1; then echo '{WELL}'; fi",
        quoted(place.as_os_str()),
        quoted(program.as_os_str())
    )?;
    script.push_str("echo o > /proc/sysrq-trigger\nsleep 60\n");
    let file = folder.path().join("script");
    std::fs::write(&file, script).context("write what the guest is to do")?;
    let output = Command::new("timeout")
        .arg(SECONDS_MAX.to_string())
        .args(["bash", "-c", include_str!("guest.sh"), "guest.sh"])
        .args([kernel, folder.path(), &file])
        .stdin(Stdio::null())
        .output()
        .context("start the guest: get what it needs with apt-get install qemu-system-x86 busybox-static kmod")?;
    let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned());
    let text = text.concat();
    ensure!(
        text.contains(WELL),
        "the test failed in a guest with {}:\n{text}",
        kernel.display()
    );
    Ok(text)
}

fn quoted(text: &std::ffi::OsStr) -> String {
    let text: OsString = text.to_owned();
    format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"))
}
