//! What is wrong with an object, said so that a person can find and mend it.
//!
//! Here: the structured warning that conversions and planning hand out. Not here: files and lines (`source::problem`),
//! logging. Called by `source` and `plan`; `status` prints it.

use std::fmt;

use super::{ServiceKey, SliceKey};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; all is served as written.
    Info,
    /// A part of the object is not served.
    Warning,
    /// The API server would have refused the object.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Which object is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    /// A Service.
    Service(ServiceKey),
    /// An EndpointSlice.
    EndpointSlice(SliceKey),
    /// A Node.
    Node(Box<str>),
    /// A ServiceCIDR.
    ServiceCidr(Box<str>),
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
        }
    }
}

/// Something is wrong with one field of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The object.
    pub object: ObjectRef,
    /// The field, such as `spec.ports[0].port`; empty if the whole object is meant.
    pub field: Box<str>,
    /// What is wrong and what would be right.
    pub reason: Box<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.object, self.reason)
        } else {
            write!(f, "{}: {}: {}", self.object, self.field, self.reason)
        }
    }
}
