//! The way of a packet through a hook: parse, follow its flow or open one, rewrite. Start reading here.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    checksum,
    header::{Tcp, Udp},
    packet::Packet,
    parse::{Network, ParseFamily, Parsed, network},
    reject::{RejectFamily, turn_into_port_unreachable},
    rewrite::{Rewrite, RewriteFamily, address_sum, apply},
    select::{flow_hash, pick},
    track::{Opening, counterpart, open_pair},
    world::{Bucket, Insert, Tables, World},
};
use crate::layout::{
    Address, Backend, BackendFlags, Choice, Counter, DropReason, Event, FlowFlags, FlowKey, FragmentKey, FragmentPorts,
    FrontendKey, Proto, TcpSeen,
    V4, V6,
    limits::{EVENTS_PER_SECOND_MAX, REFRESH_NS, REJECTS_PER_SECOND_MAX},
};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On its way, translated or untouched.
    Pass,
    /// Translated, and sent by the host itself: it needs a route to its new destination.
    Route,
    /// It has become an answer to its sender.
    Answer,
    /// Gone, counted and reported.
    Drop(DropReason),
}

/// Where a packet is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// In the driver of an outward device.
    Xdp,
    /// Where packets arrive from a device.
    Ingress,
    /// Where packets that the host forwards leave through a device.
    EgressForwarded,
    /// Where packets that a process in the host's own namespace has sent leave through a device.
    EgressLocal,
}

impl Hook {
    #[inline(always)]
    const fn is_egress(self) -> bool {
        matches!(self, Self::EgressForwarded | Self::EgressLocal)
    }
}

/// What the core needs of a family.
trait PathFamily: ParseFamily + RewriteFamily + RejectFamily {}
impl<F: ParseFamily + RewriteFamily + RejectFamily> PathFamily for F {}

/// The tc datapath.
#[inline(always)]
pub fn tc<P: Packet, W: World + Tables<V4> + Tables<V6>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    match network(packet) {
        Network::V4 => translate::<V4, P, W>(packet, world, hook),
        Network::V6 => translate::<V6, P, W>(packet, world, hook),
        Network::Other => Verdict::Pass,
    }
}

/// The XDP datapath: packets that it can finish are translated, all others go up untouched, and tc finishes them.
#[inline(always)]
pub fn xdp<P: Packet, W: World + Tables<V4> + Tables<V6>>(packet: &mut P, world: &W) -> Verdict {
    tc(packet, world, Hook::Xdp)
}

/// What the flow table says of a packet.
enum Followed<A> {
    /// Do this; the flags are the entry's.
    Rewrite(Rewrite<A>, FlowFlags),
    /// The entry is for another hook.
    Elsewhere,
    /// No entry, or one that must be made anew.
    Unknown,
}

#[inline(always)]
fn translate<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    let Some(parsed) = F::parse(packet, world) else { return Verdict::Pass };
    if hook == Hook::Xdp && (parsed.fragment.is_some() || checksum_may_be_partial(packet, &parsed)) {
        return Verdict::Pass;
    }
    match follow::<F, W>(world, &parsed, hook) {
        Followed::Rewrite(rewrite, flags) => {
            let done = if flags.has(FlowFlags::HOST_CLIENT) && !flags.has(FlowFlags::REPLY) {
                Verdict::Route
            } else {
                Verdict::Pass
            };
            finish::<F, P, W>(packet, world, &parsed, &rewrite, done)
        }
        Followed::Elsewhere => Verdict::Pass,
        // Forwarded packets have passed an ingress hook, which has looked for a frontend.
        Followed::Unknown if hook == Hook::EgressForwarded => Verdict::Pass,
        Followed::Unknown => {
            let mut new = parsed.key;
            match open::<F, W>(world, &parsed, hook, &mut new) {
                Opened::NotOurs => Verdict::Pass,
                Opened::Translate => {
                    finish::<F, P, W>(packet, world, &parsed, &Rewrite::between(&parsed.key, &new), Verdict::Pass)
                }
                Opened::TranslateAndRoute => {
                    finish::<F, P, W>(packet, world, &parsed, &Rewrite::between(&parsed.key, &new), Verdict::Route)
                }
                Opened::Reject => {
                    if turn_into_port_unreachable::<F, P>(packet) {
                        Verdict::Answer
                    } else {
                        Verdict::Drop(DropReason::NoEndpoint)
                    }
                }
                Opened::Drop(reason) => Verdict::Drop(reason),
            }
        }
    }
}

