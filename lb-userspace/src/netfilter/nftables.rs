//! What of nftables is kube-proxy's: the tables of its nftables mode, and what its other modes have written by the nf_tables variant of
//! iptables.

use std::io;

use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily as Family,
    nftables::{
        ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
        NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage, VerdictAttribute,
    },
};

use super::{
    kube_proxy::is_own,
    socket::{Socket, is_absent},
};

/// The table of its nftables mode.
const TABLE: &str = "kube-proxy";

/// A chain, or a rule that leads to one of kube-proxy's.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chain {
    family: Family,
    table: String,
    name: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    chain: Chain,
    handle: u64,
}

/// Everything of kube-proxy's in nftables.
#[derive(Default)]
pub(super) struct Rules {
    tables: Vec<Family>,
    chains: Vec<Chain>,
    /// Rules of others' chains.
    leading_there: Vec<Rule>,
}

impl Rules {
    /// Its tables, as `ip kube-proxy`.
    pub(super) fn tables(&self) -> Vec<String> {
        let table = |family: &Family| format!("{} {TABLE}", word(*family));
        self.tables.iter().map(table).collect()
    }

    /// How many chains it has in tables of iptables.
    pub(super) fn chains(&self) -> usize {
        self.chains.len()
    }
}

/// Looks for its rules; a kernel without nftables has none.
pub(super) fn find() -> io::Result<Rules> {
    match Socket::open().and_then(|mut socket| look(&mut socket)) {
        Err(error) if is_absent(&error) => Ok(Rules::default()),
        other => other,
    }
}

/// How often it is looked once more when something has gone meanwhile.
const TRIES_MAX: u32 = 5;

/// Takes its rules away, all or none. What there was.
pub(super) fn remove() -> io::Result<Rules> {
    let mut tries = 1;
    loop {
        let rules = find()?;
        match delete(&rules) {
            Ok(()) => return Ok(rules),
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn delete(rules: &Rules) -> io::Result<()> {
    let tables = rules.tables.iter().map(|family| (*family, delete_table(TABLE)));
    let leading = rules.leading_there.iter();
    let leading = leading.map(|rule| (rule.chain.family, delete_rules(&rule.chain, Some(rule.handle))));
    // Chains lead to each other: first all rules go, then all chains.
    let flushes = rules
        .chains
        .iter()
        .map(|chain| (chain.family, delete_rules(chain, None)));
    let chains = rules.chains.iter().map(|chain| (chain.family, delete_chain(chain)));
    let changes = tables.chain(leading).chain(flushes).chain(chains);
    Socket::open()?.transact(changes.map(|(family, change)| (family, 0, change.into())))
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::IPv4 => "ip",
        Family::IPv6 => "ip6",
        _ => "inet",
    }
}

/// The families in which there is a table of this name.
pub(super) fn tables(socket: &mut Socket, name: &str) -> io::Result<Vec<Family>> {
    let mut found = Vec::new();
    for family in [Family::IPv4, Family::IPv6] {
        let all = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
        socket.dump(family, all, |message| {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message else {
                return;
            };
            if table
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, TableAttribute::Name(known) if known == name))
            {
                found.push(family);
            }
        })?;
    }
    Ok(found)
}

fn look(socket: &mut Socket) -> io::Result<Rules> {
    let mut rules = Rules {
        tables: tables(socket, TABLE)?,
        ..Rules::default()
    };
    for family in [Family::IPv4, Family::IPv6] {
        let all = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        socket.dump(family, all, |message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message {
                rules
                    .chains
                    .extend(read_chain(family, &chain.attributes).filter(|chain| is_own(&chain.table, &chain.name)));
            }
        })?;
        if !rules.chains.iter().any(|chain| chain.family == family) {
            continue;
        }
        let all = NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() });
        socket.dump(family, all, |message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message {
                rules.leading_there.extend(read_leading_rule(family, &rule.attributes));
            }
        })?;
    }
    Ok(rules)
}

fn read_chain(family: Family, attributes: &[ChainAttribute]) -> Option<Chain> {
    let table = attributes.iter().find_map(|attribute| match attribute {
        ChainAttribute::Table(table) => Some(table.clone()),
        _ => None,
    })?;
    let name = attributes.iter().find_map(|attribute| match attribute {
        ChainAttribute::Name(name) => Some(name.clone()),
        _ => None,
    })?;
    Some(Chain { family, table, name })
}

/// A rule that leads from somebody else's chain to one of kube-proxy's.
fn read_leading_rule(family: Family, attributes: &[RuleAttribute]) -> Option<Rule> {
    let (mut table, mut chain, mut handle, mut leads_to) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            RuleAttribute::Table(name) => table = Some(name.clone()),
            RuleAttribute::Chain(name) => chain = Some(name.clone()),
            RuleAttribute::Handle(number) => handle = Some(*number),
            RuleAttribute::Expressions(list) => leads_to = list.iter().find_map(target),
            _ => {}
        }
    }
    let (table, chain, leads_to) = (table?, chain?, leads_to?);
    (is_own(&table, &leads_to) && !is_own(&table, &chain)).then_some(Rule {
        chain: Chain {
            family,
            table,
            name: chain,
        },
        handle: handle?,
    })
}

/// The chain to which an expression of a rule leads, if it does.
fn target(expression: &ListAttribute<ExpressionAttribute>) -> Option<String> {
    let ListAttribute::Element(parts) = expression else {
        return None;
    };
    parts.iter().find_map(|part| {
        let ExpressionAttribute::Data(Expressions::Immediate(parts)) = part else {
            return None;
        };
        parts.iter().find_map(|part| {
            let Immediate::Data(DataAttribute::Verdict(parts)) = part else {
                return None;
            };
            parts.iter().find_map(|part| match part {
                VerdictAttribute::Chain(name) => Some(name.clone()),
                _ => None,
            })
        })
    })
}

pub(super) fn delete_table(name: &str) -> NfTablesMessage {
    NfTablesMessage::DeleteTable(TableMessage {
        attributes: vec![TableAttribute::Name(name.to_owned())],
    })
}

/// One rule of a chain, or all.
fn delete_rules(chain: &Chain, handle: Option<u64>) -> NfTablesMessage {
    let mut attributes = vec![
        RuleAttribute::Table(chain.table.clone()),
        RuleAttribute::Chain(chain.name.clone()),
    ];
    attributes.extend(handle.map(RuleAttribute::Handle));
    NfTablesMessage::DeleteRule(RuleMessage { attributes })
}

fn delete_chain(chain: &Chain) -> NfTablesMessage {
    NfTablesMessage::DeleteChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(chain.table.clone()),
            ChainAttribute::Name(chain.name.clone()),
        ],
    })
}
