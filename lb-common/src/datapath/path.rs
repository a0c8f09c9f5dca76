//! The way of a packet through a hook: parse, follow its flow or open one, rewrite. Start reading here.

use super::{
    checksum,
    choose::{Chosen, choose, is_unallocated},
    echo::{self, EchoFamily, turn_into_reply},
    error::{self, ErrorFamily, Quoted},
    follow::{Followed, done, follow, may_open},
    forward::ForwardFamily,
    header::{Sctp, Tcp, Udp},
    open::{Opened, open},
    packet::Packet,
    parse::{Network, ParseFamily, Parsed, network, remember, renew},
    reject::{Told, turn_into_error},
    reset::turn_into_reset,
    rewrite::{RewriteFamily, address_sum, apply},
    track::{Claim, Held, Side, claim, claim_tuple, held_by, write_entry},
    tunnel::{
        TunnelFamily, mss,
        receive::{Taken, may_be, take_out},
        send::{Fit, fit, hear},
        wrap,
    },
    verdict::{Hook, Verdict},
    whole::split,
    world::{Bucket, Insert, Refused, Tables, World},
};
use crate::layout::{
    Address, AddressFlags, Counter, DeviceFlags, DropReason, Event, Family, FlowFlags, FlowKey, Port, Proto, Rewrite,
    TcpSeen, Tunnelled, V4, V6, limits::EVENTS_PER_SECOND_MAX,
};

/// What the core needs of a family.
pub trait PathFamily: ParseFamily + RewriteFamily + ErrorFamily + EchoFamily + TunnelFamily + ForwardFamily {}
impl<F: ParseFamily + RewriteFamily + ErrorFamily + EchoFamily + TunnelFamily + ForwardFamily> PathFamily for F {}

/// The tc datapath.
#[inline(always)]
pub fn tc<P: Packet, W: Errors<V4, P> + Errors<V6, P>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    match network(packet) {
        Network::V4 => arrive_or_leave::<V4, P, W>(packet, world, hook),
        Network::V6 => arrive_or_leave::<V6, P, W>(packet, world, hook),
        Network::Other => Verdict::Pass,
    }
}

#[inline(always)]
fn arrive_or_leave<F: PathFamily, P: Packet, W: Errors<F, P>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    if hook == Hook::Ingress && may_be::<F, P>(packet, P::LINK_LEN) {
        match world.take_out(packet) {
            Taken::NotOurs | Taken::Out => {}
            Taken::Done(verdict) => return verdict,
        }
    }
    world.translate(packet, hook)
}

/// Puts a packet into the tunnel that the desk's `rewrite` says. The device by which it leaves; nothing if the kernel refused, and the
/// packet is then not fit to be sent.
#[inline(always)]
pub fn enter_tunnel<P: Packet, W: Tables<V4> + Tables<V6>>(packet: &mut P, world: &W) -> Option<u32> {
    match network(packet) {
        Network::V4 => enter::<V4, P, W>(packet, world),
        Network::V6 => enter::<V6, P, W>(packet, world),
        Network::Other => None,
    }
}

#[inline(always)]
fn enter<F: PathFamily, P: Packet, W: Tables<F>>(packet: &mut P, world: &W) -> Option<u32> {
    let desk = world.desk()?;
    let ifindex = desk.way.ifindex;
    wrap::<F, P>(packet, &desk.rewrite).then_some(ifindex)
}

/// Turns a packet into an answer to its sender: ICMP or ICMPv6 port unreachable. False if the kernel refused; the
/// packet is then not fit to be sent.
#[inline(always)]
pub fn refuse<P: Packet>(packet: &mut P) -> bool {
    match network(packet) {
        Network::V4 => turn_into_error::<V4, P>(packet, Told::PortUnreachable),
        Network::V6 => turn_into_error::<V6, P>(packet, Told::PortUnreachable),
        Network::Other => false,
    }
}

/// Turns a packet into an answer to its sender: only `mtu` octets fit on its way. False if the kernel refused.
#[inline(always)]
pub fn too_big<P: Packet>(packet: &mut P, mtu: u16) -> bool {
    match network(packet) {
        Network::V4 => turn_into_error::<V4, P>(packet, Told::TooBig(mtu)),
        Network::V6 => turn_into_error::<V6, P>(packet, Told::TooBig(mtu)),
        Network::Other => false,
    }
}

/// Turns an echo request into its answer. False if the kernel refused; the packet is then not fit to be sent.
#[inline(always)]
pub fn echo<P: Packet>(packet: &mut P) -> bool {
    match network(packet) {
        Network::V4 => turn_into_reply::<V4, P>(packet),
        Network::V6 => turn_into_reply::<V6, P>(packet),
        Network::Other => false,
    }
}

