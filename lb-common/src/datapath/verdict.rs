//! What becomes of a packet, and where one is seen.

use crate::layout::{DropReason, Stage};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On its way, translated or untouched.
    Pass,
    /// Translated, and sent by the host itself: it needs a route to its new destination.
    Route,
    /// Translated, and for a process of the host itself. On the device that it came by, its source, a service address,
    /// may be a stranger to `rp_filter` and to firewalls that ask the same: then it arrives through loopback.
    Deliver,
    /// Its sender is to be told that nobody listens: [`refuse`] makes the answer.
    Refuse,
    /// Its sender is to be told that the connection is over: [`reset`] makes the answer.
    Reset,
    /// A ping to a service address: [`echo`] makes the answer.
    Echo,
    /// It goes to another node in a tunnel: [`enter_tunnel`] puts it there.
    Tunnel,
    /// Its sender is to be told that only so many octets fit: [`too_big`] makes the answer.
    TooBig(u16),
    /// Translated, and sent to its next hop by this device (XDP).
    Forward(u32),
    /// The same by the device that it came by.
    Turn,
    /// Gone, counted and reported.
    Drop(DropReason),
}

impl Verdict {
    /// As a number, for the way out of a kernel function: what it is, and more about it in the lower half.
    #[must_use]
    #[inline(always)]
    pub const fn code(self) -> u64 {
        let (kind, more) = match self {
            Self::Pass => (0, 0),
            Self::Route => (1, 0),
            Self::Deliver => (2, 0),
            Self::Refuse => (3, 0),
            Self::Reset => (4, 0),
            Self::Echo => (5, 0),
            Self::Tunnel => (6, 0),
            Self::TooBig(mtu) => (7, mtu as u32),
            Self::Forward(ifindex) => (8, ifindex),
            Self::Turn => (9, 0),
            Self::Drop(reason) => (10, reason as u32),
        };
        (kind as u64) << 32 | more as u64
    }

    /// From its number.
    #[must_use]
    #[inline(always)]
    pub const fn from_code(code: u64) -> Self {
        match code >> 32 {
            1 => Self::Route,
            2 => Self::Deliver,
            3 => Self::Refuse,
            4 => Self::Reset,
            5 => Self::Echo,
            6 => Self::Tunnel,
            7 => Self::TooBig(code as u16),
            8 => Self::Forward(code as u32),
            9 => Self::Turn,
            10 => match DropReason::from_number(code as u16) {
                Some(reason) => Self::Drop(reason),
                None => Self::Pass,
            },
            _ => Self::Pass,
        }
    }
}

/// Where a packet is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// In the driver of an outward device.
    Xdp,
    /// Where packets arrive from a device.
    Ingress,
    /// Where packets that the host forwards leave through a device.
    EgressForwarded,
    /// Where packets that a process in the host's own namespace has sent leave through a device.
    EgressLocal,
}

impl Hook {
    #[inline(always)]
    pub(super) const fn is_egress(self) -> bool {
        matches!(self, Self::EgressForwarded | Self::EgressLocal)
    }

    #[inline(always)]
    pub(super) const fn stage(self) -> Stage {
        if self.is_egress() {
            Stage::LEAVES
        } else {
            Stage::ARRIVES
        }
    }
}
