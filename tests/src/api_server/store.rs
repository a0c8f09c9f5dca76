//! What the server keeps: objects with resource versions, and the history that watches are served from.
//!
//! As in etcd, one counter numbers every write of any kind, and the history has a floor: what is older was compacted away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::selector::Selector;

/// A kind of object that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1` Service.
    Services,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlices,
    /// `v1` Node.
    Nodes,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidrs,
    /// `events.k8s.io/v1` Event.
    Events,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::Events,
    ];
    /// Those that a proxy watches.
    pub const WATCHED: [Self; 4] = [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs];

    /// Group and version as in a path, plural, kind, and whether it lives in namespaces.
    fn names(self) -> (&'static str, &'static str, &'static str, bool) {
        match self {
            Self::Services => ("api/v1", "services", "Service", true),
            Self::EndpointSlices => ("apis/discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true),
            Self::Nodes => ("api/v1", "nodes", "Node", false),
            Self::ServiceCidrs => ("apis/networking.k8s.io/v1", "servicecidrs", "ServiceCIDR", false),
            Self::Events => ("apis/events.k8s.io/v1", "events", "Event", true),
        }
    }

    /// The path of all its objects.
    #[must_use]
    pub fn path(self) -> String {
        let (group, plural, ..) = self.names();
        format!("/{group}/{plural}")
    }

    /// The path of the objects of a namespace; where there are none, of all.
    #[must_use]
    pub fn path_in(self, namespace: &str) -> String {
        let (group, plural, _, namespaced) = self.names();
        if namespaced {
            format!("/{group}/namespaces/{namespace}/{plural}")
        } else {
            self.path()
        }
    }

    /// `apiVersion` and `kind`.
    pub(super) fn type_meta(self) -> (&'static str, &'static str) {
        let (group, _, kind, _) = self.names();
        (group.trim_start_matches("apis/").trim_start_matches("api/"), kind)
    }

    /// The kind of an object.
    pub fn of(object: &Value) -> Result<Self> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let found = Self::ALL.into_iter().find(|resource| resource.type_meta().1 == kind);
        found.with_context(|| format!("the test API server has no kind \"{kind}\""))
    }

    /// Which collection a path means, with namespace and name if it says so.
    pub(super) fn find(path: &str) -> Option<(Self, Option<&str>, Option<&str>)> {
        Self::ALL.into_iter().find_map(|resource| {
            let (group, plural, _, namespaced) = resource.names();
            let rest = path.trim_start_matches('/').strip_prefix(group)?.strip_prefix('/')?;
            let parts: Vec<&str> = rest.split('/').collect();
            match *parts.as_slice() {
                [own] if own == plural => Some((resource, None, None)),
                [own, name] if own == plural && !namespaced => Some((resource, None, Some(name))),
                ["namespaces", namespace, own] if own == plural && namespaced => {
                    Some((resource, Some(namespace), None))
                }
                ["namespaces", namespace, own, name] if own == plural && namespaced => {
                    Some((resource, Some(namespace), Some(name)))
                }
                _ => None,
            }
        })
    }
}

/// Namespace and name.
pub(super) type Key = (String, String);

/// An object at a version.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) key: Key,
    labels: BTreeMap<String, String>,
    pub(super) value: Value,
    /// As it goes over the wire.
    pub(super) text: Box<str>,
}

impl Stored {
    pub(super) fn is_selected(&self, selector: &Selector, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|namespace| namespace == self.key.0) && selector.matches(&self.labels, &self.value)
    }
}

/// A write.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) version: u64,
    pub(super) before: Option<Arc<Stored>>,
    /// After a deletion: none.
    pub(super) after: Option<Arc<Stored>>,
    /// What was deleted, at the version of its deletion.
    pub(super) deleted: Option<Arc<Stored>>,
}

/// Objects and history of one kind.
#[derive(Default)]
struct Collection {
    objects: BTreeMap<Key, Arc<Stored>>,
    history: VecDeque<Write>,
}

/// Everything.
pub(super) struct Store {
    version: u64,
    /// Writes up to here are no longer known.
    floor: u64,
    collections: BTreeMap<Resource, Collection>,
    /// Lists that are being given out in pages.
    pages: BTreeMap<String, (u64, Vec<Arc<Stored>>)>,
}

/// Writes that are remembered of each kind.
const HISTORY_MAX: usize = 1 << 20;

