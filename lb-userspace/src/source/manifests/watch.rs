//! When to look at the directory, and telling what was found.
//!
//! Here: the loop. inotify says that something happened; which file it was does not matter, for a look at all files is
//! cheap and can miss nothing. A look every five seconds is the net below (edits through a link's target, network file
//! systems, an exhausted inotify). Not here: what a look finds out (`directory`). Called by the agent's main loop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::directory::{Directory, Scan};
use crate::model::{Change, Severity, SyncedKind};
use crate::source::problem::{Closed, FilePlace, SourceProblem, SourceStatus};

/// How often the directory is looked at without a sign.
const RESCAN: Duration = Duration::from_secs(5);
/// Signs that come in a burst are answered once, this long after the first.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How long the first sync waits for files in motion.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads the manifests in `directory`, tells their objects as [`Change`]s and goes on to tell what changes, for ever. Of
/// the Nodes, only the one called `node_name` is told.
///
/// After the first look both kinds are declared synced, whatever was wrong with the files: `status` says what was.
/// It ends only when nobody receives changes any more. Drop the future to stop it.
pub async fn run(
    directory: PathBuf,
    node_name: String,
    changes: mpsc::Sender<Change>,
    status: watch::Sender<SourceStatus>,
) -> Result<(), Closed> {
    follow(directory, &node_name, changes, status, RESCAN).await
}

/// [`run`], looking without a sign this often.
pub(super) async fn follow(
    directory: PathBuf,
    node_name: &str,
    changes: mpsc::Sender<Change>,
    status: watch::Sender<SourceStatus>,
    rescan: Duration,
) -> Result<(), Closed> {
    status.send_modify(|status| status.origin = format!("manifests in {}", directory.display()).into());
    let (sign, mut signs) = mpsc::channel(1);
    let mut watcher = DirectoryWatcher::new(directory.clone(), sign);
    let mut state = Directory::new(directory, node_name);
    let mut synced = false;
    let started = Instant::now();
    loop {
        // Before the look: what happens during it is a sign for the next one.
        watcher.renew();
        let look = tokio::task::spawn_blocking(move || {
            let scan = state.scan(SystemTime::now());
            (state, scan)
        });
        let Ok((returned, scan)) = look.await else {
            return Err(Closed);
        };
        state = returned;
        let Scan {
            changes: found,
            problems,
            look_again_in,
        } = scan;
        for change in found {
            changes.send(change).await.map_err(|_| Closed)?;
        }
        // A first look that met a file in motion is not the whole picture yet.
        if !synced && (look_again_in.is_none() || started.elapsed() > PATIENCE) {
            for kind in [SyncedKind::EndpointSlices, SyncedKind::Services] {
                changes.send(Change::Synced(kind)).await.map_err(|_| Closed)?;
            }
            synced = true;
        }
        SourceStatus::publish(
            &status,
            synced,
            None,
            problems.into_iter().chain(watcher.problem.clone()).collect(),
        );
        tokio::select! {
            () = sleep(look_again_in.unwrap_or(rescan)) => {}
            Some(()) = signs.recv() => {
                sleep(DEBOUNCE).await;
                let _ = signs.try_recv();
            }
            () = changes.closed() => return Err(Closed),
        }
    }
}

/// An inotify watch that is renewed when the directory is replaced.
struct DirectoryWatcher {
    directory: PathBuf,
    sign: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
    problem: Option<SourceProblem>,
}

impl DirectoryWatcher {
    fn new(directory: PathBuf, sign: mpsc::Sender<()>) -> Self {
        Self {
            directory,
            sign,
            watcher: None,
            watched: None,
            problem: None,
        }
    }

    /// Watches the directory that has the name now, if it is not the one that is watched already.
    fn renew(&mut self) {
        let identity = identity(&self.directory);
        if identity == self.watched && self.watcher.is_some() {
            return;
        }
        (self.watcher, self.watched, self.problem) = (None, None, None);
        // A directory that is not there is reported by the look at it.
        if identity.is_none() {
            return;
        }
        match watch_directory(&self.directory, self.sign.clone()) {
            Ok(watcher) => (self.watcher, self.watched) = (Some(watcher), identity),
            Err(error) => {
                let seconds = RESCAN.as_secs();
                let reason = format!(
                    "cannot watch the directory: {error}; it is looked at every {seconds} s \
                     (is fs.inotify.max_user_watches or max_user_instances too low?)"
                );
                let place = FilePlace {
                    file: self.directory.as_path().into(),
                    line: None,
                };
                self.problem = Some(SourceProblem::general(Severity::Warning, Some(place), reason));
            }
        }
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(directory)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

fn watch_directory(directory: &Path, sign: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error (such as an overflowing queue) is a reason to look, too. A full channel holds a sign already.
        if event.map_or(true, |event| is_sign(event.kind)) {
            let _ = sign.try_send(());
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// A write is a sign only once the writer closes the file: what is there before is half a file. Reading is none, or
/// every look would cause the next.
fn is_sign(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    }
}
