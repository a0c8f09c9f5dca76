//! The text of a script: steps that apply or delete objects, each followed by what the tables say then.
//!
//! ```text
//! # What the script shows.
//!
//! == apply: in a few words
//! YAML documents, as in a folder of manifests
//! == tables
//! what the tables say, as `view` writes it
//! == delete: in a few words
//! Service default/web
//! == tables
//! ```
//!
//! What should be there at once is asked for at once; a heading that ends with `(later)` gives the agent a second attempt.
//!
//! Not here: what a step leads to.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_norway::Value;

const APPLY: &str = "== apply: ";
const DELETE: &str = "== delete: ";
const TABLES: &str = "== tables";

/// Objects by their kind, namespace and name, in the order in which they came.
pub(crate) type Objects = Vec<(String, String)>;

/// A script.
#[derive(Debug)]
pub(crate) struct Script {
    path: PathBuf,
    head: String,
    pub(crate) steps: Vec<Step>,
}

/// One step: what is done, and what the tables should say then.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The step's first line.
    pub(crate) heading: String,
    body: String,
    pub(crate) expected: String,
}

impl Script {
    /// The folder of all scripts.
    pub(crate) fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
    }

    /// Reads the script of this name.
    pub(crate) fn read(name: &str) -> Self {
        let path = Self::folder().join(name).with_extension("txt");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut script = Self {
            path,
            head: String::new(),
            steps: Vec::new(),
        };
        let mut in_tables = false;
        for line in text.lines() {
            if line.starts_with(APPLY) || line.starts_with(DELETE) {
                let heading = line.to_owned();
                script.steps.push(Step {
                    heading,
                    ..Step::default()
                });
                in_tables = false;
                continue;
            }
            let part = match script.steps.last_mut() {
                None => &mut script.head,
                Some(_) if line == TABLES => {
                    in_tables = true;
                    continue;
                }
                Some(step) if in_tables => &mut step.expected,
                Some(step) => &mut step.body,
            };
            part.push_str(line);
            part.push('\n');
        }
        for step in &mut script.steps {
            step.expected.truncate(step.expected.trim_end().len());
        }
        assert!(!script.steps.is_empty(), "{name} has no steps");
        script
    }

    /// Writes the script anew, with what the tables said.
    pub(crate) fn write(&self, said: &[String]) {
        let mut text = self.head.clone();
        for (step, said) in self.steps.iter().zip(said) {
            let body = step.body.trim_end();
            write!(text, "{}\n{body}\n{TABLES}\n{said}\n\n", step.heading).expect("a String takes everything");
        }
        text.truncate(text.trim_end().len() + 1);
        fs::write(&self.path, text).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

impl Step {
    /// Whether the agent may try twice.
    pub(crate) fn is_later(&self) -> bool {
        self.heading.ends_with("(later)")
    }

    /// Does the step to the objects that are there.
    pub(crate) fn play(&self, objects: &mut Objects) {
        if self.heading.starts_with(DELETE) {
            for name in self.body.lines().filter(|line| !line.is_empty()) {
                let before = objects.len();
                objects.retain(|(key, _)| key != name);
                assert_ne!(before, objects.len(), "{}: there is no {name}", self.heading);
            }
            return;
        }
        for document in self.body.split("\n---\n") {
            let key = key_of(document).unwrap_or_else(|| panic!("{}: no object:\n{document}", self.heading));
            match objects.iter_mut().find(|(known, _)| *known == key) {
                Some((_, text)) => document.clone_into(text),
                None => objects.push((key, document.to_owned())),
            }
        }
    }
}

/// `Service default/web`.
fn key_of(document: &str) -> Option<String> {
    let value: Value = serde_norway::from_str(document).ok()?;
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("default");
    Some(format!(
        "{} {namespace}/{}",
        value.get("kind")?.as_str()?,
        metadata.get("name")?.as_str()?
    ))
}
