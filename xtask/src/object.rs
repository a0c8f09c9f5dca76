//! Compiled kernel programs as files: telling that something is one, taking out what nobody loads, and replacing it only when it
//! differs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// ELF's number for BPF, and where it stands in the header.
const MACHINE_BPF: u16 = 247;
const MACHINE_OFFSET: usize = 18;

pub(crate) fn is_bpf(object: &[u8]) -> bool {
    let machine = object.get(MACHINE_OFFSET..MACHINE_OFFSET + 2);
    object.starts_with(b"\x7fELF") && machine.is_some_and(|bytes| bytes == MACHINE_BPF.to_le_bytes())
}

/// The object without debug information (DWARF), which is three quarters of it: the compiler makes BTF of it, and that is what the kernel and
/// bpftool read. Every agent would carry the rest, and have it in memory.
pub(crate) fn without_debug_info(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the object is no ELF file that can be read")?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        section.delete = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
    }
    builder.delete_orphans();
    // The linker keeps the names of sections with those of symbols; the writer wants a table for them.
    let has_names = builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString));
    if !has_names {
        let names = builder.sections.add();
        (names.name, names.data) = (b".shstrtab".as_slice().into(), SectionData::SectionString);
        (names.sh_type, names.sh_addralign) = (SHT_STRTAB, 1);
    }
    let mut lighter = Vec::new();
    builder
        .write(&mut lighter)
        .context("the object can't be written without its debug information")?;
    Ok(lighter)
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

    /// An object with these sections. (That of the linker has one table for the names of sections and symbols; the tests that load it see to
    /// that.)
    fn linked(sections: &[&str]) -> Vec<u8> {
        let mut builder = Builder::new(object::Endianness::Little, true);
        builder.header.e_machine = MACHINE_BPF;
        for name in sections {
            let section = builder.sections.add();
            section.name = name.as_bytes().into();
            section.sh_type = object::elf::SHT_PROGBITS;
            section.data = SectionData::Data(b"12345678".as_slice().into());
        }
        let names = builder.sections.add();
        (names.name, names.data) = (b".shstrtab".as_slice().into(), SectionData::SectionString);
        names.sh_type = SHT_STRTAB;
        let mut object = Vec::new();
        builder.write(&mut object).unwrap();
        object
    }

    #[test]
    fn debug_information_goes_and_all_else_stays() {
        let object = linked(&[
            ".text",
            ".debug_info",
            ".rel.debug_info",
            ".BTF",
            ".BTF.ext",
            "classifier",
        ]);
        let lighter = without_debug_info(&object).unwrap();
        assert!(is_bpf(&lighter));
        let builder = Builder::read(lighter.as_slice()).unwrap();
        let names: Vec<_> = builder
            .sections
            .iter()
            .map(|section| section.name.to_string())
            .collect();
        assert_eq!(names, [".text", ".BTF", ".BTF.ext", "classifier", ".shstrtab"]);
        assert!(without_debug_info(b"no ELF").is_err());
    }

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
