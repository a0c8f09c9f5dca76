//! What can be made to go wrong, on command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::store::Resource;

/// What is wrong with the server at present.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every request for these is answered so.
    pub refuse: BTreeMap<Resource, Refusal>,
    /// Services can't be selected by fields, as before Kubernetes 1.31.
    pub no_fields_of_services: bool,
    /// Requests for these are never answered.
    pub stall: BTreeSet<Resource>,
    /// Answers about these begin, and say no more after so many octets.
    pub stall_after: BTreeMap<Resource, usize>,
    /// Answers come in pieces of so many octets, with so much time between.
    pub slow: Option<(usize, Duration)>,
    /// So many of the next events about these are cut off in the middle, and other events follow as if nothing was.
    pub half_lines: BTreeMap<Resource, u32>,
    /// So many of the next lists of these are cut off in the middle, with the connection.
    pub half_lists: BTreeMap<Resource, u32>,
    /// Seconds by which the server's clock is ahead; negative: behind.
    pub clock_off_s: i64,
    /// Streamed lists are refused, as before Kubernetes 1.32.
    pub no_streamed_lists: bool,
    /// The parameters of streamed lists are passed over, as a server does that has never heard of them.
    pub ignores_streamed_lists: bool,
    /// Watches end as soon as they have begun.
    pub ends_watches: bool,
    /// Requests of a page other than the first are refused with 410, as if they came too late.
    pub pages_expire: bool,
}

/// An answer that says no.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// The code.
    pub code: u16,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
}

impl Refusal {
    /// With a code and nothing else.
    #[must_use]
    pub fn code(code: u16) -> Self {
        Self {
            code,
            retry_after_s: None,
        }
    }
}
