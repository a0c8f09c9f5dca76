//! Nanoseconds per packet: which rows there are, and the bars. How one is measured is in [`rig`], how the packets come
//! about in [`flows`].
//!
//! ```text
//! BPF_PROG_TEST_RUN, many times -> bench_tc: next tuple into the packet --tail call--> the program under test
//!                                                                                 |--> floor_tc
//!                                                                                 '--> nothing_tc
//! price = (under test) - (nothing);   ratio = price / price of the floor, round by round
//! ```

mod family;
mod flows;
mod forward;
mod rig;

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use lb_common::layout::{Counter, Proto, V4, V6};
use lb_userspace::model::{Family as ModelFamily, Protocol};

use super::{
    figure::Figure,
    population::{Features, Population},
    samples::Samples,
};
use crate::packet::{hops::lead_everywhere, kernel::enter_sandbox};
use family::BenchFamily;
use flows::{Flows, Leg};
use rig::{Cost, Program, Rig};

/// An established packet costs at most this much of the floor's.
const ESTABLISHED_MAX: f64 = 1.6;
/// With 50 000 Services an established packet costs at most this much of what it costs with 10.
const SERVICES_MAX: f64 = 1.15;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    /// Flows in the table, growing.
    flows: &'static [u32],
    /// Services in the table, growing.
    services: &'static [u32],
    /// Flows while Services are varied.
    flows_of_services: u32,
    /// Times that each program runs for a row.
    rounds: u32,
    /// Packets of a round.
    packets: u32,
    /// Packets of a round, each of which opens a flow.
    new_packets: u32,
    /// Entries of the flow tables.
    flows_max: u32,
}

const FULL: Extent = Extent {
    flows: &[1, 1_000, 100_000, 1_000_000],
    services: &[10, 1_000, 50_000],
    flows_of_services: 100_000,
    rounds: 15,
    packets: 100_000,
    new_packets: 20_000,
    // A flow has two entries.
    flows_max: 1 << 21,
};

const QUICK: Extent = Extent {
    flows: &[1, 10_000],
    services: &[10, 1_000],
    flows_of_services: 10_000,
    rounds: 5,
    packets: 20_000,
    new_packets: 2_000,
    flows_max: 1 << 17,
};

/// Services while flows are varied.
const SERVICES_OF_FLOWS: u32 = 1_000;

/// Runs the bench.
pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let extent = if quick { QUICK } else { FULL };
    println!(
        "bench packet: ns per packet, the cost of restoring the packet taken off; × is relative to the floor program"
    );
    enter_sandbox()?;
    lead_everywhere()?;
    let mut table = Table::default();
    by_flows(&extent, &mut table)?;
    by_services(&extent, &mut table)?;
    with_everything(&extent, &mut table)?;
    full_table(&extent, &mut table)?;
    forward::rows(&extent, &mut table)?;
    forward::tunnels(&extent, &mut table)?;
    Ok(table.0)
}

/// The figures so far, printed as they come.
#[derive(Default)]
struct Table(Vec<Figure>);

impl Table {
    fn add(&mut self, figure: Figure) {
        println!("  {figure}");
        self.0.push(figure);
    }

    fn add_cost(&mut self, name: &str, cost: &Cost, bar: Option<f64>) {
        self.add(Figure::new(
            format!("packet/{name}"),
            "ns",
            cost.ours.median(),
            cost.ours.noise(),
        ));
        if let Some(ratio) = &cost.ratio {
            let figure = Figure::new(format!("packet/{name}/floor"), "ratio", ratio.median(), ratio.noise());
            self.add(match bar {
                Some(bar) => figure.at_most(bar),
                None => figure,
            });
        }
    }
}

/// Established flows, few and many.
fn by_flows(extent: &Extent, table: &mut Table) -> Result<()> {
    let population = Population {
        services: SERVICES_OF_FLOWS,
        families: &ModelFamily::BOTH,
        protocols: &[Protocol::Tcp, Protocol::Udp],
        features: Features::None,
    };
    for proto in [Proto::TCP, Proto::UDP] {
        // A rig of its own, so that the table holds the flows of the row and no others.
        let mut rig = Rig::new(extent.flows_max, population)?;
        established::<V4>(&mut rig, extent, proto, table)?;
        established::<V6>(&mut rig, extent, proto, table)?;
    }
    Ok(())
}

fn established<F: BenchFamily>(rig: &mut Rig, extent: &Extent, proto: Proto, table: &mut Table) -> Result<()> {
    let mut flows = Flows::<F>::new(proto, SERVICES_OF_FLOWS);
    for &count in extent.flows {
        flows.open(rig, count)?;
        for program in Program::OF_THIS_NODE {
            let cost = flows.measure_leg(rig, extent, Leg::of(program))?;
            let name = format!("{program}/{}/{proto}/established/flows={count}", F::SHORT).to_lowercase();
            table.add_cost(&name, &cost, Some(ESTABLISHED_MAX));
        }
    }
    Ok(())
}

