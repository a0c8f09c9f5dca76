//! The socket tier with real sockets: who gets an endpoint when a socket is connected or a datagram is sent, what it is told of its peer,
//! and what is left to the tc tier.
//!
//! What is chosen by which rule is in `host_sockets`, without a kernel.

mod attach;
mod clients;
mod dial;
mod odd;
mod removed;
mod rolling;
mod scene;
