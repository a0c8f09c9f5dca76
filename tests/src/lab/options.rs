//! What can be chosen about a lab, each with the machine in the field that it stands for.

use anyhow::{Result, bail};

use super::{Lab, plan};

/// How the pods of the node are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A routed link per pod, /32 and /128 addresses, gateway 169.254.1.1 and fe80::1: Calico and the `ptp` plugin.
    Routed,
    /// Ports of the bridge `cni0`, one subnet: flannel and the `bridge` plugin.
    Bridge,
}

/// A lab to be built.
#[derive(Clone, Debug)]
#[must_use = "nothing exists before build()"]
pub struct LabBuilder {
    pub(super) topology: Topology,
    pub(super) nodes: u8,
    pub(super) balancers: u8,
    pub(super) backends: u8,
    pub(super) partial_checksums: bool,
    pub(super) wire: bool,
    pub(super) gro: bool,
    pub(super) learn_neighbours: bool,
    pub(super) outward_mtu: u32,
    pub(super) way_mtu: Option<u32>,
    pub(super) pod_mtu: u32,
    pub(super) rp_filter: u8,
}

impl LabBuilder {
    pub(super) fn new(topology: Topology, nodes: u8) -> Self {
        Self {
            topology,
            nodes,
            balancers: 0,
            backends: 4 / nodes,
            partial_checksums: true,
            wire: false,
            gro: true,
            learn_neighbours: false,
            outward_mtu: 1500,
            way_mtu: None,
            pod_mtu: 1500,
            rp_filter: 0,
        }
    }

    /// The first so many nodes have no pods.
    pub(super) fn balancers(mut self, number: u8) -> Self {
        self.balancers = number;
        self
    }

    /// How many backends on each node that has some (4 in all unless told).
    pub fn backends(mut self, number: u8) -> Self {
        self.backends = number;
        self
    }

    /// Client and pods send packets with complete checksums and no larger than the MTU, as they arrive from a real network card.
    /// Without this they are partial and segments are large, as between containers on one machine.
    pub fn complete_checksums(mut self) -> Self {
        self.partial_checksums = false;
        self
    }

    /// Client and node are two machines on a wire: checksums are complete in both directions, both ends receive by NAPI with
    /// GRO, the client in a kernel thread of its own. A plain veth delivers inside the sender's system call, answers included,
    /// and the sender misses some of them: an ICMPv6 error about a SYN that comes before `connect` has released its socket is
    /// lost (`TcpExtLockDroppedIcmps`), and the refusal takes a second. (Between pods of one node that is how it really is.)
    pub fn over_a_wire(mut self) -> Self {
        self.wire = true;
        self.complete_checksums()
    }

    /// Switches GRO off at client, pods and router. It is on unless told, because a veth without GRO and without an XDP program of its own
    /// silently drops frames that an XDP program redirects into it, which no network card does.
    pub fn without_gro(mut self) -> Self {
        self.gro = false;
        self
    }

    /// Neighbours are found by ARP and ND when first needed, instead of being there from the start.
    pub fn learn_neighbours(mut self) -> Self {
        self.learn_neighbours = true;
        self
    }

    /// The MTU of the client's link: to the node, or to the router.
    pub fn outward_mtu(mut self, bytes: u32) -> Self {
        self.outward_mtu = bytes;
        self
    }

    /// The router forwards no packet that is larger, either way, as before a tunnel that neither client nor nodes know of. They
    /// have to learn it by ICMP: their own links take 1500.
    pub fn way_mtu(mut self, bytes: u32) -> Self {
        self.way_mtu = Some(bytes);
        self
    }

    /// The MTU between node and pods.
    pub fn pod_mtu(mut self, bytes: u32) -> Self {
        self.pod_mtu = bytes;
        self
    }

    /// The node's `rp_filter`: 0 (unless told), 1 strict (as Calico sets it), 2 loose (many distributions).
    pub fn rp_filter(mut self, mode: u8) -> Self {
        self.rp_filter = mode;
        self
    }

    /// Builds it: some 50 ms.
    pub fn build(self) -> Result<Lab> {
        let backends = u32::from(self.backends) * u32::from(self.nodes - self.balancers);
        if backends == 0 || backends > u32::from(plan::BACKENDS_MAX) {
            bail!(
                "a lab has 1 to {} backends (their addresses end in 11 to 250), not {backends}",
                plan::BACKENDS_MAX,
            );
        }
        if self.way_mtu.is_some() && self.nodes == 1 {
            bail!("with one node there is no router whose way could be narrow: outward_mtu() is the client's link");
        }
        Lab::build(&self)
    }
}
