//! Frontends and the addresses that they stand on. An address is known to the kernel while a frontend, an endpoint or the host
//! has it; a frontend is in the table before its address is, and goes before it.

use std::collections::BTreeMap;

use lb_common::layout::{Address, AddressFlags, Frontend as FrontendWord, FrontendKey, Port, Proto};
use tracing::warn;

use super::{
    publish::{PublishError, Published, Publisher},
    siblings::Siblings,
};
use crate::{
    plan::{Frontend, FrontendKind, PortId},
    tables::{TableError, TableFamily, Tables},
};

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddressUse {
    cluster_ips: u32,
    external: u32,
    endpoints: u32,
    host: AddressFlags,
    /// What the table says.
    written: AddressFlags,
}

impl AddressUse {
    /// What the table says.
    pub(super) fn written(&self) -> AddressFlags {
        self.written
    }

    fn wanted(&self) -> AddressFlags {
        let mut flags = self.host;
        if self.cluster_ips > 0 {
            flags = flags.with(AddressFlags::CLUSTER_IP);
        }
        if self.external > 0 {
            flags = flags.with(AddressFlags::EXTERNAL);
        }
        if self.endpoints > 0 {
            flags = flags.with(AddressFlags::ENDPOINT);
        }
        flags
    }
}

/// The books of addresses.
pub(super) type AddressBook<A> = BTreeMap<A, AddressUse>;

