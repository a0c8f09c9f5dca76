//! What stands on the stage: lab, servers, agent, clients; and how the actions of the script are done to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Options;
use super::script::{Action, BACKENDS, FEW_BACKENDS};
use crate::lab::{Agent, AgentOptions, Lab, plan};
use crate::traffic::manifests::ManifestFolder;
use crate::traffic::{
    Entry, HttpLoad, HttpPlan, LongLived, LongLivedPlan, PhaseReport, Serve, Server, UdpPlan, UdpSessions,
};

/// The addresses of the Services in `examples/`.
pub(super) const WEB: [&str; 2] = ["10.96.0.80:80", "[fd00:10:96::80]:80"];
pub(super) const DNS: [&str; 2] = ["10.96.0.53:53", "[fd00:10:96::53]:53"];
/// Connections that stay open throughout, and UDP sessions: half of each on IPv6.
pub(super) const LONG_LIVED: usize = 64;
pub(super) const UDP_SESSIONS: u16 = 32;
/// Nothing runs longer, whatever happens.
const TIME_MAX: Duration = Duration::from_secs(600);

/// The lab with its servers, the agent in it, and the manifests that it watches.
pub(super) struct Stage {
    // Dropped in this order: the agent cleans up while its lab is still there.
    pub(super) agent: Agent,
    servers: Vec<Server>,
    manifests: ManifestFolder,
    examples: PathBuf,
    pub(super) lab: Lab,
}

/// The clients.
pub(super) struct Clients {
    pub(super) load: HttpLoad,
    pub(super) long_lived: LongLived,
    pub(super) udp: UdpSessions,
}

impl Stage {
    /// Puts the examples into the lab and starts the agent on them; it isn't ready yet.
    pub(super) fn set(lab: Lab, servers: Vec<Server>, options: &Options) -> Result<Self> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let examples = examples
            .canonicalize()
            .with_context(|| format!("looking for {}", examples.display()))?;
        let manifests = ManifestFolder::of(&lab)?;
        manifests.copy_from(&examples)?;
        let agent = Agent::start(
            &lab,
            &AgentOptions {
                xdp: options.xdp,
                ..AgentOptions::default()
            },
        )?;
        Ok(Self {
            agent,
            servers,
            manifests,
            examples,
            lab,
        })
    }

    /// Does what a step is about.
    pub(super) fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Watch => Ok(()),
            Action::ScaleDown => {
                let stays = |number: u8| [plan::backend_v4(number).into(), plan::backend_v6(number).into()];
                let few: Vec<std::net::IpAddr> = (1..=FEW_BACKENDS).flat_map(stays).collect();
                for file in ["web.yaml", "dns.yaml"] {
                    self.manifests.keep_endpoints(file, |address| few.contains(&address))?;
                }
                Ok(())
            }
            Action::ScaleToZero => self.manifests.keep_endpoints("web.yaml", |_| false),
            Action::RemoveService => self.manifests.remove("web.yaml"),
            Action::ScaleUp | Action::ScaleFromZero | Action::RestoreService => {
                self.manifests.copy_from(&self.examples)
            }
            Action::KillAgent => self.agent.kill9(),
            Action::RestartAgent => self.agent.restart(),
        }
    }

    /// Ends and removes everything, and says what could not be removed.
    pub(super) fn strike(self) -> Result<()> {
        drop(self.agent);
        drop(self.servers);
        self.lab.remove()
    }

    /// Where a person can look at the files.
    pub(super) fn manifests(&self) -> &Path {
        self.manifests.path()
    }
}

impl Clients {
    /// Starts all of them; the long-lived ones are connected when this returns.
    pub(super) fn start(stage: &Stage, options: &Options, first: crate::traffic::Phase) -> Result<Self> {
        let client = stage.lab.client();
        let addresses = |texts: [&str; 2]| texts.map(|text| text.parse().expect("the addresses above are sound"));
        let plan = LongLivedPlan {
            connections: LONG_LIVED,
            time_max: TIME_MAX,
            ..LongLivedPlan::to(addresses(WEB), Entry::Http)
        };
        let long_lived = LongLived::start(client, plan)?;
        long_lived
            .wait_open()
            .context("opening long-lived connections through Service web")?;
        let plan = UdpPlan {
            sessions: UDP_SESSIONS,
            time_max: TIME_MAX,
            ..UdpPlan::to(addresses(DNS))
        };
        let udp = UdpSessions::start(client, plan)?;
        let plan = HttpPlan {
            per_second: options.rate,
            // While there is no Service, every one of them waits until it gives up.
            at_once: 4 * options.rate as usize,
            time_max: TIME_MAX,
            ..HttpPlan::to(addresses(WEB))
        };
        let load = HttpLoad::start(client, plan, first)?;
        Ok(Self { load, long_lived, udp })
    }

    /// Stops sending and gives the reports of all phases.
    pub(super) fn finish(
        self,
    ) -> (
        Vec<PhaseReport>,
        crate::traffic::LongLivedReport,
        crate::traffic::UdpReport,
    ) {
        (self.load.finish(), self.long_lived.finish(), self.udp.finish())
    }
}

/// The lab of the demo and its servers: what can be had before the agent is known to work.
pub(super) fn build() -> Result<(Lab, Vec<Server>)> {
    let lab = Lab::one_node().backends(BACKENDS).over_a_wire().build()?;
    let serve = Serve {
        echo: None,
        ..Serve::default()
    };
    let servers = Server::start_on(lab.backends(), &serve)?;
    if servers.len() != usize::from(BACKENDS) {
        bail!("{} of {BACKENDS} backends serve", servers.len());
    }
    Ok((lab, servers))
}
