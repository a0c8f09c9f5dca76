//! Services and slices of random worlds, and how they change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_userspace::model::{
    AddressType, Endpoint, EndpointSlice, Family, OptOut, Service, ServiceKey, ServicePort, ServiceType, SliceKey,
    SlicePort, TrafficPolicy,
};

use super::{Claims, any_protocol};
use crate::oracle::cast::{Cast, NODE_PORTS, PORTS, TARGETS};
use crate::oracle::notation::HERE;
use crate::oracle::world::World;
use crate::packet::tape::Tape;

const NAMES: [&str; 4] = ["web", "api", "dns", "odd"];
const PORT_NAMES: [&str; 3] = ["http", "", "b"];

/// A world's Services, and slices of each.
pub(super) fn add(tape: &mut Tape<'_>, casts: &[Cast; 2], world: &mut World) {
    let count = 1 + tape.below(3);
    for number in 0..count {
        let service = service(tape, casts, number, &Claims::of(world));
        world.slices.extend(slices(tape, casts, &service));
        world.services.push(service);
    }
    if tape.once_in(8) {
        // One that is none of ours, with an address that is in no range, since nobody could tell whose it is.
        let mut odd = service(tape, casts, 3, &Claims::of(world));
        match tape.below(4) {
            0 => odd.service_type = ServiceType::ExternalName,
            1 => odd.cluster_ips = [].into(),
            2 => odd.opt_out.proxy_name = true,
            _ => odd.opt_out.headless = true,
        }
        world.slices.extend(slices(tape, casts, &odd));
        world.services.push(odd);
    }
}

/// Something about a Service that is there becomes different.
pub(super) fn change(tape: &mut Tape<'_>, casts: &[Cast; 2], world: &mut World) {
    let at = tape.below(world.services.len());
    match tape.below(24) {
        0 | 1 => flip(&mut world.services[at].internal_policy),
        2 | 3 => flip(&mut world.services[at].external_policy),
        4 => drop(world.slices.pop()),
        5 => {
            let service = &mut world.services[at];
            service.affinity_timeout_s = match service.affinity_timeout_s {
                Some(_) => None,
                None => Some(tape.pick(&[10, 30, 10_800])),
            };
        }
        6 => {
            let ranges: Vec<_> = casts.iter().map(|cast| tape.pick(&cast.source_ranges)).collect();
            let service = &mut world.services[at];
            service.source_ranges = if service.source_ranges.is_empty() {
                ranges.into()
            } else {
                [].into()
            };
        }
        7 => world.services[at].load_balancer_vips = [].into(),
        8 => world.services[at].external_ips = [].into(),
        9 => world.services[at]
            .ports
            .iter_mut()
            .for_each(|port| port.node_port = None),
        10 => rename(tape, world, at),
        11 if world.services.len() > 1 => drop(world.services.remove(at)),
        11 | 12 => more(tape, casts, world),
        13..=16 => endpoints(tape, world),
        _ => {
            let key = world.services[at].key.clone();
            world.slices.retain(|slice| slice.service.as_ref() != Some(&key));
            world.slices.extend(slices(tape, casts, &world.services[at]));
        }
    }
}

/// A port gets another name, and so do its slices': to the agent it is another port.
fn rename(tape: &mut Tape<'_>, world: &mut World, at: usize) {
    let service = &mut world.services[at];
    let place = tape.below(service.ports.len());
    if service.ports.iter().any(|port| &*port.name == "new") {
        return;
    }
    let name = std::mem::replace(&mut service.ports[place].name, "new".into());
    let of_service = |slice: &&mut EndpointSlice| slice.service.as_ref() == Some(&service.key);
    for slice in world.slices.iter_mut().filter(of_service) {
        for port in slice.ports.iter_mut().filter(|port| port.name.as_ref() == Some(&name)) {
            port.name = Some("new".into());
        }
    }
}

/// A Service that was not there.
fn more(tape: &mut Tape<'_>, casts: &[Cast; 2], world: &mut World) {
    let is_free = |number: &usize| {
        let key = ServiceKey::new("default", NAMES[*number]);
        world.services.iter().all(|service| service.key != key)
    };
    if let Some(number) = (0..3).find(is_free) {
        let service = service(tape, casts, number, &Claims::of(world));
        world
            .slices
            .retain(|slice| slice.service.as_ref() != Some(&service.key));
        world.slices.extend(slices(tape, casts, &service));
        world.services.push(service);
    }
}

