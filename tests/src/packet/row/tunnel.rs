//! What rows say of tunnels: which other nodes there are, and what goes into a tunnel and comes out of one.

use super::{Change, Expected, Row};
use crate::packet::tunnel::Tunnel;

impl Row {
    /// Another node has this address. This one is known to others by `node`.
    #[must_use]
    pub fn peer(self, name: &str) -> Self {
        self.change(Change::Peer(name.to_owned()))
    }

    /// A router has told how much fits on the way to another node.
    #[must_use]
    pub fn path_mtu(self, name: &str, mtu: u32) -> Self {
        self.change(Change::PathMtu(name.to_owned(), mtu))
    }

    /// There is no route to this address any more.
    #[must_use]
    pub fn loses_route(self, name: &str) -> Self {
        self.change(Change::NoRoute(name.to_owned()))
    }

    /// Tunnels are of UDP.
    #[must_use]
    pub fn gue(self) -> Self {
        self.change(Change::Gue)
    }

    /// It goes on in a tunnel between these, unchanged: IP in IP, or UDP if tunnels are of that.
    #[must_use]
    pub fn enters(self, tunnel: Tunnel) -> Self {
        self.expect(Expected::Tunnelled(tunnel))
    }

    /// The same, sent by XDP.
    #[must_use]
    pub fn gets_sent_in(self, tunnel: Tunnel) -> Self {
        self.expect(Expected::SentTunnelled(tunnel))
    }

    /// Its sender is told by ICMP that only so many octets fit; that is counted and reported, too.
    #[must_use]
    pub fn gets_told(self, mtu: u16) -> Self {
        self.expect(Expected::TooBig(mtu))
    }

    /// It is marked as one that has met congestion, and is the same otherwise.
    #[must_use]
    pub fn marked(mut self) -> Self {
        self.last().marked = true;
        self
    }

    /// It says that segments may be so large, behind so many options without meaning, and is the same otherwise.
    #[must_use]
    pub fn saying_mss(mut self, octets: u16, behind: usize) -> Self {
        self.last().saying = Some((octets, behind));
        self
    }
}
