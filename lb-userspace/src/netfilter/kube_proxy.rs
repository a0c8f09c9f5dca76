//! kube-proxy's rules: finding them, and taking them away without what is not its own.
//!
//! | mode | what is kube-proxy's | by |
//! |---|---|---|
//! | nftables | the tables `ip kube-proxy`, `ip6 kube-proxy` | `nftables` |
//! | iptables, IPVS | its chains `KUBE-…` in `nat`, `filter`, `mangle`; rules that lead to them | |
//! | | … of the nf_tables variant | `nftables` |
//! | | … of the legacy variant | `legacy` |
//! | IPVS | its ipsets `KUBE-…` | `ipset` |
//! | | services whose address is on its device, or that are NodePorts; the device `kube-ipvs0` | `ipvs` |
//!
//! What a mode writes where is kube-proxy's own `pkg/proxy/nftables`, `pkg/proxy/iptables` and `pkg/proxy/ipvs` (Kubernetes 1.36).

use std::fmt;

use anyhow::{Context as _, Result};
use lb_common::layout::Proto;

use super::{
    ipset,
    ipvs::{self, IPVS_DEVICE, NodePorts, Staying},
    keeper, legacy, nftables,
};

/// The tables of iptables in which it has chains.
const IPTABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Its chains there, by name. Not all that begin with `KUBE-` are its own: kubelet has some, and so has kube-router with its policies.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    // Of its IPVS mode only.
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
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
/// Its ipsets of IPv4, behind `KUBE-`; those of IPv6 have `KUBE-6-`.
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];
/// Those of them that have its NodePorts.
const NODE_PORT_SETS: [(&str, Proto); 6] = [
    ("NODE-PORT-TCP", Proto::TCP),
    ("NODE-PORT-LOCAL-TCP", Proto::TCP),
    ("NODE-PORT-UDP", Proto::UDP),
    ("NODE-PORT-LOCAL-UDP", Proto::UDP),
    ("NODE-PORT-SCTP-HASH", Proto::SCTP),
    ("NODE-PORT-LOCAL-SCTP-HASH", Proto::SCTP),
];
/// Names of ipsets end here.
const SET_NAME_LEN: usize = 31;

/// kube-proxy's rules on this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Its tables of nftables, as `ip kube-proxy`.
    pub tables: Vec<String>,
    /// How many chains it has in tables of iptables, by the nf_tables variant.
    pub chains: usize,
    /// How many in those of legacy iptables.
    pub legacy_chains: usize,
    /// How many ipsets.
    pub sets: usize,
    /// How many services of IPVS.
    pub services: usize,
    /// Its device is there.
    pub device: bool,
}

impl Found {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// There are rules by which connections begin: every mode has some, and in IPVS' they go before the rest.
    #[must_use]
    pub const fn has_rules(&self) -> bool {
        !self.tables.is_empty() || self.chains > 0 || self.legacy_chains > 0
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.tables.iter().map(|table| format!("table {table}")).collect();
        let counts = [
            (self.chains, "chains KUBE-… of iptables"),
            (self.legacy_chains, "chains KUBE-… of legacy iptables"),
            (self.sets, "ipsets KUBE-…"),
            (self.services, "services of IPVS"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        parts.extend(counts.map(|(count, what)| format!("{count} {what}")));
        if self.device {
            parts.push(format!("device {IPVS_DEVICE}"));
        }
        f.write_str(&if parts.is_empty() {
            "none".to_owned()
        } else {
            parts.join(", ")
        })
    }
}

/// Looks for kube-proxy's rules, in the network namespace of this thread. What a kernel doesn't have, or hasn't loaded, has none.
///
/// # Errors
/// What the kernel says.
pub fn find() -> Result<Found> {
    let rules = nftables::find().context("look for kube-proxy's rules in nftables")?;
    let services = ipvs::find(&node_ports()?).context("look for kube-proxy's services of IPVS")?;
    Ok(Found {
        tables: rules.tables(),
        chains: rules.chains(),
        legacy_chains: legacy::find(is_own).context("look for kube-proxy's rules in legacy iptables")?,
        sets: ipset::find(is_own_set).context("look for kube-proxy's ipsets")?,
        services,
        device: ipvs::has_device().context("look for kube-proxy's device")?,
    })
}

/// What [`remove`] has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// What was taken away.
    pub found: Found,
    /// Which services of IPVS stay for their connections, and with them all rules and ipsets.
    pub staying: Staying,
    /// How many connections IPVS knows of those, the ones that have ended lately included.
    pub connections: u64,
}

/// Takes kube-proxy's rules away, each table all or none. As long as connections need its services of IPVS, those stay, and the rules with
/// them: by these IPVS' connections of the node's own processes are masqueraded.
///
/// # Errors
/// What the kernel says, or that the lock on legacy iptables can't be had; what was taken away until then is.
pub fn remove() -> Result<Removed> {
    Ok(remove_unless_written(None)?.unwrap_or_default())
}

/// Nothing if kube-proxy has written more than was left.
fn remove_unless_written(left: Option<&Staying>) -> Result<Option<Removed>> {
    let released = ipvs::release(&node_ports()?, left).context("take kube-proxy's services of IPVS away")?;
    let Some(released) = released else { return Ok(None) };
    let mut removed = Removed {
        staying: released.staying,
        connections: released.connections,
        ..Removed::default()
    };
    removed.found.services = released.services;
    if !removed.staying.is_empty() {
        return Ok(Some(removed));
    }
    let rules = nftables::remove().context("take kube-proxy's rules out of nftables")?;
    (removed.found.tables, removed.found.chains) = (rules.tables(), rules.chains());
    removed.found.legacy_chains = legacy::remove(is_own).context("take kube-proxy's rules out of legacy iptables")?;
    // No rule asks for them any more.
    removed.found.sets = ipset::remove(is_own_set).context("take kube-proxy's ipsets away")?;
    // The last to go: while it is there, something is left to do.
    removed.found.device = ipvs::delete_device().context("take kube-proxy's device away")?;
    Ok(Some(removed))
}

/// What [`go_on_removing`] has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// No connections of IPVS are waited for.
    Not,
    /// There are services that were not left: kube-proxy runs and writes them, so nothing was removed.
    Over,
    /// This was removed, and what stays is waited for.
    For(Removed),
}

