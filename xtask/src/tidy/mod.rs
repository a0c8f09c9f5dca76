//! `cargo xtask tidy`: the rules of the tree that no compiler checks. CONTRIBUTING.md lists them for people; each rule
//! here has a test with an example that passes and one that does not.

mod code;
mod kernel_names;
mod rooms;
mod source;
mod text;
mod unsafety;

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use self::source::Source;
use self::unsafety::Listed;
use crate::process;
use crate::repository::Repository;

/// A broken rule at a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A file of the tree, with its path relative to the repository.
#[derive(Debug)]
struct File {
    path: String,
    text: String,
}

/// Checks every file that git tracks or would add, and prints every finding as `path:line: what`.
pub(crate) fn run(repository: &Repository) -> Result<()> {
    let files = read_files(repository)?;
    let findings = check(&files);
    if findings.is_empty() {
        return Ok(());
    }
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    let (count, files) = (findings.len(), files.len());
    bail!("tidy: {count} findings in {files} files; CONTRIBUTING.md says what each rule is for");
}

fn check(files: &[File]) -> Vec<Finding> {
    let architecture = files.iter().find(|file| file.path == unsafety::LIST);
    let listed = Listed::read(architecture.map_or("", |file| &file.text));
    let mut findings = Vec::new();
    let mut with_unsafe = Vec::new();
    for file in files {
        findings.extend(text::check(&file.path, &file.text));
        if !file.path.ends_with(".rs") {
            continue;
        }
        let source = Source::read(&file.path, &file.text);
        findings.extend(code::check(&source));
        findings.extend(rooms::check(&source));
        findings.extend(unsafety::check(&source, &listed));
        if file.path.starts_with("lb-ebpf/") {
            findings.extend(kernel_names::check(&source));
        }
        if unsafety::first_unsafe(&source).is_some() {
            with_unsafe.push(file.path.as_str());
        }
    }
    findings.extend(listed.check_all_used(&with_unsafe));
    findings.sort();
    findings
}

/// Everything git tracks or would add, that is text and still there.
fn read_files(repository: &Repository) -> Result<Vec<File>> {
    let mut git = Command::new("git");
    git.current_dir(repository.root())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = process::capture(&mut git).context("tidy asks git which files belong to the tree")?;
    let mut files = Vec::new();
    for name in names.split_terminator('\0') {
        let path = repository.root().join(name);
        if !path.symlink_metadata().is_ok_and(|about| about.is_file()) {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes)
            && !text.contains('\0')
        {
            files.push(File {
                path: name.to_owned(),
                text,
            });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn findings_name_file_and_line_in_order() {
        let files = [
            file(
                "lb-ebpf/src/maps.rs",
                "//! Maps.\n#[btf_map]\nstatic A_NAME_THAT_IS_TOO_LONG: u8 = 0;\n",
            ),
            file("a.rs", "fn f() { todo!() }\n"),
        ];
        let shown: Vec<_> = check(&files).iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(
            shown[0].starts_with("a.rs:1: ") && shown[1].starts_with("a.rs:1: "),
            "{shown:?}"
        );
        assert!(shown[2].starts_with("lb-ebpf/src/maps.rs:3: "), "{shown:?}");
    }

    #[test]
    fn a_good_tree_has_no_findings() {
        let files = [
            file(
                "ARCHITECTURE.md",
                "# A\n\n## Unsafe\n\n- `lb-ebpf/src/frame.rs`: packets\n",
            ),
            file(
                "lb-ebpf/src/frame.rs",
                "//! Frames.\nfn f() {\n    // SAFETY: checked above.\n    unsafe { g() }\n}\n",
            ),
        ];
        assert_eq!(check(&files), []);
    }
}
