//! Kubernetes API objects become model values; what is wrong with them becomes problems.
//!
//! One conversion for both sources. It never fails: what cannot be read is left out and reported, so that one bad field
//! in a cluster costs that field. The manifests source is stricter: it refuses an object with an
//! [`Severity::Error`](crate::model::Severity), as an API server would have. Not here: reading text
//! (`source::manifests`), talking to a server (`source::kubernetes`), de-duplication and matching (`model::merge`).

mod endpoint_slice;
mod findings;
mod node;
mod service;
mod service_cidr;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use endpoint_slice::endpoint_slice;
pub use node::{LEAVING_TAINT, ZONE_LABEL, node};
pub use service::service;
pub use service_cidr::{service_cidr, union};

use crate::model::OptOut;

/// Label of a slice that names the Service it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label by which an object says that another proxy serves it.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Annotation of a slice: when the pod or Service changed that made the controller write it (RFC 3339).
pub const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Label of headless Services and their slices.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

fn opt_out(labels: Option<&BTreeMap<String, String>>) -> OptOut {
    let has = |label| labels.is_some_and(|labels| labels.contains_key(label));
    OptOut {
        proxy_name: has(PROXY_NAME_LABEL),
        headless: has(HEADLESS_LABEL),
    }
}
