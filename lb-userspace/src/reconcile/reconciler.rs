//! The reconciler: folds changes into the model, plans what they touch, publishes it in both families, and remembers
//! what failed, to try it again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use lb_common::layout::{AddressFlags, V4, V6};
use tracing::{info, warn};

use super::{
    grace::GraceThread,
    publish::{Fill, Gone, PublishError, Publisher},
    retire::Retired,
    siblings::Siblings,
};
use crate::{
    model::{Change, Dirty, Family, NodeView, ObjectRef, Problem, ServiceKey, Severity, Store},
    plan::{PortId, plan_problems, plan_service},
    tables::{Drift, TableError, Tables},
};

type Ip4 = <V4 as lb_common::layout::Family>::Addr;
type Ip6 = <V6 as lb_common::layout::Family>::Addr;

/// A port that isn't in the tables as it should be.
#[derive(Clone, Copy, Debug)]
pub struct PortProblem<'a> {
    /// The port.
    pub port: &'a PortId,
    /// Why.
    pub reason: &'a str,
}

/// What has been freed, of both families, and waits for a grace period.
#[derive(Debug, Default)]
struct BothRetired {
    v4: Retired<Ip4>,
    v6: Retired<Ip6>,
}

/// The model and the tables of both families.
pub struct Reconciler<T4, T6> {
    store: Store,
    v4: Publisher<V4, T4>,
    v6: Publisher<V6, T6>,
    ports: HashMap<ServiceKey, Vec<PortId>>,
    problems: BTreeMap<PortId, String>,
    /// What Services ask for and do not get.
    left_out: BTreeMap<ServiceKey, Vec<Problem>>,
    /// Services for which the kernel refused a write at the last attempt.
    refused: BTreeSet<ServiceKey>,
    /// Ports for which the kernel refused one.
    refused_ports: BTreeSet<PortId>,
    first_sync_done: bool,
    grace: Option<GraceThread<BothRetired>>,
}

impl<T4: Tables<Ip4>, T6: Tables<Ip6>> Reconciler<T4, T6> {
    /// Adopts what the tables hold. With `grace`, freed places are used anew after grace periods; without it they are
    /// freed at once, which is for tests without a kernel.
    ///
    /// # Errors
    /// If the tables can't be read.
    pub fn adopt(node: NodeView, v4: T4, v6: T6, grace: bool) -> Result<Self, TableError> {
        let grace = grace.then(GraceThread::start).transpose().map_err(|error| TableError {
            action: "start a thread for grace periods",
            table: "the agent",
            reason: error.to_string(),
        })?;
        Ok(Self {
            store: Store::new(node),
            v4: Publisher::adopt(v4)?,
            v6: Publisher::adopt(v6)?,
            ports: HashMap::new(),
            problems: BTreeMap::new(),
            left_out: BTreeMap::new(),
            refused: BTreeSet::new(),
            refused_ports: BTreeSet::new(),
            first_sync_done: false,
            grace,
        })
    }

