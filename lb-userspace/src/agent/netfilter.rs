//! While netfilter has connections of Services of this node: before a takeover, after it until the last of them has ended, and when the
//! node was given back. Conntrack is read on a thread of its own, every few seconds; what it says is brought into the flow tables by the
//! loop.

use std::io;

use anyhow::Result;
use lb_common::layout::{Node, Proto, V4, V6};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Agent,
    takeover::{Half, of_services, otherwise, serves, take_over},
};
use crate::{
    conntrack::{DeferredFlows, Followed, now_ns},
    netfilter::{self, Staying, Tracked, Waiting, is_absent},
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
    /// Connections for which services of IPVS stay that are kube-proxy's.
    #[serde(default)]
    pub ipvs_connections: u64,
    /// What stands in the way of following them.
    pub problem: Option<String>,
}

/// What conntrack had, and when; whether there is anything of kube-proxy's by which it may have more, and what became of services of IPVS.
pub(super) struct Conntrack {
    at_ns: u64,
    /// Whose new flows were when it was asked.
    deferral: Deferral,
    tracked: Vec<Tracked>,
    /// Not known if nobody can be asked.
    has_rules: Option<bool>,
    ipvs: anyhow::Result<Waiting>,
}

/// What came of asking.
pub(super) type Said = io::Result<Conntrack>;

/// What the loop remembers of netfilter's connections.
pub(super) struct Deferring {
    pub(super) table: DefersTable,
    v4: DeferredFlows<V4>,
    v6: DeferredFlows<V6>,
    answers: mpsc::Sender<Said>,
    is_asked: bool,
    /// How often a takeover has failed.
    tries: u32,
    /// There are some, or rules that make some.
    is_busy: bool,
    /// Services of IPVS that were left for their connections.
    ipvs_left: Option<Staying>,
}

/// How often a takeover is tried that conntrack stands in the way of.
const TRIES_MAX: u32 = 10;

impl Deferring {
    /// Whoever starts on a node without a datapath leaves new flows to netfilter first, if that is asked for or netfilter has anything to
    /// do with connections: what it has translated when the programs are attached is not to be cut off.
    pub(super) fn start(mut table: DefersTable, shadow: bool) -> Result<(Self, mpsc::Receiver<Said>)> {
        match table.get()? {
            Deferral::Undecided if shadow || netfilter_translates() => table.put(Deferral::Shadow)?,
            Deferral::Undecided => table.put(Deferral::No)?,
            Deferral::No if shadow => {
                info!("this node was taken over already: it goes on being served, --shadow means nothing any more");
            }
            Deferral::No | Deferral::Shadow | Deferral::Retired => {}
        }
        let (answers, said) = mpsc::channel(1);
        let deferring = Self {
            table,
            v4: DeferredFlows::default(),
            v6: DeferredFlows::default(),
            answers,
            is_asked: false,
            tries: 0,
            // What an earlier agent has kept may be there still.
            is_busy: true,
            ipvs_left: None,
        };
        Ok((deferring, said))
    }

    /// Whether new connections are Sluice's, not netfilter's.
    pub(super) fn is_serving(&self) -> bool {
        self.table.get().is_ok_and(|deferral| deferral == Deferral::No)
    }
}