/// Turns a TCP packet into an answer to its sender: a reset. False if the kernel refused; the packet is then not fit to be
/// sent.
#[inline(always)]
pub fn reset<P: Packet>(packet: &mut P) -> bool {
    match network(packet) {
        Network::V4 => turn_into_reset::<V4, P>(packet),
        Network::V6 => turn_into_reset::<V6, P>(packet),
        Network::Other => false,
    }
}

/// A world in which flows can be opened. The kernel programs put [`open`] into a function that is verified once, for
/// itself, instead of on every path that leads to it.
pub trait Opens<F: PathFamily>: World + Tables<F> + Sized {
    /// See [`open`].
    #[inline(always)]
    fn open(&self, hook: Hook, chosen: Chosen) -> Opened {
        open::<F, Self>(self, hook, chosen)
    }

    /// See [`choose`].
    #[inline(always)]
    fn choose(&self, hook: Hook) -> Chosen {
        choose::<F, Self>(self, hook)
    }

    /// See [`claim_tuple`].
    #[inline(always)]
    fn claim_tuple(&self) -> Option<DropReason> {
        claim_tuple::<F, Self>(self)
    }

    /// See [`held_by`].
    #[inline(always)]
    fn held_by(&self, closed_is_free: bool) -> Held {
        held_by::<F, Self>(self, closed_is_free)
    }

    /// See [`write_entry`].
    ///
    /// # Errors
    /// As [`Tables::insert_flow`].
    #[inline(always)]
    fn write_entry(&self, side: Side, how: Insert) -> Result<(), Refused> {
        write_entry::<F, Self>(self, side, how)
    }

    /// See [`split`].
    #[inline(always)]
    fn split(&self) -> Option<DropReason> {
        split::<F, Self>(self)
    }

    /// Tries `count` source ports from the `first` attempt on, until one is not taken.
    #[inline(always)]
    fn claim_one_of(&self, first: u32, count: u32) -> Claim {
        let mut attempt = first;
        while attempt < first + count {
            match claim::<F, Self>(self, attempt) {
                Claim::Taken => attempt += 1,
                other => return other,
            }
        }
        Claim::Taken
    }

    /// The way to the desk's `rewrite.dst`: fills in device and MTU of the desk's `way`. False if the routing table has none.
    fn path(&self) -> bool;

    /// The device by which packets to this address leave, if the routing table has a way.
    fn outgoing(&self, address: &F::Addr) -> Option<u32>;

    /// Whether a socket of the host takes packets of this tuple; of those of UDP, if asked so, only one that is connected.
    fn has_socket(&self, key: &FlowKey<F::Addr>, connected: bool) -> bool;
}

/// A world in which all of a family's packets are dealt with; each part in a function of its own, as [`Opens`].
pub trait Errors<F: PathFamily, P: Packet>: Opens<F> {
    /// See [`translate`].
    #[inline(always)]
    fn translate(&self, packet: &mut P, hook: Hook) -> Verdict {
        translate::<F, P, Self>(packet, self, hook)
    }

    /// See [`error`].
    #[inline(always)]
    fn error(&self, packet: &mut P, hook: Hook) -> Quoted {
        error::<F, P, Self>(packet, self, hook)
    }

    /// See [`fit`].
    #[inline(always)]
    fn fit(&self, packet: &mut P, is_first: bool) -> Fit {
        fit::<F, P, Self>(packet, self, is_first)
    }

    /// See [`take_out`].
    #[inline(always)]
    fn take_out(&self, packet: &mut P) -> Taken {
        take_out::<F, P, Self>(packet, self)
    }

    /// See [`clamp`].
    #[inline(always)]
    fn clamp(&self, packet: &mut P, l4: usize) -> bool {
        clamp::<F, P, Self>(packet, self, l4)
    }

    /// The largest IP packet that the device sends by which the packet leaves.
    fn mtu(&self) -> u32;

    /// See [`stray`].
    #[inline(always)]
    fn stray(&self, packet: &mut P, hook: Hook) -> Verdict {
        stray::<F, P, Self>(packet, self, hook)
    }
}

/// An ICMP message of this family: an error about a packet that was translated is translated back.
#[inline(always)]
pub fn error<F: PathFamily, P: Packet, W: World + Tables<F>>(packet: &mut P, world: &W, hook: Hook) -> Quoted {
    if hook == Hook::Ingress && hear::<F, P, W>(packet, world).is_some() {
        return Quoted::Known(Verdict::Pass);
    }
    error::translate_back::<F, P, W>(packet, world, hook).unwrap_or(Quoted::Stranger)
}

