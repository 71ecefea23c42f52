//! Load: clients that ask as they would in the field, and clients that only keep the device busy.
//!
//! A [`Run`] says which clients ask when; [`play()`] plays it with callers and gives back one record per
//! request, and [`play_virtual`] does so in virtual time with whatever is [`Served`]: an engine over
//! simulated devices ([`SimulatedEngine`]), or a closure that says how long requests take ([`Timed`]). What
//! is reported of a run is made of these records, so that a benchmark, the demo and a micro-benchmark mean
//! the same by a latency and by a rate. [`Background`] is for measurements of something else, beside a device
//! that is busy.

mod background;
mod play;
mod run;
mod script;
mod simulated;
mod virtual_time;

use std::num::NonZeroU64;
use std::thread;
use std::time::Duration;

use reef_base::{MonotonicClock, Nanos};

pub use background::Background;
pub use play::{Callers, play};
pub use run::{Arrivals, ClassName, PlayedClient, Record, Run, RunClient, periodic, poisson};
pub use simulated::SimulatedEngine;
pub use virtual_time::{Answered, Asked, Served, Timed, play_virtual};

/// How long after the end of a run late arrivals are usually still sent.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long best-effort clients usually go on after the end, while real-time requests are not answered.
pub const COOL_DOWN: Duration = Duration::from_secs(1);
/// How long after a refusal a client that does not follow a schedule asks again.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Sleeps until `due`; returns at once when it has passed.
pub(crate) fn sleep_until(due: Nanos) {
    let left = due.since(MonotonicClock::read());
    if left > Nanos::ZERO {
        thread::sleep(left.into());
    }
}

/// Has this thread run on `core` alone, where the system lets it.
pub(crate) fn keep_to_core(core: usize) {
    let mut only = rustix::thread::CpuSet::new();
    only.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &only);
}

/// Asks the system to wake the calling thread when it said, not up to 50 µs later. Best effort.
pub(crate) fn wake_on_time() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}
