//! `sluice get`: what is in the kernel's tables, with Service names from the label tables.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, ValueEnum};
use lb_common::layout::{Address as _, Backend, BackendFlags, Choice, FlowFlags, Proto, ServiceFlags, TcpSeen, V4, V6};
use serde::Serialize;

use super::{Output, Place, text::print_table};
use crate::{
    conntrack::now_ns,
    tables::{Flows as _, TableFamily, Tables as _},
};

/// Arguments of `sluice get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// Which table
    what: What,
    /// Only entries of Services whose name contains this
    #[arg(long, value_name = "TEXT")]
    service: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Addresses that clients dial, with their backends
    Frontends,
    /// Endpoints of all Services
    Backends,
    /// Flows under way, in the client's direction
    Flows,
}

#[derive(Debug, Serialize)]
struct FrontendRow {
    service: String,
    frontend: String,
    protocol: String,
    /// Which of the Service's addresses it is.
    kind: &'static str,
    /// Which endpoints clients outside (for a ClusterIP, all clients) get.
    policy: &'static str,
    /// Seconds for which a client keeps its backend; 0 without session affinity.
    affinity_s: u32,
    /// Whether a Maglev table says who gets which backend.
    by_table: bool,
    /// Whether clients outside are answered directly by the node that their endpoint is on.
    dsr: bool,
    /// Connections of the Service port that were given a backend, by all of its frontends.
    connections: u64,
    /// Packets of new connections of the Service port that were refused or dropped.
    refused: u64,
    /// `backends`, `reject` (no endpoint anywhere), `drop` (none that the policy allows here).
    action: &'static str,
    backends: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BackendRow {
    backend: String,
    number: u32,
    local: bool,
    /// The address of its node, to which tunnels lead; none if nobody is to be answered directly from there.
    node: Option<String>,
    /// `ready`, `terminating` (its flows go on) or `not serving` (its TCP connections go on).
    state: &'static str,
    service: String,
}

#[derive(Debug, Serialize)]
struct FlowRow {
    service: String,
    protocol: String,
    client: String,
    frontend: String,
    backend: String,
    state: &'static str,
    idle_s: u64,
}

pub(super) fn get(place: &Place, args: &GetArgs) -> Result<()> {
    let wanted = |name: &str| args.service.as_ref().is_none_or(|text| name.contains(text.as_str()));
    match args.what {
        What::Frontends => {
            let mut rows = frontends::<V4>(place)?;
            rows.extend(frontends::<V6>(place)?);
            rows.retain(|row| wanted(&row.service));
            print(
                args.output,
                &rows,
                &[
                    "SERVICE", "KIND", "FRONTEND", "PROTOCOL", "POLICY", "OPENED", "REFUSED", "BACKENDS",
                ],
                |row| {
                    let backends = match row.action {
                        "backends" => row.backends.join(" "),
                        action => action.to_owned(),
                    };
                    vec![
                        row.service.clone(),
                        row.kind.to_owned(),
                        row.frontend.clone(),
                        row.protocol.clone(),
                        if row.dsr {
                            format!("{}, DSR", row.policy)
                        } else {
                            row.policy.to_owned()
                        },
                        row.connections.to_string(),
                        row.refused.to_string(),
                        backends,
                    ]
                },
            )
        }
        What::Backends => {
            let mut rows = backends::<V4>(place)?;
            rows.extend(backends::<V6>(place)?);
            rows.retain(|row| wanted(&row.service));
            print(
                args.output,
                &rows,
                &["SERVICE", "BACKEND", "NUMBER", "WHERE", "STATE"],
                |row| {
                    vec![
                        row.service.clone(),
                        row.backend.clone(),
                        row.number.to_string(),
                        match (row.local, &row.node) {
                            (true, _) => "this node".to_owned(),
                            (false, Some(node)) => format!("node {node}"),
                            (false, None) => "elsewhere".to_owned(),
                        },
                        row.state.to_owned(),
                    ]
                },
            )
        }
        What::Flows => {
            let mut rows = flows::<V4>(place)?;
            rows.extend(flows::<V6>(place)?);
            rows.retain(|row| wanted(&row.service));
            let headings = ["SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE"];
            print(args.output, &rows, &headings, |row| {
                vec![
                    row.service.clone(),
                    row.protocol.clone(),
                    row.client.clone(),
                    row.frontend.clone(),
                    row.backend.clone(),
                    row.state.to_owned(),
                    format!("{} s", row.idle_s),
                ]
            })
        }
    }
}

fn print<R: Serialize>(output: Output, rows: &[R], headings: &[&str], cells: impl Fn(&R) -> Vec<String>) -> Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(rows)?),
        Output::Table => print_table(headings, &rows.iter().map(cells).collect::<Vec<_>>()),
    }
    Ok(())
}

fn socket<F: TableFamily>(address: F::Addr, port: u16) -> String {
    std::net::SocketAddr::new(F::to_ip(address), port).to_string()
}

fn names<F: TableFamily>(place: &Place) -> Result<BTreeMap<u32, String>> {
    let labels = place.tables::<F>()?.labels()?;
    Ok(labels
        .into_iter()
        .map(|(number, label)| (number, label.as_str().to_owned()))
        .collect())
}

