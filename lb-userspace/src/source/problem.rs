//! What a source has to complain about, and where: what `status` shows and what is logged once.
//!
//! Here: a model problem with its place, and the state of a source as a whole. Not here: what is wrong with a field
//! (`source::convert`). Called by both sources, which publish a [`SourceStatus`] over a `watch` channel.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::model::{ObjectRef, Problem, Severity};

/// One thing that is wrong with what a source read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceProblem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it was read, if from a file.
    pub place: Option<FilePlace>,
    /// The object, if it could be told.
    pub object: Option<ObjectRef>,
    /// The field, such as `spec.ports[0].port`; empty if none in particular.
    pub field: Box<str>,
    /// What is wrong and what would be right.
    pub reason: Box<str>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePlace {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1, if one line is to blame.
    pub line: Option<u32>,
}

impl SourceProblem {
    /// A problem of a file or of the source as a whole.
    pub(super) fn general(severity: Severity, place: Option<FilePlace>, reason: impl Into<Box<str>>) -> Self {
        Self {
            severity,
            place,
            object: None,
            field: Box::default(),
            reason: reason.into(),
        }
    }

    /// The problem of an object, read at this place.
    pub(super) fn of_object(problem: Problem, place: Option<FilePlace>) -> Self {
        let Problem {
            severity,
            object,
            field,
            reason,
        } = problem;
        Self {
            severity,
            place,
            object: Some(object),
            field,
            reason,
        }
    }

    /// Tells it in the log, at its own level.
    pub(super) fn log(&self) {
        match self.severity {
            Severity::Error => tracing::error!("{self}"),
            Severity::Warning => tracing::warn!("{self}"),
            Severity::Info => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for SourceProblem {
    /// `file:line: Service ns/name: field: reason`, without the parts that are not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:", place.file.display())?;
            if let Some(line) = place.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// How a source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// What is read, such as `manifests in /etc/sluice`.
    pub origin: Box<str>,
    /// Has everything that existed at the start been told?
    pub synced: bool,
    /// Since when the source has not been heard of, if it should be; what it said before stays in force.
    pub away_since: Option<SystemTime>,
    /// What is wrong now; a problem that was mended is gone from the list.
    pub problems: Arc<[SourceProblem]>,
}

impl SourceStatus {
    /// Publishes what is wrong now, and tells the log what is new about it.
    pub(super) fn publish(
        to: &watch::Sender<Self>,
        synced: bool,
        away_since: Option<SystemTime>,
        problems: Vec<SourceProblem>,
    ) {
        to.send_if_modified(|status| {
            if (status.synced, status.away_since) == (synced, away_since) && *status.problems == *problems {
                return false;
            }
            let known: HashSet<_> = status.problems.iter().collect();
            for problem in problems.iter().filter(|problem| !known.contains(problem)) {
                problem.log();
            }
            (status.synced, status.away_since, status.problems) = (synced, away_since, problems.into());
            true
        });
    }
}

/// The receiver of changes is gone: the agent is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody listens to the source any more")]
pub struct Closed;