/// An established flow: one look-up says it all.
#[inline(always)]
fn follow<F: PathFamily, W: World + Tables<F>>(world: &W, parsed: &Parsed<F::Addr>, hook: Hook) -> Followed<F::Addr> {
    struct Found<A> {
        rewrite: Rewrite<A>,
        flags: FlowFlags,
        backend: u32,
        tcp_before: TcpSeen,
        stale: bool,
    }
    let key = &parsed.key;
    let now_ns = world.now_ns();
    let egress = hook.is_egress();
    let found = world.flow(key, |flow| {
        let mut found = Found {
            rewrite: Rewrite {
                src: flow.src,
                dst: flow.dst,
                sport: flow.sport,
                dport: flow.dport,
                address_delta: flow.address_delta,
                port_delta: flow.port_delta,
            },
            flags: flow.flags,
            backend: flow.backend,
            tcp_before: flow.tcp,
            stale: false,
        };
        // The kernel may recycle an LRU entry while it is read, writing it from the front: `check` comes first there
        // and last here, so a mixture of two entries is noticed.
        compiler_fence(Ordering::SeqCst);
        if flow.check != key.check() {
            return None;
        }
        if flow.flags.has(FlowFlags::EGRESS) != egress
            || hook == Hook::Xdp && !(flow.flags.has(FlowFlags::LOCAL_BACKEND) && !flow.flags.has(FlowFlags::REPLY))
        {
            return Some(Err(()));
        }
        if now_ns.wrapping_sub(flow.seen_ns) > REFRESH_NS {
            flow.seen_ns = now_ns;
            found.stale = true;
        }
        if !flow.flags.has(FlowFlags::SEEN) {
            flow.flags = flow.flags.with(FlowFlags::SEEN);
        }
        let tcp = flow.tcp.with(parsed.tcp);
        if tcp != flow.tcp {
            flow.tcp = tcp;
        }
        Some(Ok(found))
    });
    let found = match found {
        Some(Some(Ok(found))) => found,
        Some(Some(Err(()))) => return Followed::Elsewhere,
        Some(None) | None => return Followed::Unknown,
    };
    let to_backend = !found.flags.has(FlowFlags::REPLY) && !found.flags.has(FlowFlags::MASQUERADE);
    if to_backend && key.proto == Proto::UDP {
        // UDP flows leave an endpoint that no longer serves at the next datagram (kube-proxy-behaviour §5.2).
        if !serves::<F, W>(world, found.backend, &found.rewrite) {
            world.count(Counter::FlowsReselected);
            return Followed::Unknown;
        }
    } else if to_backend && parsed.tcp.has(TcpSeen::SYN) && !parsed.tcp.has(TcpSeen::ACK) {
        // A new connection with the tuple of an old one; a retransmitted SYN keeps its backend.
        if is_closed(found.tcp_before)
            || counterpart_is_closed::<F, W>(world, key, &found.rewrite)
            || !serves::<F, W>(world, found.backend, &found.rewrite)
        {
            return Followed::Unknown;
        }
    }
    if found.stale {
        heal::<F, W>(world, key);
    }
    Followed::Rewrite(found.rewrite, found.flags)
}

#[inline(always)]
const fn is_closed(tcp: TcpSeen) -> bool {
    tcp.any(TcpSeen::FIN.with(TcpSeen::RST))
}

#[inline(always)]
fn counterpart_is_closed<F: PathFamily, W: Tables<F>>(
    world: &W,
    key: &FlowKey<F::Addr>,
    rewrite: &Rewrite<F::Addr>,
) -> bool {
    let other = FlowKey::new(rewrite.dst, rewrite.dport, rewrite.src, rewrite.sport, key.proto);
    world.flow(&other, |flow| is_closed(flow.tcp)).unwrap_or(true)
}

