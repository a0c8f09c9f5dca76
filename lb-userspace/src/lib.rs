//! The agent of Sluice and its command line: a one-way pipe of rooms, each usable without the next.
//!
//! ```text
//! source -> model -> plan -> reconcile -> tables -> kernel
//! Kubernetes  fold    pure     books,       maps      load, pin,
//! or files            functions order, retry          attach
//! ```
//!
//! `agent` drives them, `conntrack` ends flows, `health` and `metrics` answer load balancers, probes and Prometheus, `cli` is
//! what a person sees.

/// What `sluice run` does.
pub mod agent;
/// What a person sees: commands, tables, exit codes.
pub mod cli;
/// Ending flows.
pub mod conntrack;
/// What load balancers and probes ask: `/healthz`, `/livez`, health ports.
pub mod health;
/// A small HTTP server.
pub mod http;
/// The door to the kernel: loading, pinning, attaching.
pub mod kernel;
/// What Prometheus asks.
pub mod metrics;
/// Services, EndpointSlices and the own Node as values, and the fold that keeps them.
pub mod model;
/// What netfilter has: connections that it translates, rules of kube-proxy.
pub mod netfilter;
/// What the tables should say for one Service.
pub mod plan;
/// From the plan to the tables: books, order of writes, retry.
pub mod reconcile;
/// Where Services, EndpointSlices and the own Node come from: an API server or a directory of manifests.
pub mod source;
/// The tables as the agent writes and reads them.
pub mod tables;