/// The same, of a flow that is done in two steps by then. Nothing if it is about none.
#[inline(always)]
fn error_of_a_step<F: PathFamily, P: Packet, W: Errors<F, P>>(
    packet: &mut P,
    world: &W,
    hook: Hook,
) -> Option<Verdict> {
    let mut quoted = world.error(packet, hook);
    if quoted == Quoted::Whole && world.split().is_none() {
        quoted = world.error(packet, hook);
    }
    match quoted {
        Quoted::Known(verdict) => Some(verdict),
        Quoted::Stranger | Quoted::Whole => None,
    }
}

/// Tells the client of a connection whose packets come in a tunnel how large its segments may be, in the answer to its SYN, whose TCP
/// header is at `l4`.
#[inline(always)]
pub fn clamp<F: PathFamily, P: Packet, W: Errors<F, P>>(packet: &mut P, world: &W, l4: usize) -> bool {
    mss::clamp::<F, P>(packet, l4, world.mtu())
}

/// A packet of a protocol that is not balanced. Who pings a service address is answered. Other packets to a ClusterIP have nobody to go
/// to, as in nftables mode, and those to an external address must not go back where they came from. All others are not ours; what is
/// malformed never is, and ICMP errors go on.
#[inline(always)]
pub fn stray<F: PathFamily, P: Packet, W: Opens<F>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    let (Some(proto), Some((src, dst))) = (F::other_proto(packet), F::addresses(packet)) else {
        return Verdict::Pass;
    };
    if F::is_icmp(packet) && F::is_error(packet) {
        return Verdict::Pass;
    }
    let Some(is) = world.address(&dst.looked_up()) else {
        return Verdict::Pass;
    };
    if world.defers() {
        return Verdict::Pass;
    }
    let is_service = is.any(AddressFlags::CLUSTER_IP.with(AddressFlags::EXTERNAL));
    if is_service && !is.has(AddressFlags::HOST) && echo::is_request::<F, P>(packet) {
        world.count(Counter::EchoesAnswered);
        return Verdict::Echo;
    }
    let reason = if is.has(AddressFlags::HOST) {
        None
    } else if is.has(AddressFlags::CLUSTER_IP) {
        Some(DropReason::UnknownPort)
    } else if is.has(AddressFlags::EXTERNAL) && hook == Hook::Ingress && world.outgoing(&dst) == Some(world.ifindex()) {
        Some(DropReason::WouldLoop)
    } else {
        None
    };
    let Some(reason) = reason else {
        return Verdict::Pass;
    };
    if let Some(mut desk) = world.desk() {
        desk.old = FlowKey::new(src, Port::default(), dst, Port::default(), proto);
        desk.opening.service = u32::MAX;
    }
    dropped::<F, W>(world, reason);
    Verdict::Drop(reason)
}

