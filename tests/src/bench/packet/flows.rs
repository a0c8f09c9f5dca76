//! Flows to measure with: opened by the datapath itself, visited in an order that no prefetcher knows.

use anyhow::{Context as _, Result, ensure};
use lb_common::layout::{Family, Flow, FlowFlags, FlowKey, Port, Proto, Stage};
use lb_userspace::tables::Flows as _;

use super::{
    super::{
        figure::NOISE_MAX,
        population::{Features, PORT},
        samples::Samples,
        shuffle, there,
    },
    Extent, check_counted,
    family::BenchFamily,
    rig::{Callee, Cost, Program, Rig, TUPLES_MAX, Tuple},
};
use crate::packet::sketch::{ACK, SYN};

/// How often a row is measured until its samples agree; the quietest counts.
const ATTEMPTS_MAX: u32 = 3;

/// A packet's way through one program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leg {
    /// A client's packet arrives.
    Request,
    /// The same in the driver.
    RequestXdp,
    /// The endpoint's answer leaves towards the client.
    Reply,
    /// A client's packet leaves towards the endpoint, with an address of the node.
    MasqueradedRequest,
    /// The endpoint's answer to that address arrives.
    MasqueradedReply,
    /// A client's packet arrives, and leaves in the same step.
    ForwardedRequest,
    /// So does the endpoint's answer.
    ForwardedReply,
}

impl Leg {
    pub(super) const OF_THIS_NODE: [Self; 5] = [
        Self::Request,
        Self::RequestXdp,
        Self::Reply,
        Self::MasqueradedRequest,
        Self::MasqueradedReply,
    ];

    /// The one that is measured for a program where nothing is masqueraded.
    pub(super) const fn of(program: Program) -> Self {
        match program {
            Program::TcIngress => Self::Request,
            Program::Xdp => Self::RequestXdp,
            Program::TcEgress => Self::Reply,
            Program::Forward => Self::ForwardedRequest,
        }
    }

    pub(super) const fn program(self) -> Program {
        match self {
            Self::Request | Self::MasqueradedReply => Program::TcIngress,
            Self::RequestXdp => Program::Xdp,
            Self::ForwardedRequest | Self::ForwardedReply => Program::Forward,
            Self::Reply | Self::MasqueradedRequest => Program::TcEgress,
        }
    }
}

impl std::fmt::Display for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Request | Self::RequestXdp | Self::ForwardedRequest => "request",
            Self::Reply | Self::ForwardedReply => "reply",
            Self::MasqueradedRequest => "masqueraded-request",
            Self::MasqueradedReply => "masqueraded-reply",
        })
    }
}

/// Ports of one client address.
const PORTS_OF_CLIENT: u32 = 30_000;
const FIRST_PORT: u32 = 10_000;

/// Flows of one protocol, spread evenly over Services.
pub(super) struct Flows<F: BenchFamily> {
    proto: Proto,
    services: u32,
    dialled: Features,
    /// Flows that are open: those of the numbers below.
    open: Vec<FlowKey<F::Addr>>,
    /// Number of the next flow that was never used.
    fresh: u32,
}

impl<F: BenchFamily> Flows<F> {
    pub(super) fn new(proto: Proto, services: u32) -> Self {
        Self {
            proto,
            services,
            dialled: Features::None,
            open: Vec::new(),
            fresh: 0,
        }
    }

    /// The same to what Services have besides.
    pub(super) fn dialling(self, dialled: Features) -> Self {
        Self { dialled, ..self }
    }

    /// With tuples that come after all that others have used.
    pub(super) fn after(self, others: &Self) -> Self {
        Self {
            fresh: others.fresh,
            ..self
        }
    }

    fn key(&self, number: u32) -> Result<FlowKey<F::Addr>> {
        let client = client::<F>(number / PORTS_OF_CLIENT)?;
        let frontend =
            F::address(self.dialled.dialled(F::MODEL, number % self.services)).context("a frontend of this family")?;
        let port = Port::new((FIRST_PORT + number % PORTS_OF_CLIENT) as u16);
        Ok(FlowKey::new(client, port, frontend, Port::new(PORT), self.proto))
    }