/// Whether the backend number still stands for the backend that the flow goes to.
#[inline(always)]
fn serves<F: PathFamily, W: Tables<F>>(world: &W, number: u32, rewrite: &Rewrite<F::Addr>) -> bool {
    match world.backend(number) {
        Some(backend) => {
            backend.flags.has(BackendFlags::ACTIVE) && backend.address == rewrite.dst && backend.port == rewrite.dport
        }
        None => false,
    }
}

/// Once a second per flow: keeps the opposite entry from being evicted, and writes it anew if it was.
#[inline(always)]
fn heal<F: PathFamily, W: World + Tables<F>>(world: &W, key: &FlowKey<F::Addr>) {
    let Some(flow) = world.flow(key, |flow| *flow) else { return };
    let (other_key, other) = counterpart(key, &flow);
    if world.flow(&other_key, |_| ()).is_none() && world.insert_flow(&other_key, &other, Insert::New).is_ok() {
        world.count(Counter::FlowsHealed);
    }
}

/// What becomes of the first packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    NotOurs,
    Translate,
    TranslateAndRoute,
    Reject,
    Drop(DropReason),
}

/// A packet without a flow: is it for a frontend, and which backend takes it? `new` becomes the tuple to write.
#[inline(never)]
fn open<F: PathFamily, W: World + Tables<F>>(
    world: &W,
    parsed: &Parsed<F::Addr>,
    hook: Hook,
    new: &mut FlowKey<F::Addr>,
) -> Opened {
    let key = &parsed.key;
    let Some(number) = world.frontend(&FrontendKey::new(key.dst, key.dport, key.proto)) else { return Opened::NotOurs };
    match choose::<F, W>(world, parsed, hook, number, new) {
        Ok(opened) => opened,
        Err(reason) => {
            dropped::<F, W>(world, key, number, reason);
            if reason == DropReason::NoEndpoint { Opened::Reject } else { Opened::Drop(reason) }
        }
    }
}

#[inline(always)]
fn choose<F: PathFamily, W: World + Tables<F>>(
    world: &W,
    parsed: &Parsed<F::Addr>,
    hook: Hook,
    number: u32,
    new: &mut FlowKey<F::Addr>,
) -> Result<Opened, DropReason> {
    let key = &parsed.key;
    let now_ns = world.now_ns();
    let service = world.service(number).ok_or(DropReason::BackendMissing)?;
    let (base, len) = match service.internal.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Absent => return Ok(Opened::NotOurs),
        _ if hook == Hook::Xdp => return Ok(Opened::NotOurs),
        Choice::Drop => return Err(DropReason::NoLocalEndpoint),
        Choice::Reject => {
            let allowed = world.bucket(Bucket::Reject, |bucket| bucket.take(now_ns, REJECTS_PER_SECOND_MAX));
            return Err(if allowed == Some(true) { DropReason::NoEndpoint } else { DropReason::RejectLimited });
        }
    };
    let slot = base.wrapping_add(pick(flow_hash(key), len));
    let chosen = world.slot(slot).ok_or(DropReason::BackendMissing)?;
    let backend = world.backend(chosen).ok_or(DropReason::BackendMissing)?;
    if !backend.flags.has(BackendFlags::ACTIVE) {
        return Err(DropReason::BackendMissing);
    }
    if hook == Hook::Xdp && !backend.flags.has(BackendFlags::LOCAL) {
        return Ok(Opened::NotOurs);
    }
    let mut opening = Opening {
        backend: chosen,
        service: number,
        flags: flow_flags(hook, &backend),
        tcp: parsed.tcp,
        now_ns,
    };
    new.dst = backend.address;
    new.dport = backend.port;
    refused(open_pair::<F, W>(world, key, new, &opening))?;
    if hook == Hook::Ingress && key.src == backend.address {
        // A pod that reaches itself through its own Service must not see its own address as the client's: where the
        // packet leaves towards it, the source becomes the node's (kube-proxy-behaviour §4.1 rule 1).
        if let Some(node) = world.node_address() {
            let mut masqueraded = *new;
            masqueraded.src = node;
            opening.flags = opening.flags.with(FlowFlags::EGRESS).with(FlowFlags::MASQUERADE);
            refused(open_pair::<F, W>(world, new, &mut masqueraded, &opening))?;
        }
    }
    world.count(Counter::FlowsCreated);
    Ok(if opening.flags.has(FlowFlags::HOST_CLIENT) { Opened::TranslateAndRoute } else { Opened::Translate })
}

