//! The test rig: the datapath as the agent loads it, the floor object beside it, and a way to run either on packets
//! that get another flow's tuple before every run.

use std::{
    fmt, fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{Program as AyaProgram, ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    datapath::Hook,
    layout::{Counter, Device, DeviceFlags, DropReason, Node, NodeFlags, V4, V6, names},
};
use lb_userspace::{
    kernel::{Datapath, LoadOptions},
    model::NodeView,
    reconcile::Reconciler,
    tables::{Deferral, DefersTable, DeviceTable, FlowTable, KernelTables, NodeTable, PeerTable, Stats},
};

use super::super::{
    object,
    population::{NODE, Population, other_node},
    samples::Samples,
    there,
};
use super::family::{BenchFamily, FRAME_TO};
use crate::packet::{hops::WAN, kernel::test_context};

/// `Tuple` of the floor object: addresses and ports as words in the order of a packet.
pub(super) type Tuple = [u32; 10];

/// Tuples that the floor object has room for.
pub(super) const TUPLES_MAX: u32 = 1 << 20;

/// A program of the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Program {
    TcIngress,
    TcEgress,
    Xdp,
    /// The same of flows that leave this node.
    Forward,
}

impl Program {
    pub(super) const OF_THIS_NODE: [Self; 3] = [Self::TcIngress, Self::TcEgress, Self::Xdp];

    fn hook(self) -> Hook {
        match self {
            Self::TcIngress => Hook::Ingress,
            Self::TcEgress => Hook::EgressForwarded,
            Self::Xdp | Self::Forward => Hook::Xdp,
        }
    }

    /// What the kernel is told of a packet that goes on its way.
    fn told(self, callee: Callee) -> u32 {
        const TC_ACT_UNSPEC: u32 = u32::MAX;
        const XDP_PASS: u32 = 2;
        const XDP_REDIRECT: u32 = 4;
        match (self, callee) {
            (Self::TcIngress | Self::TcEgress, _) => TC_ACT_UNSPEC,
            (Self::Forward, Callee::Ours) => XDP_REDIRECT,
            (Self::Xdp | Self::Forward, _) => XDP_PASS,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
            Self::Xdp => "xdp",
            Self::Forward => "xdp-forward",
        })
    }
}

/// What is called after the packet was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Callee {
    Nothing,
    Floor,
    Ours,
    /// The floor of first packets (XDP).
    FloorNew,
    /// Makes the floor's entries.
    Fill,
}

/// What a row has cost, ns per packet.
pub(super) struct Cost {
    pub(super) ours: Samples,
    /// To the floor, round by round. None where there is nothing to compare with.
    pub(super) ratio: Option<Samples>,
}

impl Cost {
    /// How much the samples differ that a bar is held to.
    pub(super) fn noise(&self) -> f64 {
        self.ratio.as_ref().unwrap_or(&self.ours).noise()
    }
}

/// See above.
pub(super) struct Rig {
    pub(super) flows4: FlowTable<V4>,
    pub(super) flows6: FlowTable<V6>,
    datapath: Datapath,
    stats: Stats,
    floor: Ebpf,
    tuples: Array<MapData, Tuple>,
    cursor: Array<MapData, [u32; 2]>,
    callee_tc: ProgramArray<MapData>,
    callee_xdp: ProgramArray<MapData>,
    /// The tables are the reconciler's as long as it lives.
    _reconciler: Reconciler<KernelTables<V4>, KernelTables<V6>>,
}

impl Rig {
    /// Loads both objects and fills the tables by the way that the agent takes.
    pub(super) fn new(flows_max: u32, population: Population) -> Result<Self> {
        Self::with_tunnels(flows_max, population, Tunnels::Ipip)
    }

