//! Which backend takes a packet that has no flow, and with which source address. What is made of the choice is up to `open`.
//!
//! ```text
//! address table ──> nobody's: not ours; dropped where it would leave, if it is inside a ServiceCIDR
//!       │
//!   frontends ────> other port of a ClusterIP: refused
//!       │
//! source ranges ──> dropped
//!       │
//! traffic policy ─> list of the cluster, or of this node ─> empty: refused or dropped
//!       │
//!   affinity, else hash of the tuple, through a Maglev table if there is one ─> backend
//!       │
//! masquerade, tunnel? ──> `open`
//! ```
//!
//! While new flows are left to netfilter (`sluice run --shadow`, `sluice retire`) the choice is made, counted, and not carried out.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    affinity,
    open::End,
    path::{Opens, PathFamily},
    select::flow_hash,
    verdict::Hook,
    world::Tables,
};
use crate::layout::{
    Address, AddressFlags, Backend, BackendFlags, Choice, Counter, Desk, DeviceFlags, DropReason, Family, FlowFlags,
    Frontend, FrontendKey, Node, NodeFlags, Port, Proto, SERVICE_RANGES, Service, ServiceFlags, Tunnelled,
};

/// What choosing has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chosen {
    /// No frontend.
    NotOurs,
    /// No frontend, but an endpoint of a Service.
    Direct,
    /// A port of an external address that no Service serves: not ours, unless it would go back where it came from.
    Stray,
    /// A backend, which sees the client's address.
    Plain,
    /// A backend, which sees an address of this node.
    Masqueraded,
    /// A backend on another node, which answers the client itself if a tunnel leads there.
    Tunnelled,
    /// A backend on another machine, to which XDP sends, and which sees an address of this node. What XDP makes of
    /// [`Self::Masqueraded`] where it can.
    Whole,
    /// A backend, but new flows are left to netfilter.
    Deferred,
    /// None.
    End(End),
}

impl Chosen {
    /// As a number, for the way out of a kernel function.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotOurs => 0,
            Self::Stray => 1,
            Self::Plain => 2,
            Self::Masqueraded => 3,
            Self::Direct => 4,
            Self::Tunnelled => 5,
            Self::Whole => 6,
            Self::Deferred => 7,
            Self::End(end) => end.code(),
        }
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::NotOurs,
            1 => Self::Stray,
            2 => Self::Plain,
            3 => Self::Masqueraded,
            4 => Self::Direct,
            5 => Self::Tunnelled,
            6 => Self::Whole,
            7 => Self::Deferred,
            _ => Self::End(End::from_code(code)),
        }
    }
}

const SERVICE_ADDRESS: AddressFlags = AddressFlags::CLUSTER_IP.with(AddressFlags::EXTERNAL);

/// The frontend at an address that is this, and a port.
#[inline(always)]
pub(super) fn frontend_at<F: Family, W: Tables<F>>(
    world: &W,
    is: AddressFlags,
    address: &F::Addr,
    port: Port,
    proto: Proto,
) -> Option<Frontend> {
    if is.any(SERVICE_ADDRESS)
        && let Some(frontend) = world.frontend(&FrontendKey::new(*address, port, proto))
    {
        return Some(frontend);
    }
    if is.has(AddressFlags::NODE_PORTS) {
        return world.frontend(&FrontendKey::new(F::Addr::default(), port, proto));
    }
    None
}

/// The frontend that a packet is for, or what else becomes of it.
#[inline(always)]
fn frontend<F: PathFamily, W: Opens<F>>(world: &W, desk: &Desk<F::Addr>, hook: Hook) -> Result<Frontend, Chosen> {
    let (address, port, proto) = (&desk.old.dst, desk.old.dport, desk.old.proto);
    let known = world.address(&address.looked_up());
    let Some(is) = known.or_else(|| node_port_of_another::<F, W>(world, desk)) else {
        return Err(if hook.is_egress() && is_unallocated::<F, W>(world, address) {
            dropped_for(DropReason::UnknownAddress)
        } else {
            Chosen::NotOurs
        });
    };
    let from_device = !hook.is_egress();
    if from_device && is.has(AddressFlags::LOOPBACK) {
        return Err(Chosen::NotOurs);
    }
    if let Some(frontend) = frontend_at::<F, W>(world, is, address, port, proto) {
        return Ok(frontend);
    }
    if from_device && is.has(AddressFlags::ENDPOINT) && !is.any(SERVICE_ADDRESS) {
        return Err(Chosen::Direct);
    }
    if hook == Hook::Xdp {
        return Err(Chosen::NotOurs);
    }
    if is.has(AddressFlags::CLUSTER_IP) && !is.has(AddressFlags::HOST) {
        return Err(Chosen::End(End::Refuse(DropReason::UnknownPort)));
    }
    let stray = from_device && is.has(AddressFlags::EXTERNAL) && !is.has(AddressFlags::HOST);
    Err(if stray { Chosen::Stray } else { Chosen::NotOurs })
}

