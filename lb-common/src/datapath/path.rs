//! The way of a packet through a hook: parse, follow its flow or open one, rewrite. Start reading here.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{
    checksum,
    error::{self, ErrorFamily},
    header::{Tcp, Udp},
    packet::Packet,
    parse::{Network, ParseFamily, Parsed, network, remember, renew},
    reject::turn_into_port_unreachable,
    rewrite::{RewriteFamily, address_sum, apply},
    select::{flow_hash, pick},
    track::{counterpart, open_pair},
    world::{Bucket, Insert, Tables, World},
};
use crate::layout::{
    Address, Backend, BackendFlags, Choice, Counter, DropReason, Event, FlowFlags, FlowKey, FrontendKey, Proto,
    Rewrite, TcpSeen, V4, V6,
    limits::{EVENTS_PER_SECOND_MAX, HEAL_NS_LOG2, REFRESH_NS, REJECTS_PER_SECOND_MAX},
};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On its way, translated or untouched.
    Pass,
    /// Translated, and sent by the host itself: it needs a route to its new destination.
    Route,
    /// Translated, and for a process of the host itself. On the device that it came by, its source, a service address,
    /// may be a stranger to `rp_filter` and to firewalls that ask the same: then it arrives through loopback.
    Deliver,
    /// Its sender is to be told that nobody listens: [`refuse`] makes the answer.
    Refuse,
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
    pub(super) const fn is_egress(self) -> bool {
        matches!(self, Self::EgressForwarded | Self::EgressLocal)
    }
}

/// What the core needs of a family.
pub trait PathFamily: ParseFamily + RewriteFamily + ErrorFamily {}
impl<F: ParseFamily + RewriteFamily + ErrorFamily> PathFamily for F {}

/// The tc datapath.
#[inline(always)]
pub fn tc<P: Packet, W: Errors<V4, P> + Errors<V6, P>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    match network(packet) {
        Network::V4 => translate::<V4, P, W>(packet, world, hook),
        Network::V6 => translate::<V6, P, W>(packet, world, hook),
        Network::Other => Verdict::Pass,
    }
}

/// The XDP datapath: packets that it can finish are translated, all others go up untouched, and tc finishes them.
#[inline(always)]
pub fn xdp<P: Packet, W: Errors<V4, P> + Errors<V6, P>>(packet: &mut P, world: &W) -> Verdict {
    tc(packet, world, Hook::Xdp)
}

/// Turns a packet into an answer to its sender: ICMP or ICMPv6 port unreachable. False if the kernel refused; the
/// packet is then not fit to be sent.
#[inline(always)]
pub fn refuse<P: Packet>(packet: &mut P) -> bool {
    match network(packet) {
        Network::V4 => turn_into_port_unreachable::<V4, P>(packet),
        Network::V6 => turn_into_port_unreachable::<V6, P>(packet),
        Network::Other => false,
    }
}

/// A world in which flows can be opened. The kernel programs put [`open`] into a function that is verified once, for
/// itself, instead of on every path that leads to it.
pub trait Opens<F: PathFamily>: World + Tables<F> + Sized {
    /// See [`open`].
    #[inline(always)]
    fn open(&self, hook: Hook) -> Opened {
        open::<F, Self>(self, hook)
    }

    /// See [`open_pair`].
    #[inline(always)]
    fn open_pair(&self) -> Option<DropReason> {
        open_pair::<F, Self>(self)
    }
}

/// A world in which ICMP errors can be translated; in a function of its own, as [`Opens`].
pub trait Errors<F: PathFamily, P: Packet>: Opens<F> {
    /// See [`error`].
    #[inline(always)]
    fn error(&self, packet: &mut P, hook: Hook) -> Verdict {
        error::<F, P, Self>(packet, self, hook)
    }
}

/// An ICMP message of this family: an error about a packet that was translated is translated back.
#[inline(always)]
pub fn error<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    error::translate_back::<F, P, W>(packet, world, hook).unwrap_or(Verdict::Pass)
}

/// What the flow table says of a packet.
enum Followed<A: Address> {
    /// Write this; the flags are the entry's.
    Rewrite(FlowFlags, Rewrite<A>),
    /// The entry is for another hook.
    Elsewhere,
    /// No entry, or one that must be made anew.
    Unknown,
    /// An entry to a backend that no longer serves.
    Left,
}

