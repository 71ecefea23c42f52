//! The host's clock beside the device's: the two are compared when the device starts, and drift apart
//! afterwards by some ten millionths, which is a millisecond in a minute.
//!
//! Every report bounds how far the host's clock is ahead: it was seen after it was written. The least bound
//! of a while, of reports enough, is close to the truth, since the thread that looks for them does so
//! closely; from there on it counts. A report that would have been seen before it was written counts at once.

use reef_base::Nanos;

/// How long bounds are gathered.
const WHILE: Nanos = Nanos::from_millis(500);
/// Reports that a while must have.
const REPORTS_MIN: u32 = 16;
/// How far the least bound may be off because a report is seen late: it changes nothing.
const LATE: i64 = 5_000;

/// How far the host's clock is ahead of the device's, in nanoseconds, from time to time anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceClock {
    ahead_ns: i64,
    since: Nanos,
    least: i64,
    reports: u32,
}

impl DeviceClock {
    /// The device's clock said `device_ns` when the host's said `host`.
    pub(crate) fn new(host: Nanos, device_ns: u64) -> DeviceClock {
        let ahead_ns = (host.0 as i64).wrapping_sub(device_ns as i64);
        DeviceClock { ahead_ns, since: host, least: i64::MAX, reports: 0 }
    }

    /// The host's time at a time of the device.
    pub(crate) fn host(&self, device_ns: u64) -> Nanos {
        Nanos((device_ns as i64).wrapping_add(self.ahead_ns).max(0) as u64)
    }

    /// A report that was written at a time of the device was seen now.
    pub(crate) fn seen(&mut self, device_ns: u64, now: Nanos) {
        let bound = (now.0 as i64).wrapping_sub(device_ns as i64);
        self.ahead_ns = self.ahead_ns.min(bound);
        self.least = self.least.min(bound);
        self.reports += 1;
        if now.since(self.since) < WHILE {
            return;
        }
        if self.reports >= REPORTS_MIN && self.least - self.ahead_ns > LATE {
            self.ahead_ns = self.least;
        }
        (self.since, self.least, self.reports) = (now, i64::MAX, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose clock began at another time and is off by so many millionths; reports are seen 1 to 40
    /// µs late.
    fn worst_off_ns(millionths: i64, seconds: u64) -> u64 {
        const BEGIN: i64 = 1 << 40;
        let device = |host_ns: i64| (BEGIN + host_ns + host_ns / 1_000_000 * millionths) as u64;
        let mut rng = reef_base::Rng::new(1);
        let mut clock = DeviceClock::new(Nanos(0), device(0));
        let (mut now, mut worst) = (0u64, 0);
        while now < seconds * 1_000_000_000 {
            now += 200_000 + rng.below(1_000_000);
            let written = device(now as i64);
            let late = 1_000 + rng.below(40_000);
            clock.seen(written, Nanos(now + late));
            worst = worst.max(clock.host(written).0.abs_diff(now));
        }
        worst
    }

    #[test]
    fn clocks_that_drift_apart_stay_together() {
        for millionths in [-60, -10, 0, 10, 60] {
            let off = worst_off_ns(millionths, 60);
            // A while of drift, and what reports are late.
            assert!(off < 60_000, "{millionths}: {off} ns");
        }
    }

    #[test]
    fn nothing_is_seen_before_it_was_written() {
        let mut clock = DeviceClock::new(Nanos(1_000_000), 500_000);
        assert_eq!(clock.host(700_000), Nanos(1_200_000));
        clock.seen(700_000, Nanos(1_150_000));
        assert_eq!(clock.host(700_000), Nanos(1_150_000));
    }
}
