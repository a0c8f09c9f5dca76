//! Into a tunnel: whether a packet fits, and what its sender is told if not.
//!
//! | packet | fits | does not fit |
//! |---|---|---|
//! | the first of a flow | goes in a tunnel, and so do all that follow | the flow is masqueraded |
//! | a later one of TCP, or one that must not be cut | goes | its sender is told (RFC 1191, RFC 8201) |
//! | a later one of UDP that may be cut (IPv4) | goes | the flow is masqueraded from now on |

use super::{GUE_PORT, TunnelFamily, overhead, receive::may_be};
use crate::{
    datapath::{
        header::{IcmpHead, Tcp, Udp},
        open::report_refusal,
        packet::Packet,
        path::{Opens, PathFamily, dropped},
        select::flow_hash,
        world::{Tables, World},
    },
    layout::{Address, Desk, DropReason, NodeFlags, Port, Proto, limits::PATH_MTU_NS},
};

/// What becomes of a packet that is to go in a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// It fits: the desk's `rewrite` has the tunnel's addresses and ports, its `way` the device.
    Fits,
    /// It doesn't, and this flow is not to go in tunnels any more.
    Otherwise,
    /// It doesn't, and its sender is to be told that only so many octets do. Counted and reported already.
    TooBig(u16),
    /// Counted and reported already.
    Drop(DropReason),
}

impl Fit {
    const TOO_BIG: u32 = 1 << 16;
    const DROP: u32 = 2 << 16;

    /// As a number, for the way out of a kernel function.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::Fits => 0,
            Self::Otherwise => 1,
            Self::TooBig(mtu) => Self::TOO_BIG + mtu as u32,
            Self::Drop(reason) => Self::DROP + reason as u32,
        }
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Fits,
            1 => Self::Otherwise,
            _ if code < Self::DROP => Self::TooBig(code as u16),
            _ => match DropReason::from_number(code as u16) {
                Some(reason) => Self::Drop(reason),
                None => Self::Otherwise,
            },
        }
    }
}

/// Whether a tunnel leads to the backend that was chosen for the desk's flow, whose node becomes the desk's `rewrite.dst`. Nodes' own
/// connections don't go in one: the answer would be on the client's node already, and never leave it.
#[inline(always)]
pub(in crate::datapath) fn leads<F: PathFamily, W: Tables<F>>(world: &W, desk: &mut Desk<F::Addr>) -> bool {
    match world.backend(desk.opening.backend) {
        Some(backend) => backend.node.copy_to(&mut desk.rewrite.dst),
        None => return false,
    }
    world.peer(&desk.rewrite.dst).is_some() && world.peer(&desk.old.src).is_none()
}

/// The desk's `new` becomes what [`FlowFlags::TUNNELS`](crate::layout::FlowFlags::TUNNELS) says, instead of the tuple towards the backend.
#[inline(always)]
pub(in crate::datapath) fn go<A: Address>(desk: &mut Desk<A>) {
    desk.new.dst.copy_to(&mut desk.new.src);
    desk.new.sport.octets = desk.new.dport.octets;
    desk.rewrite.dst.copy_to(&mut desk.new.dst);
    desk.new.dport.octets = desk.old.dport.octets;
}

/// Lays out the tunnel's packet for the desk's `old` tuple to the node that is its `rewrite.dst`: the rest of `rewrite` becomes its source
/// and ports. The source port spreads flows over queues and equal paths, and is the same for all packets of one.
#[inline(always)]
pub(in crate::datapath) fn lay_out<F: PathFamily, W: Tables<F>>(world: &W, desk: &mut Desk<F::Addr>) -> bool {
    let Some(node) = world.node() else { return false };
    let hash = flow_hash(&desk.old);
    node.own.copy_to(&mut desk.rewrite.src);
    desk.rewrite.sport = Port::new(0xc000 | (hash >> 18) as u16);
    desk.rewrite.dport = if node.flags.has(NodeFlags::GUE) {
        GUE_PORT
    } else {
        Port::default()
    };
    (desk.rewrite.address_delta, desk.rewrite.port_delta) = (0, 0);
    node.own.is_some()
}

