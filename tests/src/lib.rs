//! Test support for Sluice: what the packet tables, labs, scripts, benches and the demo have in common.

pub mod api_server;
pub mod behaviour;
pub mod bench;
pub mod chaos;
pub mod demo;
pub mod fuzz;
pub mod lab;
pub mod oracle;
pub mod packet;
pub mod traffic;