/// Established and new flows with few and many Services.
fn by_services(extent: &Extent, table: &mut Table) -> Result<()> {
    let mut established = Vec::new();
    for &services in extent.services {
        let population = Population {
            services,
            families: &ModelFamily::BOTH,
            protocols: &[Protocol::Tcp],
            features: Features::None,
        };
        let mut rig = Rig::new(extent.flows_max, population)?;
        services_of::<V4>(&mut rig, extent, services, table, &mut established)?;
        services_of::<V6>(&mut rig, extent, services, table, &mut established)?;
    }
    let few = extent.services[0];
    let many = extent.services[extent.services.len() - 1];
    for (name, services, cost) in &established {
        let first = established
            .iter()
            .find(|(other, least, _)| other == name && *least == few);
        let Some((_, _, first)) = first.filter(|_| *services == many) else {
            continue;
        };
        let noise = first.noise().max(cost.noise());
        let ratio = cost.median() / first.median();
        let name = format!("packet/{name}/services={many}-to-{few}");
        table.add(Figure::new(name, "ratio", ratio, noise).at_most(SERVICES_MAX));
    }
    Ok(())
}

type ByServices = Vec<(String, u32, Samples)>;

fn services_of<F: BenchFamily>(
    rig: &mut Rig,
    extent: &Extent,
    services: u32,
    table: &mut Table,
    established: &mut ByServices,
) -> Result<()> {
    let mut flows = Flows::<F>::new(Proto::TCP, services);
    flows.open(rig, extent.flows_of_services)?;
    for program in Program::OF_THIS_NODE {
        let cost = flows.measure_leg(rig, extent, Leg::of(program))?;
        let name = format!("{program}/{}/tcp/established", F::SHORT);
        table.add_cost(&format!("{name}/services={services}"), &cost, Some(ESTABLISHED_MAX));
        established.push((name, services, cost.ours));
    }
    for program in [Program::TcIngress, Program::Xdp] {
        let cost = flows.measure_new(rig, extent, program)?;
        table.add_cost(
            &format!("{program}/{}/tcp/new/services={services}", F::SHORT),
            &cost,
            None,
        );
    }
    Ok(())
}

/// Masqueraded flows to load-balancer addresses of Services with NodePort, affinity and source ranges; and, in the same tables,
/// flows to their ClusterIPs, which need none of that.
fn with_everything(extent: &Extent, table: &mut Table) -> Result<()> {
    let population = Population {
        services: SERVICES_OF_FLOWS,
        families: &ModelFamily::BOTH,
        protocols: &[Protocol::Tcp],
        features: Features::All,
    };
    let mut rig = Rig::new(extent.flows_max, population)?;
    with_everything_of::<V4>(&mut rig, extent, table)?;
    with_everything_of::<V6>(&mut rig, extent, table)
}

fn with_everything_of<F: BenchFamily>(rig: &mut Rig, extent: &Extent, table: &mut Table) -> Result<()> {
    let mut flows = Flows::<F>::new(Proto::TCP, SERVICES_OF_FLOWS).dialling(Features::All);
    flows.open(rig, extent.flows_of_services)?;
    for leg in Leg::OF_THIS_NODE {
        let cost = flows.measure_leg(rig, extent, leg)?;
        let name = format!("{}/{}/tcp/everything/{leg}", leg.program(), F::SHORT);
        table.add_cost(&name, &cost, Some(ESTABLISHED_MAX));
    }
    for (name, features) in [("everything", Features::All), ("everything/plain", Features::None)] {
        let mut fresh = Flows::<F>::new(Proto::TCP, SERVICES_OF_FLOWS)
            .dialling(features)
            .after(&flows);
        for program in [Program::TcIngress, Program::Xdp] {
            let cost = fresh.measure_new(rig, extent, program)?;
            table.add_cost(&format!("{program}/{}/tcp/new/{name}", F::SHORT), &cost, None);
        }
        flows = fresh;
    }
    Ok(())
}

/// New flows where every entry takes the place of another.
fn full_table(extent: &Extent, table: &mut Table) -> Result<()> {
    let population = Population {
        services: 10,
        families: &ModelFamily::BOTH,
        protocols: &[Protocol::Tcp],
        features: Features::None,
    };
    let mut rig = Rig::new(lb_common::layout::limits::FLOWS_MIN, population)?;
    full_table_of::<V4>(&mut rig, extent, table)?;
    full_table_of::<V6>(&mut rig, extent, table)
}

fn full_table_of<F: BenchFamily>(rig: &mut Rig, extent: &Extent, table: &mut Table) -> Result<()> {
    let mut flows = Flows::<F>::new(Proto::TCP, 10);
    flows.overfill(rig)?;
    for program in [Program::TcIngress, Program::Xdp] {
        let cost = flows.measure_new(rig, extent, program)?;
        table.add_cost(&format!("{program}/{}/tcp/new/table-full", F::SHORT), &cost, None);
    }
    Ok(())
}

/// What the counters must say after a row, so that nothing else was measured than what its name says.
fn check_counted(before: &[u64], after: &[u64], created: RangeInclusive<u64>, what: &str) -> Result<()> {
    ensure!(before.len() == Counter::COUNT && after.len() == Counter::COUNT);
    let now = after[Counter::FlowsCreated as usize] - before[Counter::FlowsCreated as usize];
    ensure!(
        created.contains(&now),
        "{what}: {now} flows were opened where {created:?} should have been"
    );
    Ok(())
}
