//! Service times, learned from completions.
//!
//! A request is refused for its deadline only when, by what was measured, it *cannot* be met, so the estimate
//! leans low: it follows faster times quickly and slower ones slowly (about the 11 % expectile), which also
//! filters out executions that more urgent tasks interrupted. The first [`SAMPLES_MIN`] measurements refuse
//! nothing, and the least of them is where it begins: a slow first run says little.
//!
//! Beside it is a second one that leans high (about the 89 % expectile, and it begins with the greatest of
//! the first measurements): how long a request may still wait for others is counted back from its deadline
//! with that.
//!
//! Only measurements move an estimate; that it refuses is none, or whoever asks for the impossible would
//! talk it down. Two rules keep one that is wrong from staying so:
//!
//! - *Too high*, after a slow spell: it refuses everything and is never measured again. So when nothing of
//!   the plan was measured for [`PROBE_AFTER`] or [`PROBE_RARITY`] times the estimate, whichever is longer,
//!   one request that it would refuse is taken as a *probe*, of which nothing is expected. A probe is stopped
//!   at its deadline like any task, and it was to be refused because the estimate is longer than what it has:
//!   it runs for less than the estimate, so probes take at most 1/50 of the device. A measurement below an
//!   estimate that old replaces it. A probe that ends without having been on the board cost nothing and does
//!   not count; after one that was stopped, the next one must for as long again have more time than it had,
//!   so that hopeless requests do not keep the estimate from those that have a chance, then half of it, a
//!   quarter, ….
//! - *Too low*, when the plan became slower: requests start, are stopped at their deadlines, and never
//!   complete. A stopped task that ran for longer than the estimate therefore counts as a measurement of
//!   [`STOPPED_FACTOR`] times as long as it ran. If all are stopped after the same time, the estimate passes
//!   it after 22 of them (8 before anything else was measured), and from then on they are refused.

use reef_base::Nanos;

/// Measurements needed before an estimate refuses anything.
pub const SAMPLES_MIN: u32 = 8;

/// How long nothing of a plan must have been measured, at least, before a request that its estimate refuses
/// is run to see.
pub const PROBE_AFTER: Nanos = Nanos::from_millis(1000);

/// As [`PROBE_AFTER`], in multiples of the estimate: the inverse of the share of the device that probes take.
pub const PROBE_RARITY: u64 = 50;

/// A task that was stopped would have taken longer; by how much nobody knows.
const STOPPED_FACTOR: u64 = 2;

const DOWN_SHIFT: u32 = 2;
const UP_SHIFT: u32 = 5;

/// The least time one plan needs, as far as measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServiceTime {
    nanos: u64,
    /// The estimate that leans high.
    high: u64,
    samples: u32,
    /// Whether some task ran to its end; otherwise `nanos` is what stopped ones say.
    completed: bool,
    /// Which of the plans that had this number: requests of an earlier one measure nothing here.
    epoch: u32,
    measured_at: Nanos,
    /// A probe waits or runs.
    probing: bool,
    /// When the last probe that was on the board ended.
    probed_at: Nanos,
    /// How much time it had, if it was not measured.
    probe_left: Nanos,
}

impl ServiceTime {
    /// The estimate; zero until enough is measured.
    pub(crate) fn get(&self) -> Nanos {
        if self.samples < SAMPLES_MIN { Nanos::ZERO } else { Nanos(self.nanos) }
    }

