//! Who is woken for a device's completions: a thread that takes them all the time, the completion thread, or
//! a caller that waits for one of them.
//!
//! The way over the completion thread costs a short request as much as its work. So the thread that waits for
//! a request may be the *leader*: the device wakes it instead, and it takes the completions,
//! whosever they are. It leads only while it sleeps, or works for the device ([`crate::Device::help`]):
//! what it then does with completions calls foreign code, which may wait for others, and of these the
//! completion thread hears.
//!
//! | word | who writes it |
//! |---|---|
//! | `pending` | who wakes: set; who takes completions: cleared before it does |
//! | `state` | a caller: free → awake, to lead; awake → asleep and back; → free; who wakes: asleep → awake |
//! | `called` | the waker that the leader left with its ticket: set; the leader, when it begins: cleared |
//!
//! Who wakes sets `pending`, then reads `state`: free, it wakes the completion thread; asleep, the leader. A
//! leader writes `state`, then reads `pending`: before it sleeps, and when it leads no more, where it wakes
//! the completion thread for what is pending. With a fence between the two steps of each, one of them sees
//! the other. `called` goes the same way.
//!
//! Whoever has something for the completion thread itself, timers, wakes that.

use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::contract::Wake;
use crate::sync::{AtomicBool, AtomicU32, Ordering, Thread, current, fence, futex_wait, futex_wake};

const FREE: u32 = 0;
const AWAKE: u32 = 1;
const ASLEEP: u32 = 2;

/// A device's: its waker, for the threads that take its completions.
#[derive(Default)]
pub struct Signal {
    pending: AtomicBool,
    stop: AtomicBool,
    thread: OnceLock<Thread>,
    post: Arc<Post>,
}

/// Where the leader sleeps.
struct Post {
    state: AtomicU32,
    called: AtomicBool,
}

impl Signal {
    /// From now on the calling thread is the completion thread.
    pub fn attach(&self) {
        let _ = self.thread.set(current());
    }

    /// Whether the calling thread is the completion thread.
    pub fn is_attached_here(&self) -> bool {
        self.thread.get().is_some_and(|thread| thread.id() == current().id())
    }

    /// Has the completion thread end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.call();
    }

    /// Whether the completion thread is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Wakes the completion thread, or has it not sleep the next time.
    pub fn call(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Whether it was woken since the last call; whoever asks takes the completions that are there.
    pub fn take(&self) -> bool {
        self.pending.swap(false, Ordering::AcqRel)
    }

    /// Whether completions may be ready that nobody took.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Leads, if nobody does.
    pub fn lead(&self) -> Option<Leader<'_>> {
        let state = &self.post.state;
        let free = state.compare_exchange(FREE, AWAKE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        free.then(|| {
            self.post.called.store(false, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            Leader { signal: self }
        })
    }

    /// Wakes whoever leads then, to look at its ticket.
    pub fn waker(&self) -> Waker {
        Waker::from(self.post.clone())
    }
}

/// Compute units call it: one atomic exchange, and a system call only if nobody was woken already.
impl Wake for Signal {
    fn wake(&self) {
        if self.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        fence(Ordering::SeqCst);
        match self.post.state.load(Ordering::Relaxed) {
            FREE => self.call(),
            _ => self.post.rouse(),
        }
    }
}

/// A leader; it leads until it is dropped.
pub struct Leader<'a> {
    signal: &'a Signal,
}

impl Leader<'_> {
    /// Whether there is something to look at.
    pub fn is_called(&self) -> bool {
        self.signal.is_pending() || self.signal.post.called.load(Ordering::Acquire)
    }

    /// Sleeps until there is something to look at, or for no reason.
    pub fn sleep(&self) {
        let state = &self.signal.post.state;
        // Swaps, not stores: all writes of the word are read-modify-writes, so a wake is before or after.
        state.swap(ASLEEP, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if !self.is_called() {
            futex_wait(state, ASLEEP);
        }
        state.swap(AWAKE, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }
}

impl Leader<'_> {
    /// Leads no more.
    pub fn resign(self) {}
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.signal.post.state.swap(FREE, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.signal.is_pending() {
            self.signal.call();
        }
    }
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signal").field("pending", &self.is_pending()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Leader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader").finish_non_exhaustive()
    }
}

impl Default for Post {
    fn default() -> Post {
        Post { state: AtomicU32::new(FREE), called: AtomicBool::new(false) }
    }
}

impl Post {
    /// Wakes who sleeps here.
    fn rouse(&self) {
        let asleep = self.state.compare_exchange(ASLEEP, AWAKE, Ordering::AcqRel, Ordering::Relaxed);
        if asleep.is_ok() {
            futex_wake(&self.state);
        }
    }
}

impl std::task::Wake for Post {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.rouse();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    use super::*;

    /// What a device has ready, and what was taken of it.
    #[derive(Default)]
    struct Box {
        ready: AtomicU64,
        taken: AtomicU64,
    }

    impl Box {
        fn empty(&self) {
            let ready = self.ready.swap(0, Ordering::AcqRel);
            self.taken.fetch_add(ready, Ordering::AcqRel);
        }
    }

    fn completions(signal: &Signal, device: &Box, wanted: u64) {
        signal.attach();
        loop {
            signal.take();
            device.empty();
            if device.taken.load(Ordering::Acquire) == wanted {
                return;
            }
            if !signal.is_pending() {
                thread::park();
            }
        }
    }

    /// Somebody takes every completion, whenever a leader comes and goes.
    #[test]
    fn loom_completions_are_taken_whoever_leads() {
        loom::model(|| {
            let (signal, device) = (Arc::new(Signal::default()), Arc::new(Box::default()));
            let (own, box_) = (signal.clone(), device.clone());
            let thread = thread::spawn(move || completions(&own, &box_, 2));
            while signal.thread.get().is_none() {
                thread::yield_now();
            }
            let (own, box_) = (signal.clone(), device.clone());
            let unit = thread::spawn(move || {
                for _ in 0..2 {
                    box_.ready.fetch_add(1, Ordering::AcqRel);
                    own.wake();
                }
            });
            // Takes the first, and lets the completion thread have the rest.
            while device.taken.load(Ordering::Acquire) == 0 {
                let Some(leader) = signal.lead() else { break };
                if !leader.is_called() {
                    leader.sleep();
                }
                drop(leader);
                if signal.take() {
                    device.empty();
                }
            }
            // What it took last may have been all.
            signal.call();
            unit.join().unwrap();
            thread.join().unwrap();
        });
    }

    /// A leader whose ticket ends elsewhere does not sleep on.
    #[test]
    fn loom_a_leader_hears_of_its_tickets_end() {
        loom::model(|| {
            let signal = Arc::new(Signal::default());
            let ended = Arc::new(AtomicBool::new(false));
            let (waker, end) = (signal.waker(), ended.clone());
            let leader = signal.lead().expect("nobody else does");
            let other = thread::spawn(move || {
                end.store(true, Ordering::SeqCst);
                waker.wake();
            });
            while !ended.load(Ordering::SeqCst) {
                leader.sleep();
            }
            drop(leader);
            other.join().unwrap();
        });
    }
}
