//! Out of a tunnel: from whom it is taken, what may be inside, and which backend gets it.
//!
//! ```text
//! to an address of this host, IP in IP or GUE?      no  -> not ours
//! what is inside is for a Service?                  no  -> not ours: another tunnel's
//! from another node of the cluster?                 no  -> not ours, counted
//! a whole packet, no other tunnel, from a client?   no  -> dropped
//! taken out. A flow? Else a backend of this node is chosen for it, and its flow is opened
//! ```

use super::{GUE_PORT, TunnelFamily};
use crate::{
    datapath::{
        choose::Chosen,
        error::Quoted,
        header::Udp,
        open::Opened,
        packet::Packet,
        parse::pull_headers,
        path::{Errors, PathFamily, dropped},
        search::{Step, step},
        verdict::{Hook, Verdict},
        world::{Tables, World},
    },
    layout::{Address, AddressFlags, Counter, DropReason, FlowFlags, Port, Proto, Stage, Tunnelled, V4, V6},
};

/// What came of a packet that may be one of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is none of ours, and is as it came.
    NotOurs,
    /// It is what was inside, and goes on like any other: its flow is there.
    Out,
    /// It is what was inside, and nothing more is to be done with it but this.
    Done(Verdict),
}

impl Taken {
    const DROP: u32 = 0x100;
    const REFUSE: u32 = 0x200;

    /// As a number, for the way out of a kernel function.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotOurs => 0,
            Self::Out => 1,
            Self::Done(Verdict::Drop(reason)) => Self::DROP + reason as u32,
            Self::Done(Verdict::Refuse) => Self::REFUSE,
            Self::Done(_) => 2,
        }
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::NotOurs,
            1 => Self::Out,
            2 => Self::Done(Verdict::Pass),
            _ if code >= Self::REFUSE => Self::Done(Verdict::Refuse),
            _ => match DropReason::from_number((code - Self::DROP) as u16) {
                Some(reason) => Self::Done(Verdict::Drop(reason)),
                None => Self::NotOurs,
            },
        }
    }
}

/// Whether the IP packet at `at` may be one of a tunnel, by its protocol and port alone. Asked of every packet that arrives.
#[inline(always)]
pub(in crate::datapath) fn may_be<F: TunnelFamily, P: Packet>(packet: &P, at: usize) -> bool {
    match F::plain_proto(packet, at) {
        Some(proto) if proto == F::INSIDE => true,
        Some(Proto::UDP) => packet
            .header::<Udp>(at + F::HEADER_LEN)
            .is_some_and(|udp| udp.dst == GUE_PORT.octets),
        _ => false,
    }
}

/// What a packet of a tunnel carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::datapath) enum Carries {
    /// Nothing for us.
    Nothing,
    /// What must not go on, for this reason. Counted and reported already.
    Bad(DropReason),
    /// A packet behind so many octets.
    Behind(usize),
}

/// What is in it, of a packet whose headers lie in place. The desk's `old` becomes the inner addresses.
#[inline(always)]
pub(in crate::datapath) fn look<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &P, world: &W) -> Carries {
    match looked::<F, P, W>(packet, world) {
        Some(Ok(behind)) => Carries::Behind(behind),
        Some(Err(reason)) => {
            end::<F, W>(world, reason);
            Carries::Bad(reason)
        }
        None => Carries::Nothing,
    }
}

#[inline(always)]
fn looked<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &P, world: &W) -> Option<Result<usize, DropReason>> {
    let at = P::LINK_LEN;
    let outer_len = F::ip_len(packet, at)?;
    let behind = if F::plain_proto(packet, at)? == F::INSIDE {
        F::HEADER_LEN
    } else {
        F::HEADER_LEN + size_of::<Udp>()
    };
    let mut desk = world.desk()?;
    let desk = &mut *desk;
    F::copy_addresses(packet, at, &mut desk.new.src, &mut desk.new.dst)?;
    F::copy_addresses(packet, at + behind, &mut desk.old.src, &mut desk.old.dst)?;
    // One after the other: of all at once the compiler makes arithmetic with pointers, which the kernel refuses.
    if packet.header::<[u8; 4]>(at + behind)?[0] >> 4 != F::NUMBER
        || !is::<F, W>(world, &desk.new.dst, AddressFlags::HOST)
    {
        return None;
    }
    // A service address, or a NodePort of the node that has sent it or of a third.
    let service = AddressFlags::CLUSTER_IP.with(AddressFlags::EXTERNAL);
    if !is::<F, W>(world, &desk.old.dst, service) && world.peer(&desk.old.dst).is_none() {
        return None;
    }
    if world.peer(&desk.new.src).is_none() {
        world.count(Counter::TunnelStrangers);
        return None;
    }
    let proto = F::proto(packet, at + behind).unwrap_or_default();
    desk.old.proto.0 = proto.0;
    desk.old.stage.0 = Stage::ARRIVES.0;
    (desk.old.sport, desk.old.dport) = (Port::default(), Port::default());
    let inner_len = F::ip_len(packet, at + behind).unwrap_or_default();
    if inner_len + behind != outer_len || !packet.reaches(at + outer_len) {
        return Some(Err(DropReason::TunnelMalformed));
    }
    if proto == V4::INSIDE || proto == V6::INSIDE {
        return Some(Err(DropReason::TunnelNested));
    }
    if !F::may_come_from(&desk.old.src) || is::<F, W>(world, &desk.old.src, AddressFlags::HOST) {
        return Some(Err(DropReason::TunnelSpoofed));
    }
    Some(Ok(behind))
}