    /// The tuples that packets of these flows have on a leg, as the datapath's entries say.
    fn of_leg(&self, rig: &Rig, requests: &[FlowKey<F::Addr>], leg: Leg) -> Result<Vec<FlowKey<F::Addr>>> {
        let entry = |key: &FlowKey<F::Addr>| there(F::flows(rig).get(key), "the entry of an open flow");
        let leg_of = |key: &FlowKey<F::Addr>| -> Result<FlowKey<F::Addr>> {
            let flow = match leg {
                Leg::Request | Leg::RequestXdp | Leg::ForwardedRequest => return Ok(*key),
                _ => entry(key)?,
            };
            let towards = FlowKey::new(flow.src, flow.sport, flow.dst, flow.dport, key.proto).at(Stage::LEAVES);
            Ok(match leg {
                Leg::MasqueradedRequest => towards,
                Leg::MasqueradedReply => F::reply(&towards, &entry(&towards)?),
                _ => F::reply(key, &flow),
            })
        };
        requests.iter().map(leg_of).collect()
    }

    fn unused(&mut self, count: u32) -> Result<Vec<FlowKey<F::Addr>>> {
        let first = self.fresh;
        self.fresh += count;
        (first..self.fresh).map(|number| self.key(number)).collect()
    }

    fn frame(&self, flags: u8) -> Vec<u8> {
        F::frame(self.proto, flags)
    }

    /// Opens flows until there are so many, and lets a packet of either direction pass in each.
    pub(super) fn open(&mut self, rig: &mut Rig, count: u32) -> Result<()> {
        let more = count.saturating_sub(self.open.len() as u32);
        if more == 0 {
            return Ok(());
        }
        let opened = self.unused(more)?;
        rig.put_tuples(tuples::<F>(&opened))?;
        let (before, drops_before) = rig.counted()?;
        rig.run(Program::TcIngress, Callee::Ours, &self.frame(SYN), more)?;
        let (after, drops) = rig.counted()?;
        check_counted(&before, &after, more.into()..=more.into(), "opening flows")?;
        ensure!(
            drops == drops_before,
            "{} packets were dropped while flows were opened",
            drops - drops_before
        );
        rig.run(Program::TcIngress, Callee::Ours, &self.frame(ACK), more)?;
        let replies = self.of_leg(rig, &opened, Leg::Reply)?;
        rig.put_tuples(tuples::<F>(&replies))?;
        rig.run(Program::TcEgress, Callee::Ours, &self.frame(SYN | ACK), more)?;
        self.fill_floor(rig, &opened, &replies)?;
        if self.dialled == Features::All {
            let requests = self.of_leg(rig, &opened, Leg::MasqueradedRequest)?;
            let replies = self.of_leg(rig, &opened, Leg::MasqueradedReply)?;
            self.fill_floor(rig, &requests, &replies)?;
        }
        self.open.extend(opened);
        Ok(())
    }

    /// The same of flows that leave this node, by XDP alone.
    pub(super) fn open_forwarded(&mut self, rig: &mut Rig, count: u32) -> Result<()> {
        let opened = self.open_by_xdp(rig, count, |_| true)?;
        let replies = self.of_leg(rig, &opened, Leg::ForwardedReply)?;
        rig.put_tuples(tuples::<F>(&replies))?;
        rig.run(
            Program::Forward,
            Callee::Ours,
            &self.frame(SYN | ACK),
            replies.len() as u32,
        )?;
        self.fill_floor(rig, &opened, &replies)?;
        self.open.extend(opened);
        Ok(())
    }

