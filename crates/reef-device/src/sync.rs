//! The atomics and threads of the protocols here: the standard library's, or loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::thread::{Thread, current};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::thread::{Thread, current};

/// Sleeps while `word` is `seen`, until [`futex_wake`] or for no reason.
pub(crate) fn futex_wait(word: &AtomicU32, seen: u32) {
    // Any error means that there is no reason to sleep, and callers look again.
    #[cfg(not(loom))]
    let _ = rustix::thread::futex::wait(word, rustix::thread::futex::Flags::PRIVATE, seen, None);
    #[cfg(loom)]
    if word.load(Ordering::Relaxed) == seen {
        loom::thread::yield_now();
    }
}

/// Wakes whoever sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    #[cfg(not(loom))]
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::PRIVATE, i32::MAX as u32);
    #[cfg(loom)]
    let _ = word;
}
