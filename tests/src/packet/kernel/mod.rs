//! The datapath in the kernel: the real object, loaded without pins, run packet by packet by `BPF_PROG_TEST_RUN`.
//!
//! What the kernel's test runs can't do, rows leave to the host world and to labs:
//! - frames that are shorter than their link and IP headers, longer than a page, or not all in place,
//! - partial checksums and GSO,
//! - answers on devices without link header: a test run always has one,
//! - turning the clock: times in the tables are moved into the past instead.

mod sandbox;
mod world;

pub use sandbox::{enter as enter_sandbox, in_kernel, stay_on_one_cpu};
pub use world::{KernelFamily, KernelWorld, test_context};
