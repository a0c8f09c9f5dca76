//! The socket tier: what becomes of an address that a process dials, and what it is told of who answers. Translated once, where the
//! socket is connected or a datagram is sent; the packets need nothing more.
//!
//! ```text
//! connect (TCP) ──> address, frontend, policy ─> affinity, else hash of the socket's cookie ─> backend ─> the socket's storage
//! connect (UDP) ──> left alone: tc translates each datagram, so that nothing is pinned to an endpoint that is gone
//! sendmsg ────────> known peer whose backend serves? else as for connect
//! recvmsg, getpeername ─> the socket's storage: what was dialled
//! ```
//!
//! Whatever depends on what a socket does not tell is left to the tc tier, which sees the packets: the client's address (source ranges),
//! a source address that the backend couldn't answer, more service addresses than there is room for, masquerading that is asked for.

use core::{
    ops::DerefMut,
    sync::atomic::{Ordering, compiler_fence},
};

use super::{
    affinity,
    choose::{Origin, frontend_at, policy},
    path::report,
    select::socket_hash,
    world::{Tables, World},
};
use crate::layout::{
    Address, AddressFlags, BackendFlags, Choice, Counter, DropReason, Family, FlowKey, FrontendKey, Ip4, Ip6,
    NodeFlags, Port, Proto, ServiceFlags, SocketPeer, SocketPeers, Tunnelled, V4, V6,
    limits::{REFRESH_NS, SOCKET_PEER_IDLE_NS},
};

/// What is asked of the socket itself.
pub trait Socket {
    /// A number that no other socket has (`bpf_get_socket_cookie`).
    fn cookie(&self) -> u64;
    /// The cookie of its network namespace.
    fn namespace(&self) -> u64;
    /// It is one of the host's own, not a pod's.
    fn is_host(&self) -> bool;
    /// It is to be left to the tc tier.
    fn is_left(&self) -> bool;
    /// It is a datagram socket with a peer.
    fn is_connected(&self) -> bool;
    /// What a connection stands for. Must be let go of before it is forgotten.
    fn socket_peer(&self) -> Option<impl DerefMut<Target = SocketPeer>>;
    /// The same, made if there is none; nothing if there is no memory.
    fn peer_or_new(&self) -> Option<impl DerefMut<Target = SocketPeer>>;
    /// Forgets what a connection stood for.
    fn forget_peer(&self);
    /// What an unconnected socket's peers stand for.
    fn peers(&self) -> Option<impl DerefMut<Target = SocketPeers>>;
    /// The same, made if there are none; nothing if there is no memory.
    fn peers_or_new(&self) -> Option<impl DerefMut<Target = SocketPeers>>;
}

/// What the socket tier needs of a family.
pub trait SocketFamily: Family {
    /// As it stands in a socket's storage.
    fn wide(address: &Self::Addr) -> Ip6;
    /// From there.
    fn narrow(address: &Ip6) -> Self::Addr;
    /// Where the unspecified address leads whoever dials it.
    fn loopback() -> Self::Addr;
    /// A network namespace as a client, whose address a socket doesn't tell before it is connected: for session affinity. An
    /// address that no packet has (RFC 1122 §3.2.1.3, RFC 6666).
    fn client_of(namespace: u64) -> Self::Addr;
}

impl SocketFamily for V4 {
    #[inline(always)]
    fn wide(address: &Ip4) -> Ip6 {
        let words = [
            0,
            u64::from_ne_bytes([
                0,
                0,
                0xff,
                0xff,
                address.octets[0],
                address.octets[1],
                address.octets[2],
                address.octets[3],
            ]),
        ];
        Ip6 {
            octets: zerocopy::transmute!(words),
        }
    }

    #[inline(always)]
    fn narrow(address: &Ip6) -> Ip4 {
        let [.., a, b, c, d] = address.octets;
        Ip4 { octets: [a, b, c, d] }
    }

    #[inline(always)]
    fn loopback() -> Ip4 {
        Ip4 { octets: [127, 0, 0, 1] }
    }

    #[inline(always)]
    fn client_of(namespace: u64) -> Ip4 {
        let [.., b, c, d] = namespace.to_be_bytes();
        Ip4 { octets: [0, b, c, d] }
    }
}

