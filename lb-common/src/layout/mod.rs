//! The bytes: keys, values, names, limits, drop reasons and events of every table.
//!
//! No logic beyond constructors and accessors. Addresses and ports are kept in network order by type, sizes are
//! asserted at compile time, and a struct with hidden padding does not compile. A change of any layout here needs a
//! new [`limits::LAYOUT_VERSION`].

#[macro_use]
mod pod;

mod affinity;
mod backend;
mod bucket;
mod clock;
mod counter;
mod desk;
mod event;
mod flow;
mod fragment;
mod frontend;
mod label;
pub mod limits;
mod maglev;
pub mod names;
mod net;
mod node;
mod reason;
mod service;
mod socket;
mod source_range;
mod vlan;
mod way;

pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, BackendEntry, BackendFlags};
pub use bucket::TokenBucket;
pub use clock::Clock;
pub use counter::Counter;
pub use desk::{Desk, Opening, Rewrite, Tunnelled};
pub use event::Event;
pub use flow::{Flow, FlowFlags, FlowKey, Stage, TcpSeen};
pub use fragment::{FragmentKey, FragmentPorts};
pub use frontend::{AddressFlags, Frontend, FrontendKey};
pub use label::Label;
pub use maglev::{CHUNK_CELLS, Cells, Chunk, TableHeader};
pub use net::{Address, Family, Ip4, Ip6, Port, Proto, V4, V6};
pub use node::{Device, DeviceFlags, NEW_FLOWS_ARE_OURS, Node, NodeFlags, Peer, Range, SERVICE_RANGES};
pub use reason::DropReason;
pub use service::{Choice, Rules, Scope, Service, ServiceEntry, ServiceFlags, ServiceStats, Sets};
pub use socket::{CGROUP_LEVELS_MAX, SOCKET_PEERS_MAX, SocketFlags, SocketPeer, SocketPeers, SocketTier};
pub use source_range::{SET_LEN, SourceKeys};
pub use vlan::{Tag, Tags, VlanKey};
pub use way::{Hop, Way, WayFlags};
