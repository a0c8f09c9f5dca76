//! Session affinity (kube-proxy-behaviour §3.4): a client's new connections go to the backend that it got last, as long
//! as the backend is in the list in use and the client's last connection is not longer ago than the timeout.

use core::sync::atomic::{Ordering, compiler_fence};

use super::world::Tables;
use crate::layout::{Affinity, AffinityKey, Desk, Family, Service, limits::AFFINITY_SLOTS_MAX};

const SECOND_NS: u64 = 1_000_000_000;

#[inline(always)]
fn key<F: Family>(client: F::Addr, affinity: u32) -> AffinityKey<F::Addr> {
    AffinityKey {
        client,
        affinity,
        rest: Default::default(),
    }
}

/// The slot of the backend that the desk's client had before, if it is still to have it.
#[inline(never)]
pub(super) fn kept<F: Family, T: Tables<F>>(
    tables: &T,
    desk: &Desk<F::Addr>,
    service: &Service,
    base: u32,
    len: u32,
) -> Option<u32> {
    kept_by::<F, T>(tables, &desk.old.src, desk.opening.now_ns, service, base, len)
}

/// The slot of the backend that a client had before, if it is still to have it.
#[inline(always)]
pub(super) fn kept_by<F: Family, T: Tables<F>>(
    tables: &T,
    client: &F::Addr,
    now_ns: u64,
    service: &Service,
    base: u32,
    len: u32,
) -> Option<u32> {
    let key = key::<F>(*client, service.sets.affinity);
    let (backend, place, seen_ns) = {
        let entry = tables.affinity(&key)?;
        let read = (entry.backend, entry.place, entry.seen_ns);
        // As with flows: an entry that was recycled while it was read is noticed.
        compiler_fence(Ordering::SeqCst);
        if entry.check != key.check() {
            return None;
        }
        read
    };
    let idle_ns = now_ns.saturating_sub(seen_ns);
    if idle_ns > u64::from(service.rules.affinity_s) * SECOND_NS {
        return None;
    }
    if place.wrapping_sub(base) < len && tables.slot(place) == Some(backend) {
        return Some(place);
    }
    // The range has changed since the client came last: is the backend in the new one?
    if len <= AFFINITY_SLOTS_MAX {
        tables.place_of(base, len, backend)
    } else {
        None
    }
}

/// Remembers what the desk's client got, and that it came now.
#[inline(never)]
pub(super) fn keep<F: Family, T: Tables<F>>(tables: &T, desk: &Desk<F::Addr>, affinity: u32, place: u32, backend: u32) {
    keep_by::<F, T>(tables, &desk.old.src, desk.opening.now_ns, affinity, place, backend);
}

/// Remembers what a client got, and that it came now.
#[inline(always)]
pub(super) fn keep_by<F: Family, T: Tables<F>>(
    tables: &T,
    client: &F::Addr,
    now_ns: u64,
    affinity: u32,
    place: u32,
    backend: u32,
) {
    let key = key::<F>(*client, affinity);
    let entry = Affinity {
        check: key.check(),
        backend,
        place,
        pad: 0,
        seen_ns: now_ns,
    };
    tables.insert_affinity(&key, &entry);
}
