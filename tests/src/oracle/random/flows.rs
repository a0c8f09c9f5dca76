//! Who dials what in random worlds: mostly what is served, by those who may be endpoints themselves.

use std::net::{IpAddr, SocketAddr};

use super::{any_port, any_protocol, cast_of};
use crate::oracle::cast::Cast;
use crate::oracle::outcome::{NewFlow, Origin};
use crate::oracle::world::World;
use crate::packet::tape::Tape;
use lb_userspace::model::{Family, Protocol};

/// The next flow; its source port is like no other's, so that it is a new one.
pub(super) fn flow(
    tape: &mut Tape<'_>,
    casts: &[Cast; 2],
    world: &World,
    earlier: &[NewFlow],
    source_port: u16,
) -> NewFlow {
    if tape.once_in(3)
        && let Some(again) = earlier.last()
    {
        // The same client once more: it may be remembered.
        let mut again = again.clone();
        again.source.set_port(source_port);
        return again;
    }
    let family = tape.pick(&Family::BOTH);
    let cast = cast_of(casts, family);
    let (dialled, protocol) = dialled(tape, cast, world);
    let source = source(tape, cast, world, dialled.ip());
    let origin = if world.node.is_host(source) {
        Origin::Host
    } else if tape.once_in(12) {
        // By another device than it should.
        Origin::Device(tape.pick(&["pod0", "eth0"]).to_owned())
    } else {
        Origin::Device(cast.device_of(source))
    };
    NewFlow {
        origin,
        protocol,
        source: SocketAddr::new(source, source_port),
        dialled,
    }
}

fn dialled(tape: &mut Tape<'_>, cast: &Cast, world: &World) -> (SocketAddr, Protocol) {
    let served: Vec<_> = world.proxied(cast.family).collect();
    let any: Vec<_> = world.services.iter().collect();
    let of = if served.is_empty() || tape.once_in(16) {
        any
    } else {
        served
    };
    let service = of[tape.below(of.len())];
    if service.ports.is_empty() || tape.once_in(12) {
        return (
            SocketAddr::new(anywhere(tape, cast), any_port(tape)),
            any_protocol(tape),
        );
    }
    let port = &service.ports[tape.below(service.ports.len())];
    let lists: [&[IpAddr]; 3] = [&service.cluster_ips, &service.load_balancer_vips, &service.external_ips];
    let own = lists.concat();
    let own: Vec<IpAddr> = own
        .into_iter()
        .filter(|address| Family::of(*address) == cast.family)
        .collect();
    let (address, number) = match port.node_port {
        Some(node_port) if own.is_empty() || tape.once_in(3) => (at_node(tape, cast), node_port),
        _ if own.is_empty() => (anywhere(tape, cast), port.port),
        _ => (tape.pick(&own), port.port),
    };
    match tape.below(16) {
        0 => (SocketAddr::new(address, any_port(tape)), port.protocol),
        1 => (SocketAddr::new(address, number), any_protocol(tape)),
        _ => (SocketAddr::new(address, number), port.protocol),
    }
}

fn at_node(tape: &mut Tape<'_>, cast: &Cast) -> IpAddr {
    match tape.below(16) {
        0 | 1 => cast.loopback[0],
        2 => cast.loopback[1],
        3 => cast.vips[1],
        4 => cast.other_node,
        _ => tape.pick(&cast.node),
    }
}

fn anywhere(tape: &mut Tape<'_>, cast: &Cast) -> IpAddr {
    match tape.below(5) {
        0 | 3 => tape.pick(&cast.cluster_ips),
        1 => tape.pick(&cast.vips),
        2 => at_node(tape, cast),
        _ => tape.pick(&[cast.external, cast.outside[0], cast.remote_pods[0]]),
    }
}

/// Somebody who can send: nothing comes from loopback but to loopback, nothing gets there from outside.
fn source(tape: &mut Tape<'_>, cast: &Cast, world: &World, dialled: IpAddr) -> IpAddr {
    if dialled.is_loopback() && !tape.once_in(8) {
        return tape.pick(&[cast.loopback[0], cast.loopback[0], cast.node[0]]);
    }
    if cast.vips.contains(&dialled) && world.node.is_host(cast.vips[1]) && tape.once_in(3) {
        // Source ranges have a clause of its own for this one (§4.4).
        return cast.vips[1];
    }
    let mut all = cast.everybody();
    // A load balancer's address is a source where the host has it.
    all.extend(cast.vips.iter().filter(|address| world.node.is_host(**address)));
    all.retain(|address| *address != dialled || world.node.is_host(dialled));
    tape.pick(&all)
}