fn word(kind: FrontendKind, number: u32) -> FrontendWord {
    match kind {
        FrontendKind::ClusterIp => FrontendWord::internal(number),
        FrontendKind::NodePort | FrontendKind::ExternalIp => FrontendWord::external(number),
        FrontendKind::LoadBalancer => FrontendWord::filtered(number),
    }
}

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// Brings the frontends of a port to what is wanted. Frontends that another Service has are left out; the problem is
    /// the last that was met.
    pub(super) fn bring_frontends(
        &mut self,
        id: &PortId,
        proto: Proto,
        port: &mut Published<F::Addr>,
        wanted: &[Frontend],
        siblings: &Siblings<'_>,
    ) -> (bool, Option<PublishError>) {
        let mut wrote = false;
        let mut problem = None;
        let mut keep = Vec::with_capacity(wanted.len());
        for frontend in wanted {
            let Some(address) = F::from_ip(frontend.address) else {
                continue;
            };
            let key = FrontendKey::new(address, Port::new(frontend.port), proto);
            let word = word(frontend.kind, port.number);
            match self.owners.get(&key).copied() {
                Some(owner) if owner == word => keep.push(key),
                Some(owner) if owner.number() != port.number && !self.is_sibling(owner.number(), id, siblings) => {
                    let owner = self.labels.get(&owner.number()).cloned().unwrap_or_default();
                    problem = Some(PublishError::Taken {
                        address: frontend.address,
                        port: frontend.port,
                        owner,
                    });
                    continue;
                }
                before => match self.tables.put_frontend(&key, word) {
                    Ok(()) => {
                        if let Some(before) = before {
                            self.leave_address(&key, before);
                        }
                        self.owners.insert(key, word);
                        self.enter_address(&key, word);
                        keep.push(key);
                        wrote = true;
                    }
                    Err(error) => {
                        problem = Some(error.into());
                        // What it was before is still there.
                        if before.is_some_and(|before| before.number() == port.number) {
                            keep.push(key);
                        }
                        continue;
                    }
                },
            }
            match self.write_address(address) {
                Ok(changed) => wrote |= changed,
                Err(error) => problem = Some(error.into()),
            }
        }
        // What another port is about to take over, or what could not be removed.
        let left = std::mem::take(&mut port.frontends).into_iter();
        let left: Vec<_> = left
            .filter(|key| !keep.contains(key) && self.owns(port.number, key))
            .collect();
        keep.extend(left);
        port.frontends = keep;
        (wrote, problem)
    }

    /// Takes away the frontends of a port that are not wanted any more. That comes before its new rules, which need not be
    /// what clients of those frontends may see: without a NodePort no policy is for clients outside.
    ///
    /// # Errors
    /// If the kernel refuses; what could not be removed stays in the books.
    pub(super) fn drop_frontends(
        &mut self,
        proto: Proto,
        port: &mut Published<F::Addr>,
        wanted: &[Frontend],
        siblings: &Siblings<'_>,
    ) -> Result<bool, TableError> {
        let key = |frontend: &Frontend| {
            Some(FrontendKey::new(
                F::from_ip(frontend.address)?,
                Port::new(frontend.port),
                proto,
            ))
        };
        let wanted: Vec<_> = wanted.iter().filter_map(key).collect();
        let (mut wrote, mut result) = (false, Ok(()));
        for key in std::mem::take(&mut port.frontends) {
            // Another port of the Service may have taken it over, or is about to.
            if !self.owns(port.number, &key) {
                continue;
            }
            if wanted.contains(&key) || siblings.claim::<F>(&key) {
                port.frontends.push(key);
                continue;
            }
            match self.remove_frontend(&key) {
                Ok(()) => wrote = true,
                // Still there: keep it in the books, so that the next attempt removes it.
                Err(error) => {
                    port.frontends.push(key);
                    result = Err(error);
                }
            }
        }
        result.map(|()| wrote)
    }

    fn owns(&self, number: u32, key: &FrontendKey<F::Addr>) -> bool {
        self.owners.get(key).is_some_and(|owner| owner.number() == number)
    }

    /// Takes a frontend out of the table, and its address if it was the last there.
    pub(super) fn remove_frontend(&mut self, key: &FrontendKey<F::Addr>) -> Result<(), TableError> {
        self.tables.remove_frontend(key)?;
        if let Some(word) = self.owners.remove(key) {
            self.leave_address(key, word);
        }
        self.freed = true;
        if let Err(error) = self.write_address(key.address) {
            warn!(%error, address = %key.address, "an address without Service is still known to the kernel; tried again soon");
            self.addresses_are_late = true;
        }
        Ok(())
    }

    /// The addresses of this host, and what each is. True if anything was written.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn set_host_addresses(&mut self, addresses: &BTreeMap<F::Addr, AddressFlags>) -> Result<bool, TableError> {
        for (address, entry) in &mut self.addresses {
            entry.host = addresses.get(address).copied().unwrap_or_default();
        }
        for (address, flags) in addresses {
            self.addresses.entry(*address).or_default().host = *flags;
        }
        let all: Vec<F::Addr> = self.addresses.keys().copied().collect();
        let mut wrote = false;
        let mut result = Ok(());
        for address in all {
            match self.write_address(address) {
                Ok(changed) => wrote |= changed,
                Err(error) => result = Err(error),
            }
        }
        result.map(|()| wrote)
    }

    /// What an earlier agent has written about an address.
    pub(super) fn adopt_address(&mut self, address: F::Addr, written: AddressFlags) {
        let entry = self.addresses.entry(address).or_default();
        entry.written = written;
        // Until the devices are known, what it was to the host it still is.
        let ours = AddressFlags::CLUSTER_IP
            .with(AddressFlags::EXTERNAL)
            .with(AddressFlags::ENDPOINT);
        entry.host = written.without(ours);
    }

    pub(super) fn enter_address(&mut self, key: &FrontendKey<F::Addr>, word: FrontendWord) {
        if key.address.is_some() {
            let entry = self.addresses.entry(key.address).or_default();
            if word.is_external() {
                entry.external += 1;
            } else {
                entry.cluster_ips += 1;
            }
        }
    }

    /// What was adopted, in the books.
    pub(super) fn count_endpoints(&mut self) {
        for used in self.backends.values() {
            let address = used.identity().1.looked_up();
            self.addresses.entry(address).or_default().endpoints += 1;
        }
    }

    /// A backend record more has this address. It is told before anybody is sent there.
    pub(super) fn enter_endpoint(&mut self, address: F::Addr) {
        let address = address.looked_up();
        self.addresses.entry(address).or_default().endpoints += 1;
        self.write_endpoint(address);
    }

    /// A backend record less has this address.
    pub(super) fn leave_endpoint(&mut self, address: F::Addr) {
        let address = address.looked_up();
        if let Some(entry) = self.addresses.get_mut(&address) {
            entry.endpoints = entry.endpoints.saturating_sub(1);
        }
        self.write_endpoint(address);
    }

    fn write_endpoint(&mut self, address: F::Addr) {
        if let Err(error) = self.write_address(address) {
            warn!(%error, %address, "that an address is an endpoint's, or no longer, is not known to the kernel; tried again soon");
            self.addresses_are_late = true;
        }
    }

    fn leave_address(&mut self, key: &FrontendKey<F::Addr>, word: FrontendWord) {
        if let Some(entry) = self.addresses.get_mut(&key.address) {
            let count = if word.is_external() {
                &mut entry.external
            } else {
                &mut entry.cluster_ips
            };
            *count = count.saturating_sub(1);
        }
    }

    /// Brings the table to what an address is. True if anything was written.
    fn write_address(&mut self, address: F::Addr) -> Result<bool, TableError> {
        let Some(entry) = self.addresses.get_mut(&address) else {
            return Ok(false);
        };
        let wanted = entry.wanted();
        let changes = wanted != entry.written;
        if changes && wanted == AddressFlags::default() {
            self.tables.remove_address(&address)?;
        } else if changes {
            self.tables.put_address(&address, wanted)?;
        }
        entry.written = wanted;
        if wanted == AddressFlags::default() {
            self.addresses.remove(&address);
        }
        Ok(changes)
    }

    /// Whether the kernel knows an address that no frontend has any more: what is sent to other ports of a ClusterIP is
    /// refused, so that it must not stay.
    #[must_use]
    pub fn has_late_addresses(&self) -> bool {
        self.addresses_are_late
    }

    /// Writes what could not be written before.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn settle_addresses(&mut self) -> Result<(), TableError> {
        let late: Vec<F::Addr> = self
            .addresses
            .iter()
            .filter(|(_, entry)| entry.wanted() != entry.written)
            .map(|(address, _)| *address)
            .collect();
        for address in late {
            self.write_address(address)?;
        }
        self.addresses_are_late = false;
        Ok(())
    }
}
