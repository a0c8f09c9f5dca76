//! What load balancers and probes ask of the node: `/healthz` and `/livez`, and a port of its own for each Service with
//! `externalTrafficPolicy: Local` that asks for one (behaviour reference §6.1, §6.2).
//!
//! `state` holds what is known and answers from it, with the time passed in; `ports` reads the health ports off the model;
//! both are pure. `probes` and `servers` put them on sockets. No `aya`, no `kube`. Not here: when a family counts as synced
//! (the agent), the HTTP itself (`crate::http`), metrics (`crate::metrics`, which reads [`ProbeCounts`]).
//!
//! The agent's side:
//!
//! - It owns a `watch::Sender<Health>` and tells it what happens by `send_modify`: [`Health::queued`] when a change comes,
//!   [`Health::synced`] when a family's tables say all that is known, [`Health::see_node`] when the own Node changed.
//! - It spawns [`serve_probes`] once, with a receiver.
//! - It owns a [`HealthPortServers`] and gives it [`health_ports`] after each clean sync, and again every few seconds, so
//!   that ports that could not be bound are tried again. [`HealthPortServers::problems`] is for `status`.

mod ports;
mod probes;
mod servers;
mod state;

#[cfg(test)]
mod tests;

pub use ports::{HealthPort, health_port, health_ports};
pub use probes::{ProbeCounts, serve_probes};
pub use servers::{HealthPortServers, ListenOn};
pub use state::{Health, Moment, Page, UnknownNode};
