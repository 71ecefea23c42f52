//! The atomics, cells, locks and threads that lock-free code here uses: the standard library's, or loom's
//! under `--cfg loom`.
//!
//! The standard library's under loom, too, for models do without them: companions and what they share with
//! their unit, the recorder of events (off in models), and whatever orders nothing (counters, estimates of
//! blocks' times, handles that are set once, before there is work).

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::thread::{Builder, JoinHandle};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::thread::{Builder, JoinHandle};

use reef_base::Nanos;

/// A value alone on its cache lines (two: processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Line<T>(pub(crate) T);

impl<T> std::ops::Deref for Line<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A cell whose accesses are marked, as loom's are: under loom one that the protocol does not order is a
/// reported race.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// What `read` makes of the value.
    #[inline(always)]
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// What `write` makes of the value.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// The time. Under loom it stands still: what a model does depends on nothing but who comes when.
#[inline]
pub(crate) fn now() -> Nanos {
    if cfg!(loom) { Nanos(1_000_000) } else { reef_base::MonotonicClock::read() }
}

/// Waits a little before the next look at what others change.
pub(crate) fn sleep(time: std::time::Duration) {
    #[cfg(not(loom))]
    std::thread::sleep(time);
    #[cfg(loom)]
    {
        let _ = time;
        loom::thread::yield_now();
    }
}

/// Sleeps while `word` is `seen`, until [`futex_wake`] or for no reason. One system call, nothing else:
/// signal handlers call it.
pub(crate) fn futex_wait(word: &AtomicU32, seen: u32) {
    #[cfg(not(loom))]
    futex_wait_for(word, seen, None);
    #[cfg(loom)]
    if word.load(Ordering::Relaxed) == seen {
        loom::thread::yield_now();
    }
}

/// The same, at most for `time`.
#[cfg(not(loom))]
pub(crate) fn futex_wait_for(word: &AtomicU32, seen: u32, time: Option<std::time::Duration>) {
    let time = time.map(|time| rustix::time::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    // Any error means that there is no reason to sleep, and callers look again.
    let flags = rustix::thread::futex::Flags::PRIVATE;
    let _ = rustix::thread::futex::wait(word, flags, seen, time.as_ref());
}

/// Wakes whoever sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    #[cfg(not(loom))]
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::PRIVATE, i32::MAX as u32);
    #[cfg(loom)]
    let _ = word;
}
