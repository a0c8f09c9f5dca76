//! The host world as one side of the comparison.

use std::time::Duration;

use anyhow::Result;
use lb_common::{
    datapath::{Bucket, Hook, Verdict, echo, enter_tunnel, refuse, reset, tc, too_big, xdp},
    layout::{Address, Event, FlowFlags, Peer, TokenBucket, V4, V6},
};

use super::{Cabinet, Carrier, HostPacket, HostWorld};
use crate::packet::{
    encode::Link,
    names::Named,
    scene::Write,
    side::{Outcome, Shot, Side, State, TC_SHOT, code, seconds_ago},
};

/// What a host run tells besides what the kernel is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostOutcome {
    /// The core's verdict.
    pub verdict: Verdict,
    /// What the program makes of it.
    pub outcome: Outcome,
}

impl HostWorld {
    /// Runs a packet through the datapath, and does with the verdict what `lb-ebpf` does.
    pub fn shoot<const LINK: usize>(&self, packet: &mut HostPacket<LINK>, hook: Hook) -> HostOutcome {
        let verdict = if hook == Hook::Xdp {
            xdp(packet, self)
        } else {
            tc(packet, self, hook)
        };
        let mut told = code(hook, verdict);
        let answered = match verdict {
            Verdict::Refuse => refuse(packet),
            Verdict::Reset => reset(packet),
            Verdict::Echo => echo(packet),
            Verdict::Tunnel => enter_tunnel(packet, self).is_some(),
            Verdict::TooBig(mtu) => too_big(packet, mtu),
            _ => true,
        };
        if !answered {
            told = TC_SHOT;
        }
        HostOutcome {
            verdict,
            outcome: Outcome {
                code: told,
                frame: packet.octets.clone(),
            },
        }
    }

    /// Runs a frame that is all in place and has whole checksums.
    pub fn shoot_plain(&self, shot: Shot<'_>) -> HostOutcome {
        let carrier = if shot.hook == Hook::Xdp {
            Carrier::Xdp
        } else {
            Carrier::Skb
        };
        match shot.link {
            Link::Ethernet => self.shoot(&mut HostPacket::<14>::new(shot.frame, carrier), shot.hook),
            Link::Bare => self.shoot(&mut HostPacket::<0>::new(shot.frame, carrier), shot.hook),
        }
    }
}

/// A family whose tables a host world has.
pub trait HostFamily: Named {
    /// The tables.
    fn cabinet(world: &HostWorld) -> &Cabinet<Self::Addr>;
    /// The tables, to write to.
    fn cabinet_mut(world: &mut HostWorld) -> &mut Cabinet<Self::Addr>;
}

macro_rules! host_family {
    ($family:ty, $cabinet:ident) => {
        impl HostFamily for $family {
            fn cabinet(world: &HostWorld) -> &Cabinet<Self::Addr> {
                &world.$cabinet
            }

            fn cabinet_mut(world: &mut HostWorld) -> &mut Cabinet<Self::Addr> {
                &mut world.$cabinet
            }
        }
    };
}

host_family!(V4, v4);
host_family!(V6, v6);

impl<F: HostFamily> Side<F> for HostWorld {
    fn write(&mut self, write: &Write<F>) -> Result<()> {
        match write {
            Write::Device(ifindex, device) => drop(self.devices.insert(*ifindex, *device)),
            Write::Vlan(key, ifindex) => drop(self.vlans.insert(*key, *ifindex)),
            Write::Routes(number) => self.routes = *number,
            Write::Defers(defers) => self.defers = *defers,
            other => {
                let now_ns = self.now_ns.get();
                put(F::cabinet_mut(self), other, now_ns);
            }
        }
        Ok(())
    }

    fn age(&mut self, by: Duration) -> Result<()> {
        HostWorld::age(self, by.as_nanos() as u64);
        Ok(())
    }

    fn limit_rejects(&mut self, tokens: u64) -> Result<()> {
        *self.buckets[Bucket::Reject as usize].get_mut() = TokenBucket {
            refilled_ns: self.now_ns.get(),
            tokens,
        };
        Ok(())
    }

