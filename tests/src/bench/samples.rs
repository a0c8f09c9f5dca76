//! Samples: the same thing measured several times, and what is said of them all.

/// Values in the order of their size.
#[derive(Clone, Debug)]
pub(super) struct Samples(Vec<f64>);

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Samples {
    /// The value below which this share of all lies (nearest rank); 0 for no samples.
    #[must_use]
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0
            .get(rank.clamp(1, self.0.len().max(1)) - 1)
            .copied()
            .unwrap_or(0.0)
    }

    /// The value in the middle.
    #[must_use]
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The largest value.
    #[must_use]
    pub(super) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Width of the middle half, as a share of the median.
    #[must_use]
    pub(super) fn noise(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.median().abs().max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        for (share, expected) in [(0.0, 1.0), (0.25, 25.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert!((samples.quantile(share) - expected).abs() < 1e-9, "{share}");
        }
        assert!((samples.noise() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_and_one() {
        assert!(Samples::from_iter([]).median().abs() < 1e-9);
        assert!((Samples::from_iter([7.0]).quantile(0.99) - 7.0).abs() < 1e-9);
    }
}
