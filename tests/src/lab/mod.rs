//! Labs: a client, nodes and their pods as network namespaces with the kernel's real stack, and an agent in each node's.
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
pub mod guest;
mod host;
mod namespace;
mod options;
pub mod plan;
mod tables;
mod wiring;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use agent::{Agent, AgentOptions, SocketMode, Successor, XdpMode};
pub use capture::Capture;
pub use cleanup::{leftovers, remove_stale};
pub use host::{DeviceCounters, DirectionCounters, Host};
pub use namespace::Namespace;
pub use options::{LabBuilder, Topology};

/// A client, its nodes and their pods. Dropping it removes all of it, the pins of its agents included.
#[derive(Debug)]
pub struct Lab {
    name: String,
    client: Host,
    router: Option<Host>,
    nodes: Vec<Host>,
    backends: Vec<Host>,
    balancers: u8,
    backends_per_node: u8,
    topology: Topology,
    way: wiring::Way,
    cgroup: Option<PathBuf>,
}

impl Lab {
    /// Client — node — pods on routed links.
    pub fn one_node() -> LabBuilder {
        LabBuilder::new(Topology::Routed, 1)
    }

    /// Client — node — pods on the bridge `cni0`.
    pub fn bridge_node() -> LabBuilder {
        LabBuilder::new(Topology::Bridge, 1)
    }

    /// Client — router — two nodes on one network, each with pods on routed links.
    pub fn two_nodes() -> LabBuilder {
        LabBuilder::new(Topology::Routed, 2)
    }

    /// Client — router — two nodes on one network, each with pods on its bridge `cni0`.
    pub fn two_bridge_nodes() -> LabBuilder {
        LabBuilder::new(Topology::Bridge, 2)
    }

    /// Client — router — five nodes on one network: two without pods, which balance for the others, and three with a pod each on a
    /// routed link.
    pub fn north_south() -> LabBuilder {
        LabBuilder::new(Topology::Routed, 5).balancers(2).backends(1)
    }

    pub(super) fn build(options: &LabBuilder) -> Result<Self> {
        let name = cleanup::register()?;
        // A machine without cgroup2 still has the packet tiers to test; `cgroup()` says what is missing.
        let cgroup = match cgroup::mount_point() {
            Ok(_) => Some(cgroup::create(&name).inspect_err(|_| drop(cleanup::remove(&name)))?),
            Err(_) => None,
        };
        let host = |role: String, v4, v6, cgroup| Host {
            namespace: Namespace::new(format!("{name}-{role}"), cgroup),
            name: role,
            v4,
            v6,
        };
        // The cgroup is the first node's: what an agent does to processes must not reach those of another machine.
        let cgroup_of = |node| cgroup.clone().filter(|_| node == 1);
        let far = options.nodes > 1;
        let (client_v4, client_v6) = if far {
            (plan::FAR_CLIENT_V4, plan::FAR_CLIENT_V6)
        } else {
            (plan::CLIENT_V4, plan::CLIENT_V6)
        };
        let nodes = 1..=options.nodes;
        let pods = (1..=(options.nodes - options.balancers) * options.backends).map(|number| {
            let node = options.balancers + node_of_pod(number, options.backends);
            let (v4, v6) = (plan::pod_v4(node, number), plan::pod_v6(node, number));
            host(plan::backend_name(number), v4, v6, cgroup_of(node))
        });
        let lab = Self {
            client: host("client".to_owned(), client_v4, client_v6, None),
            router: far.then(|| host("router".to_owned(), plan::ROUTER_V4, plan::ROUTER_V6, None)),
            backends: pods.collect(),
            nodes: nodes
                .map(|node| {
                    host(
                        plan::node_name(node),
                        plan::node_v4(node),
                        plan::node_v6(node),
                        cgroup_of(node),
                    )
                })
                .collect(),
            balancers: options.balancers,
            backends_per_node: options.backends,
            topology: options.topology,
            way: wiring::Way(options.way_mtu),
            name: name.clone(),
            cgroup,
        };
        // From here on `lab` cleans up after itself, however far the wiring gets.
        wiring::build(options, &lab).with_context(|| format!("building lab {name}"))?;
        Ok(lab)
    }

