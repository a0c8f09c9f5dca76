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
        if now_ns.wrapping_sub(self.refilled_ns) >= Self::SECOND_NS {
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
}
