//! What the product's own source of manifests makes of a script: a folder with one file that is replaced at every step.
//!
//! How a step's end is known: every text of the file ends with a marker object of a new name, and is followed by the same
//! text with another. When that one is told, everything of the step before it has been. Markers go no further.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use lb_userspace::model::Change;
use lb_userspace::source::{SourceStatus, manifests};
use tokio::sync::{mpsc, watch};

use crate::script::{Objects, Script};

/// Where marker objects live.
const MARKERS: &str = "script-markers";
/// How long a step may take at most; they take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the source told about one step.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) changes: Vec<Change>,
    /// Everything that is wrong with the objects now.
    pub(crate) problems: Vec<String>,
}

/// Plays the script to the source; one answer for each step.
pub(crate) fn listen(script: &Script) -> Vec<Told> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, tell(script))
            .await
            .expect("the source answers")
    })
}

async fn tell(script: &Script) -> Vec<Told> {
    let folder = tempfile::tempdir().expect("a folder");
    let (sender, mut changes) = mpsc::channel(1024);
    let (status_sender, status) = watch::channel(SourceStatus::default());
    let (mut objects, mut told, mut source) = (Objects::new(), Vec::new(), None);
    for (number, step) in script.steps.iter().enumerate() {
        step.play(&mut objects);
        put(folder.path(), &objects, &format!("step-{number}"));
        // What the first step says is there when the source starts.
        let path = folder.path().to_owned();
        let run = || {
            tokio::spawn(manifests::run(
                path,
                "node".to_owned(),
                sender.clone(),
                status_sender.clone(),
            ))
        };
        source.get_or_insert_with(run);
        let mut of_step = Vec::new();
        until(&mut changes, &format!("step-{number}"), &mut of_step).await;
        put(folder.path(), &objects, &format!("fence-{number}"));
        until(&mut changes, &format!("fence-{number}"), &mut of_step).await;
        let problems = status.borrow().problems.clone();
        let problems = problems.iter().map(|problem| {
            let mut problem = problem.clone();
            problem.place = None;
            problem.to_string()
        });
        let mut problems: Vec<String> = problems.collect();
        problems.sort();
        told.push(Told {
            changes: of_step,
            problems,
        });
    }
    if let Some(source) = source {
        source.abort();
    }
    told
}

/// Receives changes until the marker is told.
async fn until(changes: &mut mpsc::Receiver<Change>, marker: &str, into: &mut Vec<Change>) {
    loop {
        let change = changes.recv().await.expect("the source goes on");
        match &change {
            Change::ServiceApply(service) if service.key.namespace() == MARKERS => {
                if service.key.name() == marker {
                    return;
                }
            }
            Change::ServiceDelete(key) if key.namespace() == MARKERS => {}
            _ => into.push(change),
        }
    }
}

fn put(folder: &Path, objects: &Objects, marker: &str) {
    let mut text: String = objects.iter().map(|(_, text)| format!("{text}\n---\n")).collect();
    text.push_str(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {marker}, namespace: {MARKERS}}}\n\
         spec: {{type: ExternalName, externalName: marker.example}}\n"
    ));
    let (draft, file) = (folder.join(".draft"), folder.join("script.yaml"));
    fs::write(&draft, text).expect("the folder is ours");
    // An old file is not taken for one that is still being written.
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    File::options()
        .write(true)
        .open(&draft)
        .and_then(|file| file.set_modified(long_ago))
        .expect("the file is ours");
    fs::rename(draft, file).expect("the folder is ours");
}
