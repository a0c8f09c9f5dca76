//! A distribution of times, in microseconds, with the questions that reports ask.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer times count as this one.
const MAX: Duration = Duration::from_secs(60);

/// Recorded times; three significant digits.
#[derive(Clone)]
pub struct Latency(Histogram<u32>);

impl Default for Latency {
    fn default() -> Self {
        let max = u64::try_from(MAX.as_micros()).expect("a minute fits");
        Self(Histogram::new_with_max(max, 3).expect("the bounds are sound"))
    }
}

impl Latency {
    /// Adds a time.
    pub fn record(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of them does not exceed; 0.5 is the median.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// Adds all of another distribution.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }
}

/// As short as [`fmt::Display`]: reports are printed where an assertion fails.
impl fmt::Debug for Latency {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({self})", self.count())
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 0 {
            return out.write_str("none");
        }
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let (half, most, max) = (self.quantile(0.5), self.quantile(0.99), self.max());
        write!(
            out,
            "p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms",
            millis(half),
            millis(most),
            millis(max)
        )
    }
}