    /// Whether both initial lists have come and were brought into the tables.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.first_sync_done
    }

    /// The model.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The publisher of IPv4.
    #[must_use]
    pub fn v4(&self) -> &Publisher<V4, T4> {
        &self.v4
    }

    /// The publisher of IPv6.
    #[must_use]
    pub fn v6(&self) -> &Publisher<V6, T6> {
        &self.v6
    }

    /// How far the tables are filled, IPv4 and IPv6.
    #[must_use]
    pub fn fill(&self) -> (Fill, Fill) {
        (self.v4.fill(), self.v6.fill())
    }

    /// Ports that aren't in the tables as they should be.
    pub fn problems(&self) -> impl Iterator<Item = PortProblem<'_>> {
        self.problems.iter().map(|(port, reason)| PortProblem { port, reason })
    }

    /// Brings the host's own addresses into the tables, and what each is. True if anything was written.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn set_host_addresses(
        &mut self,
        v4: &BTreeMap<Ip4, AddressFlags>,
        v6: &BTreeMap<Ip6, AddressFlags>,
    ) -> Result<bool, TableError> {
        let (v4, v6) = (self.v4.set_host_addresses(v4), self.v6.set_host_addresses(v6));
        Ok(v4? | v6?)
    }

    /// Endpoints that are gone since the last call, of ports whose clients are to know.
    pub fn take_gone(&mut self) -> (Vec<Gone<Ip4>>, Vec<Gone<Ip6>>) {
        (self.v4.take_gone(), self.v6.take_gone())
    }

    /// What of Services and slices is not served as written, and why.
    pub fn left_out(&self) -> impl Iterator<Item = &Problem> {
        self.left_out.values().flatten()
    }

    /// Name of a service number: `namespace/name:port/protocol family`.
    #[must_use]
    pub fn name(&self, family: Family, number: u32) -> Option<&str> {
        match family {
            Family::V4 => self.v4.name(number),
            Family::V6 => self.v6.name(number),
        }
    }

    /// Applies changes and brings the tables up to date. Returns how many Services were planned.
    ///
    /// Nothing is written before both initial lists have come (kube-proxy-behaviour §1.4): tables that an earlier agent
    /// left stay in force until then.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> usize {
        let mut dirty = Dirty::default();
        for change in changes {
            dirty.merge(self.store.apply(change));
        }
        self.bring_all(dirty)
    }

    /// Takes note of the host's own addresses, as its devices say; some Services' plans depend on them.
    pub fn see_host_addresses(&mut self, addresses: Box<[IpAddr]>) {
        let dirty = self.store.see_host_addresses(addresses);
        self.bring_all(dirty);
    }

    fn bring_all(&mut self, dirty: Dirty) -> usize {
        self.collect();
        if !self.store.is_synced() {
            return 0;
        }
        if !self.first_sync_done {
            return self.first_sync();
        }
        let planned = dirty.len();
        let mut freed = false;
        for key in dirty {
            freed |= self.bring(&key);
        }
        // What another port gave up may be what a failed one waits for.
        if freed && !self.problems.is_empty() {
            self.retry();
        }
        self.order_grace();
        planned
    }

    fn first_sync(&mut self) -> usize {
        let keys: BTreeSet<ServiceKey> = self.store.services().map(|service| service.key.clone()).collect();
        for key in &keys {
            self.bring(key);
        }
        self.withdraw_unclaimed();
        self.first_sync_done = true;
        if !self.problems.is_empty() {
            self.retry();
        }
        self.order_grace();
        keys.len()
    }

    /// Takes away what an earlier agent served and that is gone.
    fn withdraw_unclaimed(&mut self) {
        if !self.v4.has_unclaimed() && !self.v6.has_unclaimed() {
            return;
        }
        let held: Vec<ServiceKey> = self.refused.iter().cloned().collect();
        let withdrawn = self.v4.withdraw_unclaimed(&held).and_then(|mut names| {
            names.extend(self.v6.withdraw_unclaimed(&held)?);
            Ok(names)
        });
        match withdrawn {
            Ok(names) if names.is_empty() => {}
            Ok(names) => info!(
                ports = names.len(),
                "ended Services that an earlier agent served and that are gone"
            ),
            Err(error) => warn!(%error, "entries of an earlier agent could not be removed; tried again soon"),
        }
    }

    /// Whether everything is in the tables as it should be, and nothing else.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.problems.is_empty()
            && !self.v4.has_unclaimed()
            && !self.v6.has_unclaimed()
            && !self.v4.has_late_addresses()
            && !self.v6.has_late_addresses()
    }

    /// Whether the kernel has taken all that a family's tables should say. Ports that don't fit or whose frontend is
    /// another's don't count: no new attempt changes that, and it is no reason to call the node unhealthy.
    #[must_use]
    pub fn is_written(&self, family: Family) -> bool {
        let waits = match family {
            Family::V4 => self.v4.has_unclaimed() || self.v4.has_late_addresses(),
            Family::V6 => self.v6.has_unclaimed() || self.v6.has_late_addresses(),
        };
        !waits && !self.refused_ports.iter().any(|id| id.family == family)
    }

    /// Tries again what failed. True if nothing is left to be tried.
    pub fn retry(&mut self) -> bool {
        self.collect();
        self.withdraw_unclaimed();
        let services: BTreeSet<ServiceKey> = self.problems.keys().map(|id| id.service.clone()).collect();
        for key in services {
            self.bring(&key);
        }
        // What an earlier agent left may have been held until now.
        self.withdraw_unclaimed();
        self.settle_addresses();
        self.order_grace();
        self.is_settled()
    }

    fn settle_addresses(&mut self) {
        let late = [
            self.v4.has_late_addresses().then(|| self.v4.settle_addresses()),
            self.v6.has_late_addresses().then(|| self.v6.settle_addresses()),
        ];
        for error in late.into_iter().flatten().filter_map(Result::err) {
            warn!(%error, "addresses without Service are still known to the kernel; tried again soon");
        }
    }

    /// Brings one Service's ports into the tables. True if anything was taken away.
    fn bring(&mut self, key: &ServiceKey) -> bool {
        let planned = plan_service(&self.store, self.store.node(), key);
        let before = self.ports.remove(key).unwrap_or_default();
        let siblings = Siblings {
            before: &before,
            planned: &planned,
        };
        let mut refused = false;
        for (id, desired) in &planned {
            let result = match id.family {
                Family::V4 => self.v4.publish(id, desired, &siblings),
                Family::V6 => self.v6.publish(id, desired, &siblings),
            };
            refused |= matches!(result, Err(PublishError::Table(_)));
            self.note(id, result);
        }
        if refused {
            self.refused.insert(key.clone());
        } else {
            self.refused.remove(key);
        }
        let planned_ids: HashSet<&PortId> = planned.iter().map(|(id, _)| id).collect();
        let mut now: Vec<PortId> = planned.iter().map(|(id, _)| id.clone()).collect();
        for id in &before {
            if planned_ids.contains(id) {
                continue;
            }
            // The kernel refused to let another port take over: this one serves until the next attempt.
            let awaited = match id.family {
                Family::V4 => self.v4.is_awaited(id, &siblings),
                Family::V6 => self.v6.is_awaited(id, &siblings),
            };
            if refused && awaited {
                now.push(id.clone());
                continue;
            }
            let result = match id.family {
                Family::V4 => self.v4.withdraw(id),
                Family::V6 => self.v6.withdraw(id),
            };
            if result.is_err() {
                // Still in the tables: kept in the books, so that it is tried again.
                now.push(id.clone());
            }
            self.note(id, result);
        }
        self.note_left_out(key, &now);
        if !now.is_empty() {
            self.ports.insert(key.clone(), now);
        }
        self.v4.take_freed() | self.v6.take_freed()
    }

    fn note_left_out(&mut self, key: &ServiceKey, ports: &[PortId]) {
        let mut problems = plan_problems(&self.store, key);
        let lacks_table = |id: &PortId| match id.family {
            Family::V4 => self.v4.lacks_table(id),
            Family::V6 => self.v6.lacks_table(id),
        };
        if let Some(id) = ports.iter().find(|id| lacks_table(id)) {
            problems.push(Problem {
                severity: Severity::Warning,
                object: ObjectRef::Service(key.clone()),
                field: format!("{} endpoints", id.family).into(),
                reason: "no room for their Maglev table: flows are spread by hash alone, and most are chosen for anew when an \
                         endpoint comes or goes; remove Services, or write sluice.io/algorithm: hash where nobody needs one. \
                         Tried again with this Service's next change"
                    .into(),
            });
        }
        let before = self.left_out.remove(key);
        if problems.is_empty() {
            return;
        }
        // At the start there may be one for every Service of a cluster: `sluice status` has them.
        if self.first_sync_done && before.as_ref() != Some(&problems) {
            for problem in &problems {
                warn!(%problem, "not served as written");
            }
        }
        self.left_out.insert(key.clone(), problems);
    }

    fn note(&mut self, id: &PortId, result: Result<bool, PublishError>) {
        if matches!(result, Err(PublishError::Table(_))) {
            self.refused_ports.insert(id.clone());
        } else {
            self.refused_ports.remove(id);
        }
        match result {
            Ok(_) => {
                if self.problems.remove(id).is_some() {
                    info!(port = %id, "in the tables as it should be again");
                }
            }
            Err(error) => {
                let reason = error.to_string();
                if self.problems.get(id) != Some(&reason) {
                    warn!(port = %id, %reason, "not in the tables as it should be");
                }
                self.problems.insert(id.clone(), reason);
            }
        }
    }

    /// One step of a pass through the tables of both families, from 0 to [`STEPS`](super::STEPS): what was not as it should be or can't be
    /// told, and whether it is right now.
    pub fn check(&mut self, step: u32) -> Vec<Drift> {
        let mut drifts = self.v4.check(step);
        drifts.extend(self.v6.check(step));
        drifts
    }

    fn order_grace(&mut self) {
        let retired = BothRetired {
            v4: self.v4.take_retired(),
            v6: self.v6.take_retired(),
        };
        if retired.v4.is_empty() && retired.v6.is_empty() {
            return;
        }
        match &mut self.grace {
            Some(grace) => grace.order(retired),
            None => self.reuse(retired),
        }
    }

    /// Frees what grace periods have ended for. Returns whether any are still under way.
    pub fn collect(&mut self) -> bool {
        let finished = self.grace.as_mut().map(GraceThread::finished).unwrap_or_default();
        for retired in finished {
            self.reuse(retired);
        }
        self.grace.as_ref().is_some_and(|grace| grace.pending() > 0)
    }

    fn reuse(&mut self, retired: BothRetired) {
        self.v4.reuse(retired.v4);
        self.v6.reuse(retired.v6);
    }
}
