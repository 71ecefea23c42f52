//! What a free unit picks beside a real-time stage: no clock decides, because estimates are far from it.

use reef_device::{Device, Padding};

use super::*;
use crate::by_hand::{HOUR, Hands, best_effort, now, real_time};

const SHORT: Nanos = Nanos(1);
const LONG: Nanos = Nanos(2 * HOUR.0);

/// A real-time task whose open stage is all claimed: unit 0 runs the one block until an hour from now. A
/// best-effort task waits beside it, in the slot that comes back.
fn beside(scheme: Scheme, padding: Padding, stages: &[u32]) -> (Hands, usize) {
    let hands = Hands::new(2, scheme, padding);
    hands.submit(hands.load(stages), real_time(1), 0);
    hands.occupy(0, now() + HOUR);
    let (slot, _) = hands.submit(hands.load(&[4]), best_effort(), 1);
    (hands, slot)
}

/// Whether unit 1 takes a best-effort block of such an estimate.
fn pads(hands: &Hands, slot: usize, time: Nanos, killable: bool) -> bool {
    hands.estimate(slot, time, killable);
    let pick = hands.pick(1);
    assert!(pick.is_none_or(|pick| pick.padding && pick.claim.slot == slot));
    pick.is_some()
}

#[test]
fn fitting_blocks_end_before_the_stage_does() {
    for scheme in [Scheme::Reset, Scheme::Wait] {
        let (hands, slot) = beside(scheme, Padding::Fitting, &[1]);
        assert!(pads(&hands, slot, SHORT, true) && pads(&hands, slot, SHORT, false), "{scheme}");
        assert!(!pads(&hands, slot, LONG, true) && !pads(&hands, slot, LONG, false), "{scheme}");
        // Being killed bounds the time of a block that tries.
        assert_eq!(pads(&hands, slot, Nanos::ZERO, true), scheme == Scheme::Reset);
        assert!(!pads(&hands, slot, Nanos::ZERO, false), "{scheme}");
    }
    // `wait` cannot kill, so it keeps the rule whatever is asked for.
    let (hands, slot) = beside(Scheme::Wait, Padding::Preemptible, &[1]);
    assert!(pads(&hands, slot, SHORT, true) && !pads(&hands, slot, LONG, true));
}

#[test]
fn a_stage_ends_with_its_last_block() {
    let hands = Hands::new(4, Scheme::Reset, Padding::Fitting);
    let (urgent, _) = hands.submit(hands.load(&[3]), real_time(1), 0);
    let begin = now();
    let ends = [begin + Nanos::from_millis(1), begin + HOUR, begin + Nanos::from_millis(2)];
    for (cu, end) in ends.into_iter().enumerate() {
        hands.occupy(cu, end);
    }
    let (slot, _) = hands.submit(hands.load(&[4]), best_effort(), 1);
    let pads = |time: Nanos| {
        hands.estimate(slot, time, true);
        hands.pick(3).is_some()
    };
    assert!(pads(Nanos(HOUR.0 / 2)), "two blocks end sooner, the third does not");
    assert!(!pads(LONG));
    let running = Running { slot: urgent, rank: 1, end: Nanos::ZERO };
    hands.executor.cus[2].start(running, None);
    assert!(!pads(SHORT), "nobody knows when the third ends");
}

#[test]
fn a_stage_that_nobody_runs_yet_has_no_known_end() {
    let (hands, slot) = beside(Scheme::Reset, Padding::Fitting, &[1]);
    hands.executor.cus[0].set_running(None);
    assert!(!pads(&hands, slot, SHORT, true));
}