    /// The same of flows that go to another node in a tunnel.
    pub(super) fn open_tunnelled(&mut self, rig: &mut Rig, count: u32) -> Result<()> {
        let opened = self.open_by_xdp(rig, count, |flow| flow.flags.has(FlowFlags::TUNNELS))?;
        self.fill_floor(rig, &opened, &opened)?;
        self.open.extend(opened);
        Ok(())
    }

    /// Opens flows of this kind in XDP, and lets a packet pass in each. One checksum in 65 536 looks partial, and its packet goes up.
    fn open_by_xdp(
        &mut self,
        rig: &mut Rig,
        count: u32,
        is_of_kind: impl Fn(&Flow<F::Addr>) -> bool,
    ) -> Result<Vec<FlowKey<F::Addr>>> {
        let opened = self.unused(count)?;
        rig.put_tuples(tuples::<F>(&opened))?;
        let (before, _) = rig.counted()?;
        rig.run(Program::Forward, Callee::Ours, &self.frame(SYN), count)?;
        let (after, _) = rig.counted()?;
        let least = u64::from(count - count / 1_000 - 5);
        check_counted(&before, &after, least..=count.into(), "opening flows")?;
        let opened: Vec<_> = opened
            .into_iter()
            .filter(|key| F::flows(rig).get(key).is_some_and(|flow| is_of_kind(&flow)))
            .collect();
        ensure!(
            opened.len() as u64 >= least,
            "{} of {count} flows are of the kind",
            opened.len()
        );
        rig.put_tuples(tuples::<F>(&opened))?;
        rig.run(Program::Forward, Callee::Ours, &self.frame(ACK), opened.len() as u32)?;
        Ok(opened)
    }

    /// Gives the floor the entries that the datapath has, in the same order: both tables lie in memory alike.
    fn fill_floor(&self, rig: &mut Rig, requests: &[FlowKey<F::Addr>], replies: &[FlowKey<F::Addr>]) -> Result<()> {
        const FLOWS_AT_ONCE: usize = TUPLES_MAX as usize / 2;
        let pairs: Vec<_> = replies.iter().zip(requests).collect();
        for some in pairs.chunks(FLOWS_AT_ONCE) {
            let both: Vec<_> = some
                .iter()
                .flat_map(|(reply, request)| [F::tuple(reply), F::tuple(request)])
                .collect();
            let count = both.len() as u32;
            rig.put_tuples(both.into_iter())?;
            rig.run(Program::TcIngress, Callee::Fill, &self.frame(ACK), count)?;
        }
        Ok(())
    }

    /// Opens so many flows that all entries of the table are in use.
    pub(super) fn overfill(&mut self, rig: &mut Rig) -> Result<()> {
        let count = F::flows(rig).capacity;
        let opened = self.unused(count)?;
        rig.put_tuples(tuples::<F>(&opened))?;
        rig.run(Program::TcIngress, Callee::Ours, &self.frame(SYN), count)?;
        Ok(())
    }

    /// What packets of the open flows cost.
    pub(super) fn measure_leg(&mut self, rig: &mut Rig, extent: &Extent, leg: Leg) -> Result<Cost> {
        let program = leg.program();
        let mut keys = self.of_leg(rig, &self.open, leg)?;
        shuffle(&mut keys);
        let count = keys.len() as u32;
        rig.put_tuples(tuples::<F>(&keys))?;
        let frame = self.frame(ACK);
        // Once as it will be measured, to see that it does what it should.
        let (_, before) = rig.run(program, Callee::Nothing, &frame, 1)?;
        // Every 17 seconds XDP leaves a packet to a neighbour to the stack: it may be this one.
        let _whatever_becomes_of_it = rig.run(program, Callee::Ours, &frame, 1);
        for callee in [Callee::Floor, Callee::Ours] {
            rig.turn_to(0, count)?;
            let (_, after) = rig.run(program, callee, &frame, 1)?;
            ensure!(
                F::addresses(&after) != F::addresses(&before),
                "{program}: {callee:?} left the packet as it was"
            );
        }
        rig.turn_to(0, count)?;
        let mut quietest = rounds::<F>(rig, extent, program, &frame)?;
        for _ in 1..ATTEMPTS_MAX {
            if quietest.noise() <= NOISE_MAX {
                break;
            }
            let again = rounds::<F>(rig, extent, program, &frame)?;
            if again.noise() < quietest.noise() {
                quietest = again;
            }
        }
        Ok(quietest)
    }

