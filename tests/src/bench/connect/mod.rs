//! Connections per second and their latency from a pod to a pod on the same node: to the endpoint itself (no balancer), by the socket
//! tier, by the tc tier, and through the rules of another balancer. Which rows there are, and the bars.
//!
//! Each way has a lab of its own, alike but for what balances, and they run in turn. One lab is in [`rig`], the rule sets in [`peer`].

mod peer;
mod rig;

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    figure::{Figure, NOISE_MAX},
    samples::Samples,
};
use peer::PeerRules;
use rig::{Rig, Way};

/// The socket tier's share of what goes to endpoints directly, in connections per second and in latency.
const OF_DIRECT_MIN: f64 = 0.97;
/// The tc tier's share of what goes through another balancer's rules.
const OF_PEER_MIN: f64 = 1.0;
/// How much memory the kernel may have more after all sockets were closed, in MiB: storages alone would be 80 for a million.
const MEMORY_MAX_MIB: f64 = 16.0;
/// How often a row is measured until its samples agree; the quietest counts.
const ATTEMPTS_MAX: u32 = 2;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    /// How many Services, without rule sets to say it.
    services: &'static [u32],
    /// Connections before the first round: twelve for each endpoint that is dialled.
    warm_up: u32,
    rounds: u32,
    /// Connections of a round.
    connections: u32,
    /// Sockets that are opened and closed for the memory row.
    sockets: u32,
}

const FULL: Extent = Extent {
    services: &[10, 10_000],
    warm_up: 12_000,
    rounds: 31,
    connections: 2_000,
    sockets: 1_000_000,
};
const QUICK: Extent = Extent {
    services: &[10],
    warm_up: 1_000,
    rounds: 5,
    connections: 500,
    sockets: 20_000,
};

/// Runs the bench, with as many populations as there are rule sets.
pub(super) fn run(quick: bool, rules: &[PathBuf]) -> Result<Vec<Figure>> {
    let extent = if quick { QUICK } else { FULL };
    println!(
        "bench connect: connect, one octet there and back, close; from pod to pod. × is relative to the way that the row names"
    );
    let mut populations = Vec::new();
    for path in rules {
        let rules = PeerRules::read(path)?;
        populations.push((rules.cluster_ips.clone(), Some(rules)));
    }
    if rules.is_empty() {
        println!("  without --peer-rules FILE there are no rows of another balancer");
        let ips = |count: u32| (0..count).map(|number| Ipv4Addr::from(0x0a61_0001 + number)).collect();
        populations.extend(extent.services.iter().map(|count| (ips(*count), None)));
    }
    let mut figures = Vec::new();
    for (cluster_ips, rules) in &populations {
        figures.extend(measure(&extent, cluster_ips, rules.as_ref())?);
    }
    Ok(figures)
}

/// What rounds of a way have brought.
struct Rounds {
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

/// All rows of a population.
fn measure(extent: &Extent, cluster_ips: &[Ipv4Addr], rules: Option<&PeerRules>) -> Result<Vec<Figure>> {
    let count = cluster_ips.len();
    let mut ways = vec![Way::Direct, Way::Socket, Way::Tc, Way::Beside];
    let mut rigs = Vec::new();
    if rules.is_some() {
        ways.push(Way::Peer);
    }
    for way in &ways {
        let rig = Rig::start(*way, cluster_ips, rules).with_context(|| format!("{way} with {count} Services"))?;
        rigs.push(rig);
    }
    let mut quietest: Option<Vec<Rounds>> = None;
    for _ in 0..ATTEMPTS_MAX {
        let rounds = rounds(extent, &mut rigs)?;
        let noise = |rounds: &[Rounds]| ratio(&rounds[1].per_second, &rounds[0].per_second).noise();
        if quietest.as_ref().is_none_or(|best| noise(&rounds) < noise(best)) {
            quietest = Some(rounds);
        }
        if quietest.as_ref().is_some_and(|best| noise(best) <= NOISE_MAX) {
            break;
        }
    }
    let rounds = quietest.context("no round was run")?;
    let mut figures = Vec::new();
    let mut add = |figure: Figure| {
        println!("  {figure}");
        figures.push(figure);
    };
    let named = |way: Way, what: &str| format!("connect/{way}/services={count}{what}");
    for (way, rounds) in ways.iter().zip(&rounds) {
        let plain = |name: &str, unit, values: &[f64]| {
            let samples: Samples = values.iter().copied().collect();
            Figure::new(named(*way, name), unit, samples.median(), samples.noise())
        };
        add(plain("", "conn/s", &rounds.per_second));
        add(plain("/p50", "µs", &rounds.p50_us));
        add(plain("/p99", "µs", &rounds.p99_us));
    }
    let share = |name: String, samples: Samples| Figure::new(name, "ratio", samples.median(), samples.noise());
    let direct = &rounds[0];
    let socket = &rounds[1];
    for (what, samples) in [
        ("", ratio(&socket.per_second, &direct.per_second)),
        ("/p50", ratio(&direct.p50_us, &socket.p50_us)),
        ("/p99", ratio(&direct.p99_us, &socket.p99_us)),
    ] {
        add(share(named(Way::Socket, &format!("{what}/to-direct")), samples).at_least(OF_DIRECT_MIN));
    }
    let tc = &rounds[2];
    add(share(
        named(Way::Tc, "/to-direct"),
        ratio(&tc.per_second, &direct.per_second),
    ));
    let beside = &rounds[3];
    add(share(
        named(Way::Beside, "/to-direct"),
        ratio(&beside.per_second, &direct.per_second),
    ));
    add(share(
        named(Way::Socket, "/to-beside-tc"),
        ratio(&socket.per_second, &beside.per_second),
    ));
    if let Some(peer) = rounds.get(4) {
        add(share(named(Way::Tc, "/to-peer"), ratio(&tc.per_second, &peer.per_second)).at_least(OF_PEER_MIN));
        add(share(
            named(Way::Socket, "/to-peer"),
            ratio(&socket.per_second, &peer.per_second),
        ));
    }
    let sockets = &mut rigs[1];
    let grown = sockets.memory_after(extent.sockets)?;
    let name = named(Way::Socket, &format!("/memory/sockets={}", extent.sockets));
    add(Figure::new(name, "MiB", grown, 0.0).at_most(MEMORY_MAX_MIB));
    for rig in rigs {
        rig.end()?;
    }
    Ok(figures)
}

fn ratio(ours: &[f64], theirs: &[f64]) -> Samples {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// All ways in turn, each round beginning with another.
fn rounds(extent: &Extent, rigs: &mut [Rig]) -> Result<Vec<Rounds>> {
    let new = || Rounds {
        per_second: Vec::new(),
        p50_us: Vec::new(),
        p99_us: Vec::new(),
    };
    let mut all: Vec<Rounds> = rigs.iter().map(|_| new()).collect();
    for rig in rigs.iter_mut() {
        rig.round(extent.warm_up)?;
    }
    for round in 0..extent.rounds as usize {
        for turn in 0..rigs.len() {
            let way = (round + turn) % rigs.len();
            let latencies = rigs[way].round(extent.connections)?;
            let total: Duration = latencies.iter().sum();
            let micros: Samples = latencies.iter().map(|latency| latency.as_secs_f64() * 1e6).collect();
            all[way].per_second.push(latencies.len() as f64 / total.as_secs_f64());
            all[way].p50_us.push(micros.median());
            all[way].p99_us.push(micros.quantile(0.99));
        }
    }
    Ok(all)
}