impl SocketFamily for V6 {
    #[inline(always)]
    fn wide(address: &Ip6) -> Ip6 {
        *address
    }

    #[inline(always)]
    fn narrow(address: &Ip6) -> Ip6 {
        *address
    }

    #[inline(always)]
    fn loopback() -> Ip6 {
        let words = [0, 1_u64.to_be()];
        Ip6 {
            octets: zerocopy::transmute!(words),
        }
    }

    #[inline(always)]
    fn client_of(namespace: u64) -> Ip6 {
        let words = [0x0100_u64.rotate_right(16).to_be(), namespace.to_be()];
        Ip6 {
            octets: zerocopy::transmute!(words),
        }
    }
}

/// Whether an IPv6 address stands for one of IPv4.
#[must_use]
#[inline(always)]
pub fn is_mapped(address: &Ip6) -> bool {
    let [high, low]: [u64; 2] = zerocopy::transmute!(address.octets);
    high == 0 && low.to_be() >> 32 == 0xffff
}

/// What becomes of an address that was dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialled<A> {
    /// It stays as it is: nobody's, or the tc tier's.
    Alone,
    /// It becomes this one.
    Backend(A, Port),
    /// Nobody listens: `ECONNREFUSED`. Counted and reported already.
    Refused,
}

/// A backend that was chosen.
#[derive(Clone, Copy)]
struct Picked<A> {
    address: A,
    port: Port,
    backend: u32,
    service: u32,
}

/// Why none was.
#[derive(Clone, Copy)]
enum Unpicked {
    Alone,
    /// With the service number, or `u32::MAX`.
    Refused(DropReason, u32),
}

/// A TCP socket is about to connect.
#[inline(always)]
pub fn connect<F: SocketFamily, W: World + Tables<F> + Socket>(
    world: &W,
    dialled: F::Addr,
    port: Port,
) -> Dialled<F::Addr> {
    let dialled = meant::<F>(dialled);
    let turn = world.socket_peer().map_or(0, |peer| peer.turn.wrapping_add(1));
    let picked = if world.is_left() {
        Err(Unpicked::Alone)
    } else {
        pick::<F, W>(world, &dialled, port, Proto::TCP, turn)
    };
    match picked {
        Ok(picked) => {
            let Some(mut peer) = world.peer_or_new() else {
                return Dialled::Alone;
            };
            put::<F>(&mut peer, &dialled, port, &picked, world.now_ns());
            peer.turn = turn;
            drop(peer);
            world.count(Counter::SocketConnects);
            world.count_opened(picked.service, picked.backend);
            Dialled::Backend(picked.address, picked.port)
        }
        Err(unpicked) => {
            // What it was connected to before is of no meaning any more.
            world.forget_peer();
            match unpicked {
                Unpicked::Refused(reason, service) => {
                    let key = FlowKey::new(F::Addr::default(), Port::default(), dialled, port, Proto::TCP);
                    report::<F, W>(world, &key, service, reason);
                    Dialled::Refused
                }
                Unpicked::Alone => Dialled::Alone,
            }
        }
    }
}

