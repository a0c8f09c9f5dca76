//! What is wrong at present with objects of the cluster and with the connections to it.
//!
//! Here: the list that `status` shows. An object's problems last until it is applied without them or deleted, a
//! connection's until the server answers again. Pure, the time is handed in. Called by `kubernetes`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::model::{ObjectRef, Problem};
use crate::source::problem::SourceProblem;

/// How many objects with problems are remembered.
const MAX_OBJECTS: usize = 1000;

/// The present problems of the cluster.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    objects: BTreeMap<ObjectRef, Vec<SourceProblem>>,
    /// By what is watched; with the time since which nothing has been heard, if that is expected to pass.
    connections: BTreeMap<&'static str, (Option<SystemTime>, SourceProblem)>,
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
    pub(super) fn failed(&mut self, watched: &'static str, problem: SourceProblem, now: SystemTime) {
        let since = self.connections.get(watched).and_then(|(since, _)| *since);
        self.connections.insert(watched, (since.or(Some(now)), problem));
    }

    /// A connection is done without. It is complained about until it works.
    pub(super) fn done_without(&mut self, watched: &'static str, problem: SourceProblem) {
        self.connections.insert(watched, (None, problem));
    }

    /// As [`Self::done_without`], unless there is a complaint already. Says whether there was none.
    pub(super) fn done_without_if_new(
        &mut self,
        watched: &'static str,
        problem: impl FnOnce() -> SourceProblem,
    ) -> bool {
        let is_new = !self.connections.contains_key(watched);
        if is_new {
            self.done_without(watched, problem());
        }
        is_new
    }

    /// A connection works. Says whether it did not before.
    pub(super) fn works(&mut self, watched: &'static str) -> bool {
        self.connections.remove(watched).is_some()
    }

    /// Since when something has not been heard of, if it should be.
    pub(super) fn away_since(&self) -> Option<SystemTime> {
        self.connections.values().filter_map(|(since, _)| *since).min()
    }

    /// Everything that is wrong now.
    pub(super) fn list(&self) -> Vec<SourceProblem> {
        let connections = self.connections.values().map(|(_, problem)| problem);
        connections.chain(self.objects.values().flatten()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

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
    fn a_connection_is_complained_about_from_its_first_failure_until_it_works() {
        let start = SystemTime::UNIX_EPOCH;
        let later = start + Duration::from_secs(80);
        let failure = SourceProblem::general(Severity::Error, None, "refused");
        let mut complaints = Complaints::default();
        assert_eq!(complaints.away_since(), None);
        complaints.failed("EndpointSlices", failure.clone(), later);
        complaints.failed("Services", failure.clone(), start);
        complaints.failed("Services", failure.clone(), later);
        assert_eq!(complaints.away_since(), Some(start), "since the first failure");
        assert!(complaints.works("Services") && !complaints.works("Services"));
        assert_eq!(complaints.away_since(), Some(later));
        assert!(complaints.works("EndpointSlices"));
        assert_eq!((complaints.list(), complaints.away_since()), (vec![], None));
    }

    #[test]
    fn what_is_done_without_is_complained_about_and_not_waited_for() {
        let failure = SourceProblem::general(Severity::Info, None, "refused");
        let mut complaints = Complaints::default();
        complaints.done_without("ServiceCIDRs", failure.clone());
        assert_eq!((complaints.list(), complaints.away_since()), (vec![failure], None));
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
