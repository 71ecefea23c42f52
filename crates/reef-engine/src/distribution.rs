//! How times are spread, finely enough for percentiles: buckets whose width is a sixteenth of their octave.
//!
//! Who counts adds one to an atomic; who reads takes no lock, and sees the counts of times that are being
//! counted meanwhile or not. Counts only rise, so the difference of two readings is the spread of what came
//! between them.

use std::sync::atomic::{AtomicU64, Ordering};

use reef_base::Nanos;

/// Buckets per octave, as a power of two: the middle of a bucket is within 3.2 % of what is in it.
const OCTAVE_SHIFT: u32 = 4;

/// Times below 2 to this power, in nanoseconds, are in the first bucket: 1 µs.
const LEAST_SHIFT: u32 = 10;

/// Times from 2 to this power on are in the last bucket: 69 s.
const MOST_SHIFT: u32 = 36;

const BUCKETS: usize = (((MOST_SHIFT - LEAST_SHIFT) as usize) << OCTAVE_SHIFT) + 2;

/// The bucket of a time.
fn bucket(time: Nanos) -> usize {
    if time.0 < 1 << LEAST_SHIFT {
        return 0;
    }
    let octave = time.0.ilog2();
    if octave >= MOST_SHIFT {
        return BUCKETS - 1;
    }
    let within = (time.0 >> (octave - OCTAVE_SHIFT)) as usize & ((1 << OCTAVE_SHIFT) - 1);
    (((octave - LEAST_SHIFT) as usize) << OCTAVE_SHIFT) + within + 1
}

/// The least time of a bucket.
fn least(bucket: usize) -> Nanos {
    let Some(index) = bucket.checked_sub(1) else { return Nanos::ZERO };
    let (octave, within) = (index >> OCTAVE_SHIFT, (index & ((1 << OCTAVE_SHIFT) - 1)) as u64);
    let width = 1 << (LEAST_SHIFT - OCTAVE_SHIFT + octave as u32);
    Nanos((1 << (LEAST_SHIFT + octave as u32)) + within * width)
}

/// Where times are counted.
pub(crate) struct Recorder {
    buckets: Box<[AtomicU64]>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Recorder {
    /// Counts a time. Neither waits nor allocates.
    pub(crate) fn record(&self, time: Nanos) {
        self.buckets[bucket(time)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> Distribution {
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let used = counts.enumerate().filter(|&(_, count)| count > 0);
        Distribution { buckets: used.map(|(bucket, count)| (bucket as u16, count)).collect() }
    }
}

/// How some times are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Buckets that are not empty, in rising order, with their counts.
    buckets: Vec<(u16, u64)>,
}

impl Distribution {
    /// How many times there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// The time that a share of them, `quantile` of 1, do not exceed, to within 3.2 % (from 1 µs to 69 s);
    /// the middle of its bucket. `None` of none.
    pub fn quantile(&self, quantile: f64) -> Option<Nanos> {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let (bucket, _) = self.buckets.iter().find(|&&(_, count)| {
            below += count;
            below >= rank
        })?;
        let bucket = usize::from(*bucket);
        let end = if bucket + 1 < BUCKETS { least(bucket + 1) } else { least(bucket) };
        Some(Nanos(least(bucket).0.midpoint(end.0)))
    }

    /// What came since `earlier`, a reading of the same times.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let before = |bucket: u16| {
            let known = earlier.buckets.binary_search_by_key(&bucket, |&(bucket, _)| bucket);
            known.map_or(0, |index| earlier.buckets[index].1)
        };
        let come = |&(bucket, count): &(u16, u64)| (bucket, count.saturating_sub(before(bucket)));
        Distribution { buckets: self.buckets.iter().map(come).filter(|&(_, count)| count > 0).collect() }
    }

    /// Adds the times of `other`.
    pub fn merge(&mut self, other: &Distribution) {
        for &(bucket, count) in &other.buckets {
            match self.buckets.binary_search_by_key(&bucket, |&(bucket, _)| bucket) {
                Ok(index) => self.buckets[index].1 += count,
                Err(index) => self.buckets.insert(index, (bucket, count)),
            }
        }
    }
}

/// How the times of one model's requests are spread in one class, on all its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassDistributions {
    /// From arrival to delivery, of successful requests.
    pub total: Distribution,
    /// From submission to first block, of tasks that displaced less urgent work.
    pub preempt: Distribution,
}

impl ClassDistributions {
    /// What came since `earlier`, a reading of the same model.
    pub fn since(&self, earlier: &ClassDistributions) -> ClassDistributions {
        let (total, preempt) = (self.total.since(&earlier.total), self.preempt.since(&earlier.preempt));
        ClassDistributions { total, preempt }
    }
}

#[cfg(test)]
mod tests {
    use reef_base::Rng;

    use super::*;

    fn spread(times: impl IntoIterator<Item = u64>) -> Distribution {
        let recorder = Recorder::default();
        times.into_iter().for_each(|time| recorder.record(Nanos(time)));
        recorder.read()
    }

    #[test]
    fn every_time_is_in_the_bucket_that_says_so() {
        let mut rng = Rng::new(3);
        let random = (0..100_000).map(|_| rng.next_u64() >> rng.below(64));
        let edges = (0..64).flat_map(|shift| [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1]);
        for time in random.chain(edges).chain([0, u64::MAX]) {
            let index = bucket(Nanos(time));
            assert!(least(index).0 <= time, "{time} in {index}");
            assert!(index + 1 == BUCKETS || time < least(index + 1).0, "{time} in {index}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut rng = Rng::new(5);
        let mut times: Vec<u64> =
            (0..10_001).map(|_| 2_000 + (1 << rng.below(30)) + rng.below(900)).collect();
        let spread = spread(times.iter().copied());
        times.sort_unstable();
        for quantile in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((quantile * 10_001f64).ceil() as usize).clamp(1, 10_001) - 1;
            let (exact, told) = (times[rank] as f64, spread.quantile(quantile).unwrap().0 as f64);
            assert!((told / exact - 1.0).abs() <= 0.032, "{quantile}: {told} for {exact}");
        }
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    #[test]
    fn the_difference_of_two_readings_is_what_came_between() {
        let recorder = Recorder::default();
        (0..100).for_each(|time| recorder.record(Nanos(time * 10_000)));
        let before = recorder.read();
        let later = [5_000, 5_000, 70_000_000];
        later.iter().for_each(|&time| recorder.record(Nanos(time)));
        let come = recorder.read().since(&before);
        assert_eq!(come, spread(later));
        let mut sum = before.clone();
        sum.merge(&come);
        assert_eq!(sum, recorder.read());
        assert_eq!(before.since(&before).count(), 0);
    }
}