#[inline(always)]
const fn refused(reason: Option<DropReason>) -> Result<(), DropReason> {
    match reason {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

/// Flags of the client-to-backend entry.
#[inline(always)]
fn flow_flags<A: Address>(hook: Hook, backend: &Backend<A>) -> FlowFlags {
    let mut flags = FlowFlags::SEEN;
    if backend.flags.has(BackendFlags::LOCAL) {
        flags = flags.with(FlowFlags::LOCAL_BACKEND);
    }
    if hook.is_egress() {
        flags = flags.with(FlowFlags::HOST_CLIENT).with(FlowFlags::EGRESS);
    }
    flags
}

#[inline(always)]
fn finish<F: PathFamily, P: Packet, W: World + Tables<F>>(
    packet: &mut P,
    world: &W,
    parsed: &Parsed<F::Addr>,
    rewrite: &Rewrite<F::Addr>,
    done: Verdict,
) -> Verdict {
    if !apply::<F, P>(packet, parsed, rewrite) {
        dropped::<F, W>(world, &parsed.key, u32::MAX, DropReason::RewriteFailed);
        return Verdict::Drop(DropReason::RewriteFailed);
    }
    if let Some(id) = parsed.fragment
        && parsed.has_l4
    {
        let FlowKey { src, dst, sport, dport, proto, .. } = parsed.key;
        world.insert_fragment(&FragmentKey { src, dst, id, proto, pad: [0; 3] }, &FragmentPorts { sport, dport });
    }
    done
}

/// Counts and reports a drop. There is no other way to one.
#[inline(never)]
fn dropped<F: PathFamily, W: World>(world: &W, key: &FlowKey<F::Addr>, service: u32, reason: DropReason) {
    world.count_drop(reason);
    let now_ns = world.now_ns();
    let allowed = world.bucket(Bucket::Event, |bucket| bucket.take(now_ns, EVENTS_PER_SECOND_MAX)) == Some(true);
    let event = Event {
        time_ns: now_ns,
        src: key.src.to_16_octets(),
        dst: key.dst.to_16_octets(),
        service,
        ifindex: world.ifindex(),
        sport: key.sport,
        dport: key.dport,
        reason: reason as u16,
        proto: key.proto,
        family: F::NUMBER,
    };
    if !allowed || !world.emit(&event) {
        world.count(Counter::EventsLost);
    }
}

/// Whether the checksum field may hold the sum over the pseudo header only, to be completed later by a device or
/// never (between namespaces of one machine). XDP cannot ask, and the two kinds need opposite updates. One complete
/// checksum in 65 536 looks the same and takes the way through tc, too, which knows.
#[inline(always)]
fn checksum_may_be_partial<A: Address, P: Packet>(packet: &P, parsed: &Parsed<A>) -> bool {
    let field = if parsed.key.proto == Proto::TCP {
        packet.header::<Tcp>(parsed.l4).map(|tcp| tcp.checksum)
    } else {
        packet.header::<Udp>(parsed.l4).map(|udp| udp.checksum)
    };
    let Some(field) = field else { return true };
    let words = u32::from(u16::from(parsed.key.proto.0).to_be()) + u32::from((parsed.l4_len as u16).to_be());
    let pseudo = checksum::add(address_sum(&parsed.key.src, &parsed.key.dst), words);
    u16::from_ne_bytes(field) == checksum::fold(pseudo)
}
