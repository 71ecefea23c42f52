//! The steps on tasks that any caller takes: who is woken, who is told, in which order.

use std::sync::atomic::AtomicUsize;

use reef_device::Device;

use super::*;
use crate::by_hand::{HOUR, Hands, best_effort, foreign_plan, now, real_time};
use reef_device::policy::Running;

/// Ends the one block of the task in `slot` at `time`.
fn end(hands: &Hands, claim: Claim, time: Nanos) {
    assert_eq!(hands.executor.settle(claim, 1, false, time), None);
}

#[test]
fn completions_come_in_the_order_in_which_tasks_ended() {
    let hands = Hands::reset(1);
    let plan = hands.load(&[1]);
    for ends in [[30, 10, 20], [10, 20, 30], [20, 30, 10]] {
        let claims = [0, 1, 2].map(|token| {
            hands.submit(plan, best_effort(), token);
            hands.pick(0).unwrap().claim
        });
        for (claim, time) in claims.into_iter().zip(ends) {
            end(&hands, claim, Nanos(time));
        }
        let times: Vec<_> =
            std::iter::from_fn(|| hands.device.try_complete()).map(|c| c.finished.0).collect();
        assert_eq!(times, [10, 20, 30]);
    }
}

#[test]
fn new_work_wakes_as_many_parked_units_as_it_can_use() {
    // Unit 0 is awake and idle, so it takes one of the blocks.
    for (blocks, parked) in [(1, 3), (2, 2), (3, 1), (9, 0)] {
        let hands = Hands::reset(4);
        (1..4).for_each(|cu| hands.executor.board.announce_park(cu));
        hands.submit(hands.load(&[blocks]), best_effort(), 0);
        assert_eq!(hands.executor.board.parked().count_ones(), parked, "{blocks} blocks");
    }
}

#[test]
fn a_stage_that_opens_wakes_units_for_all_its_blocks_but_one() {
    for (blocks, parked) in [(1, 3), (2, 2), (4, 0)] {
        let hands = Hands::reset(4);
        hands.submit(hands.load(&[1, blocks]), best_effort(), 0);
        let claim = hands.occupy(0, now() + HOUR).claim;
        (1..4).for_each(|cu| hands.executor.board.announce_park(cu));
        assert_eq!(hands.executor.settle(claim, 1, false, now()), None);
        assert_eq!(hands.executor.board.parked().count_ones(), parked, "{blocks} blocks");
    }
}

#[test]
fn a_task_that_ends_wakes_units_for_the_work_that_it_held_back() {
    let hands = Hands::new(2, Scheme::Sequential, Padding::default());
    let plan = hands.load(&[1]);
    hands.submit(plan, best_effort(), 0);
    let claim = hands.occupy(0, now() + HOUR).claim;
    hands.submit(plan, best_effort(), 1);
    hands.executor.board.announce_park(1);
    assert!(!hands.executor.has_work(), "one task at a time");
    end(&hands, claim, now());
    assert!(!hands.executor.board.is_parked(1));
}

#[test]
fn a_killed_block_wakes_a_unit_and_so_does_a_gate_that_opens() {
    let hands = Hands::reset(2);
    hands.executor.cus[0].start(Running { slot: 9, rank: 0, end: Nanos::ZERO }, None);
    hands.executor.board.announce_park(1);
    hands.executor.wake(1);
    assert!(!hands.executor.board.is_parked(1));
    for change in [Scheme::Wait, Scheme::Reset] {
        hands.executor.board.announce_park(1);
        hands.executor.set_scheme(change);
        assert!(!hands.executor.board.is_parked(1), "another scheme may have work for it");
    }
    hands.executor.board.announce_park(1);
    assert!(hands.executor.move_gate(Gate::Open, Gate::Quiesced));
    assert!(!hands.executor.board.is_parked(1));
    hands.executor.board.announce_park(1);
    assert!(hands.executor.move_gate(Gate::Quiesced, Gate::Open));
    assert!(!hands.executor.board.is_parked(1));
    assert!(!hands.executor.move_gate(Gate::Quiesced, Gate::Open), "it is not there");
}

#[test]
fn a_unit_that_starts_a_block_passes_the_rest_on() {
    let hands = Hands::reset(2);
    hands.submit(hands.load(&[2]), best_effort(), 0);
    hands.executor.board.announce_park(1);
    hands.executor.pass_on();
    assert!(hands.executor.board.is_parked(1), "unit 0 is idle and will find it");
    hands.occupy(0, now() + HOUR);
    hands.executor.pass_on();
    assert!(!hands.executor.board.is_parked(1));
    // Nothing is left to pass on.
    hands.executor.board.announce_park(1);
    hands.pick(1).unwrap();
    hands.executor.pass_on();
    assert!(hands.executor.board.is_parked(1));
}

struct Calls(AtomicUsize);

