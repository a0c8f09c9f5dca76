//! The text of one file becomes the objects that it declares.
//!
//! Here: kinds, namespaces and names, the API's defaults, and the verdict on each object. An object with an error is
//! refused as a whole, as an API server would; its neighbours are not. Not here: reading text (`yaml`, `json`), judging
//! fields (`source::convert`), what other files say (`claims`). Called by `directory`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node as ApiNode, Service as ApiService},
    discovery::v1::EndpointSlice as ApiEndpointSlice,
    networking::v1::ServiceCIDR as ApiServiceCidr,
};
use serde::Deserialize;

use super::deserialise::Misfit;
use super::header::{Kind, kind, names, text_of};
use super::limits::{MAX_FILE_OBJECTS, MAX_FILE_PROBLEMS, MAX_UNNAMED_VALUES};
use super::tree::{Located, Piece, SyntaxError, Value};
use super::{json, yaml};
use crate::model::{
    Cidr, EndpointSlice, Exclusion, NodeFacts, ObjectRef, Problem, Service, ServiceKey, Severity, SliceKey,
};
use crate::source::convert;
use crate::source::problem::{FilePlace, SourceProblem};

/// An object as a file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Node(Arc<NodeFacts>),
    ServiceCidr(Arc<[Cidr]>),
}

/// One object of a file.
#[derive(Debug)]
pub(super) struct FileObject {
    pub(super) object: ObjectRef,
    pub(super) line: u32,
    /// `None` if it is broken: what the file last said about it stays in force.
    pub(super) declared: Option<Declared>,
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) objects: Vec<FileObject>,
    pub(super) problems: Vec<SourceProblem>,
    /// Is something in it so broken that nobody can tell which object it is? Then none of the file's may be withdrawn.
    pub(super) incomplete: bool,
}

/// What the file said about an object before, if anything.
pub(super) type Before<'a> = &'a dyn Fn(&ObjectRef) -> Option<Declared>;

/// Reads the text of a file; JSON by the name, everything else as YAML. An error is one that makes the file unreadable.
///
/// An object that is as it was `before` is the value from before, so that a large file read again is not in memory twice.
pub(super) fn decode(file: &Arc<Path>, text: &str, before: Before<'_>) -> Result<Contents, SyntaxError> {
    let contents = Contents {
        objects: Vec::new(),
        problems: Vec::new(),
        incomplete: false,
    };
    let mut decoder = Decoder {
        file,
        before,
        contents,
        seen: HashMap::new(),
        unnamed: Vec::new(),
        unnamed_values: MAX_UNNAMED_VALUES,
        ignored: BTreeMap::new(),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read = if file.extension().is_some_and(|extension| extension == "json") {
        json::read
    } else {
        yaml::read
    };
    read(text, &mut |piece| decoder.piece(piece))?;
    Ok(decoder.finish())
}

struct Decoder<'f> {
    file: &'f Arc<Path>,
    before: Before<'f>,
    contents: Contents,
    /// On which line each object was declared first.
    seen: HashMap<ObjectRef, u32>,
    /// Elements of the current document's `items` that do not say what they are; the list's own kind may.
    unnamed: Vec<Located>,
    /// How many values may still wait there; unlike all other elements these are held until the list ends.
    unnamed_values: usize,
    /// Kinds that are none of ours: first line and count.
    ignored: BTreeMap<String, (u32, usize)>,
}