    /// The same with tunnels of this kind, where Services ask for them.
    pub(super) fn with_tunnels(flows_max: u32, population: Population, tunnels: Tunnels) -> Result<Self> {
        let mut datapath = Datapath::load(&LoadOptions {
            maps: None,
            flows_max,
            ways_max: flows_max,
            later: &[],
        })?;
        DefersTable::open(datapath.take_map(names::DEFERS)?)?.put(Deferral::No)?;
        let v4 = KernelTables::<V4>::open(|name| datapath.take_map(name))?;
        let v6 = KernelTables::<V6>::open(|name| datapath.take_map(name))?;
        let mut reconciler = Reconciler::adopt(NodeView::named(NODE), v4, v6, true)?;
        reconciler.apply(population.first_lists());
        if let Some(problem) = reconciler.problems().next() {
            bail!("{} is not in the tables: {}", problem.port, problem.reason);
        }
        // An address to masquerade with; nothing is a pod's.
        let mut node4 = NodeTable::<V4>::open(datapath.take_map(names::LB4_NODE)?)?;
        let mut node6 = NodeTable::<V6>::open(datapath.take_map(names::LB6_NODE)?)?;
        node4.put(Node {
            address: Ipv4Addr::new(192, 168, 9, 1).into(),
            own: Ipv4Addr::new(192, 168, 9, 1).into(),
            flags: tunnels.flags(),
            ..Node::default()
        })?;
        node6.put(Node {
            address: Ipv6Addr::new(0xfd00, 0x1929, 0, 0, 0, 0, 0, 1).into(),
            own: Ipv6Addr::new(0xfd00, 0x1929, 0, 0, 0, 0, 0, 1).into(),
            flags: tunnels.flags(),
            ..Node::default()
        })?;
        put_peer::<V4>(&mut datapath)?;
        put_peer::<V6>(&mut datapath)?;
        // Frames are addressed to this node, and others are reached by a device that takes them.
        let arrives = Device {
            link: Device::link_of(FRAME_TO),
            ..Device::default()
        };
        let leaves = Device {
            flags: DeviceFlags::FORWARDS,
            ..Device::default()
        };
        DeviceTable::open(names::DEVICES, datapath.take_map(names::DEVICES)?)?
            .put_all(&[(1, arrives), (WAN, leaves)].into())?;
        let mut floor = load_floor(flows_max)?;
        Ok(Self {
            flows4: FlowTable::open(datapath.take_map(names::CT4_FLOWS)?)?,
            flows6: FlowTable::open(datapath.take_map(names::CT6_FLOWS)?)?,
            stats: Stats::open(|name| datapath.take_map(name))?,
            datapath,
            tuples: Array::try_from(there(floor.take_map("BENCH_TUPLES"), "BENCH_TUPLES")?)?,
            cursor: Array::try_from(there(floor.take_map("BENCH_CURSOR"), "BENCH_CURSOR")?)?,
            callee_tc: ProgramArray::try_from(there(floor.take_map("BENCH_TC"), "BENCH_TC")?)?,
            callee_xdp: ProgramArray::try_from(there(floor.take_map("BENCH_XDP"), "BENCH_XDP")?)?,
            floor,
            _reconciler: reconciler,
        })
    }

    /// Tells the tuples of the packets to come, the first of them first.
    pub(super) fn put_tuples(&mut self, tuples: impl ExactSizeIterator<Item = Tuple>) -> Result<()> {
        let count = tuples.len() as u32;
        ensure!((1..=TUPLES_MAX).contains(&count), "{count} tuples don't fit");
        for (place, tuple) in (0..).zip(tuples) {
            self.tuples.set(place, tuple, 0)?;
        }
        self.turn_to(0, count)
    }

    /// The tuple of the next packet, and how many there are.
    pub(super) fn turn_to(&mut self, next: u32, count: u32) -> Result<()> {
        Ok(self.cursor.set(0, [next, count], 0)?)
    }

    /// Counters of the datapath, and all its drops.
    pub(super) fn counted(&self) -> Result<(Vec<u64>, u64)> {
        let counters = Counter::ALL.into_iter().map(|counter| self.stats.counter(counter));
        let drops = DropReason::ALL.into_iter().map(|reason| self.stats.drops(reason));
        Ok((counters.collect::<Result<_>>()?, drops.sum::<Result<_>>()?))
    }

