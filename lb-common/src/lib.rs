//! What Sluice's kernel programs and its agent share: the bytes in the tables ([`layout`]) and the decisions taken
//! over a packet ([`datapath`]).
//!
//! Everything here is `no_std` and free of aya, so that one piece of code runs in the kernel (as tc and as XDP
//! program), in host tests, in fuzzing and in `sluice explain`. What touches packet memory and kernel maps lives in
//! `lb-ebpf`; what fills the tables lives in `lb-userspace`.

#![no_std]
#![deny(missing_docs)]

pub mod datapath;
pub mod layout;
