//! Making a failing case small enough to be read: whatever can be left out so that it still fails is left out.
//!
//! Here: what can be left out. Not here: what failing is; that is a closure.

use lb_userspace::model::{Service, ServiceKey, SliceKey};

use super::node::Detector;
use super::random::{Case, Step};
use super::world::World;

/// Something that may not matter.
#[derive(Clone, Debug)]
enum Part {
    /// A step, by its place.
    Step(usize),
    Service(ServiceKey),
    Slice(SliceKey),
    /// An endpoint of a slice, by its place.
    Endpoint(SliceKey, usize),
    /// A port of a Service, by its place, and what slices have for it.
    Port(ServiceKey, usize),
    /// Everything else that a Service may have, by a number.
    Trait(ServiceKey, usize),
    /// The same for the node.
    NodeTrait(usize),
}

const TRAITS: usize = 7;
const NODE_TRAITS: usize = 5;

/// The smallest case that still fails, as far as leaving out one thing after the other finds it.
#[must_use]
pub fn shrunk(case: &Case, fails: impl Fn(&Case) -> bool) -> Case {
    let mut case = case.clone();
    loop {
        let smaller = parts(&case).into_iter().rev().map(|part| without(&case, &part));
        let fewer = |other: &Case| other.to_string().len() < case.to_string().len();
        match smaller.into_iter().find(|other| fewer(other) && fails(other)) {
            Some(smaller) => case = smaller,
            None => return case,
        }
    }
}

fn worlds(case: &mut Case) -> impl Iterator<Item = &mut World> {
    let later = case.steps.iter_mut().filter_map(|step| match step {
        Step::Becomes(world) => Some(&mut **world),
        Step::Dial { .. } => None,
    });
    std::iter::once(&mut case.world).chain(later)
}

fn parts(case: &Case) -> Vec<Part> {
    let mut parts: Vec<Part> = (0..NODE_TRAITS).map(Part::NodeTrait).collect();
    for world in worlds(&mut case.clone()) {
        for service in &world.services {
            parts.extend((0..TRAITS).map(|which| Part::Trait(service.key.clone(), which)));
            parts.extend((0..service.ports.len()).map(|at| Part::Port(service.key.clone(), at)));
        }
        for slice in &world.slices {
            parts.extend((0..slice.endpoints.len()).map(|at| Part::Endpoint(slice.key.clone(), at)));
        }
        parts.extend(world.slices.iter().map(|slice| Part::Slice(slice.key.clone())));
        parts.extend(world.services.iter().map(|service| Part::Service(service.key.clone())));
    }
    parts.extend((0..case.steps.len()).map(Part::Step));
    parts
}

fn without(case: &Case, part: &Part) -> Case {
    let mut case = case.clone();
    if let Part::Step(at) = part {
        case.steps.remove(*at);
    }
    worlds(&mut case).for_each(|world| leave_out(world, part));
    case
}

fn removed<T: Clone>(list: &[T], at: usize) -> Box<[T]> {
    let kept = list.iter().enumerate().filter(|(place, _)| *place != at);
    kept.map(|(_, one)| one.clone()).collect()
}

fn leave_out(world: &mut World, part: &Part) {
    let World { node, services, slices } = world;
    match part {
        Part::Step(_) => {}
        Part::Service(key) => services.retain(|service| service.key != *key),
        Part::Slice(key) => slices.retain(|slice| slice.key != *key),
        Part::Endpoint(key, at) => {
            for slice in slices.iter_mut().filter(|slice| slice.key == *key) {
                slice.endpoints = removed(&slice.endpoints, *at);
            }
        }
        Part::Port(key, at) => {
            // The last one stays: a Service has a port.
            let may_lose_one = |service: &&mut Service| service.key == *key && service.ports.len() > 1;
            for service in services.iter_mut().filter(may_lose_one) {
                let Some(name) = service.ports.get(*at).map(|port| port.name.clone()) else {
                    continue;
                };
                service.ports = removed(&service.ports, *at);
                for slice in slices.iter_mut().filter(|slice| slice.service.as_ref() == Some(key)) {
                    let kept = slice.ports.iter().filter(|port| port.name.as_ref() != Some(&name));
                    slice.ports = kept.cloned().collect();
                }
            }
        }
        Part::Trait(key, which) => {
            for service in services.iter_mut().filter(|service| service.key == *key) {
                match which {
                    0 => service.affinity_timeout_s = None,
                    1 => service.source_ranges = [].into(),
                    2 => service.load_balancer_vips = [].into(),
                    3 => service.external_ips = [].into(),
                    4 => service.internal_policy = lb_userspace::model::TrafficPolicy::Cluster,
                    5 => service.external_policy = lb_userspace::model::TrafficPolicy::Cluster,
                    _ => service.ports.iter_mut().for_each(|port| port.node_port = None),
                }
            }
        }
        Part::NodeTrait(which) => match which {
            0 => node.masquerade_all = false,
            1 => node.node_port_addresses.clear(),
            2 => node.service_cidrs.clear(),
            3 => node.detector = Detector::None,
            _ => node.view.zone = None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let case = (0..)
            .map(Case::of)
            .find(|case| case.world.services.len() == 3)
            .expect("one of them");
        let small = shrunk(&case, |case| !case.world.services.is_empty() && !case.steps.is_empty());
        assert_eq!(small.world.services[0].ports.len(), 1);
        assert_eq!(
            (small.world.services.len(), small.world.slices.len(), small.steps.len()),
            (1, 0, 1)
        );
    }
}
