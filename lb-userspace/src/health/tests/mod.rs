//! Tests of health, by what they are about: answers, counts, sockets. Rows are those of the behaviour reference, §7.

mod ports;
mod sockets;
mod state;