#[test]
fn any_block_pads_while_the_task_does_not_want_the_unit() {
    let can = |stages: &[u32], time, killable| {
        let (hands, slot) = beside(Scheme::Reset, Padding::Preemptible, stages);
        pads(&hands, slot, time, killable)
    };
    assert!(can(&[1], LONG, true) && can(&[1], LONG, false), "it never wants the unit again");
    assert!(can(&[1, 1, 1], LONG, true), "nor for later stages");
    // A wider stage comes next.
    assert!(!can(&[1, 2], LONG, true) && can(&[1, 2], SHORT, true));
    // Four stages come before it; what each of them takes is not known.
    assert!(!can(&[1, 1, 1, 1, 1, 2], LONG, true));
    let (hands, slot) = beside(Scheme::Reset, Padding::Preemptible, &[1, 1, 1, 1, 1, 2]);
    let urgent = hands.executor.cus[0].running().unwrap().slot;
    hands.estimate(urgent, HOUR, true);
    assert!(pads(&hands, slot, LONG, true) && !pads(&hands, slot, Nanos(6 * HOUR.0), true));
}

#[test]
fn a_stage_that_wants_more_units_than_it_has_is_padded_until_its_end() {
    let hands = Hands::reset(2);
    hands.submit(hands.load(&[2]), real_time(1), 0);
    hands.occupy(0, now() + HOUR);
    // The other block is claimed, and unit 1, which claimed it, is asked what else it would take.
    assert!(hands.pick(1).is_some());
    let (slot, _) = hands.submit(hands.load(&[4]), best_effort(), 1);
    assert!(!pads(&hands, slot, LONG, true) && pads(&hands, slot, SHORT, true));
    // A third unit that is idle does for the task; one that sleeps does not.
    let hands = Hands::reset(3);
    hands.submit(hands.load(&[2]), real_time(1), 0);
    hands.occupy(0, now() + HOUR);
    assert!(hands.pick(1).is_some());
    let (slot, _) = hands.submit(hands.load(&[4]), best_effort(), 1);
    hands.executor.board.announce_park(2);
    assert!(!pads(&hands, slot, LONG, true));
    hands.executor.board.withdraw_park(2);
    assert!(pads(&hands, slot, LONG, true));
}

#[test]
fn equals_may_try_and_padding_is_of_less_urgent_tasks() {
    for (padding, may) in [(Padding::Preemptible, true), (Padding::Fitting, false)] {
        let hands = Hands::new(2, Scheme::Reset, padding);
        hands.submit(hands.load(&[1]), real_time(1), 0);
        hands.occupy(0, now() + HOUR);
        // As urgent, behind it in order, and not to be killed.
        let later = reef_base::TaskKey::real_time(reef_base::Level::new(1).unwrap(), None, Nanos(2));
        let (equal, _) = hands.submit(hands.load(&[1]), later, 1);
        assert_eq!(pads(&hands, equal, Nanos::ZERO, false), may, "{padding}");
        let (urgent, _) = hands.submit(hands.load(&[1]), real_time(0), 2);
        let pick = hands.pick(1).unwrap();
        assert_eq!((pick.claim.slot, pick.padding), (urgent, false), "more urgent work waits for nobody");
    }
}

#[test]
fn a_closed_task_is_not_padded() {
    let (hands, slot) = beside(Scheme::Reset, Padding::Fitting, &[1]);
    let urgent = hands.executor.cus[0].running().unwrap().slot;
    hands.executor.board.close(urgent, 1, crate::board::word::Reason::Cancelled);
    hands.estimate(slot, LONG, true);
    let pick = hands.pick(1).unwrap();
    assert_eq!((pick.claim.slot, pick.padding), (slot, false));
}

#[test]
fn a_parked_unit_has_work_where_it_would_pick_some() {
    let (hands, slot) = beside(Scheme::Reset, Padding::Fitting, &[1]);
    hands.estimate(slot, SHORT, true);
    assert!(hands.executor.has_work());
    hands.estimate(slot, LONG, true);
    assert!(!hands.executor.has_work());
    for scheme in [Scheme::Concurrent, Scheme::Sequential] {
        let hands = Hands::new(2, scheme, Padding::default());
        assert!(!hands.executor.has_work());
        hands.submit(hands.load(&[2]), best_effort(), 0);
        assert_eq!(hands.executor.has_work(), scheme == Scheme::Concurrent, "nobody is elected yet");
        assert!(hands.pick(0).is_some() && hands.executor.has_work());
        assert!(hands.pick(0).is_some() && !hands.executor.has_work());
    }
}

