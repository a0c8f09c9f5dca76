//! kube-proxy's rules: finding them, and taking them away without what is not its own. And what keeps connections translated that began by
//! them.
//!
//! | mode | what is kube-proxy's | here |
//! |---|---|---|
//! | nftables | the tables `ip kube-proxy`, `ip6 kube-proxy` | removed |
//! | iptables, nf_tables variant | its chains `KUBE-…` in `nat`, `filter`, `mangle`; rules that lead to them | removed |
//! | iptables, legacy variant | the same in `x_tables` | not seen by this interface: the tool that has written them takes them away |
//!
//! What a mode writes where is kube-proxy's own `pkg/proxy/nftables` and `pkg/proxy/iptables` (Kubernetes 1.36).

use std::io;

use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily as Family,
    nftables::{
        ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Expressions, Hook, HookNumber, Immediate,
        InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
        VerdictAttribute,
    },
};
use rtnetlink::packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};

use super::socket::Socket;

/// The table of its nftables mode.
const TABLE: &str = "kube-proxy";
/// The tables of iptables in which it has chains.
const IPTABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Its chains there, by name. Not all that begin with `KUBE-` are its own: kubelet has some, and so has kube-router with its policies.
const CHAINS: [&str; 8] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
];
/// Those of single Services and endpoints, which begin like this.
const CHAINS_OF_ONE: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-XLB-",
];
/// Ours: while connections go on that began by kube-proxy's rules.
const KEEPER: &str = "sluice-takeover";
/// Of `enum nft_ct_attributes` in the kernel's `nf_tables.h`.
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
/// `NF_IP_PRI_NAT_DST`.
const NAT_PRIORITY: i32 = -100;

/// kube-proxy's rules on this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Its tables of nftables, as `ip kube-proxy`.
    pub tables: Vec<String>,
    /// How many chains it has in tables of iptables.
    pub chains: usize,
}

impl Found {
    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.chains == 0
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = self.tables.iter().map(|table| format!("table {table}")).collect();
        if self.chains > 0 {
            parts.push(format!("{} chains KUBE-… of iptables", self.chains));
        }
        f.write_str(&if parts.is_empty() {
            "none".to_owned()
        } else {
            parts.join(", ")
        })
    }
}

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

/// Everything of kube-proxy's.
#[derive(Default)]
struct Rules {
    tables: Vec<Family>,
    chains: Vec<Chain>,
    /// Rules of others' chains.
    leading_there: Vec<Rule>,
}

impl Rules {
    fn found(&self) -> Found {
        let table = |family: &Family| format!("{} {TABLE}", word(*family));
        Found {
            tables: self.tables.iter().map(table).collect(),
            chains: self.chains.len(),
        }
    }
}

/// Looks for kube-proxy's rules, in the network namespace of this thread.
///
/// # Errors
/// What the kernel says.
pub fn find() -> io::Result<Found> {
    Ok(look(&mut Socket::open()?)?.found())
}

/// Takes kube-proxy's rules away, all or none. What there was.
///
/// # Errors
/// What the kernel says. A rule that somebody has changed meanwhile is such an error: once more will do.
pub fn remove() -> io::Result<Found> {
    let mut socket = Socket::open()?;
    let rules = look(&mut socket)?;
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
    socket.transact(changes.map(|(family, change)| (family, 0, change.into())))?;
    Ok(rules.found())
}

/// Sees to it that connections that are translated already stay so when all other rules are gone. Without any chain that translates, the
/// kernel translates nothing any more (`nf_nat_unregister_fn`), and without any rule that asks for the state of connections it doesn't
/// even follow them (`nf_ct_netns_put`): so here is a chain that translates nothing, with a rule that asks and does nothing.
///
/// # Errors
/// What the kernel says.
pub fn keep_translating() -> io::Result<()> {
    let mut socket = Socket::open()?;
    let there = tables(&mut socket, KEEPER)?;
    let missing = [Family::IPv4, Family::IPv6]
        .into_iter()
        .filter(|family| !there.contains(family));
    for family in missing {
        socket.transact(keeper().map(|change| (family, NLM_F_CREATE | NLM_F_APPEND, change.into())))?;
    }
    Ok(())
}

/// A table, its chain, the chain's rule.
fn keeper() -> [NfTablesMessage; 3] {
    let chain = "prerouting".to_owned();
    // `enum nft_ct_attributes`: register 1 gets key 0, the state.
    let asks = [(NFTA_CT_DREG, 1_u32), (NFTA_CT_KEY, 0)];
    let asks = Expressions::Other {
        expression_type: "ct".to_owned(),
        attributes: asks
            .map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()))
            .into(),
    };
    [
        NfTablesMessage::NewTable(TableMessage {
            attributes: vec![TableAttribute::Name(KEEPER.to_owned())],
        }),
        NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(KEEPER.to_owned()),
                ChainAttribute::Name(chain.clone()),
                ChainAttribute::Hook(vec![
                    Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting)),
                    Hook::Priority(NAT_PRIORITY.cast_unsigned()),
                ]),
                ChainAttribute::Type("nat".to_owned()),
            ],
        }),
        NfTablesMessage::NewRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(KEEPER.to_owned()),
                RuleAttribute::Chain(chain),
                RuleAttribute::Expressions(vec![asks.into()]),
            ],
        }),
    ]
}

/// Takes away what [`keep_translating`] has made. False if there was nothing.
///
/// # Errors
/// What the kernel says.
pub fn let_go() -> io::Result<bool> {
    let mut socket = Socket::open()?;
    let families = tables(&mut socket, KEEPER)?;
    let is_there = !families.is_empty();
    if is_there {
        socket.transact(
            families
                .into_iter()
                .map(|family| (family, 0, delete_table(KEEPER).into())),
        )?;
    }
    Ok(is_there)
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::IPv4 => "ip",
        Family::IPv6 => "ip6",
        _ => "inet",
    }
}

/// The families in which there is a table of this name.
fn tables(socket: &mut Socket, name: &str) -> io::Result<Vec<Family>> {
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

/// Whether a chain is kube-proxy's.
fn is_own(table: &str, chain: &str) -> bool {
    let is_of_one = CHAINS_OF_ONE.iter().any(|prefix| chain.starts_with(prefix));
    IPTABLES.contains(&table) && (is_of_one || CHAINS.contains(&chain))
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

fn delete_table(name: &str) -> NfTablesMessage {
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
