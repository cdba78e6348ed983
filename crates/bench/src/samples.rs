//! Measured times and what is told of them: percentiles and ratios.

use std::time::Duration;

/// Times of one thing measured again and again, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    values: Vec<f64>,
}

impl Samples {
    /// Adds one in milliseconds.
    pub(crate) fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The value that `percent` of all are at or below (the nearest rank); `None` without any.
    pub(crate) fn percentile(&self, percent: f64) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How many times `a` is `b`; `None` where that says nothing.
pub(crate) fn ratio(a: f64, b: f64) -> Option<f64> {
    (a.is_finite() && b.is_finite() && b > 0.0).then(|| a / b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u32>) -> Samples {
        values.into_iter().map(f64::from).collect()
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = of((1..=100).rev());
        assert_eq!(hundred.percentile(50.0), Some(50.0));
        assert_eq!(hundred.percentile(99.0), Some(99.0));
        assert_eq!(hundred.percentile(100.0), Some(100.0));
        let three = of([7, 3, 5]);
        assert_eq!(three.percentile(50.0), Some(5.0));
        assert_eq!(three.percentile(99.0), Some(7.0));
        assert_eq!(three.percentile(0.0), Some(3.0));
        assert_eq!(of([9]).percentile(50.0), Some(9.0));
        assert_eq!(of([]).percentile(50.0), None);
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(3.0, 0.0), None);
        assert_eq!(ratio(f64::NAN, 2.0), None);
    }
}
