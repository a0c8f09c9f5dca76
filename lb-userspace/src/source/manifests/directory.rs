//! One look at the directory: what changed since the last one.
//!
//! Here: which files count, when a file is read again, and why it is left as it was. All input and output of the source
//! but the watching happens in [`Directory::scan`], which blocks and is therefore called on a thread for that. Not here:
//! what text means (`decode`), who speaks for an object (`claims`), when to look (`watch`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::claims::{Claims, FileNews};
use super::decode::{Contents, decode};
use super::limits::MAX_FILE_BYTES;
use super::tree::SyntaxError;
use crate::model::{Change, Severity};
use crate::source::problem::{FilePlace, SourceProblem};

/// A file written to more recently than this is left alone for a moment: its writer may not be done.
const SETTLE: Duration = Duration::from_millis(20);
/// A file that is missing may be on its way back (many editors rename, then write anew); only then is it gone.
const GONE_AFTER: Duration = Duration::from_millis(250);
/// A file that is written to without end is read all the same after this long.
const PATIENCE: Duration = Duration::from_secs(1);

const NOT_A_FILE: &str = "it is not a file";

/// What one look found out.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What to tell the model, in this order.
    pub(super) changes: Vec<Change>,
    /// Everything that is wrong now.
    pub(super) problems: Vec<SourceProblem>,
    /// Something is in motion: look again this soon.
    pub(super) look_again_in: Option<Duration>,
}

/// A directory of manifests and what was read from it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    files: BTreeMap<Arc<Path>, Known>,
    claims: Claims,
    /// The directory itself could not be read.
    unreadable: Option<SourceProblem>,
}

/// What is remembered of a file.
#[derive(Debug, Default)]
struct Known {
    /// How it looked when it was read; `None` if it must be read again.
    stamp: Option<Stamp>,
    /// Since when it has been in motion.
    unsettled_since: Option<SystemTime>,
    /// When it was first missed.
    missing_since: Option<SystemTime>,
    problems: Vec<SourceProblem>,
}

/// How a file looks from outside. A file that looks the same is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Two writes within the clock's granularity leave the same stamp; a file read so soon is read again next time.
    /// Kernels stamp every 10 ms or better; a file system without fractions of a second does every 2 s at worst.
    fn trusted_after(&self) -> Duration {
        if self.modified.1 == 0 {
            Duration::from_secs(2)
        } else {
            Duration::from_millis(100)
        }
    }
}

impl Directory {
    /// A directory not read yet, on the node of this name.
    pub(super) fn new(path: PathBuf, node_name: &str) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            claims: Claims::on_node(node_name),
            unreadable: None,
        }
    }

    /// Looks at every file and reads those that changed. `now` is the time by the clock that stamps files.
    pub(super) fn scan(&mut self, now: SystemTime) -> Scan {
        let mut scan = Scan::default();
        match list(&self.path) {
            Err(error) => {
                let reason = format!("cannot list the directory: {error}; what was read before stays in force");
                let place = FilePlace {
                    file: self.path.as_path().into(),
                    line: None,
                };
                self.unreadable = Some(SourceProblem::general(Severity::Error, Some(place), reason));
            }
            Ok(present) => {
                self.unreadable = None;
                let mut news = self.read_changed(&present, now, &mut scan);
                news.extend(self.forget_missing(&present, now, &mut scan));
                scan.changes = self.claims.update(news);
            }
        }
        scan.problems.extend(self.unreadable.clone());
        scan.problems
            .extend(self.files.values().flat_map(|known| known.problems.iter().cloned()));
        scan.problems.extend(self.claims.conflicts());
        scan
    }

    fn read_changed(
        &mut self,
        present: &BTreeSet<Arc<Path>>,
        now: SystemTime,
        scan: &mut Scan,
    ) -> Vec<(Arc<Path>, FileNews)> {
        let mut news = Vec::new();
        for file in present {
            let known = self.files.entry(file.clone()).or_default();
            known.missing_since = None;
            match read_if_changed(file, known, now) {
                Ok(Look::Same) => {}
                Ok(Look::Unsettled) => scan.look_again_in = sooner(scan.look_again_in, SETTLE),
                Ok(Look::Text(text)) if text.is_empty() && self.claims.any_of(file) => {
                    known.problems = broken(file, None, "the file is empty; delete it to withdraw its objects");
                }
                Ok(Look::Text(text)) => match decode(file, &text, &|object| self.claims.claim(file, object)) {
                    Ok(Contents {
                        objects,
                        problems,
                        incomplete,
                    }) => {
                        known.problems = problems;
                        news.push((file.clone(), FileNews::Says { objects, incomplete }));
                    }
                    Err(SyntaxError { line, reason }) => known.problems = broken(file, Some(line), &reason),
                },
                Err(Unreadable(reason)) => known.problems = broken(file, None, &reason),
            }
        }
        news
    }

    fn forget_missing(
        &mut self,
        present: &BTreeSet<Arc<Path>>,
        now: SystemTime,
        scan: &mut Scan,
    ) -> Vec<(Arc<Path>, FileNews)> {
        let mut news = Vec::new();
        self.files.retain(|file, known| {
            if present.contains(file) {
                return true;
            }
            let since = *known.missing_since.get_or_insert(now);
            // A clock that was set back must not keep a file for ever.
            let missing_for = now.duration_since(since).unwrap_or(GONE_AFTER);
            if missing_for < GONE_AFTER {
                scan.look_again_in = sooner(scan.look_again_in, GONE_AFTER - missing_for);
                return true;
            }
            news.push((file.clone(), FileNews::Gone));
            false
        });
        news
    }
}

