//! Which file speaks for which object.
//!
//! Every file claims the objects that it declares. Of several files that claim one object the first by name wins; the
//! others stand by and take over when it lets go. A broken object keeps the claim it had. One update takes in all files
//! that changed together and answers with the net changes, so an object that moves between files never disappears.
//! Pure: not here are reading and watching files (`directory`, `watch`). Called by `directory`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::decode::{Declared, FileObject};
use super::limits::MAX_FILE_PROBLEMS;
use crate::model::{Change, Cidr, ObjectRef, OtherNodes, Problem, Severity};
use crate::source::convert::union;
use crate::source::problem::{FilePlace, SourceProblem};

/// What became of one file.
#[derive(Debug)]
pub(super) enum FileNews {
    /// It says this now. If `incomplete`, objects that it no longer shows may be hidden in a broken part.
    Says { objects: Vec<FileObject>, incomplete: bool },
    /// It is gone.
    Gone,
}

#[derive(Clone, Debug)]
struct Claim {
    file: Arc<Path>,
    line: u32,
    declared: Declared,
}

/// All claims of all files.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Sorted by file name: the first one wins.
    by_object: BTreeMap<ObjectRef, Vec<Claim>>,
    by_file: HashMap<Arc<Path>, Vec<ObjectRef>>,
    /// The Node of which everything is told; of others, their addresses.
    own_node: Box<str>,
    /// The others that were last told.
    others_told: Arc<OtherNodes>,
    /// The union of all ServiceCIDRs that was last told.
    ranges_told: Box<[Cidr]>,
}

impl Claims {
    /// No claims yet, on the node of this name.
    pub(super) fn on_node(name: &str) -> Self {
        Self {
            own_node: name.into(),
            ..Self::default()
        }
    }

    /// Takes in what became of some files and says what changed on the whole.
    pub(super) fn update(&mut self, news: Vec<(Arc<Path>, FileNews)>) -> Vec<Change> {
        let mut before: BTreeMap<ObjectRef, Option<Declared>> = BTreeMap::new();
        for (file, news) in news {
            let (objects, incomplete) = match news {
                FileNews::Says { objects, incomplete } => (objects, incomplete),
                FileNews::Gone => (Vec::new(), false),
            };
            self.update_file(&file, objects, incomplete, &mut before);
        }
        let changed = before.into_iter().filter_map(|(object, before)| {
            let after = self.winner(&object);
            if after == before.as_ref() {
                return None;
            }
            match (after, object) {
                (Some(Declared::Service(service)), _) => Some(Change::ServiceApply(service.clone())),
                (Some(Declared::EndpointSlice(slice)), _) => Some(Change::SliceApply(slice.clone())),
                (None, ObjectRef::Service(key)) => Some(Change::ServiceDelete(key)),
                (None, ObjectRef::EndpointSlice(key)) => Some(Change::SliceDelete(key)),
                (Some(Declared::Node(facts)), ObjectRef::Node(name)) if name == self.own_node => {
                    Some(Change::Node(Some((**facts).clone())))
                }
                (None, ObjectRef::Node(name)) if name == self.own_node => Some(Change::Node(None)),
                // They are told together, below.
                _ => None,
            }
        });
        let mut changes: Vec<Change> = changed.collect();
        let others = self.other_nodes();
        if others != *self.others_told {
            self.others_told = Arc::new(others);
            changes.push(Change::OtherNodes(self.others_told.clone()));
        }
        let ranges = self.ranges();
        if ranges != self.ranges_told {
            self.ranges_told.clone_from(&ranges);
            changes.push(Change::ServiceCidrs(ranges));
        }
        in_safe_order(changes)
    }

    /// The addresses of all Nodes that are declared, but for the own one.
    fn other_nodes(&self) -> OtherNodes {
        let nodes = ObjectRef::Node(Box::default())..ObjectRef::ServiceCidr(Box::default());
        let mut others = OtherNodes::new();
        for (object, claims) in self.by_object.range(nodes) {
            if let (ObjectRef::Node(name), Some(claim)) = (object, claims.first())
                && let Declared::Node(facts) = &claim.declared
                && *name != self.own_node
            {
                others.insert(name.clone(), facts.addresses.clone());
            }
        }
        others
    }