#[inline(always)]
fn translate<F: PathFamily, P: Packet, W: Errors<F, P>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    let Some(parsed) = F::parse(packet, world) else {
        return if hook != Hook::Xdp && F::is_icmp(packet) {
            world.error(packet, hook)
        } else {
            Verdict::Pass
        };
    };
    if hook == Hook::Xdp && parsed.fragment.is_some() {
        return Verdict::Pass;
    }
    if let Some(id) = parsed.fragment
        && parsed.has_l4
    {
        renew::<F, W>(world, &parsed.key, id);
    }
    match follow::<F, W>(world, &parsed, hook) {
        Followed::Rewrite(flags, rewrite) => {
            if hook == Hook::Xdp && checksum_may_be_partial(packet, &parsed) {
                return Verdict::Pass;
            }
            finish::<F, P, W>(packet, world, &parsed, &rewrite, done(flags))
        }
        Followed::Elsewhere => Verdict::Pass,
        // Forwarded packets have passed an ingress hook, which has looked for a frontend.
        Followed::Unknown | Followed::Left if hook == Hook::EgressForwarded => Verdict::Pass,
        _ if hook == Hook::Xdp && checksum_may_be_partial(packet, &parsed) => Verdict::Pass,
        unknown => {
            if let Some(mut desk) = world.desk() {
                desk.old = parsed.key;
                desk.opening.tcp = parsed.tcp;
            }
            let done = match world.open(hook) {
                Opened::NotOurs => return Verdict::Pass,
                Opened::Translate => Verdict::Pass,
                Opened::TranslateAndRoute => Verdict::Route,
                // The sender is told by the first fragment, if at all (RFC 1122 §3.2.2).
                Opened::Refuse if !parsed.has_l4 => return Verdict::Drop(DropReason::NoEndpoint),
                Opened::Refuse => return Verdict::Refuse,
                Opened::Drop(reason) => return Verdict::Drop(reason),
            };
            if matches!(unknown, Followed::Left) {
                world.count(Counter::FlowsReselected);
            }
            let Some(rewrite) = world.desk().map(|desk| desk.rewrite) else {
                return Verdict::Pass;
            };
            finish::<F, P, W>(packet, world, &parsed, &rewrite, done)
        }
    }
}

/// Where a packet goes that an entry with these flags has translated.
#[inline(always)]
pub(super) const fn done(flags: FlowFlags) -> Verdict {
    match (flags.has(FlowFlags::HOST_CLIENT), flags.has(FlowFlags::REPLY)) {
        (true, false) => Verdict::Route,
        (true, true) => Verdict::Deliver,
        (false, _) => Verdict::Pass,
    }
}