    /// The address that the first node has on the device towards its pods, IPv4 and IPv6: the bridge's, or its own on routed links.
    pub fn node_addresses_towards_pods(&self) -> [IpAddr; 2] {
        match self.topology {
            Topology::Bridge => [plan::bridge_v4(1).into(), plan::bridge_v6(1).into()],
            Topology::Routed => self.node().addresses(),
        }
    }

    /// `slt-<id>`: what its namespaces, folders, pins and cgroup start with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine outside the cluster.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The machine that runs the agent: with several nodes, the first.
    pub fn node(&self) -> &Host {
        &self.nodes[0]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    /// The machine between client and nodes, if there are several nodes.
    pub fn router(&self) -> Option<&Host> {
        self.router.as_ref()
    }

    /// The pods of all nodes, `backend-1` first.
    pub fn backends(&self) -> &[Host] {
        &self.backends
    }

    /// The pods of a node; the first node is number 1.
    pub fn backends_of(&self, node: u8) -> impl Iterator<Item = &Host> {
        let pods = self.pods().filter(move |(host, ..)| *host == node);
        pods.map(|(.., pod)| pod)
    }

    /// The pods, each with the number of its node and its own.
    fn pods(&self) -> impl Iterator<Item = (u8, u8, &Host)> {
        let numbered = (1..).zip(&self.backends);
        let node_of = |number| self.balancers + node_of_pod(number, self.backends_per_node);
        numbered.map(move |(number, pod)| (node_of(number), number, pod))
    }

    /// Leads ClusterIPs, VIPs and ExternalIPs to a node, from the router on: to the first unless told.
    pub fn lead_services_to(&self, node: u8) -> Result<()> {
        let router = self.router.as_ref();
        let router = router.context("with one node there is no router, and no other node to lead Services to")?;
        wiring::lead_services(router, self.way, node)
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

    /// All addresses and ports at which a port of a NodePort Service is served on the first node: its ClusterIPs, then the node's own.
    pub fn frontends(&self, cluster_ips: [IpAddr; 2], port: u16, node_port: u16) -> Vec<SocketAddr> {
        let by_cluster_ip = cluster_ips.map(|address| SocketAddr::new(address, port));
        let by_node = self
            .node()
            .addresses()
            .map(|address| SocketAddr::new(address, node_port));
        [by_cluster_ip, by_node].concat()
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let middle = self.router.iter().chain(&self.nodes);
        std::iter::once(&self.client).chain(middle).chain(&self.backends)
    }

    /// The folder for manifests, logs and captures; it goes with the lab.
    pub fn directory(&self) -> PathBuf {
        cleanup::directory(&self.name)
    }

    /// Where the agent of the first node pins its programs and tables.
    pub fn pin_directory(&self) -> PathBuf {
        cleanup::pin_directory(&self.name)
    }

    /// The cgroup of the first node and its pods, for the socket tier. The client is outside, and so is another node.
    pub fn cgroup(&self) -> Result<&Path> {
        self.cgroup.as_deref().context(
            "no cgroup2 file system was mounted when the lab was built, so the socket tier can't be tested; mount one with: mount -t cgroup2 none /mnt",
        )
    }

    /// From now on the nodes' devices complete the checksums of what leaves, as cards without offloads do: between
    /// namespaces nobody else ever looks at a partial one, right or wrong.
    pub fn complete_checksums_on_the_way(&self) -> Result<()> {
        for node in &self.nodes {
            for device in node.devices()? {
                let mut ethtool = node.command("ethtool");
                ethtool.args(["-K", &device, "tx", "off"]);
                exec::output(&mut ethtool).with_context(|| format!("switching tx checksums of {device} off"))?;
            }
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

/// Pods are numbered through, those of the first node that has some first. Nodes without pods are not counted.
fn node_of_pod(number: u8, per_node: u8) -> u8 {
    (number - 1) / per_node + 1
}