    /// The estimate that leans high; `None` until enough is measured.
    pub(crate) fn high(&self) -> Option<Nanos> {
        (self.samples >= SAMPLES_MIN).then_some(Nanos(self.high.max(self.nanos)))
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Forgets everything: the number names another plan.
    pub(crate) fn reset(&mut self) {
        *self = ServiceTime { epoch: self.epoch.wrapping_add(1), ..ServiceTime::default() };
    }

    /// A task ran to its end.
    pub(crate) fn record(&mut self, now: Nanos, sample: Nanos) {
        let (old, new) = (self.nanos, sample.0);
        self.high = match self.samples {
            _ if !self.completed || new < old && self.is_old(now) => new,
            0..SAMPLES_MIN => self.high.max(new),
            _ if new > self.high => self.high + (new - self.high).div_ceil(1 << DOWN_SHIFT),
            _ => self.high - ((self.high - new) >> UP_SHIFT),
        };
        self.nanos = match self.samples {
            _ if !self.completed || new < old && self.is_old(now) => new,
            0..SAMPLES_MIN => old.min(new),
            _ if new < old => old - (old - new).div_ceil(1 << DOWN_SHIFT),
            _ => old + ((new - old) >> UP_SHIFT),
        };
        self.completed = true;
        self.samples = self.samples.saturating_add(1);
        self.measured_at = now;
        self.probe_left = Nanos::ZERO;
    }

    /// A task was stopped after it had run for `ran`.
    pub(crate) fn record_stopped(&mut self, ran: Nanos) {
        let (old, new) = (self.nanos, ran.0.saturating_mul(STOPPED_FACTOR));
        match self.completed {
            true if ran.0 < old => return,
            true => self.nanos = old + ((new - old) >> UP_SHIFT),
            false => self.nanos = old.max(new),
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// How long the estimate stands before it is doubted.
    fn interval(&self) -> Nanos {
        PROBE_AFTER.max(Nanos(self.nanos.saturating_mul(PROBE_RARITY)))
    }

    fn is_old(&self, now: Nanos) -> bool {
        now.since(self.measured_at) >= self.interval()
    }

    /// Whether a request that the estimate refuses, and that has `left` for its execution, may run to see.
    pub(crate) fn may_probe(&self, now: Nanos, left: Nanos) -> bool {
        let quiet = now.since(self.measured_at.max(self.probed_at));
        let rounds = quiet.0 / self.interval().0;
        // After one round more than the last one had, after two more than half of it, ….
        let least = self.probe_left.0.checked_shr((rounds.saturating_sub(1)).min(64) as u32).unwrap_or(0);
        !self.probing && rounds > 0 && left.0 > least
    }

    pub(crate) fn probe_begins(&mut self) {
        self.probing = true;
    }

    /// A probe ended in the queue.
    pub(crate) fn probe_dropped(&mut self) {
        self.probing = false;
    }

    /// A probe that had `left` when it started has left the board. To be told before what was measured.
    pub(crate) fn probe_ends(&mut self, now: Nanos, left: Nanos) {
        self.probing = false;
        self.probed_at = now;
        self.probe_left = left;
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

    const MS: u64 = 1_000_000;

    fn measured(samples: &[u64]) -> ServiceTime {
        let mut time = ServiceTime::default();
        samples.iter().for_each(|&sample| time.record(Nanos::ZERO, Nanos(sample)));
        time
    }

    #[test]
    fn the_estimate_leans_low() {
        let mut time = measured(&[1000; SAMPLES_MIN as usize - 1]);
        assert_eq!(time.get(), Nanos::ZERO);
        for round in 0..200 {
            time.record(Nanos::ZERO, Nanos(if round % 4 == 0 { 5000 } else { 1000 }));
        }
        assert!((1000..1600).contains(&time.get().0), "{}", time.get());
        let raised = (0..200).find(|_| {
            time.record(Nanos::ZERO, Nanos(5000));
            time.get().0 > 4000
        });
        assert!(raised.is_some_and(|rounds| (30..60).contains(&rounds)), "{raised:?}");
    }

    #[test]
    fn the_other_one_leans_high() {
        let mut time = measured(&[1000, 1000, 1000, 4000, 1000, 1000, 1000]);
        assert_eq!(time.high(), None);
        time.record(Nanos::ZERO, Nanos(1000));
        assert_eq!(time.high(), Some(Nanos(4000)));
        for round in 0..200 {
            time.record(Nanos::ZERO, Nanos(if round % 4 == 0 { 5000 } else { 1000 }));
        }
        assert!((3000..5000).contains(&time.high().unwrap().0), "{:?}", time.high());
        (0..200).for_each(|_| time.record(Nanos::ZERO, Nanos(1000)));
        assert!(time.high().unwrap().0 < 1100, "{:?}", time.high());
    }

    #[test]
    fn it_begins_with_the_least_of_the_first_measurements() {
        assert_eq!(measured(&[90_000, 1000, 1000, 3000, 1000, 900, 1000, 5000]).get(), Nanos(900));
    }

    #[test]
    fn a_measurement_below_an_old_estimate_replaces_it() {
        let mut time = measured(&[100 * MS; 8]);
        // Old is 50 times the estimate.
        time.record(Nanos(5000 * MS - 1), Nanos(20 * MS));
        assert_eq!(time.get(), Nanos(80 * MS));
        time.record(Nanos(9000 * MS), Nanos(20 * MS));
        assert_eq!(time.get(), Nanos(20 * MS));
        time.record(Nanos(20_000 * MS), Nanos(52 * MS));
        assert_eq!(time.get(), Nanos(21 * MS), "a slower one moves it as ever");
    }

    #[test]
    fn stopped_tasks_raise_it_past_what_they_had() {
        let rounds = |mut time: ServiceTime| {
            let passed = |time: &ServiceTime| time.get() > Nanos(5 * MS);
            let stopped = (1..100).find(|_| {
                time.record_stopped(Nanos(5 * MS));
                passed(&time)
            });
            // Less than the estimate says nothing.
            let before = time.get();
            time.record_stopped(Nanos(4 * MS));
            assert_eq!(time.get(), before);
            stopped.unwrap()
        };
        assert_eq!(rounds(measured(&[1000; 8])), 22);
        assert_eq!(rounds(ServiceTime::default()), 8);
        let mut time = measured(&[]);
        (0..8).for_each(|_| time.record_stopped(Nanos(5 * MS)));
        time.record(Nanos::ZERO, Nanos(6 * MS));
        assert_eq!(time.get(), Nanos(6 * MS), "what completed says more than what was stopped");
        let mut time = measured(&[5 * MS]);
        (0..20).for_each(|_| time.record_stopped(Nanos(4 * MS)));
        assert_eq!(time.get(), Nanos::ZERO, "one measurement, and nothing that contradicts it");
    }

    #[test]
    fn probes_are_rare_and_prefer_those_with_more_time() {
        let mut time = measured(&[100 * MS; 8]);
        let at = |ms: u64| Nanos(ms * MS);
        assert!(!time.may_probe(at(4999), at(9)), "50 times the estimate");
        assert!(time.may_probe(at(5000), at(9)));
        time.probe_begins();
        assert!(!time.may_probe(at(6000), at(9)), "one at a time");
        time.probe_dropped();
        assert!(time.may_probe(at(6000), at(9)), "it cost nothing");
        assert!(!time.may_probe(at(6000), at(0)), "it would be stopped at once");
        time.probe_begins();
        time.probe_ends(at(6010), at(10));
        assert!(!time.may_probe(at(11_009), at(90)));
        assert!(time.may_probe(at(11_010), at(11)));
        assert!(!time.may_probe(at(16_009), at(10)));
        assert!(time.may_probe(at(16_010), at(6)) && !time.may_probe(at(16_010), at(5)));
        assert!(time.may_probe(at(21_010), at(3)));
        assert!(time.may_probe(Nanos::MAX, Nanos(1)));
        time.record(at(16_010), at(1));
        assert!(
            time.may_probe(at(17_010), Nanos(1)) && !time.may_probe(at(17_009), Nanos(1)),
            "1 s at least"
        );
    }

    #[test]
    fn another_plan_of_the_same_number_begins_anew() {
        let mut time = measured(&[100; 8]);
        let epoch = time.epoch();
        time.reset();
        assert_eq!((time.get(), time.epoch() == epoch), (Nanos::ZERO, false));
    }
}