/// What comes in a tunnel may be for a NodePort of the node that has sent it, or of a third.
#[inline(always)]
fn node_port_of_another<F: PathFamily, W: Opens<F>>(world: &W, desk: &Desk<F::Addr>) -> Option<AddressFlags> {
    (desk.opening.tunnelled != Tunnelled::NOT && world.peer(&desk.old.dst).is_some())
        .then_some(AddressFlags::NODE_PORTS)
}

/// Whether an address is in a ServiceCIDR. Asked where packets leave, about addresses that nobody is known to have: another
/// proxy of this node, which serves what is labelled for it, has translated its own by then.
#[inline(always)]
pub(super) fn is_unallocated<F: Family, W: Tables<F>>(world: &W, address: &F::Addr) -> bool {
    let Some(node) = world.node() else { return false };
    let mut found = false;
    let mut index = 0;
    while index < SERVICE_RANGES {
        found |= node.services[index].contains(address);
        index += 1;
    }
    found
}

/// Where a connection comes from, as far as it matters to policies (kube-proxy-behaviour §3.2, §4.1).
#[derive(Clone, Copy)]
pub struct Origin {
    /// A process in the host's own namespace.
    pub host: bool,
    /// A pod, as the local detector says.
    pub pod: bool,
    /// There is a detector, so that "no pod" means something.
    pub detected: bool,
}

#[inline(always)]
fn origin<F: PathFamily, W: Opens<F>>(world: &W, node: &Node<F::Addr>, client: &F::Addr, hook: Hook) -> Origin {
    let host = hook.is_egress();
    let by_address = node.flags.has(NodeFlags::PODS_BY_ADDRESS);
    let by_device = node.flags.has(NodeFlags::PODS_BY_DEVICE);
    Origin {
        host,
        pod: by_address && node.pods.contains(client)
            || by_device && !host && world.device_is(world.ifindex(), DeviceFlags::PODS),
        detected: by_address || by_device,
    }
}

/// How a client is served.
pub struct Policy {
    /// By the list of this node instead of the cluster's.
    pub local: bool,
    /// The backend sees it with an address of this node.
    pub masquerade: bool,
    /// By the Maglev table of the list, if it has one.
    pub by_table: bool,
    /// In a tunnel, if the backend is on another node that is known.
    pub tunnel: bool,
}

/// How a client from `origin` is served by a Service, by an external frontend or its ClusterIP (kube-proxy-behaviour §3.2, §4.1).
#[must_use]
#[inline(always)]
pub fn policy(service: &Service, external: bool, origin: Origin, masquerade_all: bool, tunnelled: Tunnelled) -> Policy {
    let flags = service.rules.flags;
    if tunnelled != Tunnelled::NOT {
        let local = tunnelled == Tunnelled::HERE && matches!(service.local.choice(), Choice::Slots { .. });
        Policy {
            local,
            masquerade: tunnelled == Tunnelled::HERE && !local,
            by_table: true,
            tunnel: false,
        }
    } else if external {
        let keeps_source = flags.has(ServiceFlags::EXTERNAL_LOCAL);
        Policy {
            local: keeps_source && !origin.host && !origin.pod,
            masquerade: !keeps_source || origin.host,
            by_table: true,
            tunnel: flags.has(ServiceFlags::DSR) && !keeps_source && !origin.host && !origin.pod,
        }
    } else {
        Policy {
            local: flags.has(ServiceFlags::INTERNAL_LOCAL),
            masquerade: masquerade_all || origin.detected && !origin.pod,
            by_table: flags.has(ServiceFlags::INTERNAL_MAGLEV),
            tunnel: false,
        }
    }
}

/// A packet without a flow, of the desk's `old` tuple: which backend takes it? The desk's `new` becomes the tuple towards
/// it, `opening` what the entries have in common.
#[inline(always)]
pub fn choose<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook) -> Chosen {
    let chosen = match backend::<F, W>(world, hook) {
        Ok(chosen) | Err(chosen) => chosen,
    };
    if matches!(chosen, Chosen::NotOurs | Chosen::Direct) || !world.defers() {
        return chosen;
    }
    deferred::<F, W>(world, hook, chosen)
}

