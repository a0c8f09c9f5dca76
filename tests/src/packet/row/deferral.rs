//! What rows say of a node that netfilter serves, too: whose new flows are.

use super::{Change, Row};

impl Row {
    /// From now on new flows are left to netfilter.
    #[must_use]
    pub fn defers(self) -> Self {
        self.change(Change::Defer(true))
    }

    /// What leaves by the device of the rows may have left by another one just before.
    #[must_use]
    pub fn lower_device(self) -> Self {
        self.change(Change::LowerDevice)
    }

    /// New flows are Sluice's again.
    #[must_use]
    pub fn takes_over(self) -> Self {
        self.change(Change::Defer(false))
    }
}
