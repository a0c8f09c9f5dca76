//! What `sluice status` says of direct server return, as the kernel's tables have it.

use anyhow::Result;
use lb_common::layout::{Address as _, NodeFlags, ServiceFlags, V4, V6, limits::PEERS_MAX};
use serde::Serialize;

use super::{Place, status::TableFill};
use crate::tables::{TableFamily, Tables as _};

/// Direct server return.
#[derive(Debug, Default, Serialize)]
pub(super) struct Dsr {
    /// Service ports of both families whose clients outside are answered directly.
    ports: usize,
    /// How packets get to an endpoint's node: `ipip` or `gue`.
    tunnel: &'static str,
    /// From which addresses of this node.
    from: Vec<String>,
    /// Addresses of other nodes that are known, IPv4 and IPv6.
    peers: [usize; 2],
}

impl Dsr {
    pub(super) fn of(place: &Place) -> Result<Self> {
        let mut dsr = Self::default();
        dsr.peers = [dsr.read::<V4>(place)?, dsr.read::<V6>(place)?];
        Ok(dsr)
    }

    /// Says how many peers of the family there are.
    fn read<F: TableFamily>(&mut self, place: &Place) -> Result<usize> {
        let tables = place.tables::<F>()?;
        let labels = tables.labels()?;
        let asks = |(number, _): &&(u32, _)| tables.service(*number).rules.flags.has(ServiceFlags::DSR);
        self.ports += labels.iter().filter(asks).count();
        let node = place.node::<F>()?;
        self.tunnel = if node.flags.has(NodeFlags::GUE) { "gue" } else { "ipip" };
        if node.own.is_some() {
            self.from.push(F::to_ip(node.own).to_string());
        }
        Ok(place.peers::<F>()?.len())
    }

    /// How full the tables of peers are.
    pub(super) fn fill(&self) -> [TableFill; 2] {
        let [v4, v6] = self.peers;
        [(V4::PEERS, v4), (V6::PEERS, v6)].map(|(table, used)| TableFill {
            table,
            used: used as u64,
            places: PEERS_MAX.into(),
        })
    }

    /// A line for people; nothing if nobody is answered directly.
    pub(super) fn text(&self) -> Option<String> {
        let Self {
            ports,
            tunnel,
            from,
            peers: [v4, v6],
        } = self;
        let from = if from.is_empty() {
            "no address of this node".to_owned()
        } else {
            from.join(" and ")
        };
        (*ports > 0).then(|| {
            format!("dsr:       {ports} Service ports, by {tunnel} from {from}; {v4} IPv4 and {v6} IPv6 addresses of other nodes")
        })
    }
}
