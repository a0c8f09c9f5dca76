//! `sluice takeover`: from kube-proxy to Sluice, on a node where both are.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lb_common::layout::{V4, V6};

use super::Place;
use crate::{
    agent::{Half, State, take_over},
    netfilter,
    tables::Deferral,
};

/// Arguments of `sluice takeover`.
#[derive(Debug, Args)]
pub(super) struct TakeoverArgs {
    /// Leave kube-proxy's rules where they are: new connections are Sluice's all the same, which sees packets first
    #[arg(long)]
    keep_rules: bool,
}

pub(super) fn takeover(place: &Place, args: &TakeoverArgs) -> Result<()> {
    let mut defers = place.defers()?;
    let is_ready = State::read(&place.run_dir)?.is_some_and(|state| state.ready);
    if !place.pins().is_locked() || !is_ready {
        bail!(
            "no agent has brought all Services into the tables yet, so nothing is taken over: start one with `sluice run --shadow`, \
             and wait until `sluice status` says ready"
        );
    }
    if defers.get()? == Deferral::No {
        println!("new connections were Sluice's already");
    } else {
        let (tables4, tables6) = (place.tables::<V4>()?, place.tables::<V6>()?);
        let (mut flows4, mut flows6) = (place.flows::<V4>()?, place.flows::<V6>()?);
        let v4 = Half {
            tables: &tables4,
            flows: &mut flows4,
        };
        let v6 = Half {
            tables: &tables6,
            flows: &mut flows6,
        };
        let taken = take_over(&mut defers, v4, v6)?;
        println!(
            "new connections are Sluice's; {} that netfilter translates go on with it until they end",
            taken.flows
        );
        if taken.conflicts > 0 {
            println!(
                "{} of them have a tuple that a new one got at the same moment, and may break",
                taken.conflicts
            );
        }
    }
    remove_rules(args.keep_rules)
        .context("new connections are Sluice's, but kube-proxy's rules are left, all or in part: they do no harm, and may be taken away by another `sluice takeover`")
}

fn remove_rules(keep: bool) -> Result<()> {
    let found = netfilter::find()?;
    if keep {
        println!("kube-proxy's rules stay: {found}");
        return Ok(());
    }
    if found.is_empty() {
        println!("no rules of kube-proxy's were found");
        return Ok(());
    }
    // The agent lets go of it when none is left, or if there was none.
    netfilter::keep_translating().context("keep netfilter translating what is under way (by a table of nftables)")?;
    let removed = netfilter::remove()?;
    println!("taken away: {}", removed.found);
    if !removed.staying.is_empty() {
        println!(
            "{} services of IPVS stay with kube-proxy's rules for {} connections; the agent takes all of that away when they have ended",
            removed.staying.len(),
            removed.connections
        );
    }
    println!("a kube-proxy that still runs here writes them again: stop it for good");
    Ok(())
}
