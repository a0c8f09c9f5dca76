//! How healthy the proxy and its node are, and what is answered when somebody asks (behaviour reference §6.1).
//!
//! A family is unhealthy while its oldest change that is not in the tables yet is older than twice `syncPeriod`: idle and
//! starting up are healthy. Beyond kube-proxy's rules: no new
//! connections, and not ready, while the truth check finds what it can't put right. Pure: the time is passed in, with every event and every question. Not here: sockets (`probes`,
//! `servers`). Told by the agent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::http::Answer;
use crate::model::{Family, NodeView};

/// A point in time by both clocks: one to measure by, one to tell people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The clock that nobody sets.
    pub steady: Instant,
    /// The clock on the wall.
    pub wall: SystemTime,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// What a Node that nobody has told of means for `/healthz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownNode {
    /// It is gone or never was: no new connections (a cluster).
    NotEligible,
    /// Nobody tells of Nodes here (manifests).
    Eligible,
}

/// Which page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// `/healthz`: should this node get new connections?
    Healthz,
    /// `/livez`: does the proxy work?
    Livez,
    /// `/readyz`: has everything been in the tables, and does the proxy work?
    Readyz,
}

/// What is known of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FamilyHealth {
    /// When the oldest change came that is not in the tables yet.
    waiting_since: Option<Instant>,
    /// When the tables last said all that was known.
    synced: Option<SystemTime>,
}

/// How healthy the proxy and its node are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    timeout: Duration,
    unknown_node: UnknownNode,
    eligible: bool,
    programmed: bool,
    tables_right: bool,
    families: BTreeMap<Family, FamilyHealth>,
}

impl Health {
    /// Nothing queued, nothing synced, the Node unknown. A change may wait for twice `sync_period`.
    pub fn new(sync_period: Duration, unknown_node: UnknownNode) -> Self {
        Self {
            timeout: sync_period * 2,
            unknown_node,
            eligible: unknown_node == UnknownNode::Eligible,
            programmed: false,
            tables_right: true,
            families: BTreeMap::new(),
        }
    }

    /// A change of this family came and is not in the tables yet.
    pub fn queued(&mut self, family: Family, now: Instant) {
        let family = self.families.entry(family).or_default();
        family.waiting_since.get_or_insert(now);
    }

    /// The tables of this family say all that is known.
    pub fn synced(&mut self, family: Family, now: Moment) {
        let known = FamilyHealth {
            waiting_since: None,
            synced: Some(now.wall),
        };
        self.families.insert(family, known);
    }

    /// Everything that was there at the start is in the tables, and translates packets. Says whether that is new.
    pub fn programmed(&mut self) -> bool {
        !std::mem::replace(&mut self.programmed, true)
    }

    /// Whether the tables hold what they should, and take what is written, as the truth check has found. Says whether that is new.
    pub fn tables_are(&mut self, right: bool) -> bool {
        std::mem::replace(&mut self.tables_right, right) != right
    }

    /// The own Node is now so.
    pub fn see_node(&mut self, node: &NodeView) {
        self.eligible = match &node.facts {
            Some(facts) => facts.eligible(),
            None => self.unknown_node == UnknownNode::Eligible,
        };
    }

    /// Does the proxy bring changes into the tables in time?
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.families.values().all(|family| self.keeps_up(*family, now))
    }

    /// Should load balancers send new connections to this node?
    pub fn node_is_eligible(&self) -> bool {
        self.eligible
    }

    /// The answer to a probe.
    pub fn answer(&self, page: Page, now: Moment) -> Answer {
        let healthy = self.is_healthy(now.steady);
        let ok = match page {
            Page::Healthz => healthy && self.tables_right && self.eligible,
            // A new agent would find the same tables.
            Page::Livez => healthy,
            Page::Readyz => healthy && self.tables_right && self.programmed,
        };
        let newest = self.families.values().filter_map(|family| family.synced).max();
        let status = self.families.iter().map(|(family, known)| {
            let status = FamilyStatus {
                last_updated: text(known.synced),
                healthy: self.keeps_up(*known, now.steady),
            };
            (family.api_name(), status)
        });
        let body = Body {
            last_updated: text(if ok { Some(now.wall) } else { newest }),
            current_time: text(Some(now.wall)),
            node_eligible: (page == Page::Healthz).then_some(self.eligible),
            healthy: healthy && (self.tables_right || page == Page::Livez),
            status: status.collect(),
        };
        Answer::json(if ok { 200 } else { 503 }, json(&body))
    }

    fn keeps_up(&self, family: FamilyHealth, now: Instant) -> bool {
        family
            .waiting_since
            .is_none_or(|since| now.saturating_duration_since(since) < self.timeout)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

/// RFC 3339 with nanoseconds; what never was is written as Go's zero time, as kube-proxy does.
fn text(time: Option<SystemTime>) -> String {
    time.and_then(|time| Timestamp::try_from(time).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}

/// The body as text. Structures of plain text and numbers cannot fail to become JSON.
fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}
