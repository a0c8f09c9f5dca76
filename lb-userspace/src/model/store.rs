//! The model: every Service and EndpointSlice now in force, folded from [`Change`]s.
//!
//! Here: the fold, which also says which Services may need a new plan. Pure and synchronous. Not here: policies and
//! tables (`plan`), waiting for sources (`source`). Called by the agent's main loop and, read-only, by `plan`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::merge::{PortEndpoint, endpoints_of_port};
use super::{
    Change, Cidr, EndpointSlice, Family, NodeFacts, NodeView, OtherNodes, Protocol, Service, ServiceKey, SliceKey,
    SyncedKind,
};

/// The Services whose plan may have changed, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty(BTreeSet<ServiceKey>);

impl Dirty {
    /// Has nothing changed that planning could see?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many Services are to be planned.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The Services to plan.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.iter()
    }

    /// Adds what another change dirtied, so that a burst is planned once.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl FromIterator<ServiceKey> for Dirty {
    fn from_iter<I: IntoIterator<Item = ServiceKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl IntoIterator for Dirty {
    type Item = ServiceKey;
    type IntoIter = std::collections::btree_set::IntoIter<ServiceKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What is known under one Service's name. Slices may come before their Service and outlive it.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Arc<Service>>,
    /// Sorted by name: the order decides between duplicate endpoints.
    slices: Vec<Arc<EndpointSlice>>,
}

/// The model.
#[derive(Debug)]
pub struct Store {
    node: NodeView,
    /// Nothing while unknown.
    other_nodes: Option<Arc<OtherNodes>>,
    service_cidrs: Box<[Cidr]>,
    entries: BTreeMap<ServiceKey, Entry>,
    /// Which Service each slice in force belongs to: a slice may change its label.
    owners: HashMap<SliceKey, ServiceKey>,
    /// Services that are served and ask for direct answers: other nodes concern nobody else.
    asking_for_dsr: BTreeSet<ServiceKey>,
    services_synced: bool,
    slices_synced: bool,
}

impl Store {
    /// An empty model of the world as seen from `node`.
    pub fn new(node: NodeView) -> Self {
        Self {
            node,
            other_nodes: None,
            service_cidrs: Box::default(),
            entries: BTreeMap::new(),
            owners: HashMap::new(),
            asking_for_dsr: BTreeSet::new(),
            services_synced: false,
            slices_synced: false,
        }
    }

    /// Takes in one change and says which Services may need a new plan.
    ///
    /// A change that says what is already known dirties nothing. Before [`Store::is_synced`] nothing is ever dirty: a plan
    /// made from half a list would take away what an earlier agent left in the kernel (§1.4). The change that completes
    /// the picture dirties every Service known.
    pub fn apply(&mut self, change: Change) -> Dirty {
        let dirty = match change {
            Change::ServiceApply(service) => self.apply_service(service),
            Change::ServiceDelete(key) => self.delete_service(&key),
            Change::SliceApply(slice) => self.apply_slice(slice),
            Change::SliceDelete(key) => self.delete_slice(&key),
            Change::Node(facts) => self.apply_node(facts),
            Change::OtherNodes(nodes) => self.apply_other_nodes(nodes),
            Change::ServiceCidrs(ranges) => {
                self.service_cidrs = ranges;
                Dirty::default()
            }
            Change::Synced(kind) => self.apply_synced(kind),
        };
        if self.is_synced() { dirty } else { Dirty::default() }
    }

    /// The host's own addresses are these, as its devices say.
    pub fn see_host_addresses(&mut self, addresses: Box<[IpAddr]>) -> Dirty {
        let dirty = self.with_other_addresses(|node| node.detected = addresses);
        if self.is_synced() { dirty } else { Dirty::default() }
    }

    /// Have both first lists been told in full? Before that nothing may be planned.
    pub fn is_synced(&self) -> bool {
        self.services_synced && self.slices_synced
    }

