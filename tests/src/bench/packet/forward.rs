//! Flows that leave this node by XDP: both translations and the next hop in one step, few and many Services.

use anyhow::Result;
use lb_common::layout::{Proto, V4, V6};
use lb_userspace::model::{Family as ModelFamily, Protocol};

use super::{
    super::{
        figure::Figure,
        population::{Features, Population},
        samples::Samples,
    },
    Extent, SERVICES_MAX, Table,
    family::BenchFamily,
    flows::{Flows, Leg},
    rig::{Program, Rig, Tunnels},
};

/// A packet of an established flow costs at most this much of the floor's.
const FORWARDED_MAX: f64 = 1.5;
/// The first packet of a flow costs at most this much of the floor of first packets.
const NEW_MAX: f64 = 4.0;

/// How the endpoint sees the client, and what it has dialled: a load-balancer address and an address of this node, or a ClusterIP and its
/// own address.
const WAYS: [(&str, Features); 2] = [("snat", Features::Elsewhere), ("dnat", Features::None)];

/// What a row cost with so many Services.
type ByServices = Vec<(String, u32, Samples)>;

/// All rows.
pub(super) fn rows(extent: &Extent, table: &mut Table) -> Result<()> {
    let mut established = ByServices::new();
    for &services in extent.services {
        for way in WAYS {
            let population = Population {
                services,
                families: &ModelFamily::BOTH,
                protocols: &[Protocol::Tcp],
                features: Features::Elsewhere,
            };
            let mut rig = Rig::new(extent.flows_max, population)?;
            of_family::<V4>(&mut rig, extent, (services, way), table, &mut established)?;
            of_family::<V6>(&mut rig, extent, (services, way), table, &mut established)?;
        }
    }
    let (few, many) = (extent.services[0], extent.services[extent.services.len() - 1]);
    for (name, _, cost) in established.iter().filter(|(_, services, _)| *services == many) {
        let first = established
            .iter()
            .find(|(other, services, _)| other == name && *services == few);
        let Some((_, _, first)) = first else { continue };
        let ratio = cost.median() / first.median();
        let name = format!("packet/{name}/services={many}-to-{few}");
        table.add(Figure::new(name, "ratio", ratio, first.noise().max(cost.noise())).at_most(SERVICES_MAX));
    }
    Ok(())
}

/// Flows that go to another node in a tunnel, which answers.
pub(super) fn tunnels(extent: &Extent, table: &mut Table) -> Result<()> {
    for kind in Tunnels::ALL {
        let population = Population {
            services: extent.services[0],
            families: &ModelFamily::BOTH,
            protocols: &[Protocol::Tcp],
            features: Features::Direct,
        };
        let mut rig = Rig::with_tunnels(extent.flows_max, population, kind)?;
        tunnels_of::<V4>(&mut rig, extent, kind, table)?;
        tunnels_of::<V6>(&mut rig, extent, kind, table)?;
    }
    Ok(())
}

fn tunnels_of<F: BenchFamily>(rig: &mut Rig, extent: &Extent, kind: Tunnels, table: &mut Table) -> Result<()> {
    let mut flows = Flows::<F>::new(Proto::TCP, extent.services[0]).dialling(Features::Direct);
    flows.open_tunnelled(rig, extent.flows_of_services)?;
    let cost = flows.measure_leg(rig, extent, Leg::ForwardedRequest)?;
    let name = format!("{}/{}/tcp/dsr-{kind}", Program::Forward, F::SHORT);
    table.add_cost(&format!("{name}/request"), &cost, Some(FORWARDED_MAX));
    let cost = flows.measure_new(rig, extent, Program::Forward)?;
    table.add_cost(&format!("{name}/new"), &cost, Some(NEW_MAX));
    Ok(())
}

fn of_family<F: BenchFamily>(
    rig: &mut Rig,
    extent: &Extent,
    (services, (way, dialled)): (u32, (&str, Features)),
    table: &mut Table,
    established: &mut ByServices,
) -> Result<()> {
    let mut flows = Flows::<F>::new(Proto::TCP, services).dialling(dialled);
    flows.open_forwarded(rig, extent.flows_of_services)?;
    let mut floor_ns = f64::NAN;
    for leg in [Leg::ForwardedRequest, Leg::ForwardedReply] {
        let cost = flows.measure_leg(rig, extent, leg)?;
        let name = format!("{}/{}/tcp/{way}/{leg}", leg.program(), F::SHORT);
        table.add_cost(&format!("{name}/services={services}"), &cost, Some(FORWARDED_MAX));
        if let Some(ratio) = &cost.ratio {
            floor_ns = cost.ours.median() / ratio.median();
        }
        established.push((name, services, cost.ours));
    }
    let cost = flows.measure_new(rig, extent, Program::Forward)?;
    let name = format!("{}/{}/tcp/{way}/new/services={services}", Program::Forward, F::SHORT);
    table.add_cost(&name, &cost, Some(NEW_MAX));
    let ratio = cost.ours.median() / floor_ns;
    let name = format!("packet/{name}/established-floor");
    table.add(Figure::new(name, "ratio", ratio, cost.ours.noise()));
    Ok(())
}