/// Whether an address is any of these.
#[inline(always)]
fn is<F: PathFamily, W: Tables<F>>(world: &W, address: &F::Addr, any_of: AddressFlags) -> bool {
    match world.address(&address.looked_up()) {
        Some(is) => is.any(any_of),
        None => false,
    }
}

/// Takes a packet out of its tunnel, and opens its flow if it has none. The rest is what is done with every packet.
#[inline(always)]
pub fn take_out<F: PathFamily, P: Packet, W: Errors<F, P>>(packet: &mut P, world: &W) -> Taken {
    if !pull_headers(packet) {
        return Taken::NotOurs;
    }
    let behind = match look::<F, P, W>(packet, world) {
        Carries::Nothing => return Taken::NotOurs,
        Carries::Bad(reason) => return Taken::Done(Verdict::Drop(reason)),
        Carries::Behind(behind) => behind,
    };
    if !F::take_congestion(packet, P::LINK_LEN + behind) {
        return gone::<F, W>(world, DropReason::TunnelMalformed);
    }
    if !packet.unwrap(behind) || !pull_headers(packet) {
        return gone::<F, W>(world, DropReason::RewriteFailed);
    }
    let inside = read::<F, P, W>(packet, world);
    if inside == NO_PORTS {
        // However it was translated back, the stack goes on with it: into another tunnel it does not go.
        return if F::is_icmp(packet) && matches!(world.error(packet, Hook::Ingress), Quoted::Known(_)) {
            Taken::Done(Verdict::Pass)
        } else {
            gone::<F, W>(world, DropReason::TunnelMalformed)
        };
    }
    let step = step::<F, W>(world, Hook::Ingress);
    let Some(mut desk) = world.desk() else {
        return Taken::Out;
    };
    // Into another tunnel it does not go.
    let tunnels = step == Step::Rewrite && desk.opening.flags.has(FlowFlags::TUNNELS);
    desk.opening.tunnelled = Tunnelled::AS_CHOSEN;
    drop(desk);
    if !tunnels && !matches!(step, Step::Unknown | Step::Left) {
        return Taken::Out;
    }
    let mut chosen = world.choose(Hook::Ingress);
    if matches!(chosen, Chosen::Plain | Chosen::Masqueraded) && choose_here::<F, W>(world) {
        chosen = world.choose(Hook::Ingress);
    }
    if matches!(chosen, Chosen::NotOurs | Chosen::Direct | Chosen::Stray) {
        return gone::<F, W>(world, DropReason::TunnelUnserved);
    }
    match world.open(Hook::Ingress, chosen) {
        Opened::Drop(reason) => Taken::Done(Verdict::Drop(reason)),
        // The sender is told by the first fragment, if at all (RFC 1122 §3.2.2).
        Opened::Refuse(reason) if inside == LATER_FRAGMENT => Taken::Done(Verdict::Drop(reason)),
        Opened::Refuse(_) => Taken::Done(Verdict::Refuse),
        Opened::NotOurs | Opened::Translate | Opened::TranslateAndRoute | Opened::Tunnel => {
            if step == Step::Left {
                world.count(Counter::FlowsReselected);
            }
            Taken::Out
        }
    }
}

/// What came out has ports, or those of its first fragment are known; and whether it is a later one.
const NO_PORTS: u32 = 0;
const WITH_HEADER: u32 = 1;
const LATER_FRAGMENT: u32 = 2;

/// Reads what came out. The desk's `old` becomes its tuple. A function of its own in the kernel, for the room on the stack.
#[inline(never)]
fn read<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &P, world: &W) -> u32 {
    let Some(parsed) = F::parse(packet, world, Stage::ARRIVES) else {
        return NO_PORTS;
    };
    let Some(mut desk) = world.desk() else {
        return NO_PORTS;
    };
    desk.old.take(&parsed.key);
    desk.opening.tcp = parsed.tcp;
    if parsed.has_l4 { WITH_HEADER } else { LATER_FRAGMENT }
}

/// Whether it is to be chosen again, as the backend on the desk is not on this node.
#[inline(always)]
fn choose_here<F: PathFamily, W: Tables<F>>(world: &W) -> bool {
    let Some(mut desk) = world.desk() else { return false };
    let is_here = desk.opening.flags.has(FlowFlags::LOCAL_BACKEND);
    desk.opening.tunnelled = Tunnelled::HERE;
    !is_here
}

/// Counts and reports the end of a packet of the desk's `old` tuple.
#[inline(always)]
fn end<F: PathFamily, W: World + Tables<F>>(world: &W, reason: DropReason) {
    if let Some(mut desk) = world.desk() {
        desk.opening.service = u32::MAX;
    }
    dropped::<F, W>(world, reason);
}

/// The same, as what came of it.
#[inline(always)]
fn gone<F: PathFamily, W: World + Tables<F>>(world: &W, reason: DropReason) -> Taken {
    end::<F, W>(world, reason);
    Taken::Done(Verdict::Drop(reason))
}