/// Goes on where [`remove`] left services of IPVS for their connections: these, when it was last done.
///
/// # Errors
/// As [`remove`].
pub fn go_on_removing(left: Option<&Staying>) -> Result<Waiting> {
    if !ipvs::has_device()? || !keeper::translating_is_kept()? {
        return Ok(Waiting::Not);
    }
    Ok(remove_unless_written(left)?.map_or(Waiting::Over, Waiting::For))
}

/// Its NodePorts, as its IPVS mode has them in ipsets.
fn node_ports() -> Result<NodePorts> {
    let mut found = NodePorts::new();
    for (set, proto) in NODE_PORT_SETS {
        for name in set_names(set) {
            let ports = ipset::ports(&name).context("ask kube-proxy's ipsets for its NodePorts")?;
            found.extend(ports.into_iter().map(|port| (proto, port)));
        }
    }
    Ok(found)
}

/// Whether a chain is kube-proxy's.
pub(super) fn is_own(table: &str, chain: &str) -> bool {
    let is_of_one = CHAINS_OF_ONE.iter().any(|prefix| chain.starts_with(prefix));
    IPTABLES.contains(&table) && (is_of_one || CHAINS.contains(&chain))
}

/// Whether an ipset is.
fn is_own_set(name: &str) -> bool {
    SETS.iter().any(|set| set_names(set).contains(&name.to_owned()))
}

/// The names of an ipset in both families.
fn set_names(set: &str) -> [String; 2] {
    ["KUBE-", "KUBE-6-"].map(|prefix| {
        let mut name = format!("{prefix}{set}");
        name.truncate(SET_NAME_LEN);
        name
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::of_all_services("nat", "KUBE-SERVICES", true)]
    #[case::of_one_service("nat", "KUBE-SVC-TCOU7JCQXEZGVUNU", true)]
    #[case::of_ipvs("filter", "KUBE-IPVS-FILTER", true)]
    #[case::of_ipvs_for_node_ports("nat", "KUBE-NODE-PORT", true)]
    #[case::its_canary("mangle", "KUBE-PROXY-CANARY", true)]
    #[case::kubelets("filter", "KUBE-FIREWALL", false)]
    #[case::kubelets_canary("mangle", "KUBE-KUBELET-CANARY", false)]
    #[case::kubelets_hint("mangle", "KUBE-IPTABLES-HINT", false)]
    #[case::kubelets_mark("nat", "KUBE-MARK-DROP", false)]
    #[case::kube_routers("filter", "KUBE-ROUTER-FORWARD", false)]
    #[case::kube_routers_policy("filter", "KUBE-NWPLCY-ABC", false)]
    #[case::in_a_table_where_it_has_none("raw", "KUBE-SERVICES", false)]
    fn a_chain_is_kube_proxys(#[case] table: &str, #[case] chain: &str, #[case] expected: bool) {
        assert_eq!(is_own(table, chain), expected);
    }

    #[rstest]
    #[case::of_ipv4("KUBE-CLUSTER-IP", true)]
    #[case::of_ipv6("KUBE-6-CLUSTER-IP", true)]
    #[case::of_a_bitmap("KUBE-NODE-PORT-LOCAL-UDP", true)]
    #[case::cut_off("KUBE-6-LOAD-BALANCER-SOURCE-CID", true)]
    #[case::longer("KUBE-CLUSTER-IP2", false)]
    #[case::shorter("KUBE-CLUSTER", false)]
    #[case::kube_routers("KUBE-SRC-ABCDEFGH", false)]
    #[case::somebodys("cali40all-ipam-pools", false)]
    fn an_ipset_is_kube_proxys(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_own_set(name), expected);
    }

    #[test]
    fn what_was_found_is_told_with_its_number() {
        assert_eq!(Found::default().to_string(), "none");
        let found = Found {
            tables: vec!["ip kube-proxy".to_owned()],
            chains: 0,
            legacy_chains: 12,
            sets: 34,
            services: 3,
            device: true,
        };
        assert_eq!(
            found.to_string(),
            "table ip kube-proxy, 12 chains KUBE-… of legacy iptables, 34 ipsets KUBE-…, 3 services of IPVS, device kube-ipvs0"
        );
    }

    #[test]
    fn only_rules_begin_connections() {
        let with = |change: fn(&mut Found)| {
            let mut found = Found::default();
            change(&mut found);
            found.has_rules()
        };
        assert!(with(|found| found.chains = 1) && with(|found| found.legacy_chains = 1));
        assert!(with(|found| found.tables.push("ip kube-proxy".to_owned())));
        // Services of IPVS that wait for their last connection, without the rules that kube-proxy writes with them.
        assert!(!with(|found| (found.sets, found.services, found.device) = (1, 1, true)));
    }
}
