//! A ServiceCIDR of the API becomes the ranges that it holds (behaviour reference §1.1).
//!
//! Here: one object. Not here: the union of all of them, which both sources make and tell.

use k8s_openapi::api::networking::v1 as networking;

use super::findings::Findings;
use super::node::range;
use crate::model::{Cidr, ObjectRef, Problem};

/// Reads the ServiceCIDR called `name`; whatever could not be read is left out and among the problems.
pub fn service_cidr(name: &str, object: &networking::ServiceCIDR) -> (Box<[Cidr]>, Vec<Problem>) {
    let mut findings = Findings::about(ObjectRef::ServiceCidr(name.into()));
    let spec = object.spec.as_ref();
    let written = spec.and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    let ranges = written
        .iter()
        .enumerate()
        .filter_map(|(index, text)| range(&mut findings, &format!("spec.cidrs[{index}]"), text))
        .collect();
    (ranges, findings.problems)
}

/// The ranges of several objects as one list: sorted, each once.
pub fn union<'a>(ranges: impl IntoIterator<Item = &'a Cidr>) -> Box<[Cidr]> {
    let mut all: Vec<Cidr> = ranges.into_iter().copied().collect();
    all.sort();
    all.dedup();
    all.into()
}
