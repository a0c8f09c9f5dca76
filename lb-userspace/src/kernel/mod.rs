//! The door to the kernel: loading the programs, pinning what must outlive the agent, attaching to devices and to a cgroup.
//!
//! Only this room and `tables` know aya. What the tables hold is none of its business.
//!
//! ```text
//! /sys/fs/bpf/sluice/            the pin folder (--pin-dir); the agent's lock is on it
//!   layout-N/                    one folder per layout version: no agent touches another's
//!     maps/LB4_FRONTENDS …       every table
//!     links/3-ingress            one link per device and hook: <ifindex>-<hook>
//!     links/cgroup-connect4 …    one link per socket hook
//! ```

mod attach;
mod cgroup;
mod load;
mod pins;
mod preflight;
mod raw;

pub use attach::{Attached, Attachments, Direction, LinkKind, XdpMode, XdpOutcome, XdpPolicy};
pub use cgroup::{SocketLinks, SocketPolicy, cgroup_number, cgroup_root};
pub(crate) use load::open_pinned_map;
pub use load::{Datapath, LoadOptions, RARE_PROGRAMS, RARE_PROGRAMS_WITHOUT_XDP, object};
pub use pins::{Lock, Pins, PinsError};
pub use preflight::{Finding, Level, preflight};
pub use raw::namespace_cookie;