/// What endpoints are changes, or one is gone; where they are, too.
fn endpoints(tape: &mut Tape<'_>, world: &mut World) {
    let state = tape.pick(&[
        (true, true, false),
        (true, true, false),
        (false, true, true),
        (false, false, false),
        (false, true, false),
    ]);
    let here = tape.pick(&[None, None, Some(HERE)]);
    let all: Vec<IpAddr> = world
        .slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .map(|one| one.address)
        .collect();
    if all.is_empty() {
        return;
    }
    let address = tape.pick(&all);
    let goes = tape.once_in(4);
    for slice in &mut world.slices {
        if goes {
            slice.endpoints = slice
                .endpoints
                .iter()
                .filter(|one| one.address != address)
                .cloned()
                .collect();
        }
        // All that have the address: two that differ are undefined.
        for one in slice.endpoints.iter_mut().filter(|one| one.address == address) {
            (one.ready, one.serving, one.terminating) = state;
            if here.is_some() {
                one.node_name = here.map(Into::into);
            }
        }
    }
}

fn flip(policy: &mut TrafficPolicy) {
    *policy = match policy {
        TrafficPolicy::Cluster => TrafficPolicy::Local,
        TrafficPolicy::Local => TrafficPolicy::Cluster,
    };
}

fn policy(tape: &mut Tape<'_>) -> TrafficPolicy {
    tape.pick(&[TrafficPolicy::Cluster, TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn service(tape: &mut Tape<'_>, casts: &[Cast; 2], number: usize, claims: &Claims) -> Service {
    let mut service = Service {
        key: ServiceKey::new("default", NAMES[number]),
        service_type: tape.pick(&[ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer]),
        cluster_ips: [].into(),
        ports: ports(tape, claims),
        external_ips: [].into(),
        load_balancer_vips: [].into(),
        source_ranges: [].into(),
        internal_policy: policy(tape),
        external_policy: policy(tape),
        affinity_timeout_s: tape.pick(&[None, None, None, Some(10), Some(30), Some(10_800)]),
        health_check_node_port: None,
        resets_removed: None,
        no_sockets: false,
        algorithm: None,
        weights: None,
        forwarding: None,
        opt_out: OptOut::default(),
    };
    let only = tape.pick(&[None, None, None, None, Some(Family::V4), Some(Family::V6)]);
    let (mut cluster_ips, mut external_ips, mut vips, mut ranges) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for cast in casts {
        if only.is_none_or(|only| only == cast.family) {
            cluster_ips.push(cast.cluster_ips[number]);
        }
        let is_free = |address: &IpAddr| claims.leave(*address, &service.ports);
        for _ in 0..tape.pick(&[0, 0, 1, 2]) {
            vips.push(tape.pick(&[cast.vips[0], cast.vips[1], cast.node[0], cast.external]));
        }
        for _ in 0..tape.pick(&[0, 0, 1]) {
            external_ips.push(tape.pick(&[cast.external, cast.vips[0], cast.node[1], cast.other_node]));
        }
        for list in [&mut vips, &mut external_ips] {
            list.retain(is_free);
            list.sort();
            list.dedup();
        }
        for _ in 0..tape.pick(&[0, 0, 0, 1, 2]) {
            ranges.push(tape.pick(&cast.source_ranges));
        }
    }
    service.cluster_ips = cluster_ips.into();
    service.external_ips = external_ips.into();
    service.load_balancer_vips = vips.into();
    service.source_ranges = ranges.into();
    service
}

fn ports(tape: &mut Tape<'_>, claims: &Claims) -> Box<[ServicePort]> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for name in &PORT_NAMES[..tape.pick(&[1, 1, 2, 3])] {
        let (protocol, number) = (any_protocol(tape), tape.pick(&PORTS));
        let node_port = Some(tape.pick(&NODE_PORTS)).filter(|_| !tape.once_in(3));
        let mine = |port: &ServicePort| port.protocol == protocol && port.node_port == node_port;
        let is_free = |number: &u16| claims.leave_node_port(*number, protocol) && !ports.iter().any(mine);
        if ports
            .iter()
            .any(|port| (port.protocol, port.port) == (protocol, number))
        {
            continue;
        }
        ports.push(ServicePort {
            name: (*name).into(),
            protocol,
            port: number,
            node_port: node_port.filter(is_free),
        });
    }
    ports.into()
}

/// Endpoints that one Service has so far: another with the same address and state must be the same.
type Known = BTreeMap<(IpAddr, bool), Endpoint>;

fn slices(tape: &mut Tape<'_>, casts: &[Cast; 2], service: &Service) -> Vec<EndpointSlice> {
    let mut made = Vec::new();
    let hints = tape.below(4);
    for cast in casts {
        let mut known = Known::new();
        for number in 0..tape.pick(&[1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 0]) {
            let count = tape.pick(&[1, 2, 2, 3, 3, 4, 4, 0]);
            let endpoints: Vec<Endpoint> = (0..count).map(|_| endpoint(tape, cast, hints, &mut known)).collect();
            let name = format!("{}-{}-{number}", service.key.name(), cast.family);
            made.push(EndpointSlice {
                key: SliceKey::new("default", &name),
                service: Some(service.key.clone()).filter(|_| !tape.once_in(32)),
                address_type: match cast.family {
                    _ if tape.once_in(64) => AddressType::Fqdn,
                    Family::V4 => AddressType::Ipv4,
                    Family::V6 => AddressType::Ipv6,
                },
                ports: slice_ports(tape, service),
                endpoints: endpoints.into(),
                opt_out: OptOut {
                    headless: tape.once_in(64),
                    ..service.opt_out
                },
                triggered: None,
            });
        }
    }
    made
}

/// Most slices have every port of the Service. Each name and protocol once: what twice means is undefined.
fn slice_ports(tape: &mut Tape<'_>, service: &Service) -> Box<[SlicePort]> {
    let mut ports = Vec::new();
    for port in &service.ports {
        if tape.once_in(12) {
            continue;
        }
        let name = if tape.once_in(32) {
            None
        } else {
            Some(port.name.clone())
        };
        let number = match tape.below(24) {
            23 => None,
            22 => Some(0),
            // Most use one number, so that endpoints of several slices meet.
            0..=14 => Some(TARGETS[0]),
            _ => Some(tape.pick(&TARGETS)),
        };
        ports.push(SlicePort {
            name,
            protocol: port.protocol,
            port: number,
        });
    }
    ports.into()
}

fn endpoint(tape: &mut Tape<'_>, cast: &Cast, hints: usize, known: &mut Known) -> Endpoint {
    let here: [IpAddr; 4] = [cast.local_pods[0], cast.local_pods[1], cast.local_pods[2], cast.node[0]];
    let there: [IpAddr; 4] = [
        cast.remote_pods[0],
        cast.remote_pods[1],
        cast.other_node,
        cast.outside[0],
    ];
    let is_here = tape.once_in(2);
    let address = if is_here { tape.pick(&here) } else { tape.pick(&there) };
    let (ready, serving, terminating) = match tape.below(16) {
        0..=9 => (true, true, false),
        10..=11 => (false, true, true),
        12 => (false, false, true),
        13 => (false, false, false),
        14 => (false, true, false),
        _ => (true, tape.once_in(2), true),
    };
    let names = |all: &[&str]| all.iter().map(|name| (*name).into()).collect();
    let nodes: &[&[&str]] = &[&["here"], &["there"], &["there", "here"]];
    let zones: &[&[&str]] = &[&["a"], &["b"], &["a", "b"], &["c"]];
    let mut zone_hints: Box<[Box<str>]> = names(tape.pick(zones));
    let mut node_hints: Box<[Box<str>]> = names(tape.pick(nodes));
    if hints < 2 || (hints == 2 && tape.once_in(8)) {
        (zone_hints, node_hints) = ([].into(), [].into());
    } else if hints == 2 || tape.once_in(8) {
        node_hints = [].into();
    }
    let made = Endpoint {
        pod: None,
        address,
        ready,
        serving,
        terminating,
        node_name: match tape.below(12) {
            0 => None,
            _ if is_here => Some(HERE.into()),
            _ => Some("there".into()),
        },
        zone_hints,
        node_hints,
    };
    known.entry((address, terminating)).or_insert(made).clone()
}
