//! The Nodes but the own one, of which only the addresses count, for Services whose endpoints answer directly.
//!
//! They are watched only once such a Service is there: every node of a large cluster would else be sent every Node's
//! heartbeats, which the API server feels. Here: what is kept of them, and when it is told. Pure. Not here: watching
//! (`kubernetes`). Called by `kubernetes`.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Change, OtherNodes};

/// What is known of them.
#[derive(Debug)]
pub(super) struct Others {
    own: Box<str>,
    by_name: OtherNodes,
    /// Something is known that was not told yet; at first, that there is none.
    untold: bool,
}

impl Others {
    /// Nothing known yet, on the node of this name.
    pub(super) fn on_node(own: &str) -> Self {
        Self {
            own: own.into(),
            by_name: OtherNodes::default(),
            untold: true,
        }
    }

    /// Is it another Node?
    pub(super) fn is_other(&self, name: &str) -> bool {
        *self.own != *name
    }

    /// The Node has these addresses now; nothing if it is gone.
    pub(super) fn put(&mut self, name: Box<str>, addresses: Option<Box<[IpAddr]>>) {
        let addresses = addresses.filter(|_| self.is_other(&name));
        self.untold |= self.by_name.get(&name) != addresses.as_ref();
        match addresses {
            Some(addresses) => drop(self.by_name.insert(name, addresses)),
            None => drop(self.by_name.remove(&name)),
        }
    }

    /// What is to be told, now that all of a list or of an event was put. The kubelet writes a Node every few minutes, mostly
    /// things that are not read.
    pub(super) fn news(&mut self) -> Option<Change> {
        std::mem::take(&mut self.untold).then(|| Change::OtherNodes(Arc::new(self.by_name.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(others: &mut Others) -> Option<String> {
        let Change::OtherNodes(nodes) = others.news()? else {
            return None;
        };
        let nodes: Vec<_> = nodes.iter().map(|(name, at)| format!("{name} {}", at[0])).collect();
        Some(nodes.join(", "))
    }

    #[test]
    fn others_are_told_when_their_addresses_change_and_the_own_node_never() {
        let mut others = Others::on_node("n1");
        let at = |last| Some(Box::from([IpAddr::from([192, 0, 2, last])]));
        assert_eq!(
            told(&mut others).as_deref(),
            Some(""),
            "that there is none is said once"
        );
        assert_eq!(told(&mut others), None);
        others.put("n1".into(), at(1));
        assert_eq!(told(&mut others), None);
        others.put("n2".into(), at(2));
        others.put("n3".into(), at(3));
        assert_eq!(told(&mut others).as_deref(), Some("n2 192.0.2.2, n3 192.0.2.3"));
        others.put("n2".into(), at(2));
        assert_eq!(told(&mut others), None, "a heartbeat");
        others.put("n2".into(), at(4));
        others.put("n3".into(), None);
        assert_eq!(told(&mut others).as_deref(), Some("n2 192.0.2.4"));
    }
}
