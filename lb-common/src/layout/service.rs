//! A service record: which slots a frontend's backends are picked from.

/// How the packets of one policy scope are answered, in one 64-bit word that is read and published atomically.
///
/// ```text
///  63      56 55                32 31                               0
/// +----------+--------------------+----------------------------------+
/// |   kind   |  len (≤ 2^24 - 1)  |  base: first slot of the range   |
/// +----------+--------------------+----------------------------------+
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Scope(pub u64);

/// What a [`Scope`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// No such scope: the packet is not ours.
    Absent,
    /// Pick one of `len` slots from `base` on.
    Slots {
        /// First slot of the range.
        base: u32,
        /// Number of slots, at least 1.
        len: u32,
    },
    /// No endpoint anywhere: answer with ICMP port unreachable (kube-proxy-behaviour §3.3).
    Reject,
    /// Endpoints exist, but none that the policy allows here: drop (kube-proxy-behaviour §3.3).
    Drop,
}

impl Scope {
    /// Largest number of slots in one range.
    pub const LEN_MAX: u32 = (1 << 24) - 1;

    const KIND_SLOTS: u64 = 1;
    const KIND_REJECT: u64 = 2;
    const KIND_DROP: u64 = 3;

    /// No such scope.
    pub const ABSENT: Self = Self(0);
    /// No endpoint anywhere.
    pub const REJECT: Self = Self(Self::KIND_REJECT << 56);
    /// Endpoints exist, none is allowed here.
    pub const DROP: Self = Self(Self::KIND_DROP << 56);

    /// A range of `len` slots from `base`; `len` between 1 and [`Self::LEN_MAX`].
    ///
    /// # Panics
    /// In debug builds, if `len` is out of range.
    #[must_use]
    pub const fn slots(base: u32, len: u32) -> Self {
        debug_assert!(len >= 1 && len <= Self::LEN_MAX);
        Self(Self::KIND_SLOTS << 56 | (len as u64) << 32 | base as u64)
    }

    /// What the word says.
    #[must_use]
    #[inline(always)]
    pub const fn choice(self) -> Choice {
        match self.0 >> 56 {
            Self::KIND_SLOTS => Choice::Slots {
                base: self.0 as u32,
                len: (self.0 >> 32) as u32 & Self::LEN_MAX,
            },
            Self::KIND_REJECT => Choice::Reject,
            Self::KIND_DROP => Choice::Drop,
            _ => Choice::Absent,
        }
    }
}

pod! {
    /// One service port of one family. Its index is the service number.
    #[derive(Default)]
    pub struct Service {
        /// Scope for frontends reachable only inside the cluster (ClusterIP), governed by `internalTrafficPolicy`.
        pub internal: Scope,
        /// Scope for NodePort, ExternalIP and load-balancer frontends, governed by `externalTrafficPolicy`.
        pub external: Scope,
    }
    size: 16;
}