impl Decoder<'_> {
    fn piece(&mut self, piece: Piece) -> Result<(), SyntaxError> {
        match piece {
            Piece::Item(item) if item.get("kind").is_none() && matches!(item.value, Value::Mapping(_)) => {
                let afford = item.visit_costs(&mut |_| {
                    self.unnamed_values
                        .checked_sub(1)
                        .map(|left| self.unnamed_values = left)
                        .ok_or(())
                });
                afford.map_err(|()| SyntaxError {
                    line: item.line,
                    reason: "too many list elements without a kind; write kind and apiVersion into each".to_owned(),
                })?;
                self.unnamed.push(item);
                Ok(())
            }
            Piece::Item(item) => match kind(text_of(&item, "apiVersion"), text_of(&item, "kind")) {
                Kind::List { .. } => {
                    self.broken(item.line, "a list inside a list is not read");
                    Ok(())
                }
                kind => self.object(kind, &item),
            },
            Piece::Document(Located { value: Value::Null, .. }) => Ok(()),
            Piece::Document(document) => {
                let unnamed = std::mem::take(&mut self.unnamed);
                self.unnamed_values = MAX_UNNAMED_VALUES;
                match kind(text_of(&document, "apiVersion"), text_of(&document, "kind")) {
                    Kind::List { of } => unnamed.iter().try_for_each(|item| match of {
                        Some((version, name)) => self.object(kind(Some(version), Some(name)), item),
                        None => self.object(kind(None, None), item),
                    }),
                    kind => self.object(kind, &document),
                }
            }
        }
    }

    fn object(&mut self, kind: Kind, tree: &Located) -> Result<(), SyntaxError> {
        match &kind {
            Kind::Service | Kind::EndpointSlice | Kind::Node | Kind::ServiceCidr => {}
            Kind::Ignored(kind) => {
                if self.ignored.len() < MAX_FILE_PROBLEMS || self.ignored.contains_key(kind) {
                    self.ignored.entry(kind.clone()).or_insert((tree.line, 0)).1 += 1;
                }
                return Ok(());
            }
            Kind::Broken(reason) => {
                self.broken(tree.line, reason);
                return Ok(());
            }
            Kind::List { .. } => return Ok(()),
        }
        self.check_count(tree.line)?;
        let (namespace, name) = match names(tree) {
            Ok(names) => names,
            Err(misfit) => {
                self.broken(misfit.line, &format!("{}: {}", misfit.field, misfit.reason));
                return Ok(());
            }
        };
        match kind {
            Kind::Service => {
                let key = ServiceKey::new(namespace, name);
                let read = ApiService::deserialize(tree).map(|object| service(key.clone(), &object));
                self.declare(ObjectRef::Service(key), tree, read);
            }
            Kind::EndpointSlice => {
                let key = SliceKey::new(namespace, name);
                let read = ApiEndpointSlice::deserialize(tree).map(|object| endpoint_slice(key.clone(), object));
                self.declare(ObjectRef::EndpointSlice(key), tree, read);
            }
            Kind::Node => {
                let read = ApiNode::deserialize(tree).map(|object| node(name, &object));
                self.declare(ObjectRef::Node(name.into()), tree, read);
            }
            Kind::ServiceCidr => {
                let read = ApiServiceCidr::deserialize(tree).map(|object| service_cidr(name, &object));
                self.declare(ObjectRef::ServiceCidr(name.into()), tree, read);
            }
            Kind::List { .. } | Kind::Ignored(_) | Kind::Broken(_) => {}
        }
        Ok(())
    }

    fn declare(&mut self, object: ObjectRef, tree: &Located, read: Result<(Declared, Vec<Problem>), Misfit>) {
        if let Some(first) = self.seen.get(&object) {
            let reason = format!("it is declared in line {first} already; that one counts");
            let problem = Problem {
                severity: Severity::Warning,
                object,
                field: Box::default(),
                reason: reason.into(),
            };
            self.report(problem, tree.line);
            return;
        }
        self.seen.insert(object.clone(), tree.line);
        let declared = match read {
            Ok((declared, problems)) => {
                let refused = problems.iter().any(|problem| problem.severity == Severity::Error);
                for problem in problems {
                    let line = tree.line_of(&problem.field);
                    self.report(problem, line);
                }
                (!refused).then(|| {
                    (self.before)(&object)
                        .filter(|before| *before == declared)
                        .unwrap_or(declared)
                })
            }
            Err(Misfit { field, line, reason }) => {
                let (field, reason) = (field.into(), reason.into());
                let problem = Problem {
                    severity: Severity::Error,
                    object: object.clone(),
                    field,
                    reason,
                };
                self.report(problem, if line == 0 { tree.line } else { line });
                None
            }
        };
        self.contents.objects.push(FileObject {
            object,
            line: tree.line,
            declared,
        });
    }

    fn check_count(&self, line: u32) -> Result<(), SyntaxError> {
        if self.contents.objects.len() < MAX_FILE_OBJECTS {
            return Ok(());
        }
        Err(SyntaxError {
            line,
            reason: format!("a file declares more than {MAX_FILE_OBJECTS} objects"),
        })
    }

    fn broken(&mut self, line: u32, reason: &str) {
        self.contents.incomplete = true;
        let place = FilePlace {
            file: self.file.clone(),
            line: Some(line),
        };
        self.contents
            .problems
            .push(SourceProblem::general(Severity::Error, Some(place), reason));
        self.cap_problems();
    }

    fn report(&mut self, problem: Problem, line: u32) {
        let place = FilePlace {
            file: self.file.clone(),
            line: Some(line),
        };
        self.contents
            .problems
            .push(SourceProblem::of_object(problem, Some(place)));
        self.cap_problems();
    }

    /// Nobody reads a thousand complaints about one file, and a hostile one should not fill the memory with them.
    fn cap_problems(&mut self) {
        if self.contents.problems.len() > MAX_FILE_PROBLEMS {
            self.contents.problems.truncate(MAX_FILE_PROBLEMS);
            let place = FilePlace {
                file: self.file.clone(),
                line: None,
            };
            let reason = format!("there are more than {MAX_FILE_PROBLEMS} problems; the rest is not shown");
            self.contents.problems[MAX_FILE_PROBLEMS - 1] =
                SourceProblem::general(Severity::Error, Some(place), reason);
        }
    }

    fn finish(mut self) -> Contents {
        for (kind, (line, count)) in std::mem::take(&mut self.ignored) {
            let times = if count == 1 {
                String::new()
            } else {
                format!(" ({count} times)")
            };
            let place = FilePlace {
                file: self.file.clone(),
                line: Some(line),
            };
            let reason = format!(
                "{kind} is ignored{times}: only v1 Service, discovery.k8s.io/v1 EndpointSlice, v1 Node, \
                 networking.k8s.io/v1 ServiceCIDR and lists of them are read"
            );
            self.contents
                .problems
                .push(SourceProblem::general(Severity::Info, Some(place), reason));
        }
        self.cap_problems();
        self.contents.objects.shrink_to_fit();
        self.contents
    }
}

