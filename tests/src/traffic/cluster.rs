//! A lab at work: servers on every pod and node, Services in the agents' folder, and an agent on every node that is ready.
//!
//! What clients then do is for the tests.

use anyhow::{Context, Result};

use super::manifests::{ManifestFolder, Service};
use super::{Serve, Server};
use crate::lab::{Agent, AgentOptions, Lab};

/// A lab with everything in it. Dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the agent cleans up while its lab is still there.
    /// The agent of the (first) node; it is ready.
    pub agent: Agent,
    /// The agents of the other nodes; ready, too.
    pub other_agents: Vec<Agent>,
    /// The servers: the nodes' first, then the pods'.
    pub servers: Vec<Server>,
    /// The folder that the agents watch.
    pub manifests: ManifestFolder,
    /// The lab.
    pub lab: Lab,
}

impl Cluster {
    /// Starts servers and agents in a lab, and waits until the agents are ready.
    pub fn start(lab: Lab, services: &[Service], options: &AgentOptions) -> Result<Self> {
        let hosts = lab.nodes().iter().chain(lab.backends());
        let servers = Server::start_on(hosts, &Serve::default())?;
        let manifests = ManifestFolder::of(&lab)?;
        for service in services {
            manifests.apply(service)?;
        }
        manifests.apply_nodes(lab.nodes())?;
        // All at the same time: a start is mostly waiting for the kernel.
        let start = |node| Agent::start_on(&lab, node, options);
        let mut agent = start(lab.node())?;
        let mut other_agents = lab.nodes()[1..].iter().map(start).collect::<Result<Vec<_>>>()?;
        for agent in std::iter::once(&mut agent).chain(&mut other_agents) {
            agent.wait_ready().context("waiting for the agent")?;
        }
        Ok(Self {
            agent,
            other_agents,
            servers,
            manifests,
            lab,
        })
    }
}
