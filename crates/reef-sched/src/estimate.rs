//! Service times, learned from completions.
//!
//! A request is refused for its deadline only when it *cannot* be met, so the estimate leans low: it follows
//! faster times quickly and slower ones slowly (about the 11 % expectile), which also filters out executions
//! that more urgent tasks interrupted. An estimate that is too high, say after a slow spell, would refuse
//! everything and never be corrected, so each refusal lowers it a little until a request gets through and is
//! measured.

use reef_base::Nanos;

/// Measurements needed before an estimate refuses anything.
pub const SAMPLES_MIN: u32 = 8;

const DOWN_SHIFT: u32 = 2;
const UP_SHIFT: u32 = 5;
const REFUSED_SHIFT: u32 = 6;

/// The least time one plan needs, as far as measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServiceTime {
    nanos: u64,
    samples: u32,
}

impl ServiceTime {
    /// The estimate; zero until enough is measured.
    pub(crate) fn get(&self) -> Nanos {
        if self.samples < SAMPLES_MIN { Nanos::ZERO } else { Nanos(self.nanos) }
    }

    pub(crate) fn record(&mut self, sample: Nanos) {
        let (old, new) = (self.nanos, sample.0);
        self.nanos = match self.samples {
            0 => new,
            _ if new < old => old - (old - new).div_ceil(1 << DOWN_SHIFT),
            _ => old + ((new - old) >> UP_SHIFT),
        };
        self.samples = self.samples.saturating_add(1);
    }

    /// A request was refused because of the estimate.
    pub(crate) fn refused(&mut self) {
        self.nanos -= (self.nanos >> REFUSED_SHIFT).max(1).min(self.nanos);
    }
}

/// What a task of a model uses on average; the charge until the truth is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usual {
    nanos: u64,
    seen: bool,
}

impl Usual {
    pub(crate) fn get(&self) -> u64 {
        self.nanos
    }

    pub(crate) fn record(&mut self, sample: u64) {
        self.nanos = match self.seen {
            true => self.nanos - (self.nanos >> 3) + (sample >> 3),
            false => sample,
        };
        self.seen = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_leans_low_and_recovers_from_refusals() {
        let mut time = ServiceTime::default();
        for _ in 0..SAMPLES_MIN - 1 {
            time.record(Nanos(1000));
        }
        assert_eq!(time.get(), Nanos::ZERO);
        for round in 0..200 {
            time.record(Nanos(if round % 4 == 0 { 5000 } else { 1000 }));
        }
        assert!((1000..1600).contains(&time.get().0), "{}", time.get());
        for _ in 0..2000 {
            time.refused();
        }
        assert_eq!(time.get(), Nanos::ZERO);
    }
}
