//! A service record: which slots a frontend's backends are picked from.

/// How the packets of one policy scope are answered, in one 64-bit word that is read and published atomically.
///
/// ```text
///  63      56 55                32 31                               0
/// +----------+--------------------+----------------------------------+
/// |   kind   |  len (≤ 2^24 - 1)  |  base: first slot of the range   |
/// +----------+--------------------+----------------------------------+
/// ```
///
/// If the list has a Maglev table, a [`TableHeader`](super::TableHeader) lies in the slots before `base`.
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
    const KIND_SLOTS_WITH_TABLE: u64 = 4;

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

    /// The same, of a list with a Maglev table.
    #[must_use]
    pub const fn slots_with_table(base: u32, len: u32) -> Self {
        Self(Self::slots(base, len).0 & !(0xff << 56) | Self::KIND_SLOTS_WITH_TABLE << 56)
    }

    /// Whether the list has a Maglev table.
    #[must_use]
    #[inline(always)]
    pub const fn has_table(self) -> bool {
        self.0 >> 56 == Self::KIND_SLOTS_WITH_TABLE
    }

    /// What the word says.
    #[must_use]
    #[inline(always)]
    pub const fn choice(self) -> Choice {
        match self.0 >> 56 {
            Self::KIND_SLOTS | Self::KIND_SLOTS_WITH_TABLE => Choice::Slots {
                base: self.0 as u32,
                len: (self.0 >> 32) as u32 & Self::LEN_MAX,
            },
            Self::KIND_REJECT => Choice::Reject,
            Self::KIND_DROP => Choice::Drop,
            _ => Choice::Absent,
        }
    }
}

/// Rules of a service port, as bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ServiceFlags(pub u32);

bits!(ServiceFlags);

impl ServiceFlags {
    /// `internalTrafficPolicy: Local`: clients of the ClusterIP get endpoints of this node.
    pub const INTERNAL_LOCAL: Self = Self(1 << 0);
    /// `externalTrafficPolicy: Local`: clients outside get endpoints of this node, and keep their address.
    pub const EXTERNAL_LOCAL: Self = Self(1 << 1);
    /// Clients of the ClusterIP are led by the Maglev table of their list, too, if it has one.
    pub const INTERNAL_MAGLEV: Self = Self(1 << 2);
    /// Clients outside are answered directly by the endpoint's node, to which their packets go in a tunnel (direct server
    /// return). Such a service has a local list on every node.
    pub const DSR: Self = Self(1 << 3);
    /// The socket tier leaves it to the tc tier.
    pub const NO_SOCKETS: Self = Self(1 << 4);
}

/// The rules of a service port, which change together: one 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    /// Traffic policies.
    pub flags: ServiceFlags,
    /// Seconds for which a client keeps its backend; 0 without session affinity.
    pub affinity_s: u32,
}

/// Where the state of a service port is found, which changes together: one 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sets {
    /// The set of `loadBalancerSourceRanges`; 0 if everybody may come.
    pub sources: u32,
    /// Part of the keys of [`AffinityKey`](super::AffinityKey): another whenever affinity is switched on anew.
    pub affinity: u32,
}

pod! {
    /// One service port of one family.
    #[derive(Default)]
    pub struct Service {
        /// Endpoints of the whole cluster (kube-proxy-behaviour §3.1).
        pub cluster: Scope,
        /// Endpoints of this node; absent while no policy asks for it.
        pub local: Scope,
        /// Which of the two a client gets, and for how long.
        pub rules: Rules,
        /// Who may come, and who came before.
        pub sets: Sets,
    }
    size: 32;
}

impl Rules {
    /// As one word of memory.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        word_of(self.flags.0, self.affinity_s)
    }

    /// From one word of memory.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let [flags, affinity_s] = halves_of(word);
        Self {
            flags: ServiceFlags(flags),
            affinity_s,
        }
    }
}

impl Sets {
    /// As one word of memory.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        word_of(self.sources, self.affinity)
    }

    /// From one word of memory.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let [sources, affinity] = halves_of(word);
        Self { sources, affinity }
    }
}

const fn word_of(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

const fn halves_of(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

pod! {
    /// What is counted for a service port: where a connection begins, never for each of its packets.
    #[derive(Default)]
    pub struct ServiceStats {
        /// Connections for which a backend was chosen.
        pub opened: u64,
        /// Packets of new connections that got none: refused or dropped.
        pub refused: u64,
    }
    size: 16;
}

pod! {
    /// What the table of services has for each service number. A connection's first packet reads the record and counts: both
    /// lie in one cache line.
    #[derive(Default)]
    pub struct ServiceEntry {
        /// The agent's.
        pub record: Service,
        /// The programs' own.
        pub stats: ServiceStats,
        /// Always zero.
        pub pad: [u64; 2],
    }
    size: 64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_says_where_its_slots_are_and_whether_there_is_a_table() {
        let (plain, with_table) = (Scope::slots(1_000_000, 7), Scope::slots_with_table(1_000_000, 7));
        let choice = Choice::Slots {
            base: 1_000_000,
            len: 7,
        };
        assert_eq!((plain.choice(), plain.has_table()), (choice, false));
        assert_eq!((with_table.choice(), with_table.has_table()), (choice, true));
    }

    #[test]
    fn words_are_what_lies_in_memory() {
        let rules = Rules {
            flags: ServiceFlags::EXTERNAL_LOCAL,
            affinity_s: 10_800,
        };
        assert_eq!(Rules::from_word(rules.to_word()), rules);
        let octets = rules.to_word().to_ne_bytes();
        assert_eq!(octets[..4], rules.flags.0.to_ne_bytes());
        let sets = Sets {
            sources: 7,
            affinity: 9,
        };
        assert_eq!(Sets::from_word(sets.to_word()), sets);
    }
}
