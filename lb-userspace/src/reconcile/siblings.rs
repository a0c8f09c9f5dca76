//! The ports of one Service: how a frontend passes from one to another without a moment in which nobody has it.
//!
//! A port that is renamed is another port (its name is part of its identity), and two ports may swap their numbers. The
//! order of writes is in `publish`; that the giving port waits where the kernel refuses the taking one, in `reconciler`.

use lb_common::layout::FrontendKey;

use super::publish::{Publisher, proto};
use crate::{
    model::ServiceKey,
    plan::{DesiredPort, PortId},
    tables::{TableFamily, Tables},
};

/// The ports of one Service: frontends move between them without a moment in which nobody has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Siblings<'a> {
    /// As they were published: what one of these has may be taken over.
    pub before: &'a [PortId],
    /// As they should be: who has a frontend that another is to get keeps it until then.
    pub planned: &'a [(PortId, DesiredPort)],
}

impl Siblings<'_> {
    /// Whether one of the ports is to have this frontend.
    pub(super) fn claim<F: TableFamily>(&self, key: &FrontendKey<F::Addr>) -> bool {
        self.planned.iter().any(|(id, desired)| {
            proto(id.protocol) == key.proto
                && desired.frontends.iter().any(|frontend| {
                    frontend.port == key.port.get() && F::from_ip(frontend.address) == Some(key.address)
                })
        })
    }
}

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// Whether a service number is that of another port of the same Service: one that this agent published, or that an
    /// earlier agent left.
    pub(super) fn is_sibling(&self, number: u32, id: &PortId, siblings: &Siblings<'_>) -> bool {
        let published = |id| self.ports.get(id).is_some_and(|port| port.number == number);
        siblings.before.iter().any(published)
            || self
                .labels
                .get(&number)
                .is_some_and(|label| self.adopted.contains_key(label) && is_of(label, &id.service))
    }

    /// Whether a port has a frontend that another port of its Service is to get and has not got yet.
    pub(super) fn is_awaited(&self, id: &PortId, siblings: &Siblings<'_>) -> bool {
        self.ports.get(id).is_some_and(|port| {
            let keys = port.frontends.iter();
            let mut own = keys.filter(|key| self.owners.get(key).is_some_and(|owner| owner.number() == port.number));
            own.any(|key| siblings.claim::<F>(key))
        })
    }
}

/// Whether a label is that of a port of this Service.
pub(super) fn is_of(label: &str, service: &ServiceKey) -> bool {
    label
        .strip_prefix(&service.to_string())
        .is_some_and(|rest| rest.starts_with([':', '/']))
}