/// An established flow: one look-up says it all.
#[inline(always)]
fn follow<F: PathFamily, W: World + Tables<F>>(world: &W, parsed: &Parsed<F::Addr>, hook: Hook) -> Followed<F::Addr> {
    let key = &parsed.key;
    let Some(mut flow) = world.flow(key) else {
        return Followed::Unknown;
    };
    let rewrite = flow.rewrite();
    let (flags, backend, tcp_before) = (flow.flags, flow.backend, flow.tcp);
    // The kernel may recycle an LRU entry while it is read, writing it from the front: `check` comes first there and
    // last here, so a mixture of two entries is noticed.
    compiler_fence(Ordering::SeqCst);
    let check = key.check();
    if flow.check != check {
        return Followed::Unknown;
    }
    let for_xdp = flags.has(FlowFlags::LOCAL_BACKEND) && !flags.has(FlowFlags::REPLY);
    if flags.has(FlowFlags::EGRESS) != hook.is_egress() || hook == Hook::Xdp && !for_xdp {
        return Followed::Elsewhere;
    }
    let now_ns = world.now_ns();
    let seen_ns = flow.seen_ns;
    let stale = now_ns.saturating_sub(seen_ns) > REFRESH_NS;
    // Each flow at its own time, so that not all are healed at once.
    let phase_ns = u64::from(check) << (HEAL_NS_LOG2 - u32::BITS);
    let heals = stale && (now_ns.wrapping_add(phase_ns) ^ seen_ns.wrapping_add(phase_ns)) >> HEAL_NS_LOG2 != 0;
    if stale {
        flow.seen_ns = now_ns;
    }
    if !flags.has(FlowFlags::SEEN) {
        flow.flags = flags.with(FlowFlags::SEEN);
    }
    let tcp = tcp_before.with(parsed.tcp);
    if tcp != tcp_before {
        flow.tcp = tcp;
    }
    drop(flow);
    let to_backend = !flags.has(FlowFlags::REPLY) && !flags.has(FlowFlags::MASQUERADE);
    if to_backend && key.proto == Proto::UDP {
        // UDP flows leave an endpoint that no longer serves at the next datagram (kube-proxy-behaviour §5.2).
        if !serves::<F, W>(world, backend, &rewrite) {
            return Followed::Left;
        }
    } else if to_backend && parsed.tcp.has(TcpSeen::SYN) && !parsed.tcp.has(TcpSeen::ACK) {
        // A new connection with the tuple of an old one; a retransmitted SYN keeps its backend.
        if is_closed(tcp_before)
            || counterpart_is_closed::<F, W>(world, key, &rewrite)
            || !serves::<F, W>(world, backend, &rewrite)
        {
            return Followed::Unknown;
        }
    }
    if heals {
        heal::<F, W>(world, key);
    }
    Followed::Rewrite(flags, rewrite)
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
    world.flow(&other).is_none_or(|flow| is_closed(flow.tcp))
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

/// Every 17 seconds per flow: keeps the opposite entry from being evicted, and writes it anew if it was.
#[inline(never)]
fn heal<F: PathFamily, W: World + Tables<F>>(world: &W, key: &FlowKey<F::Addr>) {
    let Some(mut desk) = world.desk() else { return };
    let desk = &mut *desk;
    match world.flow(key) {
        Some(flow) => {
            counterpart(key, &flow, &mut desk.key, &mut desk.flow);
            // As in `follow`: an entry that was recycled meanwhile has no counterpart to be healed.
            compiler_fence(Ordering::SeqCst);
            if flow.check != key.check() {
                return;
            }
        }
        None => return,
    }
    if world.flow(&desk.key).is_none() && world.insert_flow(&desk.key, &desk.flow, Insert::New).is_ok() {
        world.count(Counter::FlowsHealed);
    }
}

/// What becomes of the first packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// No frontend.
    NotOurs,
    /// Entries are made; write the new tuple.
    Translate,
    /// The same, and the packet needs a new route.
    TranslateAndRoute,
    /// Tell the sender that nobody listens.
    Refuse,
    /// Counted and reported already.
    Drop(DropReason),
}

impl Opened {
    const DROP: u32 = 16;

    /// As a number, for the way out of a kernel function.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotOurs => 0,
            Self::Translate => 1,
            Self::TranslateAndRoute => 2,
            Self::Refuse => 3,
            Self::Drop(reason) => Self::DROP + reason as u32,
        }
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::NotOurs,
            1 => Self::Translate,
            2 => Self::TranslateAndRoute,
            3 => Self::Refuse,
            _ => match DropReason::from_number(code.wrapping_sub(Self::DROP) as u16) {
                Some(reason) => Self::Drop(reason),
                None => Self::Drop(DropReason::RewriteFailed),
            },
        }
    }
}

/// A packet without a flow, of the desk's `old` tuple: is it for a frontend, and which backend takes it? The desk's
/// `rewrite` becomes what is to be written.
#[inline(always)]
pub fn open<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook) -> Opened {
    match choose::<F, W>(world, hook).and_then(|chosen| make::<F, W>(world, hook, chosen)) {
        Ok(opened) => opened,
        Err(reason) => {
            dropped::<F, W>(world, reason);
            if reason == DropReason::NoEndpoint {
                Opened::Refuse
            } else {
                Opened::Drop(reason)
            }
        }
    }
}

/// What choosing has led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    NotOurs,
    Backend,
    /// A backend that is the client itself.
    Hairpin,
}

