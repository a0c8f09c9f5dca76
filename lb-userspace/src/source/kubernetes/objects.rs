//! What is decoded of an object on the wire, and nothing else.
//!
//! Managed fields, owner references, finalizers, and of a Node its list of images, are often more than half of an object;
//! they are passed over while it is read. An object is first only delimited: one that can't be decoded costs itself and not
//! the list or watch that carries it, and its name is known nevertheless. Not here: what values mean (`source::convert`).
//! Called by `follow`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus, Service, ServiceSpec, ServiceStatus, Taint};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;

/// Namespace (empty for objects that live in none) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

/// An object as it came.
#[derive(Debug)]
pub(super) struct Object<T> {
    pub(super) name: Name,
    /// `metadata.resourceVersion`: where a watch goes on after it.
    pub(super) version: Option<Box<str>>,
    /// The object, or why it can't be read.
    pub(super) content: Result<T, Box<str>>,
}

/// A kind of object that is read.
pub(super) trait Wanted: Sized + Send + 'static {
    /// What is decoded.
    type Wire: for<'de> Deserialize<'de>;

    /// The object, with the metadata that are read and the rest of them empty.
    fn from_wire(wire: Self::Wire) -> (Meta, Self);
}

/// The metadata that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<Box<str>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
}

/// The metadata that are needed to say which object is meant.
#[derive(Deserialize)]
struct Titled {
    metadata: Title,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Title {
    name: String,
    namespace: Option<String>,
    resource_version: Option<Box<str>>,
}

impl Title {
    fn split(self) -> (Name, Option<Box<str>>) {
        let namespace = self.namespace.unwrap_or_default().into();
        let name = self.name.into();
        (Name { namespace, name }, self.resource_version)
    }
}

impl Meta {
    /// Splits off the title, without which nothing can be said about an object.
    fn take_title(&mut self) -> Option<(Name, Option<Box<str>>)> {
        let title = Title {
            name: self.name.take()?,
            namespace: self.namespace.take(),
            resource_version: self.resource_version.take(),
        };
        Some(title.split())
    }

    fn rest(&mut self) -> ObjectMeta {
        ObjectMeta {
            labels: self.labels.take(),
            annotations: self.annotations.take(),
            deletion_timestamp: self.deletion_timestamp.take(),
            ..ObjectMeta::default()
        }
    }
}

/// Reads an object.
///
/// # Errors
/// If it has no name, or isn't even JSON.
pub(super) fn read<T: Wanted>(text: &str) -> Result<Object<T>, serde_json::Error> {
    match serde_json::from_str(text) {
        Ok(wire) => {
            let (mut meta, object) = T::from_wire(wire);
            let (name, version) = meta
                .take_title()
                .ok_or_else(|| serde::de::Error::custom("an object without metadata.name"))?;
            let content = Ok(object);
            Ok(Object { name, version, content })
        }
        Err(error) => {
            let (name, version) = title(text)?;
            let content = Err(error.to_string().into());
            Ok(Object { name, version, content })
        }
    }
}

/// Reads which object is meant, and its resource version.
///
/// # Errors
/// If it has no name, or isn't even JSON.
pub(super) fn title(text: &str) -> Result<(Name, Option<Box<str>>), serde_json::Error> {
    serde_json::from_str::<Titled>(text).map(|titled| titled.metadata.split())
}

#[derive(Deserialize)]
pub(super) struct WireService {
    metadata: Meta,
    spec: Option<ServiceSpec>,
    status: Option<ServiceStatus>,
}

impl Wanted for Service {
    type Wire = WireService;

    fn from_wire(mut wire: WireService) -> (Meta, Self) {
        let service = Self {
            metadata: wire.metadata.rest(),
            spec: wire.spec,
            status: wire.status,
        };
        (wire.metadata, service)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireSlice {
    metadata: Meta,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<EndpointPort>>,
}

impl Wanted for EndpointSlice {
    type Wire = WireSlice;

    fn from_wire(mut wire: WireSlice) -> (Meta, Self) {
        let slice = Self {
            metadata: wire.metadata.rest(),
            address_type: wire.address_type,
            endpoints: wire.endpoints.unwrap_or_default(),
            ports: wire.ports,
        };
        (wire.metadata, slice)
    }
}

#[derive(Deserialize)]
pub(super) struct WireNode {
    metadata: Meta,
    spec: Option<WireNodeSpec>,
    status: Option<WireNodeStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize)]
struct WireNodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

impl Wanted for Node {
    type Wire = WireNode;

    fn from_wire(mut wire: WireNode) -> (Meta, Self) {
        let spec = wire.spec.map(|spec| NodeSpec {
            pod_cidr: spec.pod_cidr,
            pod_cidrs: spec.pod_cidrs,
            taints: spec.taints,
            ..NodeSpec::default()
        });
        let status = wire.status.map(|status| NodeStatus {
            addresses: status.addresses,
            ..NodeStatus::default()
        });
        let node = Self {
            metadata: wire.metadata.rest(),
            spec,
            status,
        };
        (wire.metadata, node)
    }
}

#[derive(Deserialize)]
pub(super) struct WireServiceCidr {
    metadata: Meta,
    spec: Option<ServiceCIDRSpec>,
}

impl Wanted for ServiceCIDR {
    type Wire = WireServiceCidr;

    fn from_wire(mut wire: WireServiceCidr) -> (Meta, Self) {
        let cidr = Self {
            metadata: wire.metadata.rest(),
            spec: wire.spec,
            status: None,
        };
        (wire.metadata, cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_not_kept_either() {
        let text = r#"{"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7", "uid": "u",
            "managedFields": [{"manager": "x", "fieldsV1": {"f:spec": {}}}], "ownerReferences": [{"name": 1}],
            "annotations": {"a": "b"}}, "spec": {"clusterIP": "10.96.0.1"}, "unheard": {"of": []}}"#;
        let object = read::<Service>(text).unwrap();
        assert_eq!((&*object.name.namespace, &*object.name.name), ("shop", "web"));
        assert_eq!(object.version.as_deref(), Some("7"));
        let service = object.content.unwrap();
        assert_eq!(service.metadata.annotations.unwrap()["a"], "b");
        assert_eq!(service.metadata.managed_fields, None);
        assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    }

    #[test]
    fn a_broken_object_still_has_its_name() {
        let text = r#"{"spec": {"ports": "none"}, "metadata": {"name": "web", "resourceVersion": "7", "labels": 5}}"#;
        let object = read::<Service>(text).unwrap();
        assert_eq!((&*object.name.name, object.version.as_deref()), ("web", Some("7")));
        let reason = object.content.unwrap_err();
        assert!(reason.contains("line 1 column"), "{reason}");
    }

    #[test]
    fn without_a_name_nothing_is_known() {
        assert!(read::<Service>(r#"{"metadata": {"namespace": "shop"}}"#).is_err());
        assert!(read::<Service>(r#"{"metadata": {"name": "web""#).is_err());
    }

    #[test]
    fn absent_and_null_lists_are_empty_and_images_are_passed_over() {
        let text = r#"{"metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": null, "ports": null}"#;
        assert_eq!(read::<EndpointSlice>(text).unwrap().content.unwrap().endpoints, []);
        let text = r#"{"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
            "status": {"images": 7, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}"#;
        let node = read::<Node>(text).unwrap().content.unwrap();
        assert_eq!(node.status.unwrap().addresses.unwrap()[0].address, "192.0.2.1");
        assert_eq!(node.spec.unwrap().pod_cidrs.unwrap(), ["10.0.0.0/24"]);
    }
}
