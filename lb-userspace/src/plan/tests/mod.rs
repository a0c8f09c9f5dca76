//! Tests of the plan. Case names carry the row numbers of the behaviour reference (§7.8–7.11).

mod bookkeeping;
mod categorise;
mod traffic_policy;