/// The tc datapath of a family, behind tunnels.
#[inline(always)]
pub fn translate<F: PathFamily, P: Packet, W: Errors<F, P>>(packet: &mut P, world: &W, hook: Hook) -> Verdict {
    let Some(parsed) = F::parse(packet, world, hook.stage()) else {
        if F::is_icmp(packet)
            && let Some(verdict) = error_of_a_step::<F, P, W>(packet, world, hook)
        {
            return match (verdict, hook) {
                (Verdict::Tunnel, Hook::Ingress) if world.fit(packet, false) == Fit::Fits => Verdict::Tunnel,
                (Verdict::Tunnel, _) => Verdict::Pass,
                (verdict, _) => verdict,
            };
        }
        return match hook {
            Hook::Ingress | Hook::EgressLocal => world.stray(packet, hook),
            Hook::EgressForwarded | Hook::Xdp => Verdict::Pass,
        };
    };
    if let Some(id) = parsed.fragment
        && parsed.has_l4
    {
        renew::<F, W>(world, &parsed.key, id);
    }
    let followed = match follow::<F, W>(world, &parsed.key, parsed.tcp, hook) {
        Followed::Rewrite(flags, rewrite) if flags.has(FlowFlags::TUNNELS) => {
            match go_in_tunnel::<F, P, W>(packet, world, &parsed, &rewrite, hook) {
                Some(verdict) => return verdict,
                None => Followed::Unknown,
            }
        }
        other => other,
    };
    let (rewrite, flags, done) = match followed {
        Followed::Rewrite(flags, rewrite) if !flags.has(FlowFlags::WHOLE) => (rewrite, flags, done(flags)),
        Followed::Rewrite(..) => {
            if let Some(mut desk) = world.desk() {
                desk.old.take(&parsed.key);
            }
            if let Some(reason) = world.split() {
                return drop_packet::<F, W>(world, &parsed, reason);
            }
            let Some(rewrite) = world.desk().map(|desk| desk.rewrite) else {
                return Verdict::Pass;
            };
            (rewrite, FlowFlags::default(), Verdict::Pass)
        }
        Followed::Alone => return Verdict::Pass,
        Followed::Reset => {
            let verdict = drop_packet::<F, W>(world, &parsed, DropReason::EndpointRemoved);
            // A reset is not answered by a reset (RFC 9293 §3.5.2).
            return if parsed.has_l4 && !parsed.tcp.has(TcpSeen::RST) {
                Verdict::Reset
            } else {
                verdict
            };
        }
        // Forwarded packets have passed an ingress hook, which has looked for a frontend.
        Followed::Unknown | Followed::Over | Followed::Left
            if hook == Hook::EgressForwarded && !is_masqueraded_by_another::<F, W>(world, &parsed.key.src) =>
        {
            let is_known = world.address(&parsed.key.dst).is_some();
            if !is_unallocated::<F, W>(world, &parsed.key.dst) || is_known || world.defers() {
                return Verdict::Pass;
            }
            return drop_packet::<F, W>(world, &parsed, DropReason::UnknownAddress);
        }
        unknown => {
            if let Some(mut desk) = world.desk() {
                desk.old.take(&parsed.key);
                desk.opening.tcp = parsed.tcp;
                desk.opening.tunnelled = Tunnelled::NOT;
            }
            // What netfilter has masqueraded goes to an endpoint already.
            let mut chosen = match hook {
                Hook::EgressForwarded => {
                    if let Some(mut desk) = world.desk() {
                        desk.opening.service = u32::MAX;
                        desk.opening.now_ns = world.now_ns();
                    }
                    Chosen::Direct
                }
                _ => world.choose(hook),
            };
            if hook == Hook::Ingress && chosen == Chosen::Tunnelled && world.fit(packet, true) != Fit::Fits {
                chosen = Chosen::Masqueraded;
            }
            let is_direct = chosen == Chosen::Direct || chosen == Chosen::NotOurs && hook == Hook::EgressLocal;
            if chosen == Chosen::NotOurs && !is_direct || is_direct && !may_open(parsed.key.proto, parsed.tcp) {
                return Verdict::Pass;
            }
            let done = match world.open(hook, chosen) {
                Opened::NotOurs => return Verdict::Pass,
                Opened::Translate => Verdict::Pass,
                Opened::TranslateAndRoute => Verdict::Route,
                Opened::Tunnel => Verdict::Tunnel,
                // The sender is told by the first fragment, if at all (RFC 1122 §3.2.2).
                Opened::Refuse(reason) if !parsed.has_l4 => return Verdict::Drop(reason),
                Opened::Refuse(_) => return Verdict::Refuse,
                Opened::Drop(reason) => return Verdict::Drop(reason),
            };
            if matches!(unknown, Followed::Left) {
                world.count(Counter::FlowsReselected);
            }
            if done == Verdict::Tunnel {
                remember_ports::<F, W>(world, &parsed);
                return done;
            }
            let Some(rewrite) = world.desk().map(|desk| desk.rewrite) else {
                return Verdict::Pass;
            };
            (rewrite, FlowFlags::default(), done)
        }
    };
    const ANSWER: FlowFlags = FlowFlags::TUNNELLED.with(FlowFlags::REPLY);
    const ACCEPTS: TcpSeen = TcpSeen::SYN.with(TcpSeen::ACK);
    let verdict = finish::<F, P, W>(packet, world, &parsed, &rewrite, done);
    let is_answer = flags.has(ANSWER) && parsed.tcp.has(ACCEPTS) && parsed.key.proto == Proto::TCP;
    if is_answer && !world.clamp(packet, parsed.l4) {
        return drop_packet::<F, W>(world, &parsed, DropReason::RewriteFailed);
    }
    verdict
}

/// Whether a forwarded packet that leaves comes from an address of this host, while netfilter has flows of Services, too: it knows nothing
/// of the source ports that flows of ours have, and may have chosen one of them.
#[inline(always)]
fn is_masqueraded_by_another<F: PathFamily, W: Opens<F>>(world: &W, src: &F::Addr) -> bool {
    // Where packets leave a second time it may be our own masquerading that is seen.
    world.defers()
        && !world.device_is(world.ifindex(), DeviceFlags::LOWER)
        && world
            .address(&src.looked_up())
            .is_some_and(|is| is.has(AddressFlags::HOST))
}