fn name(names: &BTreeMap<u32, String>, number: u32) -> String {
    names.get(&number).cloned().unwrap_or_else(|| format!("#{number}"))
}

fn frontends<F: TableFamily>(place: &Place) -> Result<Vec<FrontendRow>> {
    let names = names::<F>(place)?;
    let tables = place.tables::<F>()?;
    let mut rows = Vec::new();
    for (key, word) in tables.frontends()? {
        let service = tables.service(word.number());
        let counts = tables.service_counts(word.number());
        let is_local = service.rules.flags.has(if word.is_external() {
            ServiceFlags::EXTERNAL_LOCAL
        } else {
            ServiceFlags::INTERNAL_LOCAL
        });
        let scope = if is_local { service.local } else { service.cluster };
        let (action, backends) = match scope.choice() {
            Choice::Slots { base, len } => {
                let backend = |slot| tables.backend(tables.slot(slot));
                let backends = (base..base.saturating_add(len)).map(backend);
                (
                    "backends",
                    backends
                        .map(|backend| socket::<F>(backend.address, backend.port.get()))
                        .collect(),
                )
            }
            Choice::Reject => ("reject", Vec::new()),
            Choice::Drop => ("drop", Vec::new()),
            Choice::Absent => ("none", Vec::new()),
        };
        let is_node_port = !key.address.is_some();
        let kind = match (word.is_filtered(), word.is_external()) {
            (true, _) => "LoadBalancer",
            (false, true) if is_node_port => "NodePort",
            (false, true) => "ExternalIP",
            (false, false) => "ClusterIP",
        };
        rows.push(FrontendRow {
            service: name(&names, word.number()),
            frontend: if is_node_port {
                format!("*:{}", key.port)
            } else {
                socket::<F>(key.address, key.port.get())
            },
            protocol: key.proto.to_string(),
            kind,
            policy: if is_local { "Local" } else { "Cluster" },
            affinity_s: service.rules.affinity_s,
            by_table: scope.has_table()
                && (word.is_external() || service.rules.flags.has(ServiceFlags::INTERNAL_MAGLEV)),
            dsr: word.is_external() && service.rules.flags.has(ServiceFlags::DSR),
            connections: counts.opened,
            refused: counts.refused,
            action,
            backends,
        });
    }
    rows.sort_by(|a, b| (&a.service, &a.frontend).cmp(&(&b.service, &b.frontend)));
    Ok(rows)
}

fn backends<F: TableFamily>(place: &Place) -> Result<Vec<BackendRow>> {
    let names = names::<F>(place)?;
    let tables = place.tables::<F>()?;
    let mut rows = Vec::new();
    for number in 1..tables.capacity().backends {
        let backend = tables.backend(number);
        if backend == Backend::default() {
            continue;
        }
        rows.push(BackendRow {
            backend: socket::<F>(backend.address, backend.port.get()),
            number,
            local: backend.flags.has(BackendFlags::LOCAL),
            node: backend.node.is_some().then(|| F::to_ip(backend.node).to_string()),
            state: if !backend.flags.has(BackendFlags::ACTIVE) {
                "not serving"
            } else if backend.flags.has(BackendFlags::TERMINATING) {
                "terminating"
            } else {
                "ready"
            },
            service: name(&names, backend.service),
        });
    }
    rows.sort_by(|a, b| (&a.service, &a.backend).cmp(&(&b.service, &b.backend)));
    Ok(rows)
}

fn flows<F: TableFamily>(place: &Place) -> Result<Vec<FlowRow>> {
    let names = names::<F>(place)?;
    let table = place.flows::<F>()?;
    let now = now_ns();
    let mut rows = Vec::new();
    table.for_each(|key, flow| {
        if flow.flags.has(FlowFlags::REPLY) || flow.flags.has(FlowFlags::MASQUERADE) {
            return;
        }
        let tunnels = flow.flags.has(FlowFlags::TUNNELS);
        let reply = (!tunnels).then(|| table.get(&key.of_counterpart(flow))).flatten();
        let answered = if tunnels {
            key.proto != Proto::TCP || flow.tcp.has(TcpSeen::ACK)
        } else {
            reply.as_ref().is_some_and(|reply| reply.flags.has(FlowFlags::SEEN))
        };
        let seen = flow.tcp.with(reply.as_ref().map(|reply| reply.tcp).unwrap_or_default());
        let state = if key.proto == Proto::TCP && seen.any(TcpSeen::FIN.with(TcpSeen::RST)) {
            "closing"
        } else if answered {
            "established"
        } else {
            "opening"
        };
        let last = reply.map_or(flow.seen_ns, |reply| reply.seen_ns.max(flow.seen_ns));
        rows.push(FlowRow {
            service: name(&names, flow.service),
            protocol: key.proto.to_string(),
            client: socket::<F>(key.src, key.sport.get()),
            frontend: socket::<F>(key.dst, key.dport.get()),
            // Which of the Service's endpoints there it is, that node has chosen.
            backend: if tunnels {
                format!("node {}", F::to_ip(flow.dst))
            } else {
                socket::<F>(flow.dst, flow.dport.get())
            },
            state,
            idle_s: now.saturating_sub(last) / 1_000_000_000,
        });
    })?;
    rows.sort_by(|a, b| (&a.service, &a.client).cmp(&(&b.service, &b.client)));
    Ok(rows)
}
