//! `sluice status`: how it goes. What the kernel says comes from the kernel; what the agent says of itself comes from
//! its state file, with its age.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use lb_common::layout::{Counter, DropReason, V4, V6, limits::SOURCE_PORTS};
use serde::Serialize;

use super::{
    Output, Place,
    devices::{self, Cards},
    dsr::Dsr,
    text::print_table,
};
use crate::{
    agent::{NetfilterState, State, Truth, unix_now_s},
    tables::{Deferral, Flows as _, TableFamily, Tables as _},
};

/// Arguments of `sluice status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Status {
    /// An agent holds the lock of the pin folder.
    agent_running: bool,
    /// A datapath is pinned.
    datapath_pinned: bool,
    /// Running, ready, and nothing to complain about.
    healthy: bool,
    /// Whose new connections are, if a datapath is pinned: `no` if ours.
    deferral: Option<Deferral>,
    /// What the agent last said of itself.
    agent: Option<State>,
    /// Rings and queues of outward devices.
    cards: Option<Cards>,
    /// Direct server return.
    dsr: Option<Dsr>,
    tables: Vec<TableFill>,
    drops: Vec<Count>,
    counters: Vec<Count>,
}

#[derive(Debug, Serialize)]
pub(super) struct TableFill {
    pub(super) table: &'static str,
    pub(super) used: u64,
    pub(super) places: u64,
}

#[derive(Debug, Serialize)]
struct Count {
    name: &'static str,
    value: u64,
    meaning: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: &'static str,
}

pub(super) fn status(place: &Place, args: &StatusArgs) -> Result<ExitCode> {
    let status = gather(place)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print(place, &status),
    }
    Ok(if status.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn gather(place: &Place) -> Result<Status> {
    let pins = place.pins();
    let agent_running = pins.is_locked();
    let datapath_pinned = pins.exist();
    let agent = State::read(&place.run_dir)
        .with_context(|| format!("read the agent's state in {}", place.run_dir.display()))?;
    let cards = agent.as_ref().and_then(|agent| {
        let cards = Cards::of(&agent.devices);
        cards
            .inspect_err(|error| eprintln!("rings and queues are not known: {error:#}"))
            .ok()
    });
    let mut status = Status {
        agent_running,
        datapath_pinned,
        healthy: false,
        deferral: None,
        agent,
        cards,
        dsr: None,
        tables: Vec::new(),
        drops: Vec::new(),
        counters: Vec::new(),
    };
    if datapath_pinned {
        fill::<V4>(place, &mut status.tables)?;
        fill::<V6>(place, &mut status.tables)?;
        status.deferral = Some(place.defers()?.get()?);
        let dsr = Dsr::of(place)?;
        status.tables.extend(dsr.fill());
        status.dsr = Some(dsr);
        let stats = place.stats()?;
        for reason in DropReason::ALL {
            let (value, meaning, remedy) = (stats.drops(reason)?, reason.meaning(), reason.remedy());
            status.drops.push(Count {
                name: reason.name(),
                value,
                meaning,
                remedy,
            });
        }
        for counter in Counter::ALL {
            let (value, meaning) = (stats.counter(counter)?, counter.meaning());
            status.counters.push(Count {
                name: counter.name(),
                value,
                meaning,
                remedy: "",
            });
        }
    }
    status.healthy = status.agent_running
        && status.datapath_pinned
        && status.agent.as_ref().is_some_and(|agent| {
            agent.ready
                && agent.port_problems.is_empty()
                && agent.truth.problems.is_empty()
                && agent
                    .devices
                    .iter()
                    .all(|device| device.tc == "attached" || device.tc.contains("not a device for IP"))
        });
    Ok(status)
}

fn fill<F: TableFamily>(place: &Place, rows: &mut Vec<TableFill>) -> Result<()> {
    let tables = place.tables::<F>()?;
    let capacity = tables.capacity();
    let labels = tables.labels()?.len() as u64;
    rows.push(TableFill {
        table: F::SERVICES,
        used: labels,
        places: capacity.services.into(),
    });
    let frontends = tables.frontends()?.len() as u64;
    rows.push(TableFill {
        table: F::FRONTENDS,
        used: frontends,
        places: lb_common::layout::limits::FRONTENDS_MAX.into(),
    });
    let flows = place.flows::<F>()?;
    let mut used = 0;
    flows.for_each(|_, _| used += 1)?;
    rows.push(TableFill {
        table: F::FLOWS,
        used,
        places: flows.capacity.into(),
    });
    Ok(())
}

/// How many problems of a kind are told one by one: tables that are full may leave thousands of ports out.
const PROBLEMS_SHOWN: usize = 20;

/// How many of the latest findings of the truth check are told.
const DRIFT_SHOWN: usize = 5;

fn print_problems(mark: &str, problems: &[String]) {
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        println!("{mark}{problem}");
    }
    let rest = problems.len().saturating_sub(PROBLEMS_SHOWN);
    if rest > 0 {
        println!("{mark}and {rest} more; all of them: sluice status -o json");
    }
}

