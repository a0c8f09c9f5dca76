//! Packets for tests: described in words, run through the decision core on the host and through the loaded programs in
//! the kernel, and compared octet by octet.
//!
//! ```text
//! sketch ("client:40000 > web:80") --encode--> octets --+--> host world   --+--> equal? and as the row says?
//! change ("web:80 is served by pod:8080") --scene-------+--> kernel world --+
//! ```
//!
//! Start reading at [`row`]: how a row is written and what is checked of it. [`story`] plays what nobody has thought of:
//! tables, packets and happenings that [`random`] reads from a [`tape`] of choices.

pub mod answer;
pub mod decode;
pub mod duel;
pub mod encode;
pub mod hops;
pub mod host;
pub mod kernel;
pub mod names;
pub mod random;
pub mod row;
pub mod rules;
pub mod scene;
pub mod service;
pub mod side;
pub mod sketch;
pub mod story;
pub mod sums;
pub mod tape;
pub mod tunnel;
