//! Compiled kernel programs as files: telling that something is one, and replacing it only when it differs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// ELF's number for BPF, and where it stands in the header.
const MACHINE_BPF: u16 = 247;
const MACHINE_OFFSET: usize = 18;

pub(crate) fn is_bpf(object: &[u8]) -> bool {
    let machine = object.get(MACHINE_OFFSET..MACHINE_OFFSET + 2);
    object.starts_with(b"\x7fELF") && machine.is_some_and(|bytes| bytes == MACHINE_BPF.to_le_bytes())
}

/// Leaves the file alone, and so its time stamp, when it already says that; what depends on it is not built again.
/// Otherwise replaces it in one step, so that nobody reads half of it. Returns whether it was written.
pub(crate) fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    fs::write(&unfinished, content).with_context(|| format!("cannot write beside {}", path.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_elf_passes() {
        let mut object = b"\x7fELF\x02\x01\x01".to_vec();
        object.resize(64, 0);
        assert!(!is_bpf(&object));
        object[18] = 247;
        assert!(is_bpf(&object));
        assert!(!is_bpf(&object[..18]));
        assert!(!is_bpf(b""));
    }

    #[test]
    fn the_same_content_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(write_if_changed(&path, b"1").unwrap());
        assert!(!write_if_changed(&path, b"1").unwrap());
        assert!(write_if_changed(&path, b"2").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing unfinished stays behind"
        );
    }
}
