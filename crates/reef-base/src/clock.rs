//! Time: monotonic nanoseconds, read from a clock that tests and simulators can replace.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A monotonic time or a span of it, in nanoseconds. Zero is the process's first use of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The beginning of time, or an empty span.
    pub const ZERO: Nanos = Nanos(0);
    /// Later than every time that is reached.
    pub const MAX: Nanos = Nanos(u64::MAX);

    /// `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Nanos(micros.saturating_mul(1_000))
    }

    /// `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Nanos(millis.saturating_mul(1_000_000))
    }

    /// The span from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// As fractional microseconds.
    pub fn as_micros_f64(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// As fractional milliseconds.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        self.since(other)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Self {
        Duration::from_nanos(nanos.0)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 10_000 => write!(f, "{n} ns"),
            n if n < 10_000_000 => write!(f, "{:.1} µs", n as f64 / 1e3),
            n if n < 10_000_000_000 => write!(f, "{:.1} ms", n as f64 / 1e6),
            n => write!(f, "{:.1} s", n as f64 / 1e9),
        }
    }
}

/// Where code that must run in a simulator reads the time.
pub trait Clock: Send + Sync {
    /// The time now; never earlier than a time read before.
    fn now(&self) -> Nanos;
}

/// The operating system's monotonic clock. All instances share one origin.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl MonotonicClock {
    /// The time now, without a trait object.
    #[inline]
    pub fn read() -> Nanos {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let origin = ORIGIN.get_or_init(Instant::now);
        Nanos(origin.elapsed().as_nanos() as u64)
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Nanos {
        Self::read()
    }
}

/// The clock of a simulation, at zero when it is made: it moves only when told to. A clone is the same clock,
/// so all that is simulated together has one time, and whoever moves it does so from one event to the next.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// Moves the clock to `time`; it never goes back. Nothing happens by that: what falls due on the way is
    /// for the caller to see to.
    pub fn advance_to(&self, time: Nanos) {
        self.0.fetch_max(time.0, Ordering::SeqCst);
    }

    /// Whether both are one clock.
    pub fn is(&self, other: &VirtualClock) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let mut last = MonotonicClock.now();
        for _ in 0..1000 {
            let now = MonotonicClock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_virtual_clock_moves_only_forward_and_is_its_clones() {
        let clock = VirtualClock::default();
        let clone = clock.clone();
        clock.advance_to(Nanos(5));
        clone.advance_to(Nanos(3));
        assert_eq!((clock.now(), clone.now()), (Nanos(5), Nanos(5)));
        let other = VirtualClock::default();
        assert!(clock.is(&clone) && !clock.is(&other));
        assert_eq!(other.now(), Nanos::ZERO);
    }

    #[test]
    fn spans_saturate() {
        assert_eq!(Nanos(3) - Nanos(5), Nanos::ZERO);
        assert_eq!(Nanos::MAX + Nanos(1), Nanos::MAX);
    }
}
