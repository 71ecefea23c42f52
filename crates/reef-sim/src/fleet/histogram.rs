//! Percentiles of a stream in fixed room: counts of logarithmic buckets, each 1/128 of its value wide.

use reef_base::Nanos;

/// Buckets per octave, as a power of two.
const BITS: u32 = 7;
const BUCKETS: usize = ((64 - BITS as usize) << BITS) + (1 << BITS);

/// Counts of times. A percentile is too large by less than 1/128 of it, and never too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    sum: u128,
    max: Nanos,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS].into(), count: 0, sum: 0, max: Nanos::ZERO }
    }
}

impl Histogram {
    /// Counts a time.
    pub fn record(&mut self, time: Nanos) {
        self.counts[bucket(time.0)] += 1;
        self.count += 1;
        self.sum += u128::from(time.0);
        self.max = self.max.max(time);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest, exactly.
    pub fn max(&self) -> Nanos {
        self.max
    }

    /// The mean, exactly; zero of nothing.
    pub fn mean(&self) -> Nanos {
        Nanos((self.sum / u128::from(self.count.max(1))) as u64)
    }

    /// What so many thousandths of all times do not exceed (nearest rank); zero of nothing.
    pub fn per_mille(&self, share: u64) -> Nanos {
        let rank = (u128::from(self.count) * u128::from(share)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return Nanos(last_of(bucket)).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = (63 - (nanos | 1).leading_zeros()).saturating_sub(BITS);
    ((shift as usize) << BITS) + (nanos >> shift) as usize
}

/// The largest time of a bucket.
fn last_of(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1);
    let value = (bucket - (shift << BITS)) as u128;
    u64::try_from(((value + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_bucket_that_is_as_wide_as_promised() {
        let mut times: Vec<u64> = (0..64).flat_map(|shift| [1 << shift, (1 << shift) - 1]).collect();
        times.extend([3, 1000, 123_456_789, u64::MAX]);
        for time in times {
            let last = last_of(bucket(time));
            assert!(last >= time && last - time <= time >> BITS, "{time} {last}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
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