    /// The own node.
    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// All other Nodes; nothing while they are unknown.
    pub fn other_nodes(&self) -> Option<&OtherNodes> {
        self.other_nodes.as_deref()
    }

    /// Does any Service ask for direct answers?
    pub fn asks_for_dsr(&self) -> bool {
        !self.asking_for_dsr.is_empty()
    }

    /// The ranges from which ClusterIPs are given out; empty while unknown.
    pub fn service_cidrs(&self) -> &[Cidr] {
        &self.service_cidrs
    }

    /// The Service of this name, also when it is one that is not served (see [`Service::exclusion`]).
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.entries.get(key)?.service.as_ref()
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.entries.values().filter_map(|entry| entry.service.as_ref())
    }

    /// The slices in force for a Service, by name.
    pub fn slices(&self, key: &ServiceKey) -> &[Arc<EndpointSlice>] {
        self.entries.get(key).map_or(&[], |entry| &entry.slices)
    }

    /// The slice of this name, if it is in force for a Service.
    pub fn slice(&self, key: &SliceKey) -> Option<&Arc<EndpointSlice>> {
        let slices = self.slices(self.owners.get(key)?);
        let place = slices.binary_search_by(|slice| slice.key.cmp(key)).ok()?;
        Some(&slices[place])
    }

    /// The merged endpoints of one Service port in one family (§1.5).
    pub fn endpoints(
        &self,
        key: &ServiceKey,
        port_name: &str,
        protocol: Protocol,
        family: Family,
    ) -> Vec<PortEndpoint<'_>> {
        endpoints_of_port(self.slices(key), port_name, protocol, family)
    }

    fn apply_service(&mut self, service: Arc<Service>) -> Dirty {
        let key = service.key.clone();
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.service.as_ref() == Some(&service) {
            return Dirty::default();
        }
        let served_now = service.exclusion().is_none();
        if served_now && asks_for_dsr(&service, &self.node) {
            self.asking_for_dsr.insert(key.clone());
        } else {
            self.asking_for_dsr.remove(&key);
        }
        let served_before = entry
            .service
            .replace(service)
            .is_some_and(|before| before.exclusion().is_none());
        if served_now || served_before {
            only(key)
        } else {
            Dirty::default()
        }
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Dirty {
        let Some(entry) = self.entries.get_mut(key) else {
            return Dirty::default();
        };
        let served_before = entry.service.take().is_some_and(|before| before.exclusion().is_none());
        self.asking_for_dsr.remove(key);
        self.forget_if_empty(key);
        if served_before {
            only(key.clone())
        } else {
            Dirty::default()
        }
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>) -> Dirty {
        let Some((owner, _)) = slice.serves() else {
            // It lost its owner, gained a label that excludes it, or holds names: as good as gone.
            return self.delete_slice(&slice.key);
        };
        let owner = owner.clone();
        let mut dirty = Dirty::default();
        if self.owners.get(&slice.key).is_some_and(|before| *before != owner) {
            dirty.merge(self.delete_slice(&slice.key));
        }
        self.owners.insert(slice.key.clone(), owner.clone());
        let slices = &mut self.entries.entry(owner.clone()).or_default().slices;
        match slices.binary_search_by(|other| other.key.cmp(&slice.key)) {
            Ok(place) if slices[place].says_the_same_as(&slice) => return dirty,
            Ok(place) => slices[place] = slice,
            Err(place) => slices.insert(place, slice),
        }
        dirty.merge(self.dirty_if_served(owner));
        dirty
    }

    fn delete_slice(&mut self, key: &SliceKey) -> Dirty {
        let Some(owner) = self.owners.remove(key) else {
            return Dirty::default();
        };
        if let Some(entry) = self.entries.get_mut(&owner) {
            entry.slices.retain(|slice| slice.key != *key);
        }
        self.forget_if_empty(&owner);
        self.dirty_if_served(owner)
    }

    /// Of all that the Node object says only the zone and the addresses concern plans.
    fn apply_node(&mut self, facts: Option<NodeFacts>) -> Dirty {
        let mut dirty = self.with_other_addresses(|node| node.facts = facts);
        if let Some(facts) = &self.node.facts
            && self.node.zone != facts.zone
        {
            self.node.zone.clone_from(&facts.zone);
            dirty.merge(self.every_served());
        }
        dirty
    }

    /// Concerns Services that ask for direct answers and have an endpoint on a node whose addresses are others now.
    fn apply_other_nodes(&mut self, nodes: Arc<OtherNodes>) -> Dirty {
        let Some(before) = self.other_nodes.replace(nodes.clone()) else {
            return self.asking_for_dsr.iter().cloned().collect();
        };
        let names = before.keys().chain(nodes.keys());
        let changed: HashSet<&str> = names
            .filter(|name| before.get(*name) != nodes.get(*name))
            .map(|name| &**name)
            .collect();
        if changed.is_empty() || !self.is_synced() {
            return Dirty::default();
        }
        let is_concerned = |key: &&ServiceKey| {
            let endpoints = self.slices(key).iter().flat_map(|slice| &slice.endpoints);
            let mut nodes = endpoints.filter_map(|endpoint| endpoint.node_name.as_deref());
            nodes.any(|name| changed.contains(name))
        };
        self.asking_for_dsr.iter().filter(is_concerned).cloned().collect()
    }

    /// A change after which the node's addresses may be others: source ranges that have one have more than they say, and
    /// without one there are no direct answers.
    fn with_other_addresses(&mut self, change: impl FnOnce(&mut NodeView)) -> Dirty {
        let addresses = |node: &NodeView| Family::BOTH.map(|family| node.address(family));
        let tunnels = |node: &NodeView| Family::BOTH.map(|family| node.tunnel_address(family).is_some());
        let before = (addresses(&self.node), tunnels(&self.node));
        change(&mut self.node);
        let mut dirty = Dirty::default();
        if addresses(&self.node) != before.0 {
            dirty.merge(self.every_with_sources());
        }
        if tunnels(&self.node) != before.1 {
            dirty.merge(self.asking_for_dsr.iter().cloned().collect());
        }
        dirty
    }

    fn apply_synced(&mut self, kind: SyncedKind) -> Dirty {
        let synced_before = self.is_synced();
        match kind {
            SyncedKind::Services => self.services_synced = true,
            SyncedKind::EndpointSlices => self.slices_synced = true,
        }
        if synced_before {
            Dirty::default()
        } else {
            self.every_served()
        }
    }

    fn every_with_sources(&self) -> Dirty {
        let with_sources = |service: &&Arc<Service>| !service.source_ranges.is_empty() && service.exclusion().is_none();
        Dirty(
            self.services()
                .filter(with_sources)
                .map(|service| service.key.clone())
                .collect(),
        )
    }

    fn every_served(&self) -> Dirty {
        self.services()
            .filter(|service| service.exclusion().is_none())
            .map(|service| service.key.clone())
            .collect()
    }

    fn dirty_if_served(&self, key: ServiceKey) -> Dirty {
        match self.service(&key) {
            Some(service) if service.exclusion().is_none() => only(key),
            _ => Dirty::default(),
        }
    }

    fn forget_if_empty(&mut self, key: &ServiceKey) {
        if self
            .entries
            .get(key)
            .is_some_and(|entry| entry.service.is_none() && entry.slices.is_empty())
        {
            self.entries.remove(key);
        }
    }
}

fn asks_for_dsr(service: &Service, node: &NodeView) -> bool {
    let mut ports = service.ports.iter();
    ports.any(|port| {
        let mut families = Family::BOTH.into_iter();
        families.any(|family| service.asks_for_dsr(port, family, node))
    })
}

fn only(key: ServiceKey) -> Dirty {
    Dirty(BTreeSet::from([key]))
}
