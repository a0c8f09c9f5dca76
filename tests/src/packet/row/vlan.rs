//! What rows say of VLANs: which there are, and with which tags a frame leaves.

use super::{Change, Expected, Row};

impl Row {
    /// The VLAN devices of `hops` are there, and XDP may send out of them.
    #[must_use]
    pub fn vlans(self) -> Self {
        self.change(Change::Vlans)
    }

    /// The same, and it may send frames back by the card by which they came.
    #[must_use]
    pub fn vlans_turn(self) -> Self {
        self.change(Change::VlansTurn)
    }

    /// The same, back by the device that it came by.
    #[must_use]
    pub fn gets_turned(self, tuple: &str) -> Self {
        self.expect(Expected::Turned(tuple.to_owned()))
    }

    /// It leaves with these VLAN tags, EtherType and control information of each, whatever tags it came with.
    #[must_use]
    pub fn tagged(mut self, tags: &[(u16, u16)]) -> Self {
        self.last().tags = Some(tags.to_vec());
        self
    }

    /// In front of that frame there is room for so many octets.
    #[must_use]
    pub fn headroom(mut self, len: usize) -> Self {
        self.last().headroom = Some(len);
        self
    }
}