    /// Restores and calls so often; mean ns per packet, and the last packet as it came out.
    pub(super) fn run(&mut self, program: Program, callee: Callee, frame: &[u8], times: u32) -> Result<(f64, Vec<u8>)> {
        let xdp = program.hook() == Hook::Xdp;
        let callee_name = match (callee, program) {
            (Callee::Nothing, _) => {
                if xdp {
                    "nothing_xdp"
                } else {
                    "nothing_tc"
                }
            }
            (Callee::Floor, _) => {
                if xdp {
                    "floor_xdp"
                } else {
                    "floor_tc"
                }
            }
            (Callee::FloorNew, _) => "floor_new_xdp",
            (Callee::Fill, _) => "fill_tc",
            (Callee::Ours, Program::TcIngress) => names::TC_INGRESS,
            (Callee::Ours, Program::TcEgress) => names::TC_EGRESS,
            (Callee::Ours, Program::Xdp | Program::Forward) => names::XDP,
        };
        let fd: &ProgramFd = match (callee, xdp) {
            (Callee::Ours, false) => self.datapath.classifier(callee_name)?.fd()?,
            (Callee::Ours, true) => self.datapath.xdp(callee_name)?.fd()?,
            (_, false) => classifier(&mut self.floor, callee_name)?.fd()?,
            (_, true) => xdp_program(&mut self.floor, callee_name)?.fd()?,
        };
        let callees = if xdp { &mut self.callee_xdp } else { &mut self.callee_tc };
        callees
            .set(0, fd, 0)
            .with_context(|| format!("let {callee_name} be called"))?;
        // Room for the headers of a tunnel.
        let mut out = vec![0; frame.len() + 48];
        let context = test_context(program.hook());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = times;
        let result = if xdp {
            xdp_program(&mut self.floor, "bench_xdp")?.test_run(options)
        } else {
            options.ctx_in = Some(&context);
            classifier(&mut self.floor, "bench_tc")?.test_run(options)
        };
        let result = result.with_context(|| format!("run {callee_name} {times} times"))?;
        ensure!(
            result.return_value == program.told(callee),
            "{callee_name} answered {} to the last packet",
            result.return_value as i32
        );
        // The kernel's own figure, in whole nanoseconds: what it does around an XDP program's run would be seen in ours.
        Ok((result.duration.as_nanos() as f64, out))
    }
}

/// What tunnels to other nodes are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tunnels {
    Ipip,
    Gue,
}

impl Tunnels {
    pub(super) const ALL: [Self; 2] = [Self::Ipip, Self::Gue];

    fn flags(self) -> NodeFlags {
        match self {
            Self::Ipip => NodeFlags::default(),
            Self::Gue => NodeFlags::GUE,
        }
    }
}

impl fmt::Display for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

/// The other node is known.
fn put_peer<F: BenchFamily>(datapath: &mut Datapath) -> Result<()> {
    let address = F::address(other_node(F::MODEL)).context("an address of this family")?;
    PeerTable::<F>::open(datapath.take_map(F::PEERS)?)?.put_all(&[address].into())?;
    Ok(())
}

fn load_floor(flows_max: u32) -> Result<Ebpf> {
    let path = object("floor")?;
    let object = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut loader = EbpfLoader::new();
    for name in ["FLOOR4", "FLOOR6"] {
        loader.map_max_entries(name, flows_max);
    }
    let mut floor = loader
        .load(&object)
        .with_context(|| format!("load {}", path.display()))?;
    for (name, program) in floor.programs_mut() {
        match program {
            AyaProgram::SchedClassifier(program) => program.load(),
            AyaProgram::Xdp(program) => program.load(),
            _ => bail!("{name} has a type that no bench needs"),
        }
        .with_context(|| format!("the kernel refused {name}"))?;
    }
    Ok(floor)
}

fn classifier<'a>(floor: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(there(floor.program_mut(name), name)?.try_into()?)
}

fn xdp_program<'a>(floor: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(there(floor.program_mut(name), name)?.try_into()?)
}
