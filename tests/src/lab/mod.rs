//! Labs: a client, a node and its backends as network namespaces with the kernel's real stack, and the agent in the node's.
//!
//! What lives here: building and removing labs, running code inside them, starting the agent, watching devices. Traffic is in
//! [`crate::traffic`]; single packets through `BPF_PROG_TEST_RUN` need none of this.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tests::lab::Lab;
//! let lab = Lab::one_node().backends(4).build()?;
//! let backend = lab.backend(2);
//! let listener = backend.run(|| std::net::TcpListener::bind((backend.v4, 8080)))?;
//! lab.client().run(|| std::net::TcpStream::connect(listener.local_addr().unwrap()))?;
//! # Ok(())
//! # }
//! ```

mod agent;
mod capture;
mod cgroup;
mod cleanup;
mod exec;
mod host;
mod namespace;
mod options;
pub mod plan;
mod tables;
mod wiring;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use agent::{Agent, AgentOptions, XdpMode};
pub use capture::Capture;
pub use cleanup::{leftovers, remove_stale};
pub use host::{DeviceCounters, DirectionCounters, Host};
pub use namespace::Namespace;
pub use options::{LabBuilder, Topology};

/// A client, a node and its backends. Dropping it removes all of it, the pins of its agents included.
#[derive(Debug)]
pub struct Lab {
    name: String,
    client: Host,
    node: Host,
    backends: Vec<Host>,
    cgroup: Option<PathBuf>,
}

impl Lab {
    /// Client — node — pods on routed links.
    pub fn one_node() -> LabBuilder {
        LabBuilder::new(Topology::Routed)
    }

    /// Client — node — pods on the bridge `cni0`.
    pub fn bridge_node() -> LabBuilder {
        LabBuilder::new(Topology::Bridge)
    }

    pub(super) fn build(options: &LabBuilder) -> Result<Self> {
        let name = cleanup::register()?;
        // A machine without cgroup2 still has the packet tiers to test; `cgroup()` says what is missing.
        let cgroup = match cgroup::mount_point() {
            Ok(_) => Some(cgroup::create(&name).inspect_err(|_| drop(cleanup::remove(&name)))?),
            Err(_) => None,
        };
        let namespace = |role: &str, cgroup| Namespace::new(format!("{name}-{role}"), cgroup);
        let lab = Self {
            client: Host {
                name: "client".to_owned(),
                v4: plan::CLIENT_V4,
                v6: plan::CLIENT_V6,
                namespace: namespace("client", None),
            },
            node: Host {
                name: plan::NODE_NAME.to_owned(),
                v4: plan::NODE_V4,
                v6: plan::NODE_V6,
                namespace: namespace("node", cgroup.clone()),
            },
            backends: (1..=options.backends)
                .map(|number| Host {
                    name: plan::backend_name(number),
                    v4: plan::backend_v4(number),
                    v6: plan::backend_v6(number),
                    namespace: namespace(&plan::backend_name(number), cgroup.clone()),
                })
                .collect(),
            name: name.clone(),
            cgroup,
        };
        // From here on `lab` cleans up after itself, however far the wiring gets.
        wiring::build(options, &lab.client, &lab.node, &lab.backends)
            .with_context(|| format!("building lab {name}"))?;
        Ok(lab)
    }

    /// `slt-<id>`: what its namespaces, folders, pins and cgroup start with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine outside the cluster.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The machine that runs the agent.
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// The pods, `backend-1` first.
    pub fn backends(&self) -> &[Host] {
        &self.backends
    }

    /// `backend-<number>`.
    ///
    /// # Panics
    /// When the lab has fewer.
    pub fn backend(&self, number: u8) -> &Host {
        let index = usize::from(number)
            .checked_sub(1)
            .expect("the first backend is number 1");
        self.backends
            .get(index)
            .unwrap_or_else(|| panic!("the lab has backend-1 to backend-{}, not {number}", self.backends.len()))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.client, &self.node].into_iter().chain(&self.backends)
    }

    /// The folder for manifests, logs and captures; it goes with the lab.
    pub fn directory(&self) -> PathBuf {
        cleanup::directory(&self.name)
    }

    /// Where the lab's agent pins its programs and tables.
    pub fn pin_directory(&self) -> PathBuf {
        cleanup::pin_directory(&self.name)
    }

    /// The cgroup of the node and its pods, for the socket tier. The client is outside.
    pub fn cgroup(&self) -> Result<&Path> {
        self.cgroup.as_deref().context(
            "no cgroup2 file system was mounted when the lab was built, so the socket tier can't be tested; mount one with: mount -t cgroup2 none /mnt",
        )
    }

    /// From now on the node's devices complete the checksums of what leaves, as cards without offloads do: between
    /// namespaces nobody else ever looks at a partial one, right or wrong.
    pub fn complete_checksums_on_the_way(&self) -> Result<()> {
        for device in self.node.devices()? {
            let mut ethtool = self.node.command("ethtool");
            ethtool.args(["-K", &device, "tx", "off"]);
            exec::output(&mut ethtool).with_context(|| format!("switching tx checksums of {device} off"))?;
        }
        Ok(())
    }

    /// Removes the lab now, and says what could not be removed.
    pub fn remove(mut self) -> Result<()> {
        // Without a name there is nothing left to drop.
        cleanup::remove(&std::mem::take(&mut self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.name.is_empty()
            && let Err(error) = cleanup::remove(&self.name)
        {
            eprintln!("{error:#}");
        }
    }
}