#[test]
fn sequential_stays_with_its_task_and_then_elects_the_most_urgent() {
    let mut hands = Hands::new(1, Scheme::Sequential, Padding::default());
    let (long, short) = (hands.load(&[2]), hands.load(&[1]));
    hands.submit(long, best_effort(), 0);
    hands.workers[0].work_once();
    hands.submit(long, best_effort(), 1);
    hands.submit(short, real_time(0), 2);
    hands.work(0);
    let tokens: Vec<_> = std::iter::from_fn(|| hands.device.try_complete()).map(|done| done.token).collect();
    assert_eq!(tokens, [0, 2, 1]);
}

#[test]
fn concurrent_takes_turns_and_rt_only_leaves_best_effort_work() {
    let hands = Hands::new(1, Scheme::Concurrent, Padding::default());
    let slots = [(); 2].map(|()| hands.submit(hands.load(&[2]), best_effort(), 0).0);
    let mut turn = 0;
    let picked: Vec<_> = std::iter::from_fn(|| hands.executor.pick(0, &mut turn, NONE)).collect();
    let picked: Vec<_> = picked.iter().map(|pick| pick.claim.slot).collect();
    assert_eq!(picked.len(), 4);
    assert!(picked[0] != picked[1] && picked[..2] == picked[2..] && slots.contains(&picked[0]));
    let hands = Hands::reset(1);
    hands.submit(hands.load(&[2]), best_effort(), 0);
    hands.executor.set_scheme(Scheme::RtOnly);
    assert!(hands.pick(0).is_none());
    hands.submit(hands.load(&[2]), real_time(0), 0);
    assert!(hands.pick(0).is_some());
}

#[test]
fn only_more_urgent_work_displaces_what_a_companion_has() {
    for (scheme, may) in [(Scheme::Reset, true), (Scheme::Wait, false), (Scheme::Concurrent, false)] {
        let hands = Hands::new(1, scheme, Padding::default());
        let (executor, plan) = (&hands.executor, hands.load(&[1]));
        hands.submit(plan, real_time(2), 0);
        let pick = |rank| executor.pick(0, &mut 0, executor.limit_beside(rank));
        assert!(pick(2).is_none(), "of the same level");
        assert_eq!(pick(3).is_some(), may, "{scheme}");
    }
}

#[test]
fn owners_take_turns_by_what_they_used_and_tasks_of_one_owner_go_in_order() {
    use reef_base::{Share, TaskKey};
    let mut hands = Hands::reset(1);
    let share = |owner| Share { owner, weight: 1 };
    let tasks = [(1, 5), (2, 3), (2, 4)];
    let slots = tasks.map(|(owner, order)| {
        let key = TaskKey::best_effort(order).on(share(owner));
        hands.submit(hands.load(&[9]), key, order).0
    });
    let next = |hands: &Hands| hands.pick(0).unwrap().claim.slot;
    assert_eq!(next(&hands), slots[1], "nobody has used anything: by key");
    hands.executor.shares.charge(share(2), Nanos(10));
    assert_eq!(next(&hands), slots[0]);
    hands.executor.shares.charge(share(1), Nanos(20));
    assert_eq!(next(&hands), slots[1], "the older one of the owner");
    let before = [1, 2].map(|owner| hands.executor.shares.pass(owner));
    assert!(hands.workers[0].work_once());
    let after = [1, 2].map(|owner| hands.executor.shares.pass(owner));
    assert!(after[0] == before[0] && after[1] > before[1], "blocks are charged to their task's owner");
    // Real-time work knows no shares.
    let urgent = hands.submit(hands.load(&[2]), real_time(0), 9).0;
    assert_eq!(next(&hands), urgent);
    assert!(hands.workers[0].work_once());
    assert_eq!([1, 2].map(|owner| hands.executor.shares.pass(owner)), after);
    // Who comes begins where the others are.
    hands.submit(hands.load(&[9]), TaskKey::best_effort(1).on(share(3)), 10);
    assert_eq!(hands.executor.shares.pass(3), after[1].min(after[0]));
}
