//! What load balancers, probes and Prometheus are told by a running agent, over real sockets. Needs root.
//!
//! What is said in which state, without sockets: `lb-userspace/src/health/tests`, `lb-userspace/src/metrics/tests`.

mod addresses;
mod events;
mod metrics;
mod ports;
mod probes;
mod scene;