fn service(key: ServiceKey, object: &ApiService) -> (Declared, Vec<Problem>) {
    let (service, mut problems) = convert::service(key, object);
    let cluster_ip_written = object.spec.as_ref().is_some_and(|spec| {
        spec.cluster_ip.as_deref().is_some_and(|text| !text.is_empty()) || spec.cluster_ips.is_some()
    });
    if service.exclusion() == Some(Exclusion::NoClusterIp) && !cluster_ip_written {
        problems.push(Problem {
            severity: Severity::Warning,
            object: ObjectRef::Service(service.key.clone()),
            field: "spec.clusterIP".into(),
            reason: "it is missing; no API server allocates one here, so the Service is not served".into(),
        });
    }
    (Declared::Service(Arc::new(service)), problems)
}

/// Fills in what an API server would have: the name of an unnamed port.
fn endpoint_slice(key: SliceKey, mut object: ApiEndpointSlice) -> (Declared, Vec<Problem>) {
    for port in object.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
    }
    let (slice, problems) = convert::endpoint_slice(key, &object);
    (Declared::EndpointSlice(Arc::new(slice)), problems)
}

fn node(name: &str, object: &ApiNode) -> (Declared, Vec<Problem>) {
    let (facts, problems) = convert::node(name, object);
    (Declared::Node(Arc::new(facts)), problems)
}

fn service_cidr(name: &str, object: &ApiServiceCidr) -> (Declared, Vec<Problem>) {
    let (ranges, problems) = convert::service_cidr(name, object);
    (Declared::ServiceCidr(ranges.into()), problems)
}
