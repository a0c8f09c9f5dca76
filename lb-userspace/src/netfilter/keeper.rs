//! What keeps connections translated that began by kube-proxy's rules, when those are gone.

use std::io;

use netlink_packet_netfilter::{
    NetfilterProtoFamily as Family,
    nftables::{
        ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute,
        RuleMessage, TableAttribute, TableMessage,
    },
};
use rtnetlink::packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};

use super::{
    nftables::{delete_table, tables},
    socket::Socket,
};

/// A table of nftables, while connections go on that began by kube-proxy's rules.
const KEEPER: &str = "sluice-takeover";
/// Of `enum nft_ct_attributes` in the kernel's `nf_tables.h`.
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
/// `NF_IP_PRI_NAT_DST`.
const NAT_PRIORITY: i32 = -100;

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

/// Whether there is something of that.
pub(super) fn translating_is_kept() -> io::Result<bool> {
    Ok(!tables(&mut Socket::open()?, KEEPER)?.is_empty())
}