/// Chooses a backend. The desk's `new` becomes the tuple towards it, `opening` what the entries have in common.
#[inline(never)]
fn choose<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook) -> Result<Chosen, DropReason> {
    let Some(mut desk) = world.desk() else {
        return Ok(Chosen::NotOurs);
    };
    let desk = &mut *desk;
    desk.opening.service = u32::MAX;
    let frontend = FrontendKey::new(desk.old.dst, desk.old.dport, desk.old.proto);
    let Some(number) = world.frontend(&frontend) else {
        return Ok(Chosen::NotOurs);
    };
    desk.opening.service = number;
    desk.opening.now_ns = world.now_ns();
    let service = world.service(number).ok_or(DropReason::BackendMissing)?;
    let (base, len) = match service.internal.choice() {
        Choice::Slots { base, len } => (base, len),
        Choice::Absent => return Ok(Chosen::NotOurs),
        _ if hook == Hook::Xdp => return Ok(Chosen::NotOurs),
        Choice::Drop => return Err(DropReason::NoLocalEndpoint),
        Choice::Reject => {
            let now_ns = desk.opening.now_ns;
            let allowed = world
                .bucket(Bucket::Reject)
                .is_some_and(|mut bucket| bucket.take(now_ns, REJECTS_PER_SECOND_MAX));
            return Err(if allowed {
                DropReason::NoEndpoint
            } else {
                DropReason::RejectLimited
            });
        }
    };
    let slot = base.wrapping_add(pick(flow_hash(&desk.old), len));
    let chosen = world.slot(slot).ok_or(DropReason::BackendMissing)?;
    let backend = world.backend(chosen).ok_or(DropReason::BackendMissing)?;
    if !backend.flags.has(BackendFlags::ACTIVE) {
        return Err(DropReason::BackendMissing);
    }
    if hook == Hook::Xdp && !backend.flags.has(BackendFlags::LOCAL) {
        return Ok(Chosen::NotOurs);
    }
    desk.new.src = desk.old.src;
    desk.new.dst = backend.address;
    desk.new.sport = desk.old.sport;
    desk.new.dport = backend.port;
    desk.new.proto = desk.old.proto;
    desk.opening.backend = chosen;
    desk.opening.flags = flow_flags(hook, &backend);
    let hairpin = hook == Hook::Ingress && desk.old.src == desk.new.dst;
    Ok(if hairpin { Chosen::Hairpin } else { Chosen::Backend })
}

/// Makes the flow's entries.
#[inline(always)]
fn make<F: PathFamily, W: Opens<F>>(world: &W, hook: Hook, chosen: Chosen) -> Result<Opened, DropReason> {
    if chosen == Chosen::NotOurs {
        return Ok(Opened::NotOurs);
    }
    refused(world.open_pair())?;
    {
        let mut desk = world.desk().ok_or(DropReason::BackendMissing)?;
        let desk = &mut *desk;
        // The entry of the packet's own direction was written last.
        desk.rewrite = desk.flow.rewrite();
    }
    if chosen == Chosen::Hairpin && masquerade_on_desk::<F, W>(world) {
        refused(world.open_pair())?;
    }
    world.count(Counter::FlowsCreated);
    Ok(if hook.is_egress() {
        Opened::TranslateAndRoute
    } else {
        Opened::Translate
    })
}

/// A pod that reaches itself through its own Service must not see its own address as the client's: where the packet
/// leaves towards it, the source becomes the node's (kube-proxy-behaviour §4.1 rule 1). Lays out the entries for that,
/// if the node has an address.
#[inline(never)]
fn masquerade_on_desk<F: PathFamily, W: Opens<F>>(world: &W) -> bool {
    let (Some(node), Some(mut desk)) = (world.node_address(), world.desk()) else {
        return false;
    };
    let desk = &mut *desk;
    desk.old.dst = desk.new.dst;
    desk.old.sport = desk.new.sport;
    desk.old.dport = desk.new.dport;
    desk.new.src = *node;
    desk.opening.flags = desk.opening.flags.with(FlowFlags::EGRESS).with(FlowFlags::MASQUERADE);
    true
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
        if let Some(mut desk) = world.desk() {
            desk.old = parsed.key;
            desk.opening.service = u32::MAX;
        }
        dropped::<F, W>(world, DropReason::RewriteFailed);
        return Verdict::Drop(DropReason::RewriteFailed);
    }
    if let Some(id) = parsed.fragment
        && parsed.has_l4
    {
        remember::<F, W>(world, &parsed.key, id);
    }
    done
}

/// Counts and reports the drop of a packet of the desk's `old` tuple. There is no other way to one.
#[inline(never)]
fn dropped<F: PathFamily, W: World + Tables<F>>(world: &W, reason: DropReason) {
    world.count_drop(reason);
    let now_ns = world.now_ns();
    let allowed = world
        .bucket(Bucket::Event)
        .is_some_and(|mut bucket| bucket.take(now_ns, EVENTS_PER_SECOND_MAX));
    let Some(desk) = world.desk() else { return };
    let key = &desk.old;
    let event = Event {
        time_ns: now_ns,
        src: key.src.to_16_octets(),
        dst: key.dst.to_16_octets(),
        service: desk.opening.service,
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
    let words = u64::from(u16::from(parsed.key.proto.0).to_be()) + u64::from((parsed.l4_len as u16).to_be());
    let pseudo = address_sum(&parsed.key.src, &parsed.key.dst) + words;
    u16::from_ne_bytes(field) == checksum::fold(pseudo)
}
