//! Percentiles of a stream in fixed room.

use reef_base::Nanos;

/// Decimal digits of a time that a percentile has: buckets are 1/128 of their value wide.
const DIGITS: u8 = 2;

/// Counts of times. A percentile is too large by less than 1/128 of it, and never too small.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    times: hdrhistogram::Histogram<u64>,
    sum: u128,
    max: Nanos,
}

impl Default for Histogram {
    fn default() -> Self {
        let times = hdrhistogram::Histogram::new(DIGITS).expect("0 to 5 digits are possible");
        Histogram { times, sum: 0, max: Nanos::ZERO }
    }
}

impl Histogram {
    /// Counts a time.
    pub fn record(&mut self, time: Nanos) {
        self.times.record(time.0).expect("its range grows as it must");
        self.sum += u128::from(time.0);
        self.max = self.max.max(time);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.times.len()
    }

    /// The largest, exactly.
    pub fn max(&self) -> Nanos {
        self.max
    }

    /// The mean, exactly; zero of nothing.
    pub fn mean(&self) -> Nanos {
        Nanos((self.sum / u128::from(self.count().max(1))) as u64)
    }

    /// What so many thousandths of all times do not exceed (nearest rank); zero of nothing.
    pub fn per_mille(&self, share: u64) -> Nanos {
        Nanos(self.times.value_at_quantile(share as f64 / 1000.0)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_counted_as_precisely_as_promised() {
        let mut times: Vec<u64> = (0..64).flat_map(|shift| [1 << shift, (1 << shift) - 1]).collect();
        times.extend([3, 1000, 123_456_789]);
        for time in times {
            let mut histogram = Histogram::default();
            histogram.record(Nanos(time));
            histogram.record(Nanos(u64::MAX));
            let least = histogram.per_mille(500).0;
            assert!(least >= time && least - time <= time >> 7, "{time} {least}");
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.per_mille(990), Nanos::ZERO);
        (1..=100).rev().for_each(|time| histogram.record(Nanos(time)));
        assert_eq!((histogram.per_mille(500), histogram.per_mille(990)), (Nanos(50), Nanos(99)));
        assert_eq!((histogram.max(), histogram.mean(), histogram.count()), (Nanos(100), Nanos(50), 100));
        histogram.record(Nanos(1_000_003));
        assert_eq!(histogram.per_mille(1000), Nanos(1_000_003), "no more than the largest");
    }
}
