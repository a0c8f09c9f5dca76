//! What is wrong at present with objects of the cluster and with the connections to it.
//!
//! Here: the list that `status` shows. An object's problems last until it is applied without them or deleted. A
//! connection's problem lasts until an answer comes or until it has not recurred for a while: a watch that was resumed
//! says nothing until something changes. Pure, the time is handed in. Called by `kubernetes`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{ObjectRef, Problem};
use crate::source::problem::SourceProblem;

/// Attempts are at most 30 s apart (kube's default back-off, with jitter up to twice that); silence for longer means that one succeeded.
const RECOVERED_AFTER: Duration = Duration::from_secs(90);
/// How many objects with problems are remembered.
const MAX_OBJECTS: usize = 1000;

/// The present problems of the cluster.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    objects: BTreeMap<ObjectRef, Vec<SourceProblem>>,
    /// By what is watched; with the time of a failure that is expected to pass.
    connections: BTreeMap<&'static str, (Option<Instant>, SourceProblem)>,
}

impl Complaints {
    /// The problems of an object as it is now; with none, the object is fine or gone. Says whether anything changed.
    pub(super) fn about(&mut self, object: ObjectRef, problems: Vec<Problem>) -> bool {
        if problems.is_empty() {
            return self.objects.remove(&object).is_some();
        }
        if self.objects.len() >= MAX_OBJECTS && !self.objects.contains_key(&object) {
            return false;
        }
        let problems = problems
            .into_iter()
            .map(|problem| SourceProblem::of_object(problem, None))
            .collect();
        self.objects.insert(object, problems);
        true
    }

    /// A connection failed.
    pub(super) fn failed(&mut self, watched: &'static str, problem: SourceProblem, now: Instant) {
        self.connections.insert(watched, (Some(now), problem));
    }

    /// A connection is done without. It is complained about until it works.
    pub(super) fn done_without(&mut self, watched: &'static str, problem: SourceProblem) {
        self.connections.insert(watched, (None, problem));
    }

    /// A connection works. Says whether it did not before.
    pub(super) fn works(&mut self, watched: &'static str) -> bool {
        self.connections.remove(watched).is_some()
    }

    /// Forgets failures that have not recurred. Says whether there were any.
    pub(super) fn forget_recovered(&mut self, now: Instant) -> bool {
        let before = self.connections.len();
        self.connections
            .retain(|_, (failed, _)| failed.is_none_or(|failed| now.duration_since(failed) < RECOVERED_AFTER));
        self.connections.len() < before
    }

    /// Everything that is wrong now.
    pub(super) fn list(&self) -> Vec<SourceProblem> {
        let connections = self.connections.values().map(|(_, problem)| problem);
        connections.chain(self.objects.values().flatten()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Complaints, MAX_OBJECTS};
    use crate::model::{ObjectRef, Problem, ServiceKey, Severity};
    use crate::source::problem::SourceProblem;

    fn web(number: usize) -> ObjectRef {
        ObjectRef::Service(ServiceKey::new("default", &format!("web{number}")))
    }

    fn problem(object: ObjectRef) -> Vec<Problem> {
        vec![Problem {
            severity: Severity::Error,
            object,
            field: "".into(),
            reason: "bad".into(),
        }]
    }

    #[test]
    fn an_object_is_complained_about_until_it_is_mended() {
        let mut complaints = Complaints::default();
        assert!(!complaints.about(web(1), vec![]), "fine from the start");
        assert!(complaints.about(web(1), problem(web(1))));
        assert_eq!(complaints.list()[0].to_string(), "Service default/web1: bad");
        assert!(complaints.about(web(1), vec![]));
        assert_eq!(complaints.list(), []);
    }

    #[test]
    fn a_connection_is_complained_about_until_it_works_or_is_silent() {
        let start = Instant::now();
        let failure = SourceProblem::general(Severity::Error, None, "refused");
        let mut complaints = Complaints::default();
        complaints.failed("Services", failure.clone(), start);
        assert!(!complaints.forget_recovered(start + Duration::from_secs(80)));
        complaints.failed("Services", failure.clone(), start + Duration::from_secs(80));
        assert!(
            !complaints.forget_recovered(start + Duration::from_secs(160)),
            "it failed again meanwhile"
        );
        assert!(complaints.forget_recovered(start + Duration::from_secs(171)));
        complaints.failed("Services", failure, start);
        assert!(!complaints.works("EndpointSlices") && complaints.works("Services"));
        assert_eq!(complaints.list(), []);
    }

    #[test]
    fn what_is_done_without_is_complained_about_until_it_works() {
        let failure = SourceProblem::general(Severity::Info, None, "refused");
        let mut complaints = Complaints::default();
        complaints.done_without("ServiceCIDRs", failure.clone());
        assert!(!complaints.forget_recovered(Instant::now() + Duration::from_secs(3600)));
        assert_eq!(complaints.list(), [failure]);
        assert!(complaints.works("ServiceCIDRs"));
        assert_eq!(complaints.list(), []);
    }

    #[test]
    fn memory_does_not_grow_with_what_is_wrong() {
        let mut complaints = Complaints::default();
        for number in 0..MAX_OBJECTS + 10 {
            complaints.about(web(number), problem(web(number)));
        }
        assert_eq!(complaints.list().len(), MAX_OBJECTS);
        assert!(
            complaints.about(web(0), problem(web(0))),
            "those that are listed are kept up to date"
        );
    }
}
