//! While netfilter has connections of Services of this node: before a takeover, after it until the last of them has ended, and when the
//! node was given back. Conntrack is read on a thread of its own, every few seconds; what it says is brought into the flow tables by the
//! loop.

use std::io;

use anyhow::Result;
use lb_common::layout::{Node, V4, V6};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Agent,
    takeover::{Half, of_services, otherwise, take_over},
};
use crate::{
    conntrack::{DeferredFlows, Followed, now_ns},
    netfilter::{self, Tracked},
    tables::{Deferral, DefersTable, FlowTable, KernelTables, TableFamily},
};

/// Connections about which netfilter and Sluice differ that are told one by one.
const EXAMPLES_MAX: usize = 20;

/// What is known of netfilter's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetfilterState {
    /// Connections of Services that it has, when conntrack was last read.
    pub flows: usize,
    /// Of how many it was asked whether Sluice would have decided the same.
    pub compared_total: u64,
    /// Of those, how many would have gone another way.
    pub otherwise_total: u64,
    /// The first of them, each with what is different.
    pub otherwise: Vec<String>,
    /// What stands in the way of following them.
    pub problem: Option<String>,
}

/// What conntrack had, and when.
pub(super) type Said = io::Result<(u64, Vec<Tracked>)>;

/// What the loop remembers of netfilter's connections.
pub(super) struct Deferring {
    pub(super) table: DefersTable,
    v4: DeferredFlows<V4>,
    v6: DeferredFlows<V6>,
    answers: mpsc::Sender<Said>,
    is_asked: bool,
    /// There were some.
    was_busy: bool,
}

impl Deferring {
    /// Whoever starts on a node without a datapath leaves new flows to netfilter first, if that is asked for or netfilter has anything to
    /// do with connections: what it has translated when the programs are attached is not to be cut off.
    pub(super) fn start(mut table: DefersTable, is_new: bool, shadow: bool) -> Result<(Self, mpsc::Receiver<Said>)> {
        if is_new && (shadow || netfilter_translates()) {
            table.put(Deferral::Shadow)?;
        }
        let deferral = table.get()?;
        if deferral == Deferral::No && shadow {
            info!("this node was taken over already: it goes on being served, --shadow means nothing any more");
        }
        let (answers, said) = mpsc::channel(1);
        let deferring = Self {
            table,
            v4: DeferredFlows::default(),
            v6: DeferredFlows::default(),
            answers,
            is_asked: false,
            // What an earlier agent has kept for them may be there still.
            was_busy: !is_new,
        };
        Ok((deferring, said))
    }
}

/// Whether netfilter translates destinations here, by kube-proxy's rules or others.
fn netfilter_translates() -> bool {
    let has_rules = netfilter::find().is_ok_and(|found| !found.is_empty());
    has_rules || netfilter::tracked().is_ok_and(|tracked| !tracked.is_empty())
}

impl Agent {
    /// Takes the node over when everything is in the tables and all devices have their programs, unless it is to stay in shadow or was
    /// given back.
    pub(super) fn take_over_if_due(&mut self) {
        if self.options.shadow || !self.reconciler.is_ready() || !self.devices_followed {
            return;
        }
        if self.deferring.table.get().ok() != Some(Deferral::Shadow) {
            return;
        }
        let (tables4, tables6) = (self.reconciler.v4().tables(), self.reconciler.v6().tables());
        let v4 = Half {
            tables: tables4,
            flows: &mut self.flows4,
        };
        let v6 = Half {
            tables: tables6,
            flows: &mut self.flows6,
        };
        match take_over(&mut self.deferring.table, v4, v6) {
            Ok(taken) => info!(
                connections = taken.flows,
                conflicts = taken.conflicts,
                "taken over from netfilter: its connections go on with it until they end, new ones are served"
            ),
            Err(error) => {
                // Without conntrack there is nothing to be taken over.
                warn!("netfilter's connections are not known, and may break: {error:#}");
                if let Err(error) = self.deferring.table.put(Deferral::No) {
                    warn!(%error, "new connections stay with netfilter");
                }
            }
        }
        self.state_is_old = true;
    }