/// The manifests in a directory. Hidden files are not ours: editors' swap files, a ConfigMap's `..data`.
fn list(directory: &Path) -> io::Result<BTreeSet<Arc<Path>>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let ours = matches!(path.extension().and_then(OsStr::to_str), Some("yaml" | "yml" | "json"));
        // A link whose target is gone, or a file deleted since the listing, is as good as deleted.
        if ours && !hidden && !matches!(fs::metadata(&path), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            found.insert(path.into());
        }
    }
    Ok(found)
}

enum Look {
    Same,
    Unsettled,
    Text(String),
}

/// Why a file cannot be read.
struct Unreadable(String);

fn read_if_changed(file: &Path, known: &mut Known, now: SystemTime) -> Result<Look, Unreadable> {
    let seen = known.stamp.take();
    let failed = |error: io::Error| Unreadable(format!("cannot read it: {error}"));
    // Not waiting for a writer, should somebody have made a pipe of this name.
    let mut opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .map_err(failed)?;
    let metadata = opened.metadata().map_err(failed)?;
    let stamp = Stamp::of(&metadata);
    if seen == Some(stamp) {
        known.stamp = seen;
        return Ok(Look::Same);
    }
    // A time in the future says nothing about the age; such a file counts as settled, but never as read for good.
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| now.duration_since(modified).ok());
    let waited = now
        .duration_since(*known.unsettled_since.get_or_insert(now))
        .unwrap_or(PATIENCE);
    if age.is_some_and(|age| age < SETTLE) && waited < PATIENCE {
        return Ok(Look::Unsettled);
    }
    known.unsettled_since = None;
    let text = if metadata.is_file() {
        read_text(&mut opened, metadata.size()).map_err(failed)?
    } else {
        Err(NOT_A_FILE.to_owned())
    };
    // From here on the verdict is about the content, and stands until the file looks different.
    known.stamp = age.is_some_and(|age| age >= stamp.trusted_after()).then_some(stamp);
    text.map(Look::Text).map_err(Unreadable)
}

/// The file's text, or why its content is refused.
fn read_text(file: &mut File, size: u64) -> io::Result<Result<String, String>> {
    let too_large = || Ok(Err(format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20)));
    if size > MAX_FILE_BYTES {
        return too_large();
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return too_large();
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        format!(
            "line {} is not UTF-8 text",
            1 + before.iter().filter(|byte| **byte == b'\n').count()
        )
    }))
}

fn broken(file: &Arc<Path>, line: Option<u32>, reason: &str) -> Vec<SourceProblem> {
    let reason = format!("{reason}; what the file said before stays in force");
    let place = FilePlace {
        file: file.clone(),
        line,
    };
    vec![SourceProblem::general(Severity::Error, Some(place), reason)]
}

fn sooner(one: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(one.map_or(other, |one| one.min(other)))
}
