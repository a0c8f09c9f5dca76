//! `docs/behaviour.md`: which behaviour of kube-proxy is shown by which test, and where Sluice differs on purpose.
//!
//! ```text
//! rows: what each row says, and the proof it needs ──┐
//! claims: `row_45_…` in names of tests and cases ────┴─► page: docs/behaviour.md, and what is missing
//! ```
//!
//! The rows are numbered as in the behaviour reference (§7), and sub-cases of a row have letters. A test claims rows by its
//! name, or by the name of one of its cases: `row_45_…`, `row_59b_…`, `rows_59_to_61_…`, `rows_109_and_110_…`.

pub mod claims;
pub mod page;
pub mod rows;
