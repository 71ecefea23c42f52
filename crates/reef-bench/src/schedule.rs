//! When requests arrive: decided before the run, whatever the server does.
//!
//! Invariant: a schedule is a pure function of its fields; two runs of one schedule have the same arrivals.

use std::time::Duration;

use reef_base::Nanos;

/// Periodic arrivals: `phase`, `phase + period`, … below `duration`, relative to the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time between two arrivals; above zero.
    pub period: Nanos,
    /// The first arrival.
    pub phase: Nanos,
    /// Arrivals lie before this.
    pub duration: Nanos,
}

impl Schedule {
    /// `rate_hz` arrivals per second for `duration`; `phase` is a fraction of the period.
    pub fn periodic(rate_hz: f64, phase: f64, duration: Duration) -> Schedule {
        let period_ns = (1e9 / rate_hz).max(1.0);
        Schedule {
            period: Nanos(period_ns as u64),
            phase: Nanos((period_ns * phase) as u64),
            duration: duration.into(),
        }
    }

    /// Number of arrivals.
    pub fn count(&self) -> usize {
        let after_phase = self.duration.since(self.phase);
        usize::try_from(after_phase.0.div_ceil(self.period.0)).unwrap_or(usize::MAX)
    }

    /// When arrival `index` is due, relative to the start of the run.
    pub fn arrival(&self, index: usize) -> Nanos {
        Nanos(self.phase.0.saturating_add(self.period.0.saturating_mul(index as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_fixed_by_rate_phase_and_duration() {
        let make = || Schedule::periodic(200.0, 0.5, Duration::from_secs(1));
        let arrivals = |s: Schedule| (0..s.count()).map(|i| s.arrival(i)).collect::<Vec<_>>();
        let all = arrivals(make());
        assert_eq!(all, arrivals(make()));
        assert_eq!(all.len(), 200);
        assert_eq!((all[0], all[1]), (Nanos(2_500_000), Nanos(7_500_000)));
        assert!(*all.last().unwrap() < Nanos::from_millis(1000));
    }

    #[test]
    fn the_end_is_exclusive_and_a_late_phase_leaves_nothing() {
        let schedule =
            |phase, duration| Schedule { period: Nanos(10), phase: Nanos(phase), duration: Nanos(duration) };
        assert_eq!(schedule(0, 20).count(), 2);
        assert_eq!(schedule(0, 21).count(), 3);
        assert_eq!(schedule(20, 20).count(), 0);
    }
}
