//! Bad input on the whole program: files, tables that are full, machines that lack something, pins that are not ours.
//!
//! Each test brings a Service into being, does something bad, and asks three things: is it said what failed, on what, why
//! and what to do; does the exit code tell; and is everything that worked still there: an open connection, a new one.
//! Needs root. An old kernel is judged in the unit tests of `lb-userspace/src/kernel/preflight.rs`.

mod files;
mod full;
mod machine;
mod memory;
mod pins;
mod scene;
