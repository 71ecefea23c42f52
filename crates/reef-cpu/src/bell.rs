//! How a compute unit sleeps until somebody has something for it.
//!
//! Like the standard library's parking, but for one thing: whoever rings makes the system call, also when the
//! bell has been rung already. There only the first one does, and here that may be a companion, which can be
//! stopped between the two steps of ringing, for as long as its unit does not lend it the core: what rings
//! for the more urgent work that stopped it would find the bell rung, and nobody would wake the unit.
//!
//! Under loom, where no thread is stopped in the middle of something, it is a lock and a condition.

use std::time::Duration;

/// One unit's.
#[derive(Debug, Default)]
pub(crate) struct Bell(imp::Bell);

impl Bell {
    /// Wakes the unit, or has it not sleep the next time. What was written before is seen by the unit.
    pub(crate) fn ring(&self) {
        self.0.ring();
    }

    /// Sleeps until the bell is rung, if it was not since the last time; or for no reason. For its unit.
    pub(crate) fn wait(&self) {
        self.0.wait(None);
    }

    /// The same, at most for so long.
    pub(crate) fn wait_for(&self, time: Duration) {
        self.0.wait(Some(time));
    }
}

#[cfg(not(loom))]
mod imp {
    use std::time::Duration;

    use crate::sync::{AtomicU32, Ordering, futex_wait_for, futex_wake};

    #[derive(Debug, Default)]
    pub(super) struct Bell(pub(super) AtomicU32);

    impl Bell {
        pub(super) fn ring(&self) {
            self.0.swap(1, Ordering::Release);
            futex_wake(&self.0);
        }

        pub(super) fn wait(&self, time: Option<Duration>) {
            if self.0.swap(0, Ordering::Acquire) == 0 {
                futex_wait_for(&self.0, 0, time);
                self.0.swap(0, Ordering::Acquire);
            }
        }
    }
}

#[cfg(loom)]
mod imp {
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    #[derive(Debug, Default)]
    pub(super) struct Bell {
        rung: Mutex<bool>,
        call: Condvar,
    }

    impl Bell {
        pub(super) fn ring(&self) {
            *self.rung.lock().unwrap() = true;
            self.call.notify_all();
        }

        pub(super) fn wait(&self, _time: Option<Duration>) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.call.wait(rung).unwrap();
            }
            *rung = false;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::sync::Ordering;

    /// Far longer than a thread takes to wake.
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_bell_that_was_rung_is_not_waited_for_and_forgets() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        bell.wait();
        bell.wait_for(Duration::from_millis(1));
    }

    #[test]
    fn who_rings_wakes_also_where_another_was_stopped_before_it_could() {
        let bell = Arc::new(Bell::default());
        let (woken, heard) = channel();
        let own = bell.clone();
        let unit = std::thread::spawn(move || {
            own.wait();
            woken.send(()).unwrap();
        });
        // It sleeps by then, or else the test shows nothing.
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
        // Half of ringing.
        bell.0.0.swap(1, Ordering::Release);
        assert!(heard.recv_timeout(Duration::from_millis(20)).is_err());
        bell.ring();
        heard.recv_timeout(LONG).expect("it wakes");
        unit.join().unwrap();
    }
}
