//! What is, at the moment of a scrape: plain values that the agent reads from its tables.
//!
//! Here: the values. Not here: names, labels and the limit on series (`exposition`), reading (`crate::agent`).

use std::net::SocketAddr;

use lb_common::layout::{Counter, DropReason};

use super::local::NoLocalEndpoints;
use crate::model::Family;
use crate::plan::PortId;

/// Everything that is asked for when somebody scrapes. What is left empty is left out.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Packets dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// What else the datapath counts.
    pub events: Vec<(Counter, u64)>,
    /// How full the tables are.
    pub tables: Vec<TableReading>,
    /// Service ports.
    pub ports: Vec<PortReading>,
    /// Endpoints of Service ports.
    pub backends: Vec<BackendReading>,
    /// Source ports of masqueraded connections.
    pub source_ports: Vec<SourcePorts>,
    /// Entries of each table that were not as they should be, and were put right.
    pub drift: Vec<(&'static str, u64)>,
    /// Unix time at which all tables had been compared, in seconds; 0 if they haven't yet.
    pub tables_checked_s: u64,
    /// Connections of Services that go on with netfilter.
    pub netfilter_connections: u64,
    /// Service ports with a Local policy and no endpoint here; see [`super::no_local_endpoints`].
    pub no_local_endpoints: NoLocalEndpoints,
}

/// How full a table is.
#[derive(Clone, Debug)]
pub struct TableReading {
    /// Its name.
    pub table: &'static str,
    /// Entries in it.
    pub used: u64,
    /// Entries that fit.
    pub places: u64,
}

/// A Service port in one family.
#[derive(Clone, Debug)]
pub struct PortReading {
    /// Which one.
    pub port: PortId,
    /// Connections that were given a backend, since the datapath began to count.
    pub connections: u64,
    /// Flows that are tracked now.
    pub flows: u64,
}

/// An endpoint of a Service port.
#[derive(Clone, Debug)]
pub struct BackendReading {
    /// Of which Service port.
    pub port: PortId,
    /// Address and target port.
    pub backend: SocketAddr,
    /// Connections that it was given, since the datapath began to count.
    pub connections: u64,
    /// Flows to it that are tracked now.
    pub flows: u64,
}

/// Source ports of masqueraded connections: they are counted per backend, and the fullest backend is told.
#[derive(Clone, Copy, Debug)]
pub struct SourcePorts {
    /// The family.
    pub family: Family,
    /// In use towards the backend that uses most.
    pub used_max: u64,
    /// Free towards the backend that has fewest.
    pub free_min: u64,
}
