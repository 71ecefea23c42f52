//! Seats: who works as a compute unit.
//!
//! A unit's thread has the seat while it is awake, and gives it up when it parks. A thread that has submitted
//! a short task and would sleep until it is over may take the seat of a unit that is parked on the core where
//! it runs, as its *guest*, and work on what is as urgent as its task. So neither the unit need be woken for
//! the task nor the guest for its end.
//!
//! | step | the unit's thread | a guest |
//! |---|---|---|
//! | 1 | announces that it parks, looks at the board once more | – |
//! | 2 | unlocks the seat, sleeps until that is taken back | takes the announcement, as who wakes does |
//! | 3 | – | locks the seat if it is free, or else rings |
//! | 4 | – | works; gives back what it holds |
//! | 5 | – | announces that the unit parks, looks at the board and the gate once more |
//! | 6 | – | unlocks; if there was something, takes the announcement, if it is still there, and rings |
//!
//! Who finds the unit awake is no guest, and sleeps. The unit is told to expect one: it parks as soon as no
//! task is left, and only then wakes who waits, who finds the seat free the next time. Otherwise every call
//! would wake a thread that stops the unit's before that has parked, and so for ever.
//!
//! Who runs on a core that no unit has is nobody's guest; it waits a while without sleeping ([`watch`]).
//!
//! So a unit whose announcement was taken is awake, about to be, or has a guest who looks at the board before
//! it goes: work that is made meanwhile is found. The lock keeps a thread that wakes for no reason out until
//! its guest has left.

use std::sync::{Arc, PoisonError};

use reef_base::Nanos;
use reef_device::Seat as Place;
use reef_device::policy::limit_of;

use crate::executor::Executor;
use crate::gate::Gate;
use crate::sync::{Mutex, now};
use crate::thread::{FloatMode, poison_on_panic};
use crate::worker::{LOOKS_PER_CLOCK, Worker};

/// How long a guest works before the unit's thread takes over: its core is to have the nice value of units
/// while long tasks run.
const VISIT_MAX: Nanos = Nanos(500_000);

/// The place of a thread that waits on a core where no unit is: it works for none, and looks whether its
/// short task has ended for as long as a unit without work looks for some. To be woken takes longer.
pub(crate) const BESIDE: Place = Place(u32::MAX);

/// What a thread does there.
pub(crate) fn watch(executor: &Executor, done: &dyn Fn() -> bool) {
    let begin = now();
    let mut look = 0u32;
    while !done() {
        look += 1;
        if look.is_multiple_of(LOOKS_PER_CLOCK) && now() - begin >= executor.spin {
            return;
        }
        std::hint::spin_loop();
    }
}

/// A compute unit's seat.
pub(crate) struct Seat(Mutex<Worker>);

impl Seat {
    pub(crate) fn new(worker: Worker) -> Arc<Seat> {
        Arc::new(Seat(Mutex::new(worker)))
    }

    /// What the unit's thread does, until the gate says stop.
    pub(crate) fn occupy(&self) {
        loop {
            let mut worker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let stops = worker.work();
            let (executor, cu) = (Arc::clone(&worker.executor), worker.cu);
            drop(worker);
            executor.pay_call();
            if stops {
                return;
            }
            executor.sleep(cu);
        }
    }

    /// Works here as a guest of unit `cu`, whose announcement the caller has taken.
    pub(crate) fn visit(&self, executor: &Executor, cu: usize, rank: u8, done: &dyn Fn() -> bool) {
        let Ok(mut worker) = self.0.try_lock() else { return executor.ring(cu) };
        let mode = FloatMode::replace();
        poison_on_panic(executor, cu, || worker.visit(limit_of(rank + 1), done));
        drop(worker);
        drop(mode);
        leave(executor, cu);
    }

    /// Has `work` done with what is unit `cu`'s own, whose announcement the caller has taken; false when its
    /// thread has the seat.
    pub(crate) fn borrow(&self, executor: &Executor, cu: usize, work: impl FnOnce()) -> bool {
        let Ok(mut worker) = self.0.try_lock() else {
            executor.ring(cu);
            return false;
        };
        work();
        worker.end_visit();
        drop(worker);
        leave(executor, cu);
        true
    }
}

/// What a guest has done that has left: nothing that was made meanwhile is to wait for the unit.
fn leave(executor: &Executor, cu: usize) {
    if (executor.gate() != Gate::Open || executor.has_work()) && executor.board.take_parked_one(cu) {
        executor.ring(cu);
    }
}