/// A packet of a flow that goes in a tunnel. Nothing if it is to be opened anew, without one.
#[inline(always)]
fn go_in_tunnel<F: PathFamily, P: Packet, W: Errors<F, P>>(
    packet: &mut P,
    world: &W,
    parsed: &Parsed<F::Addr>,
    rewrite: &Rewrite<F::Addr>,
    hook: Hook,
) -> Option<Verdict> {
    // Such flows arrive.
    if hook != Hook::Ingress {
        return Some(Verdict::Pass);
    }
    if let Some(mut desk) = world.desk() {
        let desk = &mut *desk;
        desk.old.take(&parsed.key);
        rewrite.dst.copy_to(&mut desk.rewrite.dst);
    }
    match world.fit(packet, false) {
        Fit::Fits => {
            remember_ports::<F, W>(world, parsed);
            Some(Verdict::Tunnel)
        }
        Fit::Otherwise => None,
        Fit::TooBig(mtu) => Some(Verdict::TooBig(mtu)),
        Fit::Drop(reason) => Some(Verdict::Drop(reason)),
    }
}

#[inline(always)]
fn finish<F: PathFamily, P: Packet, W: World + Tables<F>>(
    packet: &mut P,
    world: &W,
    parsed: &Parsed<F::Addr>,
    rewrite: &Rewrite<F::Addr>,
    done: Verdict,
) -> Verdict {
    let failure = if is_sctp_fragment_to_another_port(parsed, rewrite) {
        Some(DropReason::SctpFragment)
    } else if apply::<F, P>(packet, parsed, rewrite) {
        None
    } else {
        Some(DropReason::RewriteFailed)
    };
    if let Some(reason) = failure {
        return drop_packet::<F, W>(world, parsed, reason);
    }
    remember_ports::<F, W>(world, parsed);
    done
}

/// Keeps the ports of a datagram's first fragment for the others.
#[inline(always)]
fn remember_ports<F: PathFamily, W: World + Tables<F>>(world: &W, parsed: &Parsed<F::Addr>) {
    if let Some(id) = parsed.fragment
        && parsed.has_l4
    {
        remember::<F, W>(world, &parsed.key, id);
    }
}

/// The end of a packet that no choice of a backend was made for.
#[inline(always)]
pub(super) fn drop_packet<F: PathFamily, W: World + Tables<F>>(
    world: &W,
    parsed: &Parsed<F::Addr>,
    reason: DropReason,
) -> Verdict {
    if let Some(mut desk) = world.desk() {
        desk.old.take(&parsed.key);
        desk.opening.service = u32::MAX;
    }
    dropped::<F, W>(world, reason);
    Verdict::Drop(reason)
}

/// SCTP's checksum covers the whole packet, of whose length its first fragment says nothing.
#[inline(always)]
fn is_sctp_fragment_to_another_port<A: Address>(parsed: &Parsed<A>, rewrite: &Rewrite<A>) -> bool {
    parsed.key.proto == Proto::SCTP
        && parsed.fragment.is_some()
        && parsed.has_l4
        && (parsed.key.sport != rewrite.sport || parsed.key.dport != rewrite.dport)
}

/// Counts and reports the drop of a packet of the desk's `old` tuple. There is no other way to one.
#[inline(never)]
pub(super) fn dropped<F: Family, W: World + Tables<F>>(world: &W, reason: DropReason) {
    match world.desk() {
        Some(desk) => report::<F, W>(world, &desk.old, desk.opening.service, reason),
        None => world.count_drop(reason),
    }
}

/// Counts and reports what goes no further: of which tuple and service number (`u32::MAX` if of none), and why.
#[inline(always)]
pub(super) fn report<F: Family, W: World + Tables<F>>(
    world: &W,
    key: &FlowKey<F::Addr>,
    service: u32,
    reason: DropReason,
) {
    world.count_drop(reason);
    let now_ns = world.now_ns();
    let allowed = world
        .bucket(Bucket::Event)
        .is_some_and(|mut bucket| bucket.take(now_ns, EVENTS_PER_SECOND_MAX));
    if service != u32::MAX {
        world.count_refused(service);
    }
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
pub(super) fn checksum_may_be_partial<A: Address, P: Packet>(packet: &P, parsed: &Parsed<A>) -> bool {
    if parsed.key.proto == Proto::SCTP {
        // Nothing but zero stands there until the checksum is made.
        return packet
            .header::<Sctp>(parsed.l4)
            .is_none_or(|sctp| sctp.checksum == [0; 4]);
    }
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