    /// Asks conntrack what it has, if there is or may be something of netfilter's among so many entries.
    pub(super) fn follow_netfilter(&mut self, entries: usize) {
        let deferral = self.deferring.table.get().unwrap_or_default();
        if entries == 0 && deferral == Deferral::No {
            if std::mem::take(&mut self.deferring.was_busy) {
                let kept = netfilter::let_go();
                if matches!(kept, Ok(true)) {
                    info!("the last connection of netfilter's has ended: nothing is kept for them any more");
                }
                if let Err(error) = kept {
                    debug!(%error, "nftables can't be asked what is kept for netfilter's connections");
                }
            }
            if self.state.netfilter.flows != 0 || self.state.netfilter.problem.is_some() {
                self.state.netfilter.flows = 0;
                self.state.netfilter.problem = None;
                self.state_is_old = true;
            }
            return;
        }
        self.deferring.was_busy = true;
        if std::mem::replace(&mut self.deferring.is_asked, true) {
            return;
        }
        let answers = self.deferring.answers.clone();
        tokio::task::spawn_blocking(move || {
            let at_ns = now_ns();
            let said = netfilter::tracked().map(|tracked| (at_ns, tracked));
            // The agent has ended if nobody hears it.
            let _ = answers.blocking_send(said);
        });
    }

    /// Brings what conntrack has into the flow tables, and compares what is new with what Sluice would have done.
    pub(super) fn netfilter_said(&mut self, said: Said) {
        self.deferring.is_asked = false;
        let followed = said.map_err(anyhow::Error::from).and_then(|(at_ns, tracked)| {
            let (tables4, tables6) = (self.reconciler.v4().tables(), self.reconciler.v6().tables());
            let compares = self.deferring.table.get()? == Deferral::Shadow;
            let mut state = std::mem::take(&mut self.state.netfilter);
            let v4 = bring::<V4>(&mut self.deferring.v4, tables4, &mut self.flows4, &tracked, at_ns);
            let v6 = bring::<V6>(&mut self.deferring.v6, tables6, &mut self.flows6, &tracked, at_ns);
            if compares {
                if let Ok((ours, followed)) = &v4 {
                    state.compare(tables4, &self.record4, ours, followed);
                }
                if let Ok((ours, followed)) = &v6 {
                    state.compare(tables6, &self.record6, ours, followed);
                }
            }
            self.state.netfilter = state;
            Ok(v4?.1.flows + v6?.1.flows)
        });
        match followed {
            Ok(flows) => {
                self.state.netfilter.flows = flows;
                self.state.netfilter.problem = None;
            }
            Err(error) => {
                let text = format!(
                    "netfilter's connections are not followed: {error:#}. They go on, but for those that are silent for long; tried again"
                );
                if self.state.netfilter.problem.as_ref() != Some(&text) {
                    warn!("{text}");
                }
                self.state.netfilter.problem = Some(text);
            }
        }
        self.state_is_old = true;
    }
}

type OfServices = Vec<(Tracked, lb_common::layout::Frontend)>;

fn bring<F: TableFamily>(
    deferred: &mut DeferredFlows<F>,
    tables: &KernelTables<F>,
    flows: &mut FlowTable<F>,
    tracked: &[Tracked],
    at_ns: u64,
) -> Result<(OfServices, Followed)> {
    let ours = of_services(tables, tracked);
    let followed = deferred.follow(flows, &ours, at_ns)?;
    Ok((ours, followed))
}

impl NetfilterState {
    fn compare<F: TableFamily>(
        &mut self,
        tables: &KernelTables<F>,
        node: &Node<F::Addr>,
        ours: &OfServices,
        followed: &Followed,
    ) {
        for (tracked, frontend) in followed.new.iter().filter_map(|place| ours.get(*place)) {
            self.compared_total += 1;
            if let Some(how) = otherwise(tables, node, tracked, *frontend) {
                self.otherwise_total += 1;
                if self.otherwise.len() < EXAMPLES_MAX {
                    self.otherwise.push(format!("{} {how}", tracked.original));
                }
            }
        }
    }
}
