//! Token buckets: how often per second a CPU may do something.

pod! {
    /// State of one token bucket of one CPU.
    #[derive(Default)]
    pub struct TokenBucket {
        /// Time of the last refill, in monotonic nanoseconds.
        pub refilled_ns: u64,
        /// Tokens left.
        pub tokens: u64,
    }
    size: 16;
}

impl TokenBucket {
    const SECOND_NS: u64 = 1_000_000_000;

    /// Takes a token if there is one. The bucket holds one second's worth and is full at first.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, per_second: u64) -> bool {
        // The time is that of the last tick, and programs of one CPU don't all see a tick at once: it may be less than before.
        if now_ns.saturating_sub(self.refilled_ns) >= Self::SECOND_NS {
            self.refilled_ns = now_ns;
            self.tokens = per_second;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_seconds_worth_and_refills_after_a_second() {
        let mut bucket = TokenBucket::default();
        let start_ns = 5_000_000_000;
        let taken = (0..10).filter(|_| bucket.take(start_ns, 3)).count();
        assert_eq!(taken, 3);
        assert!(!bucket.take(start_ns + 999_999_999, 3));
        assert!(bucket.take(start_ns + 1_000_000_000, 3));
    }

    #[test]
    fn a_clock_that_is_a_tick_behind_refills_nothing() {
        let mut bucket = TokenBucket {
            refilled_ns: 5_000_000_000,
            tokens: 0,
        };
        assert!(!bucket.take(4_996_000_000, 3));
        assert!(bucket.take(6_000_000_000, 3));
    }
}
