//! What a CPU remembers of the time.

pod! {
    /// The monotonic time at a tick of the kernel's timer, per CPU: asking for it at every packet would cost a sixth of
    /// the packet's way, looking whether the tick counter has moved costs next to nothing.
    #[derive(Default)]
    pub struct Clock {
        /// The kernel's tick counter (jiffies) when the time was read.
        pub tick: u64,
        /// Monotonic nanoseconds at that tick.
        pub now_ns: u64,
    }
    size: 16;
}