/// Whether netfilter translates destinations here, by kube-proxy's rules or others; yes if it can't be told.
fn netfilter_translates() -> bool {
    netfilter::find().map_or(true, |found| !found.is_empty())
        || match netfilter::tracked() {
            Ok(tracked) => !tracked.is_empty(),
            Err(error) => !is_absent(&error),
        }
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
            Err(error) if self.deferring.tries < TRIES_MAX => {
                self.deferring.tries += 1;
                debug!("not taken over yet, tried again: {error:#}");
                return;
            }
            Err(error) => {
                warn!("netfilter's connections are not known, and may break: {error:#}");
                if let Err(error) = self.deferring.table.put(Deferral::No) {
                    warn!(%error, "new connections stay with netfilter");
                }
            }
        }
        self.state_is_old = true;
    }

    /// Asks conntrack what it has, if there is or may be something of netfilter's among so many entries; and whether kube-proxy has rules.
    pub(super) fn follow_netfilter(&mut self, entries: usize) {
        let deferral = self.deferring.table.get().unwrap_or_default();
        let is_idle = entries == 0 && deferral == Deferral::No;
        if is_idle && !self.deferring.is_busy {
            return;
        }
        if std::mem::replace(&mut self.deferring.is_asked, true) {
            return;
        }
        let (answers, left) = (self.deferring.answers.clone(), self.deferring.ipvs_left.clone());
        tokio::task::spawn_blocking(move || {
            let at_ns = now_ns();
            let tracked = match netfilter::tracked() {
                // Nothing was netfilter's, and nothing is.
                Err(error) if is_idle && is_absent(&error) => Ok(Vec::new()),
                tracked => tracked,
            };
            let ipvs = match deferral {
                Deferral::No => netfilter::go_on_removing(left.as_ref()),
                _ => Ok(Waiting::Not),
            };
            let said = tracked.map(|tracked| Conntrack {
                at_ns,
                deferral,
                tracked,
                ipvs,
                has_rules: netfilter::find().ok().map(|found| !found.is_empty()),
            });
            // The agent has ended if nobody hears it.
            let _ = answers.blocking_send(said);
        });
    }

    /// There is nothing of netfilter's any more.
    fn let_go(&mut self) {
        match netfilter::let_go() {
            Ok(was_kept) => {
                self.deferring.is_busy = false;
                if was_kept {
                    info!("the last connection of netfilter's has ended: nothing is kept for them any more");
                }
            }
            Err(error) if is_absent(&error) => self.deferring.is_busy = false,
            Err(error) => debug!(%error, "nftables can't be asked what is kept for netfilter's connections"),
        }
    }

    /// Remembers what became of services of IPVS. What stands in the way of going on with them.
    fn note_ipvs(&mut self, ipvs: &Result<Waiting>) -> Option<String> {
        let connections = match ipvs {
            Ok(Waiting::For(removed)) => {
                if !removed.found.is_empty() {
                    info!(
                        removed = %removed.found,
                        staying = removed.staying.len(),
                        "connections of IPVS have ended: what of kube-proxy's they needed is taken away"
                    );
                }
                self.deferring.ipvs_left = Some(removed.staying.clone());
                removed.connections
            }
            Ok(Waiting::Over) => 0,
            Ok(Waiting::Not) => {
                self.deferring.ipvs_left = None;
                0
            }
            Err(error) => return Some(format!("{error:#}; tried again")),
        };
        self.state.netfilter.ipvs_connections = connections;
        None
    }

    fn note_problem(&mut self, problem: Option<String>) {
        if let Some(text) = &problem
            && self.state.netfilter.problem != problem
        {
            warn!("{text}");
        }
        self.state.netfilter.problem = problem;
    }

    /// Brings what conntrack has into the flow tables, and compares what is new with what Sluice would have done.
    pub(super) fn netfilter_said(&mut self, said: Said) {
        self.deferring.is_asked = false;
        let asked = said.as_ref().ok().map(|said| said.deferral);
        if asked.is_some_and(|asked| self.deferring.table.get().ok() != Some(asked)) {
            // `sluice takeover` or `sluice retire` came in between: what has begun since is not in there, and what was over before may not be.
            (self.deferring.v4, self.deferring.v6) = Default::default();
            self.deferring.is_busy = true;
            return;
        }
        let was_busy = self.deferring.is_busy;
        let has_rules = said.as_ref().ok().and_then(|said| said.has_rules);
        let waits = said.as_ref().is_ok_and(|said| !matches!(said.ipvs, Ok(Waiting::Not)));
        let ipvs_problem = said.as_ref().ok().and_then(|said| self.note_ipvs(&said.ipvs));
        let followed = said.map_err(anyhow::Error::from).and_then(|said| {
            let (tables4, tables6) = (self.reconciler.v4().tables(), self.reconciler.v6().tables());
            let deferral = self.deferring.table.get()?;
            let is_ours = deferral == Deferral::No;
            let v4 = bring::<V4>(&mut self.deferring.v4, tables4, &mut self.flows4, &said, is_ours);
            let v6 = bring::<V6>(&mut self.deferring.v6, tables6, &mut self.flows6, &said, is_ours);
            if deferral == Deferral::Shadow {
                if let Ok((ours, followed)) = &v4 {
                    self.state.netfilter.compare(tables4, &self.record4, ours, followed);
                }
                if let Ok((ours, followed)) = &v6 {
                    self.state.netfilter.compare(tables6, &self.record6, ours, followed);
                }
            }
            let flows = v4?.1.flows + v6?.1.flows;
            Ok((flows, is_ours))
        });
        match followed {
            Ok((flows, is_ours)) => {
                self.state.netfilter.flows = flows;
                self.note_problem(ipvs_problem);
                let is_busy = flows > 0 || waits || has_rules.unwrap_or(was_busy) || !is_ours;
                self.deferring.is_busy = is_busy;
                if !is_busy {
                    self.let_go();
                }
            }
            Err(error) => {
                self.note_problem(Some(format!(
                    "netfilter's connections are not followed: {error:#}. They go on, but for those that are silent for long; tried again"
                )));
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
    said: &Conntrack,
    is_ours: bool,
) -> Result<(OfServices, Followed)> {
    let mut ours = of_services(tables, &said.tracked);
    if is_ours {
        // Nobody takes datagrams away from an endpoint that is gone, once kube-proxy is (behaviour reference §5.2): the next one is ours.
        ours.retain(|(tracked, frontend)| tracked.original.proto != Proto::UDP || serves(tables, tracked, *frontend));
    }
    let followed = deferred.follow(flows, &ours, said.at_ns, is_ours)?;
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
