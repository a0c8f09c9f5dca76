//! The record that a kernel program leaves in the ring buffer when it drops a packet.

use super::{Port, Proto};

pod! {
    /// One drop. Sampled: at most `limits::EVENTS_PER_SECOND_MAX` per CPU.
    pub struct Event {
        /// Monotonic time in nanoseconds.
        pub time_ns: u64,
        /// Source address; an IPv4 address in the first four octets.
        pub src: [u8; 16],
        /// Destination address; an IPv4 address in the first four octets.
        pub dst: [u8; 16],
        /// Service number, or `u32::MAX` when none was found.
        pub service: u32,
        /// Device on which the packet was seen.
        pub ifindex: u32,
        /// Source port.
        pub sport: Port,
        /// Destination port.
        pub dport: Port,
        /// Number of the drop reason.
        pub reason: u16,
        /// TCP or UDP.
        pub proto: Proto,
        /// 4 or 6.
        pub family: u8,
    }
    size: 56;
}
