//! Masqueraded flows on real sockets, on one node: as many as there are source ports, beside the node's own sockets, and what
//! clients hear when an endpoint is gone.
//!
//! Which source port a flow gets is in `packet_masquerade`; one client port through several frontends is in `lab_two_nodes`.

mod datagrams;
mod many;
mod own_sockets;
mod removed;
mod scene;
mod talk;