    /// What the first packet of a flow costs: all are different.
    pub(super) fn measure_new(&mut self, rig: &mut Rig, extent: &Extent, program: Program) -> Result<Cost> {
        let each = extent.new_packets;
        let count = each * extent.rounds;
        let mut keys = self.unused(count)?;
        shuffle(&mut keys);
        rig.put_tuples(tuples::<F>(&keys))?;
        let frame = self.frame(SYN);
        let before = rig.counted()?;
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for round in 0..extent.rounds {
            rig.turn_to(round * each, count)?;
            let (nothing, _) = rig.run(program, Callee::Nothing, &frame, each)?;
            if program == Program::Forward {
                rig.turn_to(round * each, count)?;
                let (floor, _) = rig.run(program, Callee::FloorNew, &frame, each)?;
                floors.push((floor - nothing).max(1.0));
            }
            rig.turn_to(round * each, count)?;
            let (cost, _) = rig.run(program, Callee::Ours, &frame, each)?;
            ours.push(cost - nothing);
        }
        let after = rig.counted()?;
        // To XDP, one checksum in 65 536 looks partial, and its packet goes up untouched.
        let least = u64::from(count)
            - if program == Program::Xdp || program == Program::Forward {
                u64::from(count / 10_000) + 5
            } else {
                0
            };
        check_counted(&before.0, &after.0, least..=count.into(), "new flows")?;
        ensure!(after.1 == before.1, "{program}: first packets were dropped");
        let ratio = !floors.is_empty();
        Ok(Cost {
            ratio: ratio.then(|| ours.iter().zip(&floors).map(|(ours, floor)| ours / floor).collect()),
            ours: Samples::from_iter(ours),
        })
    }
}

/// Runs nothing, floor and datapath in turn, and compares them round by round.
fn rounds<F: BenchFamily>(rig: &mut Rig, extent: &Extent, program: Program, frame: &[u8]) -> Result<Cost> {
    let counted = rig.counted()?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        let (nothing, as_it_came) = rig.run(program, Callee::Nothing, frame, extent.packets)?;
        let (floor, _) = rig.run(program, Callee::Floor, frame, extent.packets)?;
        let (cost, translated) = rig.run(program, Callee::Ours, frame, extent.packets)?;
        ensure!(
            F::addresses(&translated) != F::addresses(&as_it_came),
            "{program}: the last packet of a round was left as it was"
        );
        ours.push(cost - nothing);
        floors.push((floor - nothing).max(1.0));
    }
    let after = rig.counted()?;
    check_counted(&counted.0, &after.0, 0..=0, "established flows")?;
    ensure!(
        after.1 == counted.1,
        "{program}: packets of established flows were dropped"
    );
    Ok(Cost {
        ratio: Some(ours.iter().zip(&floors).map(|(ours, floor)| ours / floor).collect()),
        ours: Samples::from_iter(ours),
    })
}

fn client<F: BenchFamily>(number: u32) -> Result<<F as Family>::Addr> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let (v4, v6) = (
        Ipv4Addr::from(0x0af0_0001 + number),
        Ipv6Addr::from(0xfd00_0cc0_u128 << 96 | u128::from(number + 1)),
    );
    [IpAddr::V4(v4), IpAddr::V6(v6)]
        .into_iter()
        .find_map(F::address)
        .context("a client of this family")
}

fn tuples<F: BenchFamily>(keys: &[FlowKey<F::Addr>]) -> impl ExactSizeIterator<Item = Tuple> {
    keys.iter().map(F::tuple)
}