/// A UDP socket is about to send a datagram to this address. What is refused is left to the tc tier: its ICMP error is what the process
/// would hear.
#[inline(always)]
pub fn send<F: SocketFamily, W: World + Tables<F> + Socket>(
    world: &W,
    dialled: F::Addr,
    port: Port,
) -> Dialled<F::Addr> {
    // A connected one hears its peer only.
    if world.is_connected() || world.is_left() {
        return Dialled::Alone;
    }
    let dialled = meant::<F>(dialled);
    let wide = F::wide(&dialled);
    let now_ns = world.now_ns();
    let mut turn = 0;
    if let Some(mut peers) = world.peers() {
        let mut index = 0;
        while index < peers.of.len() {
            let peer = &mut peers.of[index];
            if peer.dialled == wide && peer.dialled_port == port {
                if serves::<F, W>(world, peer) {
                    touch(peer, now_ns);
                    return Dialled::Backend(F::narrow(&peer.address), peer.port);
                }
                turn = peer.turn.wrapping_add(1);
                peer.dialled_port = Port::default();
            } else if peer.address == wide && peer.port == port {
                // It talks to a backend directly now, whose answers are its own.
                peer.dialled_port = Port::default();
            }
            index += 1;
        }
    }
    let Ok(picked) = pick::<F, W>(world, &dialled, port, Proto::UDP, turn) else {
        return Dialled::Alone;
    };
    let Some(mut peers) = world.peers_or_new() else {
        return Dialled::Alone;
    };
    let backend = F::wide(&picked.address);
    let mut free = None;
    let mut index = 0;
    while index < peers.of.len() {
        let peer = &peers.of[index];
        let idle = now_ns.saturating_sub(peer.seen_ns) > SOCKET_PEER_IDLE_NS;
        if peer.dialled_port == Port::default() || idle {
            free = Some(index);
        } else if peer.address == backend && peer.port == picked.port {
            // Its answers stand for another service address already.
            return Dialled::Alone;
        }
        index += 1;
    }
    let Some(peer) = free.and_then(|index| peers.of.get_mut(index)) else {
        return Dialled::Alone;
    };
    put::<F>(peer, &dialled, port, &picked, now_ns);
    peer.turn = turn;
    drop(peers);
    world.count(Counter::SocketPeers);
    if turn != 0 {
        world.count(Counter::FlowsReselected);
    }
    world.count_opened(picked.service, picked.backend);
    Dialled::Backend(picked.address, picked.port)
}

/// A datagram came from this address: what the process is to be told instead, if anything.
#[inline(always)]
pub fn received<F: SocketFamily, W: World + Socket>(world: &W, from: F::Addr, port: Port) -> Option<(F::Addr, Port)> {
    if world.is_connected() {
        return None;
    }
    let mut peers = world.peers()?;
    let wide = F::wide(&from);
    let mut index = 0;
    while index < peers.of.len() {
        let peer = &mut peers.of[index];
        if peer.address == wide && peer.port == port && peer.dialled_port != Port::default() {
            touch(peer, world.now_ns());
            return Some((F::narrow(&peer.dialled), peer.dialled_port));
        }
        index += 1;
    }
    None
}

/// A process asks whom its connection leads to: what it is to be told instead, if anything.
#[inline(always)]
pub fn peer_name<F: SocketFamily, W: Socket>(world: &W, peer: F::Addr, port: Port) -> Option<(F::Addr, Port)> {
    let known = world.socket_peer()?;
    (known.address == F::wide(&peer) && known.port == port).then(|| (F::narrow(&known.dialled), known.dialled_port))
}

/// A process of the host wants to listen here. Whether a NodePort is in the way, which would take its packets: counted and reported.
#[inline(always)]
pub fn guard<F: SocketFamily, W: World + Tables<F> + Socket>(
    world: &W,
    address: F::Addr,
    port: Port,
    proto: Proto,
) -> bool {
    if port == Port::default() || !world.is_host() {
        return false;
    }
    let node_port = FrontendKey::new(F::Addr::default(), port, proto);
    if world.frontend(&node_port).is_none() || world.defers() {
        return false;
    }
    let is_everywhere = !address.is_some();
    let is_served = || {
        let is = world.address(&address.looked_up());
        is.is_some_and(|is| is.has(AddressFlags::NODE_PORTS))
    };
    if !is_everywhere && !is_served() {
        return false;
    }
    let key = FlowKey::new(F::Addr::default(), Port::default(), address, port, proto);
    report::<F, W>(world, &key, u32::MAX, DropReason::NodePortTaken);
    true
}

/// The address that a process means.
#[inline(always)]
fn meant<F: SocketFamily>(dialled: F::Addr) -> F::Addr {
    if dialled.is_some() { dialled } else { F::loopback() }
}

#[inline(always)]
fn put<F: SocketFamily>(peer: &mut SocketPeer, dialled: &F::Addr, port: Port, picked: &Picked<F::Addr>, now_ns: u64) {
    peer.dialled = F::wide(dialled);
    peer.dialled_port = port;
    peer.address = F::wide(&picked.address);
    peer.port = picked.port;
    peer.backend = picked.backend;
    peer.service = picked.service;
    peer.seen_ns = now_ns;
}

