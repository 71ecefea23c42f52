//! Raw samples and what reports say of them.
//!
//! Samples are kept, not binned: every number of a report is one that was measured (except the mean). A
//! percentile is the nearest-rank one: the smallest sample that at least that share of all samples does not
//! exceed.

use serde::{Deserialize, Serialize};

use crate::Nanos;

/// Samples of one quantity, in the order they were taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one sample.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Adds a time, in microseconds.
    pub fn push_micros(&mut self, time: Nanos) {
        self.push(time.as_micros_f64());
    }

    /// Adds all samples of `other`.
    pub fn extend(&mut self, other: &Samples) {
        self.0.extend_from_slice(&other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The samples, in the order they were taken.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }

    /// Minimum, percentiles, maximum, mean; `None` without samples.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Summary {
            count: sorted.len() as u64,
            min,
            p50: nearest_rank(&sorted, 50.0),
            p90: nearest_rank(&sorted, 90.0),
            p95: nearest_rank(&sorted, 95.0),
            p99: nearest_rank(&sorted, 99.0),
            max,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        })
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Samples(samples.into_iter().collect())
    }
}

/// What reports say of samples, in the samples' unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many samples.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
}

/// The smallest of `sorted` that at least `percent` % of them do not exceed. `sorted` is not empty.
fn nearest_rank(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        let summary = samples.summary().unwrap();
        let expected = Summary {
            count: 100,
            min: 1.0,
            p50: 50.0,
            p90: 90.0,
            p95: 95.0,
            p99: 99.0,
            max: 100.0,
            mean: 50.5,
        };
        assert_eq!(summary, expected);
    }

    #[test]
    fn few_samples_have_percentiles_too() {
        let one: Samples = [7.0].into_iter().collect();
        let summary = one.summary().unwrap();
        assert_eq!((summary.min, summary.p50, summary.p99, summary.max), (7.0, 7.0, 7.0, 7.0));
        let three: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        let summary = three.summary().unwrap();
        assert_eq!((summary.p50, summary.p95, summary.mean), (2.0, 3.0, 2.0));
        assert_eq!(Samples::default().summary(), None);
    }
}
