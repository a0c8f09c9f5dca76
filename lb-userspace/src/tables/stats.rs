//! What the kernel programs count and report: drops, counters, events.

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use lb_common::layout::{Counter, DropReason, Event, Port, Proto, names};

/// Drops and counters, summed over all CPUs.
pub struct Stats {
    drops: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
}

impl Stats {
    /// Opens the tables through `take`, which finds a map by its name.
    ///
    /// # Errors
    /// If a map is missing or of another kind.
    pub fn open(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            drops: PerCpuArray::try_from(take(names::DROPS)?).context(names::DROPS)?,
            counters: PerCpuArray::try_from(take(names::COUNTERS)?).context(names::COUNTERS)?,
        })
    }

    /// How many packets were dropped for a reason.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn drops(&self, reason: DropReason) -> Result<u64> {
        let per_cpu = self.drops.get(&(reason as u32), 0).context("read the drop counters")?;
        Ok(per_cpu.iter().sum())
    }

    /// A counter.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let per_cpu = self.counters.get(&(counter as u32), 0).context("read the counters")?;
        Ok(per_cpu.iter().sum())
    }
}

/// The ring buffer of drop events.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl EventReader {
    /// Opens the ring buffer.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn open(map: Map) -> Result<Self> {
        Ok(Self {
            ring: RingBuf::try_from(map).context(names::EVENTS)?,
        })
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            // A record of another length is another version's: left out.
            if let Some(event) = decode(&item) {
                return Some(event);
            }
        }
    }
}

fn decode(octets: &[u8]) -> Option<Event> {
    if octets.len() != size_of::<Event>() {
        return None;
    }
    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = rest.split_first_chunk::<N>()?;
        *rest = tail;
        Some(*head)
    }
    let rest = &mut &*octets;
    Some(Event {
        time_ns: u64::from_ne_bytes(take(rest)?),
        src: take(rest)?,
        dst: take(rest)?,
        service: u32::from_ne_bytes(take(rest)?),
        ifindex: u32::from_ne_bytes(take(rest)?),
        sport: Port { octets: take(rest)? },
        dport: Port { octets: take(rest)? },
        reason: u16::from_ne_bytes(take(rest)?),
        proto: Proto(u8::from_ne_bytes(take(rest)?)),
        family: u8::from_ne_bytes(take(rest)?),
    })
}