/// What the truth check says, in a line, and in one more for each of the latest findings.
fn truth(truth: &Truth) -> String {
    let now_s = unix_now_s();
    let ago = |at_s: u64| format!("{} s ago", now_s.saturating_sub(at_s));
    let checked = match truth.checked_s {
        0 => "not compared with what they should hold yet".to_owned(),
        at_s => format!("compared with what they should hold {}{}", ago(at_s), cost(truth)),
    };
    let found = match truth.drift_total {
        0 => ", nothing wrong since the agent's start".to_owned(),
        total => format!(", {total} put right since the agent's start; somebody else writes here:"),
    };
    let shown = truth.drift.iter().rev().take(DRIFT_SHOWN);
    let lines = shown.map(|found| format!("\n  put right: {}, {}", found.what, ago(found.at_s)));
    format!("{checked}{found}{}", lines.collect::<String>())
}

/// What comparing costs.
fn cost(truth: &Truth) -> String {
    let percent = truth.percent();
    percent.map_or_else(String::new, |percent| format!(" (it takes {percent:.1} % of a core)"))
}

fn print_netfilter(netfilter: &NetfilterState) {
    if netfilter.flows > 0 {
        println!(
            "netfilter: {} connections of Services go on with it until they end",
            netfilter.flows
        );
    }
    if netfilter.ipvs_connections > 0 {
        println!(
            "ipvs:      {} connections, for which kube-proxy's services of IPVS stay until they end",
            netfilter.ipvs_connections
        );
    }
    if netfilter.compared_total > 0 {
        println!(
            "compared:  {} connections of netfilter's, of which {} would have gone another way",
            netfilter.compared_total, netfilter.otherwise_total
        );
    }
    print_problems("  OTHERWISE: ", &netfilter.otherwise);
    print_problems("  NETFILTER: ", netfilter.problem.as_slice());
}

fn print(place: &Place, status: &Status) {
    let yes = |yes| if yes { "yes" } else { "NO" };
    println!("healthy:   {}", yes(status.healthy));
    println!(
        "datapath:  {}",
        match status.deferral {
            None => "none",
            Some(Deferral::No) => "pinned, serving",
            Some(Deferral::Undecided) => "pinned, not serving yet: no agent has finished its start",
            Some(Deferral::Shadow) =>
                "pinned, IN SHADOW: new connections are left to netfilter; take over with: sluice takeover",
            Some(Deferral::Retired) =>
                "pinned, RETIRED: new connections are left to netfilter; back with: sluice takeover, or end with: sluice cleanup",
        }
    );
    if let Some(text) = status.dsr.as_ref().and_then(Dsr::text) {
        println!("{text}");
    }
    match &status.agent {
        Some(agent) if status.agent_running => {
            println!(
                "agent:     running, version {}, process {}, ready: {}",
                agent.version,
                agent.pid,
                yes(agent.ready)
            );
        }
        Some(agent) => println!(
            "agent:     NOT running (last seen: process {}, version {}); the tables stay as they are",
            agent.pid, agent.version
        ),
        None if status.agent_running => println!("agent:     running, no state in {}", place.run_dir.display()),
        None => println!("agent:     not running; start it with: sluice run"),
    }
    if let Some(agent) = &status.agent {
        let age_s = unix_now_s().saturating_sub(agent.last_sync_s);
        let last = if agent.last_sync_s == 0 {
            "none yet".to_owned()
        } else {
            format!("{age_s} s ago, took {} µs", agent.last_sync_us)
        };
        println!(
            "source:    {}, {} Services, last change {last}",
            agent.source, agent.services
        );
        if agent.source_away_since_s > 0 && status.agent_running {
            let away_s = unix_now_s().saturating_sub(agent.source_away_since_s);
            println!("  AWAY:    not heard of for {away_s} s; what it said before stays in force");
        }
        print_problems("  object:  ", &agent.source_problems);
        print_problems("  skipped: ", &agent.left_out);
        print_problems("  PORT:    ", &agent.port_problems);
        print_problems("  NODE:    ", &agent.node_problems);
        print_problems("  HEALTH:  ", &agent.health_problems);
        if agent.source_ports_used_max > 0 {
            println!(
                "masquerade: at most {} of {SOURCE_PORTS} source ports in use towards one endpoint",
                agent.source_ports_used_max
            );
        }
        println!("tables:    {}", truth(&agent.truth));
        print_problems("  WRONG:   ", &agent.truth.problems);
        println!("sockets:   {}", agent.sockets);
        print_netfilter(&agent.netfilter);
        println!();
        print!("{}", devices::text(&agent.devices, status.cards.as_ref()));
    }
    if !status.datapath_pinned {
        return;
    }
    println!();
    let rows: Vec<Vec<String>> = status
        .tables
        .iter()
        .map(|table| {
            let percent = table.used as f64 * 100.0 / table.places.max(1) as f64;
            vec![
                table.table.to_owned(),
                table.used.to_string(),
                table.places.to_string(),
                format!("{percent:.1} %"),
            ]
        })
        .collect();
    print_table(&["TABLE", "USED", "PLACES", "FILL"], &rows);
    println!();
    let counts = |counts: &[Count]| -> Vec<Vec<String>> {
        counts
            .iter()
            .filter(|count| count.value > 0)
            .map(|count| vec![count.name.to_owned(), count.value.to_string(), count.meaning.to_owned()])
            .collect()
    };
    print_table(&["COUNTER", "VALUE", "MEANING"], &counts(&status.counters));
    println!();
    let drops = counts(&status.drops);
    if drops.is_empty() {
        println!("no drops");
    } else {
        print_table(&["DROPS", "PACKETS", "MEANING"], &drops);
    }
}
