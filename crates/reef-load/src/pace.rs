//! Threads that do something at a time: they sleep until then, are woken when they said, and stay on a core.

use std::num::NonZeroU64;
use std::thread;

use reef_base::{MonotonicClock, Nanos};

/// Sleeps until `due`; returns at once when it has passed.
pub fn sleep_until(due: Nanos) {
    let left = due.since(MonotonicClock::read());
    if left > Nanos::ZERO {
        thread::sleep(left.into());
    }
}

/// Has this thread run on `core` alone, where the system lets it.
pub fn keep_to_core(core: usize) {
    let mut only = rustix::thread::CpuSet::new();
    only.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &only);
}

/// Asks the system to wake the calling thread when it said, not up to 50 µs later. Best effort.
pub fn wake_on_time() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}
