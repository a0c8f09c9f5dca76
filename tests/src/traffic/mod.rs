//! Real servers and clients on real sockets, for labs, benches and the demo: they drive connections and keep exact books.
//!
//! Everything is bounded in number and time, runs in threads of one process (each inside a namespace of the lab), and checks every
//! byte. Which Services exist is said by [`manifests`]; what the agent makes of them is not judged here.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use tests::{lab::Lab, traffic::{HttpLoad, HttpPlan, Phase, Server, Serve}};
//! let lab = Lab::one_node().build()?;
//! let _servers = Server::start_on(lab.backends(), &Serve::default())?;
//! let load = HttpLoad::start(lab.client(), HttpPlan::to(["10.96.0.10:80".parse()?]), Phase::served("steady"))?;
//! std::thread::sleep(Duration::from_secs(1));
//! let report = load.finish().remove(0);
//! assert_eq!(report.lost, 0, "{:?}", report.failures);
//! # Ok(())
//! # }
//! ```

mod books;
mod cluster;
mod exchange;
mod http_load;
mod http_server;
mod latency;
mod long_lived;
mod manifest_folder;
pub mod manifests;
mod pattern;
mod server;
mod udp_sessions;
mod worker;

pub use books::{Expect, Phase, PhaseReport, Sightings, Window};
pub use cluster::Cluster;
pub use exchange::{Answer, Over, connect_from};
pub use http_load::{HttpLoad, HttpPlan};
pub use latency::Latency;
pub use long_lived::{Entry, LongLived, LongLivedPlan, LongLivedReport};
pub use pattern::Pattern;
pub use server::{Serve, Server};
pub use udp_sessions::{Move, UdpPlan, UdpReport, UdpSessions};
