//! Frames per second through a device: those that Sluice's XDP program sends on to backends on other machines, against a program
//! that only exchanges MAC addresses. Which rows there are, and the bar.
//!
//! ```text
//! client's namespace                              node's namespace
//! BPF_PROG_TEST_RUN, live frames
//!   -> send: the next frame of a list --eth0-------> eth0: lb_xdp (the agent's), or swap
//!      count: looks, counts, drops <----------eth0-- XDP_TX
//! ```
//!
//! Both programs have a lab of their own, alike but for the agent, and run in turn. One lab is in [`rig`], the frames in [`frames`].

mod frames;
mod rig;

use anyhow::{Context as _, Result};

use super::{
    figure::{Figure, NOISE_MAX},
    samples::Samples,
    shuffle,
};
use frames::{Frame, Kind, Leg};
use rig::Rig;

/// Sluice sends on at least this share of what the MAC swap does.
const SHARE_MIN: f64 = 0.6;
/// How often a row is measured until its samples agree; the quietest counts.
const ATTEMPTS_MAX: u32 = 3;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    flows: u16,
    rounds: u32,
    /// Frames of a round.
    frames: u32,
}

const FULL: Extent = Extent {
    flows: 10_000,
    rounds: 15,
    frames: 500_000,
};
const QUICK: Extent = Extent {
    flows: 1_000,
    rounds: 5,
    frames: 100_000,
};

/// Runs the bench.
pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let extent = if quick { QUICK } else { FULL };
    println!(
        "bench forward: frames/s of {} established flows through one veth device; × is relative to a program that exchanges MAC addresses",
        extent.flows
    );
    let mut figures = Vec::new();
    let mut add = |figure: Figure| {
        println!("  {figure}");
        figures.push(figure);
    };
    let mut swap = Rig::swap()?;
    // Two labs that are alike: whatever differs between them is no property of a program.
    let kind = Kind::ALL[0];
    let requests = kind.requests(extent.flows)?;
    let row = measure(&extent, &mut Rig::swap()?, &mut swap, (kind, Leg::Request), &requests)?;
    add(row.share("forward/mac-swap/to-mac-swap"));
    let mut sluice = Rig::sluice()?;
    for kind in Kind::ALL {
        let (requests, replies) = open(&mut sluice, kind, &extent)?;
        for (leg, mut frames) in [(Leg::Request, requests), (Leg::Reply, replies)] {
            shuffle(&mut frames);
            let name = format!("forward/{kind}/{leg}");
            let row = measure(&extent, &mut sluice, &mut swap, (kind, leg), &frames).with_context(|| name.clone())?;
            add(Figure::new(
                name.clone(),
                "frames/s",
                row.ours.median(),
                row.ours.noise(),
            ));
            let floor = Figure::new(
                format!("{name}/mac-swap"),
                "frames/s",
                row.swap.median(),
                row.swap.noise(),
            );
            add(floor);
            add(row.share(&format!("{name}/to-mac-swap")).at_least(SHARE_MIN));
        }
    }
    Ok(figures)
}

/// Opens flows, and gives the frames of both directions that are measured.
fn open(sluice: &mut Rig, kind: Kind, extent: &Extent) -> Result<(Vec<Frame>, Vec<Frame>)> {
    let mut replies = Vec::new();
    for &(client, server) in kind.handshake() {
        let requests = kind.requests_with(extent.flows, client)?;
        let forwarded = sluice.pass(kind, Leg::Request, &requests)?;
        replies = frames::replies(kind, &forwarded, server)?;
        sluice.pass(kind, Leg::Reply, &replies)?;
    }
    Ok((kind.requests(extent.flows)?, replies))
}

/// What a row has brought, frames/s; and the share of the first, round by round.
struct Row {
    ours: Samples,
    swap: Samples,
    share: Samples,
}

impl Row {
    fn share(&self, name: &str) -> Figure {
        Figure::new(name.to_owned(), "ratio", self.share.median(), self.share.noise())
    }
}

/// Measures until the samples agree.
fn measure(extent: &Extent, ours: &mut Rig, swap: &mut Rig, (kind, leg): (Kind, Leg), frames: &[Frame]) -> Result<Row> {
    ours.prepare(kind, leg, frames)?;
    swap.prepare(kind, leg, frames)?;
    let mut quietest = rounds(extent, ours, swap)?;
    for _ in 1..ATTEMPTS_MAX {
        if quietest.share.noise() <= NOISE_MAX {
            break;
        }
        let again = rounds(extent, ours, swap)?;
        if again.share.noise() < quietest.share.noise() {
            quietest = again;
        }
    }
    Ok(quietest)
}

/// Runs both in turn, and compares them round by round.
fn rounds(extent: &Extent, ours: &mut Rig, swap: &mut Rig) -> Result<Row> {
    let (mut rates, mut swaps) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        rates.push(ours.round(extent.frames)?);
        swaps.push(swap.round(extent.frames)?);
    }
    Ok(Row {
        share: rates.iter().zip(&swaps).map(|(ours, swap)| ours / swap).collect(),
        ours: rates.into_iter().collect(),
        swap: swaps.into_iter().collect(),
    })
}