impl Worker {
    /// Works on tasks whose keys are below `limit`, and leaves with the unit announced as parked.
    fn visit(&mut self, limit: u64, done: &dyn Fn() -> bool) {
        self.guest = Some(limit);
        let (begin, mut idle) = (now(), None);
        let mut look = 0u32;
        while self.gate() == Gate::Open && !done() {
            if let Some(pick) = self.next() {
                self.step(pick);
                (idle, look) = (None, 0);
                // What it was given, and must not do, is the unit's.
                if self.guest.is_none() || now() - begin > VISIT_MAX {
                    break;
                }
                continue;
            }
            if self.executor.has_work_beyond(limit) {
                break;
            }
            if look.is_multiple_of(LOOKS_PER_CLOCK) {
                let now = now();
                if self.executor.has_waited(now - *idle.get_or_insert(now)) {
                    break;
                }
            }
            look += 1;
            std::hint::spin_loop();
        }
        self.guest = None;
        self.end_visit();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use reef_device::{Device, Outcome};
    use reef_plan::Restart;

    use super::*;
    use crate::by_hand::{Hands, Log, best_effort, foreign_plan, real_time};
    use crate::sync::Ordering;

    /// A unit that is parked, and its seat.
    fn parked() -> (Hands, Arc<Seat>) {
        let mut hands = Hands::reset(1);
        let seat = Seat::new(hands.workers.pop().unwrap());
        hands.executor.board.announce_park(0);
        (hands, seat)
    }

    #[test]
    fn a_guest_does_its_task_and_leaves_the_unit_parked() {
        let (hands, seat) = parked();
        let plan = hands.load(&[3, 1]);
        assert!(hands.executor.board.take_parked_one(0) && !hands.executor.board.take_parked_one(0));
        hands.submit(plan, real_time(0), 0);
        seat.visit(&hands.executor, 0, 0, &|| hands.executor.board.is_over());
        let done = hands.completion();
        assert_eq!((done.outcome, done.counters.blocks_done), (Outcome::Done, 4));
        assert!(hands.executor.board.is_parked(0) && hands.executor.gates.is_empty());
    }

    #[test]
    fn a_guest_leaves_lesser_work_to_the_unit_and_wakes_it() {
        let (hands, seat) = parked();
        let log = Log::default();
        let lesser = hands.load_scripted(&[1], Restart::Safe, log.script(1));
        let own = hands.load_scripted(&[1], Restart::Safe, log.script(0));
        assert!(hands.executor.board.take_parked_one(0));
        hands.submit(lesser, best_effort(), 1);
        hands.submit(own, real_time(1), 0);
        seat.visit(&hands.executor, 0, real_time(1).rank(), &|| false);
        assert_eq!(log.take(), [0]);
        assert!(!hands.executor.board.is_parked(0), "it was woken");
    }

    /// A block that another unit makes while the guest looks is no reason to go.
    #[test]
    fn what_is_a_guests_own_is_not_work_for_the_unit() {
        let (hands, _) = parked();
        let (own, lesser) = (hands.load(&[1]), hands.load(&[1]));
        let limit = limit_of(real_time(1).rank() + 1);
        assert!(!hands.executor.has_work_beyond(limit));
        let (slot, _) = hands.submit(own, real_time(1), 0);
        assert!(hands.executor.has_work() && !hands.executor.has_work_beyond(limit));
        hands.submit(lesser, best_effort(), 1);
        assert!(!hands.executor.has_work_beyond(limit), "its own comes first");
        let seen = hands.executor.board.view(slot).unwrap();
        hands.executor.board.claim(0, seen).expect("nobody else takes it");
        assert!(hands.executor.has_work_beyond(limit), "lesser work alone is left");
    }

    /// Whether the unit was parked each time that its device called.
    struct Parked(Arc<Executor>, crate::sync::Mutex<Vec<bool>>);

    impl reef_device::Wake for Parked {
        fn wake(&self) {
            self.1.lock().unwrap().push(self.0.board.is_parked(0));
        }
    }

    /// Whether a unit is parked when its device calls for the task that it ran.
    fn is_parked_at_the_call(guest_expected: bool) -> bool {
        let mut hands = Hands::reset(1);
        let seat = Seat::new(hands.workers.pop().unwrap());
        let calls = Arc::new(Parked(hands.executor.clone(), Mutex::default()));
        hands.device.set_waker(calls.clone());
        let (plan, unit) = (hands.load(&[2]), &hands.executor.cus[0]);
        hands.submit(plan, real_time(0), 0);
        if guest_expected {
            unit.expect_guest();
        }
        let called = std::thread::scope(|scope| {
            scope.spawn(|| seat.occupy());
            let called = loop {
                if let Some(parked) = calls.1.lock().unwrap().pop() {
                    break parked;
                }
                std::thread::yield_now();
            };
            hands.executor.shut_gate(Gate::Stopping);
            called
        });
        assert!(!unit.expects_guest(), "it has parked");
        assert_eq!(hands.completion().outcome, Outcome::Done);
        called
    }

    #[test]
    fn who_expects_a_guest_parks_before_it_wakes_anybody() {
        assert!(is_parked_at_the_call(true));
        assert!(!is_parked_at_the_call(false));
    }

    #[test]
    fn a_guest_does_more_urgent_work_and_gives_back_what_it_has_in_hand() {
        let (hands, seat) = parked();
        let log = Log::default();
        let own = hands.load_scripted(&[1, 1], Restart::Safe, log.script(1));
        let urgent = hands.load_scripted(&[1], Restart::Safe, log.script(0));
        assert!(hands.executor.board.take_parked_one(0));
        let (slot, _) = hands.submit(own, real_time(1), 1);
        hands.submit(urgent, real_time(0), 0);
        // Until it has the first stage of its own task behind it, the next block in hand.
        let done = || hands.executor.board.view(slot).is_some_and(|view| view.word.stage() == 1);
        seat.visit(&hands.executor, 0, real_time(1).rank(), &done);
        assert_eq!(log.take(), [0, 1]);
        assert!(
            hands.executor.board.view(slot).is_some_and(|view| view.claimable),
            "somebody else may go on"
        );
        assert!(!hands.executor.board.is_parked(0), "the unit was woken for it");
    }

    #[test]
    fn a_guest_runs_no_host_kernel() {
        let (hands, seat) = parked();
        let ran = Arc::new(AtomicBool::new(false));
        let own = ran.clone();
        let plan = hands.device.load(foreign_plan(move || own.store(true, Ordering::Relaxed))).unwrap();
        assert!(hands.executor.board.take_parked_one(0));
        let (slot, _) = hands.submit(plan, real_time(0), 0);
        seat.visit(&hands.executor, 0, 0, &|| false);
        assert!(!ran.load(Ordering::Relaxed));
        assert!(hands.executor.board.view(slot).is_some_and(|view| view.claimable));
        assert!(!hands.executor.board.is_parked(0), "the unit was woken for it");
    }

    #[test]
    fn what_is_a_units_own_is_lent_while_it_is_parked() {
        let (hands, seat) = parked();
        let log = Log::default();
        let own = hands.load_scripted(&[1], Restart::Safe, log.script(0));
        assert!(hands.executor.board.take_parked_one(0));
        assert!(seat.borrow(&hands.executor, 0, || {}));
        assert!(hands.executor.board.is_parked(0));
        assert!(hands.executor.board.take_parked_one(0));
        // What is made meanwhile wakes nobody, since the unit is not announced: who leaves sees it.
        assert!(seat.borrow(&hands.executor, 0, || _ = hands.submit(own, best_effort(), 1)));
        assert!(!hands.executor.board.is_parked(0), "it was woken");
        hands.executor.bells[0].wait();
        let unit = seat.0.lock().unwrap();
        assert!(!seat.borrow(&hands.executor, 0, || panic!("the unit has its seat")));
        drop(unit);
        hands.executor.bells[0].wait();
    }

    #[test]
    fn behind_a_shut_gate_a_guest_does_nothing() {
        let (hands, seat) = parked();
        let plan = hands.load(&[1]);
        assert!(hands.executor.board.take_parked_one(0));
        let (slot, _) = hands.submit(plan, real_time(0), 0);
        hands.executor.move_gate(Gate::Open, Gate::Quiesced);
        seat.visit(&hands.executor, 0, 0, &|| false);
        assert!(hands.executor.board.view(slot).is_some_and(|view| view.claimable));
        assert!(hands.executor.gates.is_empty());
    }

    #[test]
    fn who_finds_the_seat_taken_wakes_the_unit() {
        let (hands, seat) = parked();
        assert!(hands.executor.board.take_parked_one(0));
        let unit = seat.0.lock().unwrap();
        seat.visit(&hands.executor, 0, 0, &|| panic!("it is no guest"));
        drop(unit);
        // It was rung: this does not sleep.
        hands.executor.bells[0].wait();
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_guest_keeps_its_own_floating_point_mode() {
        let tiny = || std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
        let (hands, seat) = parked();
        let seen = Arc::new(std::sync::Mutex::new(0.0));
        let own = seen.clone();
        let script: crate::by_hand::Script = Arc::new(move |_, _| {
            *own.lock().unwrap() = tiny();
            crate::context::BlockEnd::Done
        });
        let plan = hands.load_scripted(&[1], Restart::Safe, script);
        assert!(hands.executor.board.take_parked_one(0));
        hands.submit(plan, real_time(0), 0);
        // Denormals are zero, results too.
        crate::thread::set_float_mode(0x9FC0);
        seat.visit(&hands.executor, 0, 0, &|| hands.executor.board.is_over());
        let outside = tiny();
        crate::thread::default_float_mode();
        assert_eq!(outside, 0.0, "its mode is its own");
        assert_eq!(*seen.lock().unwrap(), f32::MIN_POSITIVE * 0.5, "the block's is the default");
    }
}
