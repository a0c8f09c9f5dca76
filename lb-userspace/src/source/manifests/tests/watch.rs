//! The whole source: a directory on one side, changes and status on the other.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{service, slice, words};
use crate::model::Change;
use crate::source::manifests::watch::follow;
use crate::source::{Closed, SourceStatus};

/// Far below the minute after which most tests would look at the directory anyway.
const SOON: Duration = Duration::from_secs(3);

struct Lab {
    temp: tempfile::TempDir,
    changes: mpsc::Receiver<Change>,
    status: watch::Receiver<SourceStatus>,
    task: JoinHandle<Result<(), Closed>>,
}

impl Lab {
    /// Starts the source on a directory with these files and waits until it is synced. Only signs make it look again soon.
    async fn start(files: &[(&str, &str)]) -> (Self, Vec<String>) {
        Self::start_with_rescan(files, Duration::from_secs(60)).await
    }

    async fn start_with_rescan(files: &[(&str, &str)], rescan: Duration) -> (Self, Vec<String>) {
        let temp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(temp.path().join(name), text).unwrap();
        }
        let (sender, changes) = mpsc::channel(16);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let task = tokio::spawn(follow(temp.path().to_owned(), "here", sender, status_sender, rescan));
        let mut lab = Self {
            temp,
            changes,
            status,
            task,
        };
        let mut first = Vec::new();
        while first.last().is_none_or(|word| word != "synced Services") {
            first.push(lab.next().await);
        }
        (lab, first)
    }

    async fn next(&mut self) -> String {
        let change = timeout(SOON, self.changes.recv())
            .await
            .expect("a change in time")
            .expect("the source runs");
        words(&[change]).remove(0)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join(name)
    }

    /// Waits for a status of which this holds.
    async fn status(&mut self, wanted: impl FnMut(&SourceStatus) -> bool) -> SourceStatus {
        timeout(SOON, self.status.wait_for(wanted))
            .await
            .expect("a status in time")
            .unwrap()
            .clone()
    }
}

fn replace(path: &Path, text: &str) {
    let aside = path.with_file_name(".aside");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, path).unwrap();
}

#[tokio::test]
async fn the_first_look_tells_everything_and_then_that_it_was_everything() {
    let text = format!(
        "{}---\n{}",
        service("web", "10.96.0.1"),
        slice("web-1", "web", "10.0.0.1")
    );
    let (mut lab, first) = Lab::start(&[("web.yaml", &text), ("bad.yaml", "]")]).await;
    assert_eq!(
        first,
        [
            "~+default/web-1",
            "+default/web",
            "synced EndpointSlices",
            "synced Services"
        ]
    );
    let status = lab.status(|status| status.synced).await;
    assert!(status.origin.starts_with("manifests in /"));
    assert_eq!(status.problems.len(), 1);
}

#[tokio::test]
async fn an_empty_directory_is_synced_too() {
    assert_eq!(Lab::start(&[]).await.1, ["synced EndpointSlices", "synced Services"]);
}

#[tokio::test]
async fn edits_are_told_as_they_happen() {
    let (mut lab, _) = Lab::start(&[]).await;
    replace(&lab.path("web.yaml"), &service("web", "10.96.0.1"));
    assert_eq!(lab.next().await, "+default/web", "a file renamed into place");
    fs::write(lab.path("web.yaml"), service("web", "10.96.0.2")).unwrap();
    assert_eq!(lab.next().await, "+default/web", "a file written in place");
    replace(&lab.path("web.yaml"), "kind: [\n");
    lab.status(|status| status.problems.len() == 1).await;
    replace(&lab.path("web.yaml"), &service("api", "10.96.0.3"));
    assert_eq!([lab.next().await, lab.next().await], ["+default/api", "-default/web"]);
    lab.status(|status| status.problems.is_empty()).await;
    fs::remove_file(lab.path("web.yaml")).unwrap();
    assert_eq!(lab.next().await, "-default/api", "a file deleted");
}

/// An edit through a link's target gives no sign in the directory.
#[tokio::test]
async fn what_gives_no_sign_is_found_by_the_next_look() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("web.yaml");
    fs::write(&target, service("web", "10.96.0.1")).unwrap();
    let (mut lab, _) = Lab::start_with_rescan(&[], Duration::from_millis(50)).await;
    std::os::unix::fs::symlink(&target, lab.path("web.yaml")).unwrap();
    assert_eq!(lab.next().await, "+default/web");
    fs::write(&target, service("web", "10.96.0.2")).unwrap();
    assert_eq!(lab.next().await, "+default/web");
}

#[tokio::test]
async fn a_directory_that_was_replaced_is_watched_again() {
    let (mut lab, _) = Lab::start_with_rescan(&[], Duration::from_millis(50)).await;
    fs::remove_dir(lab.temp.path()).unwrap();
    lab.status(|status| !status.problems.is_empty()).await;
    fs::create_dir(lab.temp.path()).unwrap();
    lab.status(|status| status.problems.is_empty()).await;
    replace(&lab.path("web.yaml"), &service("web", "10.96.0.1"));
    assert_eq!(lab.next().await, "+default/web");
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let (lab, _) = Lab::start(&[]).await;
    drop(lab.changes);
    assert_eq!(timeout(SOON, lab.task).await.unwrap().unwrap(), Err(Closed));
}
