//! `sluice retire`: from Sluice back to kube-proxy, on a node where both are.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lb_common::layout::{V4, V6};

use super::Place;
use crate::{
    agent::State,
    conntrack::FlowCounts,
    netfilter,
    tables::{Deferral, FlowTable, Flows as _, TableFamily},
};

/// Arguments of `sluice retire`.
#[derive(Debug, Args)]
pub(super) struct RetireArgs {
    /// Even though no rules of kube-proxy's are found, or they can't be looked for
    #[arg(long)]
    force: bool,
}

pub(super) fn retire(place: &Place, args: &RetireArgs) -> Result<()> {
    let mut defers = place.defers()?;
    let found = match netfilter::find() {
        Err(_) if args.force => netfilter::Found::default(),
        found => found.context("nothing was changed; --force does without")?,
    };
    if !found.has_rules() && !args.force {
        bail!(
            "no rules of kube-proxy's are in nftables or iptables, so new connections would be nobody's, and nothing was changed: start \
             kube-proxy on this node first, or use --force if something else is to serve them"
        );
    }
    let waiting = State::read(&place.run_dir)?.map_or(0, |state| state.netfilter.ipvs_connections);
    if waiting > 0 && !args.force {
        bail!(
            "of kube-proxy's services of IPVS some are left, for {waiting} connections, and nobody writes the others again, so nothing was \
             changed: start kube-proxy on this node first, and wait until `sluice status` has no line ipvs"
        );
    }
    defers.put(Deferral::Retired)?;
    let flows = own_flows(&place.flows::<V4>()?)? + own_flows(&place.flows::<V6>()?)?;
    println!("new connections are netfilter's ({found}); {flows} of Sluice's go on until they end");
    println!(
        "`sluice takeover` is the way back; `sluice cleanup` ends the datapath, and with it what is still under way"
    );
    Ok(())
}

/// Flows that Sluice translates.
fn own_flows<F: TableFamily>(table: &FlowTable<F>) -> Result<usize> {
    let mut flows = 0;
    table.for_each(|_, flow| flows += usize::from(FlowCounts::stands_for_flow(flow)))?;
    Ok(flows)
}
