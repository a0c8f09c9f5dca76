//! The addresses of the other nodes, from which tunnels are taken and to which they may lead.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_common::layout::Peer;

use super::{
    Drift, TableError,
    kernel::{TableFamily, error},
    sorted_differences,
};

/// The table of peers of one family, with a copy of the addresses that it holds. What the kernel programs have written beside
/// an address stays.
pub struct PeerTable<F: TableFamily> {
    map: HashMap<MapData, F::Addr, Peer>,
    written: BTreeSet<F::Addr>,
}

impl<F: TableFamily> PeerTable<F> {
    /// Opens the table.
    ///
    /// # Errors
    /// If the map is of another kind, or can't be read.
    pub fn open(map: Map) -> Result<Self> {
        let map: HashMap<MapData, F::Addr, Peer> = HashMap::try_from(map).context(F::PEERS)?;
        let written = map.keys().collect::<Result<_, _>>().context(F::PEERS)?;
        Ok(Self { map, written })
    }

    /// How many addresses it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Puts right what is otherwise than it was written.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn check(&mut self) -> Result<Vec<Drift>, TableError> {
        let found: Result<Vec<_>, _> = self.map.keys().map(|key| key.map(|key| (key, ()))).collect();
        let found = found.map_err(error("read the nodes", F::PEERS))?;
        let all = self.written.iter().map(|address| (*address, ()));
        let drifts = sorted_differences(found, all).into_iter().map(|it| {
            let (what, repaired) = match it.wanted {
                Some(()) => {
                    let write = self.map.insert(it.key, Peer::default(), 0);
                    (
                        format!("{} is missing", it.key),
                        write.map_err(error("write a node", F::PEERS)),
                    )
                }
                None => {
                    let remove = self.map.remove(&it.key);
                    (
                        format!("{} is no node", it.key),
                        remove.map_err(error("remove a node", F::PEERS)),
                    )
                }
            };
            Drift::new(F::PEERS, what, repaired)
        });
        Ok(drifts.collect())
    }

    /// Brings the table to these addresses, and no other; whether it was otherwise.
    ///
    /// # Errors
    /// If the kernel refuses; the rest is tried with the next call.
    pub fn put_all(&mut self, peers: &BTreeSet<F::Addr>) -> Result<bool, TableError> {
        let gone: Vec<F::Addr> = self.written.difference(peers).copied().collect();
        let come: Vec<F::Addr> = peers.difference(&self.written).copied().collect();
        for address in &gone {
            self.map.remove(address).map_err(error("remove a node", F::PEERS))?;
            self.written.remove(address);
        }
        for address in &come {
            self.map
                .insert(address, Peer::default(), 0)
                .map_err(error("write a node", F::PEERS))?;
            self.written.insert(*address);
        }
        Ok(!gone.is_empty() || !come.is_empty())
    }
}