impl Wake for Calls {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_waker_is_called_for_every_end_and_for_poison() {
    let mut hands = Hands::reset(1);
    let old = Arc::new(Calls(AtomicUsize::new(0)));
    let calls = Arc::new(Calls(AtomicUsize::new(0)));
    hands.device.set_waker(old.clone());
    hands.device.set_waker(calls.clone());
    let plan = hands.load(&[1]);
    hands.submit(plan, best_effort(), 0);
    hands.work(0);
    assert_eq!(calls.0.load(Ordering::Relaxed), 1);
    let (_, task) = hands.submit(plan, best_effort(), 1);
    hands.device.cancel(task);
    assert_eq!(calls.0.load(Ordering::Relaxed), 2);
    hands.device.poison("planted");
    assert_eq!((calls.0.load(Ordering::Relaxed), old.0.load(Ordering::Relaxed)), (3, 0));
}

#[test]
fn a_task_that_displaces_others_is_counted_as_a_preemption() {
    let hands = Hands::reset(2);
    let executor = &hands.executor;
    assert!(!executor.would_preempt(real_time(0), 2), "nothing runs");
    executor.cus[0].start(Running { slot: 9, rank: 15, end: Nanos::ZERO }, None);
    assert!(executor.would_preempt(real_time(0), 2) && !executor.would_preempt(real_time(0), 1));
    assert!(!executor.would_preempt(best_effort(), 2), "of the same rank");
    executor.set_scheme(Scheme::Concurrent);
    assert!(!executor.would_preempt(real_time(0), 2), "nobody is displaced");
    executor.set_scheme(Scheme::Reset);
    let plan = hands.load(&[2]);
    hands.submit(plan, real_time(0), 0);
    let claims = [0, 1].map(|cu| hands.pick(cu).unwrap().claim);
    for claim in claims {
        executor.settle(claim, 2, false, now());
    }
    assert!(hands.completion().preempted);
    assert_eq!(hands.device.counters().preemptions, 1);
}

#[test]
fn only_the_most_urgent_real_time_task_keeps_a_block_of_the_stage_it_opens() {
    let kept = |scheme, key: TaskKey, other: Option<TaskKey>| {
        let hands = Hands::new(1, scheme, Padding::default());
        let plan = hands.load(&[1, 1]);
        hands.submit(plan, key, 0);
        let claim = hands.pick(0).unwrap().claim;
        if let Some(other) = other {
            hands.submit(plan, other, 1);
        }
        hands.executor.settle(claim, 1, true, now()).is_some()
    };
    assert!(kept(Scheme::Reset, real_time(1), None) && kept(Scheme::Wait, real_time(1), Some(real_time(2))));
    assert!(!kept(Scheme::Reset, real_time(1), Some(real_time(0))), "a more urgent one goes first");
    assert!(!kept(Scheme::Reset, best_effort(), None));
    assert!(!kept(Scheme::Concurrent, real_time(1), None), "all are equals");
}

/// A unit that has stopped companions cannot start another.
#[test]
fn companions_are_there_before_a_task_of_one_more_rank() {
    let hands = Hands::new(2, Scheme::Reset, Padding::default());
    let executor = &hands.executor;
    let counts = || [0, 1].map(|cu| (0..9).filter(|&index| executor.crew.find(cu, index).is_some()).count());
    assert_eq!(counts(), [0, 0]);
    let plan = hands.device.load(foreign_plan(|| {})).unwrap();
    assert_eq!(counts(), [2, 2], "one task may displace another");
    for (key, count) in [(best_effort(), 2), (real_time(3), 2), (real_time(3), 2), (real_time(0), 3)] {
        hands.submit(plan, key, 0);
        assert_eq!(counts(), [count; 2], "{key:?}");
    }
    executor.crew.leave(executor);
}

#[test]
fn a_core_that_is_lent_is_recalled_for_more_urgent_work_only() {
    for (scheme, key, recalled) in [
        (Scheme::Reset, real_time(0), true),
        (Scheme::Reset, real_time(3), false),
        (Scheme::Reset, best_effort(), false),
        (Scheme::Wait, real_time(0), false),
    ] {
        let hands = Hands::new(1, scheme, Padding::default());
        let executor = &hands.executor;
        crate::companion::Crew::start(executor, 0, 0).unwrap();
        executor.cus[0].start(Running { slot: 9, rank: 2, end: Nanos::ZERO }, None);
        executor.leases.lend(0, 0);
        hands.submit(hands.load(&[1]), key, 0);
        assert_eq!(executor.leases.is_lent(0), !recalled, "{scheme} {key:?}");
        executor.crew.leave(executor);
    }
}

#[test]
fn the_next_stage_of_a_real_time_task_is_waited_for_longer() {
    let hands = Hands::reset(1);
    let (executor, plan) = (&hands.executor, hands.load(&[1]));
    let (once, longer) = (executor.spin, Nanos(SPINS_FOR_STAGE * executor.spin.0));
    assert!(once > Nanos::ZERO, "there is a core for the unit");
    assert!(!executor.has_waited(once - Nanos(1)) && executor.has_waited(once));
    hands.submit(plan, best_effort(), 0);
    assert!(executor.has_waited(once));
    hands.submit(plan, real_time(0), 0);
    assert!(!executor.has_waited(once) && !executor.has_waited(longer - Nanos(1)));
    assert!(executor.has_waited(longer));
}