/// What becomes of a choice while new flows are left to netfilter. Not of what another node has sent in a tunnel: that one has taken over,
/// and netfilter would answer from here for an address that is there.
#[inline(always)]
fn deferred<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook, chosen: Chosen) -> Chosen {
    let (is_tunnelled, service) = match world.desk() {
        Some(desk) => (desk.opening.tunnelled != Tunnelled::NOT, desk.opening.service),
        None => return Chosen::NotOurs,
    };
    if is_tunnelled {
        return chosen;
    }
    match chosen {
        // Netfilter has translated what processes of this host send before it comes here.
        Chosen::Plain | Chosen::Masqueraded | Chosen::Tunnelled if !hook.is_egress() => Chosen::Deferred,
        Chosen::End(_) if hook != Hook::Xdp && service != u32::MAX => {
            world.count_refused(service);
            Chosen::NotOurs
        }
        _ => Chosen::NotOurs,
    }
}

#[inline(always)]
fn backend<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook) -> Result<Chosen, Chosen> {
    const FAULT: Chosen = dropped_for(DropReason::BackendMissing);
    let mut desk = world.desk().ok_or(FAULT)?;
    let desk = &mut *desk;
    desk.opening.service = u32::MAX;
    desk.opening.now_ns = world.now_ns();
    let frontend = frontend::<F, W>(world, desk, hook)?;
    let number = frontend.number();
    desk.opening.service = number;
    let service = world.service(number).ok_or(FAULT)?;
    let node = world.node().ok_or(FAULT)?;
    let sources = service.sets.sources;
    if frontend.is_filtered() && sources != 0 && !world.allows(sources, &desk.old.src) {
        return Err(dropped_for(DropReason::SourceDenied));
    }
    let origin = origin::<F, W>(world, &node, &desk.old.src, hook);
    let all = node.flags.has(NodeFlags::MASQUERADE_ALL);
    let tunnelled = desk.opening.tunnelled;
    let policy = policy(&service, frontend.is_external(), origin, all, tunnelled);
    // Rules first, then the list that they ask for: the agent publishes them the other way round.
    compiler_fence(Ordering::SeqCst);
    let scope = if policy.local { service.local } else { service.cluster };
    let (base, len) = match scope.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Absent => return Ok(Chosen::NotOurs),
        _ if hook == Hook::Xdp => return Ok(Chosen::NotOurs),
        Choice::Drop => return Err(dropped_for(DropReason::NoLocalEndpoint)),
        Choice::Reject => return Err(Chosen::End(End::Refuse(DropReason::NoEndpoint))),
    };
    let sticks = service.rules.affinity_s != 0;
    let kept = if sticks {
        affinity::kept::<F, W>(world, desk, &service, base, len)
    } else {
        None
    };
    let place = match kept {
        Some(place) => place,
        None => world.place(scope, policy.by_table, flow_hash(&desk.old)).ok_or(FAULT)?,
    };
    let chosen = world.slot(place).ok_or(FAULT)?;
    let backend = world.backend(chosen).ok_or(FAULT)?;
    if !backend.flags.has(BackendFlags::ACTIVE) {
        return Err(FAULT);
    }
    if sticks {
        affinity::keep::<F, W>(world, desk, service.sets.affinity, place, chosen);
        if kept.is_some() {
            world.count(Counter::AffinityKept);
        }
    }
    desk.new.src = desk.old.src;
    desk.new.dst = backend.address;
    desk.new.sport = desk.old.sport;
    desk.new.dport = backend.port;
    desk.new.proto = desk.old.proto;
    desk.opening.backend = chosen;
    desk.opening.flags = flow_flags(hook, &backend);
    // A pod that reaches itself must not see its own address as the client's (§4.1 rule 1).
    let hairpin = !origin.host && desk.old.src == desk.new.dst;
    if tunnelled != Tunnelled::NOT {
        desk.opening.flags = desk.opening.flags.with(FlowFlags::TUNNELLED);
    }
    if policy.tunnel && !backend.flags.has(BackendFlags::LOCAL) {
        return Ok(Chosen::Tunnelled);
    }
    Ok(if policy.masquerade || hairpin {
        Chosen::Masqueraded
    } else {
        Chosen::Plain
    })
}

const fn dropped_for(reason: DropReason) -> Chosen {
    Chosen::End(End::Drop(reason))
}

/// Flags of the client-to-backend entry.
#[inline(always)]
fn flow_flags<A: Address>(hook: Hook, backend: &Backend<A>) -> FlowFlags {
    let mut flags = FlowFlags::SEEN;
    if backend.flags.has(BackendFlags::LOCAL) {
        flags = flags.with(FlowFlags::LOCAL_BACKEND);
    }
    if hook.is_egress() {
        flags = flags.with(FlowFlags::HOST_CLIENT);
    }
    flags
}
