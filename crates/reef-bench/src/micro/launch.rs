//! Part `launch`, of devices that queue kernels: the way of a tiny real-time task through an idle device.
//! From its submission to its first block, from there to its end, and the whole call; after pauses, when the
//! thread that feeds the device sleeps, and back to back. And what one more kernel costs: a task of many that
//! do nothing, by their number.
//!
//! When blocks begin and end the device says itself, on its own clock, which is compared with the host's when
//! the device starts.

use std::thread;
use std::time::{Duration, Instant};

use reef_base::{Class, MonotonicClock, Rng, Samples};
use reef_engine::Session;
use reef_load::pace::wake_on_time;
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row};

use super::Bench;
use crate::error::BenchError;

pub(super) const NAME: &str = "launch";

const TINY: &str = "tiny";
const LONG: &str = "long";
/// Nothing to do, in one block.
const EMPTY: SyntheticStage = SyntheticStage { blocks: 1, polls: 1, poll_ns: 0 };
const KERNELS: usize = 200;
/// Pauses between two submissions, microseconds, uniform.
const GAP_US: (u64, u64) = (300, 2_000);
const WARM_UPS: usize = 5;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    wake_on_time();
    let (count, runs) = bench.pick((2_000, 200), (50, 5));
    let rig = bench.rig(bench.options.cus, 0)?;
    rig.load_synthetic(TINY, Class::real_time(0), &[EMPTY])?;
    rig.load_synthetic(LONG, Class::real_time(0), &[EMPTY; KERNELS])?;
    bench.progress.phase("launches");
    let (mut tiny, mut long) = (rig.session(TINY)?, rig.session(LONG)?);
    let mut rng = Rng::new(1);
    let begin = Instant::now();
    let paused = Seen::of(&mut tiny, count, || {
        thread::sleep(Duration::from_micros(GAP_US.0 + rng.below(GAP_US.1 - GAP_US.0)));
    })?;
    let awake = Seen::of(&mut tiny, count, || ())?;
    let kernels = Seen::of(&mut long, runs, || ())?;
    bench.progress.advance(begin.elapsed());
    let each: Samples = kernels.compute_us.as_slice().iter().map(|us| us / KERNELS as f64).collect();
    let mut rows = Vec::new();
    for (when, seen) in [("after a pause", &paused), ("back to back", &awake)] {
        rows.push(Row::new(format!("{when}: submission to first block"), "µs", &seen.first_us));
        rows.push(Row::new(format!("{when}: first block to the end"), "µs", &seen.compute_us));
        rows.push(Row::new(format!("{when}: the whole call"), "µs", &seen.call_us));
    }
    rows.push(Row::new("one kernel of many", "µs", &each));
    let method = format!(
        "a real-time task of one empty block on an idle device: {count} after pauses of {} to {} µs, {count} \
         back to back; {runs} tasks of {KERNELS} such kernels, by that number; times of blocks are the \
         device's",
        GAP_US.0, GAP_US.1
    );
    Ok(Part::new(NAME, method, rows))
}

#[derive(Default)]
struct Seen {
    first_us: Samples,
    compute_us: Samples,
    call_us: Samples,
}

impl Seen {
    /// `count` runs that count, each behind a pause.
    fn of(session: &mut Session, count: usize, mut pause: impl FnMut()) -> Result<Seen, BenchError> {
        let mut seen = Seen::default();
        for index in 0..WARM_UPS + count {
            pause();
            let called = MonotonicClock::read();
            let info = session.run().map_err(BenchError::infer(TINY))?;
            if index >= WARM_UPS {
                seen.call_us.push_micros(MonotonicClock::read().since(called));
                seen.first_us.push_micros(info.first_block);
                seen.compute_us.push_micros(info.timings.compute);
            }
        }
        Ok(seen)
    }
}