#[inline(always)]
fn touch(peer: &mut SocketPeer, now_ns: u64) {
    if now_ns.saturating_sub(peer.seen_ns) > REFRESH_NS {
        peer.seen_ns = now_ns;
    }
}

/// Whether the backend number still stands for the peer's backend, and it serves.
#[inline(always)]
fn serves<F: SocketFamily, W: Tables<F>>(world: &W, peer: &SocketPeer) -> bool {
    match world.backend(peer.backend) {
        Some(backend) => {
            backend.serves(peer.service) && F::wide(&backend.address) == peer.address && backend.port == peer.port
        }
        None => false,
    }
}

/// Which backend takes a socket: by the rules of [`choose`](super::choose), as far as a socket tells what they ask for.
#[inline(always)]
fn pick<F: SocketFamily, W: World + Tables<F> + Socket>(
    world: &W,
    dialled: &F::Addr,
    port: Port,
    proto: Proto,
    turn: u32,
) -> Result<Picked<F::Addr>, Unpicked> {
    const ALONE: Unpicked = Unpicked::Alone;
    let is = world.address(&dialled.looked_up()).ok_or(ALONE)?;
    if world.defers() {
        return Err(ALONE);
    }
    // A pod's loopback is its own.
    if is.has(AddressFlags::LOOPBACK) && !world.is_host() {
        return Err(ALONE);
    }
    let Some(frontend) = frontend_at::<F, W>(world, is, dialled, port, proto) else {
        let is_unknown = is.has(AddressFlags::CLUSTER_IP) && !is.has(AddressFlags::HOST);
        return Err(if is_unknown {
            Unpicked::Refused(DropReason::UnknownPort, u32::MAX)
        } else {
            ALONE
        });
    };
    let number = frontend.number();
    let service = world.service(number).ok_or(ALONE)?;
    let node = world.node().ok_or(ALONE)?;
    let flags = service.rules.flags;
    let is_filtered = frontend.is_filtered() && service.sets.sources != 0;
    let is_masqueraded = node.flags.has(NodeFlags::MASQUERADE_ALL) && !world.is_host();
    if flags.has(ServiceFlags::NO_SOCKETS) || is_filtered || is_masqueraded {
        return Err(ALONE);
    }
    let detected = node
        .flags
        .any(NodeFlags::PODS_BY_ADDRESS.with(NodeFlags::PODS_BY_DEVICE));
    let origin = Origin {
        host: world.is_host(),
        pod: detected && !world.is_host(),
        detected,
    };
    let policy = policy(&service, frontend.is_external(), origin, false, Tunnelled::NOT);
    // Rules first, then the list that they ask for: the agent publishes them the other way round.
    compiler_fence(Ordering::SeqCst);
    let scope = if policy.local { service.local } else { service.cluster };
    let (base, len) = match scope.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Reject => return Err(Unpicked::Refused(DropReason::NoEndpoint, number)),
        // Dropped in silence, which a socket can't: tc does.
        Choice::Drop | Choice::Absent => return Err(ALONE),
    };
    let sticks = service.rules.affinity_s != 0;
    let client = F::client_of(world.namespace());
    let now_ns = world.now_ns();
    let kept = if sticks {
        affinity::kept_by::<F, W>(world, &client, now_ns, &service, base, len)
    } else {
        None
    };
    let place = match kept {
        Some(place) => place,
        None => {
            let hash = socket_hash(world.cookie(), number, turn);
            world.place(scope, policy.by_table, hash).ok_or(ALONE)?
        }
    };
    let chosen = world.slot(place).ok_or(ALONE)?;
    let backend = world.backend(chosen).ok_or(ALONE)?;
    if !backend.flags.has(BackendFlags::ACTIVE) {
        return Err(ALONE);
    }
    if sticks {
        affinity::keep_by::<F, W>(world, &client, now_ns, service.sets.affinity, place, chosen);
        if kept.is_some() {
            world.count(Counter::AffinityKept);
        }
    }
    Ok(Picked {
        address: backend.address,
        port: backend.port,
        backend: chosen,
        service: number,
    })
}