    /// The union of all ServiceCIDRs that are declared.
    fn ranges(&self) -> Box<[Cidr]> {
        let first = ObjectRef::ServiceCidr(Box::default());
        let declared = self.by_object.range(first..).filter_map(|(_, claims)| claims.first());
        union(declared.flat_map(|claim| match &claim.declared {
            Declared::ServiceCidr(ranges) => &ranges[..],
            _ => &[],
        }))
    }

    /// What this file says about an object, also where another file has the say.
    pub(super) fn claim(&self, file: &Path, object: &ObjectRef) -> Option<Declared> {
        let claims = self.by_object.get(object)?;
        claims
            .iter()
            .find(|claim| *claim.file == *file)
            .map(|claim| claim.declared.clone())
    }

    /// Does this file speak for any object?
    pub(super) fn any_of(&self, file: &Path) -> bool {
        self.by_file.get(file).is_some_and(|objects| !objects.is_empty())
    }

    /// Objects that more than one file declares; one warning for each file that has no say, up to a limit.
    pub(super) fn conflicts(&self) -> Vec<SourceProblem> {
        let contested = self.by_object.iter().filter(|(_, claims)| claims.len() > 1);
        let warnings = contested.flat_map(|(object, claims)| {
            claims.iter().skip(1).map(move |claim| {
                let winner = &claims[0];
                let reason = format!(
                    "{}:{} declares it, too, and comes first",
                    winner.file.display(),
                    winner.line
                );
                let (object, field) = (object.clone(), Box::default());
                let problem = Problem {
                    severity: Severity::Warning,
                    object,
                    field,
                    reason: reason.into(),
                };
                let place = FilePlace {
                    file: claim.file.clone(),
                    line: Some(claim.line),
                };
                SourceProblem::of_object(problem, Some(place))
            })
        });
        warnings.take(MAX_FILE_PROBLEMS).collect()
    }

    fn winner(&self, object: &ObjectRef) -> Option<&Declared> {
        self.by_object.get(object)?.first().map(|claim| &claim.declared)
    }

    fn update_file(
        &mut self,
        file: &Arc<Path>,
        objects: Vec<FileObject>,
        incomplete: bool,
        before: &mut BTreeMap<ObjectRef, Option<Declared>>,
    ) {
        let held = self.by_file.remove(file).unwrap_or_default();
        let mut released: BTreeMap<ObjectRef, Claim> = BTreeMap::new();
        for object in held {
            before
                .entry(object.clone())
                .or_insert_with(|| self.winner(&object).cloned());
            if let Some(claim) = self.release(&object, file) {
                released.insert(object, claim);
            }
        }
        let mut holds = Vec::with_capacity(objects.len());
        for FileObject { object, line, declared } in objects {
            let old = released.remove(&object).map(|claim| claim.declared);
            // A broken object keeps its last good state; one that never had any has no claim.
            let Some(declared) = declared.or(old) else { continue };
            before
                .entry(object.clone())
                .or_insert_with(|| self.winner(&object).cloned());
            self.hold(
                &object,
                Claim {
                    file: file.clone(),
                    line,
                    declared,
                },
            );
            holds.push(object);
        }
        if incomplete {
            for (object, claim) in released {
                self.hold(&object, claim);
                holds.push(object);
            }
        }
        if !holds.is_empty() {
            self.by_file.insert(file.clone(), holds);
        }
    }

    fn release(&mut self, object: &ObjectRef, file: &Path) -> Option<Claim> {
        let claims = self.by_object.get_mut(object)?;
        let place = claims.iter().position(|claim| *claim.file == *file)?;
        let claim = claims.remove(place);
        if claims.is_empty() {
            self.by_object.remove(object);
        }
        Some(claim)
    }

    fn hold(&mut self, object: &ObjectRef, claim: Claim) {
        let claims = self
            .by_object
            .entry(object.clone())
            .or_insert_with(|| Vec::with_capacity(1));
        let place = claims.partition_point(|other| other.file < claim.file);
        claims.insert(place, claim);
    }
}

/// The place comes before what is planned for it. Endpoints come before the Services that need them and go after them: in
/// between, a Service never looks empty.
fn in_safe_order(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|change| match change {
        Change::Node(_) | Change::OtherNodes(_) | Change::ServiceCidrs(_) => 0,
        Change::SliceApply(_) => 1,
        Change::ServiceApply(_) => 2,
        Change::ServiceDelete(_) => 3,
        Change::SliceDelete(_) => 4,
        Change::Synced(_) => 5,
    });
    changes
}