    fn run(&mut self, shot: Shot<'_>) -> Result<Outcome> {
        Ok(self.shoot_plain(shot).outcome)
    }

    fn state(&mut self) -> Result<State<F>> {
        let now_ns = self.now_ns.get();
        let cabinet = F::cabinet(self);
        let mut flows = cabinet.flows.borrow().clone();
        for flow in flows.values_mut() {
            flow.seen_ns = seconds_ago(flow.seen_ns, now_ns);
        }
        let mut ways = cabinet.ways.borrow().clone();
        for way in ways.values_mut() {
            way.found_ns = seconds_ago(way.found_ns, now_ns);
        }
        let fragments = cabinet.fragments.borrow().clone();
        let mut peers = cabinet.peers.borrow().clone();
        for peer in peers.values_mut() {
            peer.told_ns = seconds_ago(peer.told_ns, now_ns);
        }
        let mut affinities = cabinet.affinities.borrow().clone();
        for affinity in affinities.values_mut() {
            affinity.seen_ns = seconds_ago(affinity.seen_ns, now_ns);
        }
        Ok(State {
            flows,
            ways,
            fragments,
            peers,
            counters: self.counters.borrow().to_vec(),
            drops: self.drops.borrow().to_vec(),
            affinities,
            service_counts: cabinet.service_counts.borrow().clone(),
            backend_counts: cabinet.backend_counts.borrow().clone(),
            events: self
                .events
                .borrow()
                .iter()
                .map(|event| Event { time_ns: 0, ..*event })
                .collect(),
        })
    }
}

fn put<F: Named>(cabinet: &mut Cabinet<F::Addr>, write: &Write<F>, now_ns: u64) {
    match *write {
        Write::Address(address, Some(flags)) => {
            cabinet.addresses.insert(address, flags);
        }
        Write::Address(address, None) => {
            cabinet.addresses.remove(&address);
        }
        Write::Source(range) => {
            cabinet.sources.insert(range);
        }
        Write::Frontend(key, Some(frontend)) => {
            cabinet.frontends.insert(key, frontend);
        }
        Write::Frontend(key, None) => {
            cabinet.frontends.remove(&key);
        }
        Write::Service(number, service) => {
            cabinet.services.insert(number, service);
        }
        Write::Slot(place, backend) => {
            cabinet.slots.insert(place, backend);
        }
        Write::Chunk(place, chunk) => {
            cabinet.chunks.insert(place, chunk);
        }
        Write::Backend(number, backend) => {
            cabinet.backends.insert(number, backend);
        }
        Write::Evict(key) => {
            cabinet.flows.get_mut().remove(&key);
        }
        Write::Garble(key) => {
            if let Some(flow) = cabinet.flows.get_mut().get_mut(&key) {
                flow.check ^= 1;
            }
        }
        Write::Reset(key) => {
            if let Some(flow) = cabinet.flows.get_mut().get_mut(&key) {
                flow.flags = flow.flags.with(FlowFlags::RESET);
            }
        }
        Write::Route(address, ifindex) => {
            cabinet.routes.insert(address, ifindex);
        }
        Write::NoRoute(address) => {
            cabinet.next_hops.remove(&address);
        }
        Write::Socket(key) => {
            cabinet.sockets.insert(key);
        }
        Write::Node(node) => cabinet.node = node,
        Write::Peer(address, mtu) => {
            let told_ns = if mtu == 0 { 0 } else { now_ns };
            let peer = Peer { mtu, told_ns, pad: 0 };
            cabinet.peers.get_mut().insert(address, peer);
        }
        Write::Device(..) | Write::Vlan(..) | Write::Routes(_) | Write::Defers(_) => {}
    }
}

impl<A: Address> Cabinet<A> {
    /// Whether neither flows nor fragments are known.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.flows.borrow().is_empty() && self.fragments.borrow().is_empty()
    }
}
