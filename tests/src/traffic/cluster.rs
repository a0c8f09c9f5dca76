//! A lab at work: servers on every pod and on the node, Services in the agent's folder, and an agent that is ready.
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
    /// The agent; it is ready.
    pub agent: Agent,
    /// The servers: the node's first, then the pods'.
    pub servers: Vec<Server>,
    /// The folder that the agent watches.
    pub manifests: ManifestFolder,
    /// The lab.
    pub lab: Lab,
}

impl Cluster {
    /// Starts servers and agent in a lab, and waits until the agent is ready.
    pub fn start(lab: Lab, services: &[Service], options: &AgentOptions) -> Result<Self> {
        let hosts = [lab.node()].into_iter().chain(lab.backends());
        let servers = Server::start_on(hosts, &Serve::default())?;
        let manifests = ManifestFolder::of(&lab)?;
        for service in services {
            manifests.apply(service)?;
        }
        let mut agent = Agent::start(&lab, options)?;
        agent.wait_ready().context("waiting for the agent")?;
        Ok(Self {
            agent,
            servers,
            manifests,
            lab,
        })
    }
}