impl Store {
    pub(super) fn new() -> Self {
        Self {
            version: 100,
            floor: 0,
            collections: Resource::ALL
                .into_iter()
                .map(|resource| (resource, Collection::default()))
                .collect(),
            pages: BTreeMap::new(),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Creates or replaces an object. Returns its text.
    pub(super) fn put(&mut self, resource: Resource, object: &Value) -> Result<Arc<Stored>> {
        self.version += 1;
        let stored = Arc::new(stored(resource, object.clone(), self.version)?);
        let collection = self.collections.entry(resource).or_default();
        let before = collection.objects.insert(stored.key.clone(), stored.clone());
        let after = Some(stored.clone());
        collection.remember(Write {
            version: self.version,
            before,
            after,
            deleted: None,
        });
        Ok(stored)
    }

    /// Creates an object; nothing if there is one already.
    pub(super) fn create(&mut self, resource: Resource, object: &Value) -> Result<Option<Arc<Stored>>> {
        let key = stored(resource, object.clone(), self.version)?.key;
        if self.get(resource, &key).is_some() {
            return Ok(None);
        }
        self.put(resource, object).map(Some)
    }

    /// Merges into an object; nothing if there is none.
    pub(super) fn merge(&mut self, resource: Resource, key: &Key, patch: &Value) -> Result<Option<Arc<Stored>>> {
        let Some(before) = self.get(resource, key) else {
            return Ok(None);
        };
        let mut object = before.value.clone();
        merge(&mut object, patch);
        self.put(resource, &object).map(Some)
    }

    /// Deletes an object. Whether there was one.
    pub(super) fn delete(&mut self, resource: Resource, key: &Key) -> Result<bool> {
        let collection = self.collections.entry(resource).or_default();
        let Some(before) = collection.objects.remove(key) else {
            return Ok(false);
        };
        self.version += 1;
        let deleted = Some(Arc::new(stored(resource, before.value.clone(), self.version)?));
        collection.remember(Write {
            version: self.version,
            before: Some(before),
            after: None,
            deleted,
        });
        Ok(true)
    }

    pub(super) fn get(&self, resource: Resource, key: &Key) -> Option<Arc<Stored>> {
        self.collections.get(&resource)?.objects.get(key).cloned()
    }

    /// All objects of a kind, in the order of their keys, and the version at which they are so.
    pub(super) fn list(&self, resource: Resource) -> (u64, Vec<Arc<Stored>>) {
        let objects = self
            .collections
            .get(&resource)
            .map(|collection| collection.objects.values().cloned());
        (self.version, objects.into_iter().flatten().collect())
    }

    /// Keeps the rest of a list for the next page, and says by which token it is had.
    pub(super) fn keep_page(&mut self, version: u64, rest: Vec<Arc<Stored>>) -> String {
        let token = format!("page-{version}-{}", self.pages.len());
        self.pages.insert(token.clone(), (version, rest));
        token
    }

    pub(super) fn take_page(&mut self, token: &str) -> Option<(u64, Vec<Arc<Stored>>)> {
        self.pages.remove(token)
    }

    /// Writes of a kind after a version; `None` if they are no longer known.
    pub(super) fn since(&self, resource: Resource, version: u64) -> Option<Vec<Write>> {
        if version < self.floor {
            return None;
        }
        let history = &self.collections.get(&resource)?.history;
        let first = history.partition_point(|write| write.version <= version);
        Some(history.range(first..).cloned().collect())
    }

    /// Forgets all history and all lists that are under way.
    pub(super) fn compact(&mut self) {
        self.floor = self.version;
        self.pages.clear();
        self.collections
            .values_mut()
            .for_each(|collection| collection.history.clear());
    }
}

impl Collection {
    fn remember(&mut self, write: Write) {
        self.history.push_back(write);
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }
}

/// As RFC 7396 has it.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().map(|object| object.remove(name));
        } else {
            merge(&mut into[name], value);
        }
    }
}

/// What a server adds to an object: version, and what nobody who proxies reads.
fn stored(resource: Resource, mut value: Value, version: u64) -> Result<Stored> {
    let (api_version, kind) = resource.type_meta();
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    let metadata = value["metadata"].as_object_mut().context("an object has metadata")?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = (text(metadata.get("namespace")), text(metadata.get("name")));
    let labels = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels
        .map(|(label, value)| (label.clone(), text(Some(value))))
        .collect();
    metadata.insert("resourceVersion".into(), version.to_string().into());
    metadata
        .entry("uid")
        .or_insert_with(|| format!("00000000-0000-4000-8000-{version:012x}").into());
    metadata
        .entry("creationTimestamp")
        .or_insert_with(|| "2026-01-02T03:04:05Z".into());
    metadata.entry("managedFields").or_insert_with(|| {
        json!([{
            "manager": "kube-controller-manager", "operation": "Update", "apiVersion": api_version,
            "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/service-name": {}}, "f:ownerReferences": {".": {}}},
                "f:addressType": {}, "f:endpoints": {}, "f:ports": {},
                "f:spec": {"f:internalTrafficPolicy": {}, "f:sessionAffinity": {}, "f:type": {},
                    "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:protocol": {}}}},
            },
        }])
    });
    Ok(Stored {
        key,
        labels,
        text: value.to_string().into(),
        value,
    })
}