/// How large a packet may be that goes in the desk's tunnel through a link of this MTU.
#[inline(always)]
pub(in crate::datapath) fn room<F: PathFamily, W: World + Tables<F>>(world: &W, desk: &Desk<F::Addr>, mtu: u16) -> u16 {
    let mut mtu = u32::from(mtu);
    if let Some(peer) = world.peer(&desk.rewrite.dst) {
        let (told, told_ns) = (peer.mtu, peer.told_ns);
        if told != 0 && told < mtu && world.now_ns().wrapping_sub(told_ns) < PATH_MTU_NS {
            mtu = told;
        }
    }
    let overhead = overhead::<F>(desk.rewrite.dport) as u32;
    if mtu > overhead { (mtu - overhead) as u16 } else { 0 }
}

/// Whether the packet of the desk's `old` tuple fits into a tunnel to the node that is its `rewrite.dst`; `is_first` if it opens its flow.
#[inline(always)]
pub fn fit<F: PathFamily, P: Packet, W: Opens<F>>(packet: &mut P, world: &W, is_first: bool) -> Fit {
    let is_tcp = {
        let Some(mut desk) = world.desk() else {
            return Fit::Otherwise;
        };
        let desk = &mut *desk;
        if is_first && !leads::<F, W>(world, desk) || !lay_out::<F, W>(world, desk) {
            return Fit::Otherwise;
        }
        if !is_first {
            desk.opening.service = u32::MAX;
        }
        desk.old.proto == Proto::TCP
    };
    if !world.path() {
        return if is_first || !is_tcp {
            Fit::Otherwise
        } else {
            // A route may come back, and the connection with it.
            dropped::<F, W>(world, DropReason::TunnelNoRoute);
            Fit::Drop(DropReason::TunnelNoRoute)
        };
    }
    let room = match world.desk() {
        Some(desk) => room::<F, W>(world, &desk, desk.way.mtu),
        None => 0,
    };
    if size::<F, P>(packet, is_tcp) <= usize::from(room) {
        if is_first && let Some(mut desk) = world.desk() {
            go(&mut *desk);
        }
        return Fit::Fits;
    }
    if is_first || !is_tcp && F::may_be_cut(packet) {
        return Fit::Otherwise;
    }
    if report_refusal::<F, W>(world, DropReason::TunnelTooBig) {
        Fit::TooBig(room)
    } else {
        Fit::Drop(DropReason::RejectLimited)
    }
}

/// Length of the largest IP packet that the packet is sent as: what the stack has put together is cut again. More than any if it can't be
/// told: the compiler makes of an option a comparison with what was never set, which the kernel refuses.
#[inline(always)]
fn size<F: TunnelFamily, P: Packet>(packet: &P, is_tcp: bool) -> usize {
    let payload = packet.segment_payload();
    if payload == 0 {
        return match F::ip_len(packet, P::LINK_LEN) {
            Some(whole) => whole,
            None => usize::MAX,
        };
    }
    let headers = if is_tcp {
        match packet.header::<Tcp>(P::LINK_LEN + F::HEADER_LEN) {
            Some(tcp) => usize::from(tcp.offset[0] >> 4) * 4,
            None => return usize::MAX,
        }
    } else {
        size_of::<Udp>()
    };
    F::HEADER_LEN + headers + payload
}

/// What a router says of a tunnel of ours (RFC 1191 §4, RFC 4443 §3.2): how much fits on the way to another node. Remembered with the
/// node, and asked for by every packet that is to go there.
#[inline(always)]
pub(in crate::datapath) fn hear<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &P, world: &W) -> Option<()> {
    let icmp = F::icmp_at(packet)?;
    let head = packet.header::<IcmpHead>(icmp)?;
    let mtu = F::told_mtu(head)?;
    let quoted = icmp + size_of::<IcmpHead>();
    if !may_be::<F, P>(packet, quoted) {
        return None;
    }
    let mut desk = world.desk()?;
    let desk = &mut *desk;
    F::copy_addresses(packet, quoted, &mut desk.new.src, &mut desk.new.dst)?;
    if world.node()?.own != desk.new.src {
        return None;
    }
    let now_ns = world.now_ns();
    let mut peer = world.peer(&desk.new.dst)?;
    peer.mtu = if mtu < F::MTU_MIN { F::MTU_MIN } else { mtu };
    peer.told_ns = now_ns;
    Some(())
}
