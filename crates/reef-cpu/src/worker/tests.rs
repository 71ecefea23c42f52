//! A compute unit driven by hand: what it runs next, what a running block sees, and what becomes of it.

use std::sync::atomic::AtomicBool;

use reef_device::{Device, Outcome, Scheme};
use reef_plan::HostFault;

use super::*;
use crate::board::word::Reason;
use crate::by_hand::{HOUR, Hands, Log, Script, best_effort, now, real_time};
use crate::context::BlockFault;
use crate::seat::Seat;

/// A block that does `act`, then polls once.
fn polls_after(act: impl Fn() + Send + Sync + 'static) -> Script {
    Arc::new(move |context, _| {
        act();
        if context.poll.stop() { BlockEnd::Killed } else { BlockEnd::Done }
    })
}

#[test]
fn a_block_of_a_cancelled_task_stops_at_its_next_poll() {
    for restart in [Restart::Safe, Restart::Never] {
        let mut hands = Hands::reset(1);
        let executor = hands.executor.clone();
        let cancel = polls_after(move || executor.close(executor.slot_of_one_task(), 1, Reason::Cancelled));
        let plan = hands.load_scripted(&[1, 1], restart, cancel);
        hands.submit(plan, best_effort(), 0);
        hands.work(0);
        let done = hands.completion();
        assert_eq!(done.outcome, Outcome::Cancelled);
        let killed = u64::from(restart == Restart::Safe);
        assert_eq!((done.counters.blocks_killed, done.counters.blocks_done), (killed, 1 - killed));
    }
}

impl Executor {
    fn slot_of_one_task(&self) -> usize {
        self.board.active().trailing_zeros() as usize
    }
}

#[test]
fn a_cancel_word_of_an_earlier_task_kills_a_block_once() {
    let mut hands = Hands::reset(1);
    let (executor, first) = (hands.executor.clone(), AtomicBool::new(true));
    let script = polls_after(move || {
        if first.swap(false, Ordering::Relaxed) {
            executor.board.slots[executor.slot_of_one_task()].cancel.store(1, Ordering::Relaxed);
        }
    });
    let plan = hands.load_scripted(&[1], Restart::Safe, script);
    hands.submit(plan, best_effort(), 0);
    assert!(hands.workers[0].work_once() && hands.workers[0].work_once());
    let done = hands.completion();
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!((done.counters.blocks_killed, done.counters.blocks_done), (1, 1));
}

#[test]
fn urgent_work_stops_a_block_where_the_scheme_and_the_kernel_allow_it() {
    for (scheme, restart, kills) in [
        (Scheme::Reset, Restart::Safe, 1),
        (Scheme::Reset, Restart::Never, 0),
        (Scheme::Wait, Restart::Safe, 0),
        (Scheme::Concurrent, Restart::Safe, 0),
    ] {
        let mut hands = Hands::new(1, scheme, Default::default());
        let (log, executor) = (Log::default(), hands.executor.clone());
        let urgent = hands.load_scripted(&[1], Restart::Safe, log.script(0));
        let (own, first) = (log.clone(), AtomicBool::new(true));
        // It is published without the device: a block cannot call the test's.
        let (slot, _) = hands.submit(urgent, real_time(3), 7);
        let opening = executor.loaded(slot).opening(0);
        executor.board.close(slot, 1, Reason::Cancelled);
        executor.board.retire(slot);
        let script: Script = Arc::new(move |context, _| {
            if first.swap(false, Ordering::Relaxed) {
                executor.board.publish(slot, 1, real_time(3).get(), opening);
            }
            if context.poll.stop() {
                return BlockEnd::Killed;
            }
            own.add(1);
            BlockEnd::Done
        });
        let victim = hands.load_scripted(&[1], restart, script);
        hands.submit(victim, best_effort(), 1);
        hands.work(0);
        let mut done = [hands.completion(), hands.completion()];
        done.sort_by_key(|done| done.token);
        assert_eq!(log.take(), if kills == 1 { [0, 1] } else { [1, 0] }, "{scheme} {restart:?}");
        assert_eq!(done[0].counters.blocks_killed, kills);
        assert_eq!(done[1].counters.kills_caused, kills);
        assert!(done.iter().all(|done| done.outcome == Outcome::Done && done.counters.blocks_done == 1));
    }
}

#[test]
fn urgent_work_that_came_before_a_block_starts_goes_first() {
    for (scheme, order) in [(Scheme::Reset, [0, 1]), (Scheme::Wait, [0, 1]), (Scheme::Concurrent, [1, 0])] {
        let mut hands = Hands::new(1, scheme, Default::default());
        let log = Log::default();
        let urgent = hands.load_scripted(&[1], Restart::Safe, log.script(0));
        let other = hands.load_scripted(&[1], Restart::Safe, log.script(1));
        hands.submit(other, best_effort(), 1);
        let pick = hands.workers[0].next().unwrap();
        hands.submit(urgent, real_time(0), 0);
        hands.workers[0].step(pick);
        hands.work(0);
        assert_eq!(log.take(), order, "{scheme}");
        let killed = hands.device.counters().blocks_killed;
        assert_eq!(killed, 0, "a block that did not start is not killed");
    }
}

#[test]
fn blocks_that_fail_or_panic_end_their_tasks() {
    let mut hands = Hands::reset(1);
    let fault = || HostFault::of_kernel("k", "planted");
    let fails = hands.load_scripted(
        &[2],
        Restart::Safe,
        Arc::new(move |_, _| BlockEnd::Failed(BlockFault::Host(fault()))),
    );
    let panics = hands.load_scripted(&[2], Restart::Safe, Arc::new(|_, _| panic!("planted")));
    hands.submit(fails, best_effort(), 0);
    hands.work(0);
    let done = hands.completion();
    assert_eq!(done.outcome, Outcome::Failed(fault()));
    assert_eq!((done.counters.blocks_done, done.counters.blocks_killed), (0, 0));
    assert!(done.counters.wasted_time > Nanos::ZERO);
    hands.submit(panics, best_effort(), 0);
    hands.work(0);
    assert_eq!(hands.completion().outcome, Outcome::DeviceFault);
    assert_eq!(hands.executor.gate(), Gate::Poisoned);
}

#[test]
fn a_stage_that_a_unit_opens_is_its_own_to_go_on_with_unless_it_has_a_block() {
    let mut hands = Hands::reset(1);
    let narrow = hands.load(&[1, 1]);
    hands.submit(narrow, real_time(0), 0);
    hands.workers[0].work_once();
    assert!(hands.workers[0].hand.get().is_some());
    assert_eq!(hands.executor.board.claimable_blocks(9), 0);
    hands.workers[0].work_once();
    assert_eq!(hands.completion().outcome, Outcome::Done);
    // With another block in hand, the stage is open to all.
    hands.submit(narrow, real_time(0), 1);
    let (slot, _) = hands.submit(narrow, real_time(1), 2);
    let pick = hands.pick(0).unwrap();
    let other = hands.executor.board.claim(0, hands.executor.board.view(slot).unwrap());
    hands.workers[0].hand.set(other);
    hands.workers[0].step(pick);
    assert_eq!(hands.workers[0].hand.get(), other);
    assert_eq!(hands.executor.board.claimable_blocks(9), 1);
}

#[test]
fn a_unit_behind_a_shut_gate_has_given_its_block_back() {
    for gate in [Gate::Quiesced, Gate::Stopping] {
        let mut hands = Hands::reset(1);
        let plan = hands.load(&[1]);
        let (slot, _) = hands.submit(plan, best_effort(), 0);
        let pick = hands.pick(0).unwrap();
        let worker = hands.workers.pop().unwrap();
        worker.hand.set(Some(pick.claim));
        let executor = hands.executor.clone();
        executor.shut_gate(gate);
        executor.gates.enter(0);
        let thread = std::thread::spawn(move || Seat::new(worker).occupy());
        while !executor.gates.is_empty() {
            std::thread::yield_now();
        }
        let view = executor.board.view(slot).unwrap();
        assert!(view.claimable && view.word.remaining() == 0, "the block is to be done again");
        executor.shut_gate(Gate::Stopping);
        executor.ring(0);
        thread.join().unwrap();
    }
}

#[test]
fn a_unit_that_is_told_to_stop_while_parked_leaves() {
    let mut hands = Hands::reset(1);
    let worker = hands.workers.pop().unwrap();
    let executor = hands.executor.clone();
    let thread = std::thread::spawn(move || Seat::new(worker).occupy());
    while !executor.board.is_parked(0) {
        std::thread::yield_now();
    }
    executor.shut_gate(Gate::Stopping);
    assert!(!executor.board.is_parked(0), "everybody is woken");
    executor.ring(0);
    thread.join().unwrap();
}

/// What a block that runs on unit 0 of two answers to demands.
struct Asked {
    hands: Hands,
    hand: Cell<Option<Claim>>,
    left: Cell<(Nanos, Nanos)>,
    start: Nanos,
    end: Nanos,
}

impl Asked {
    /// A best-effort block that started at 1 ms; unit 1 sleeps, and one urgent block is there.
    fn new() -> Asked {
        let hands = Hands::reset(2);
        hands.submit(hands.load(&[1]), real_time(0), 0);
        hands.executor.board.announce_park(1);
        let (hand, left) = Default::default();
        Asked { hands, hand, left, start: Nanos::from_millis(1), end: Nanos::ZERO }
    }

    fn take_at(&self, now: Nanos) -> bool {
        let (executor, hand, left) = (&*self.hands.executor, &self.hand, self.left.clone());
        let (start, end) = (self.start, self.end);
        let demand = BlockDemand { executor, cu: 0, rank: 15, start, end, hand, left };
        let taken = demand.take_at(now);
        assert_eq!(taken, hand.get().is_some(), "a block stops with the urgent one in hand");
        self.left.set(demand.left.get());
        taken
    }
}

#[test]
fn a_block_that_is_nearly_done_goes_on() {
    let at = |end: Nanos, left: u64| {
        let asked = Asked { end, ..Asked::new() };
        asked.take_at(Nanos(end.0.wrapping_sub(left)))
    };
    let end = Nanos::from_millis(5);
    assert!(!at(end, 1) && !at(end, NEARLY_DONE.0 - 1), "it ends sooner than killing it pays");
    assert!(at(end, NEARLY_DONE.0) && at(end, 1_000_000));
    assert!(at(end, 0) && at(end, 0u64.wrapping_sub(9)), "it takes longer than it should");
    assert!(at(Nanos::ZERO, 0u64.wrapping_sub(9)), "nobody knows when it ends");
}

#[test]
fn a_block_with_an_urgent_one_in_hand_stops() {
    let asked = Asked { end: Nanos::from_millis(5), ..Asked::new() };
    assert!(asked.take_at(Nanos::from_millis(2)));
    assert!(asked.take_at(Nanos::from_millis(5) - Nanos(1)), "whatever else there is");
}

#[test]
fn a_block_without_urgent_work_goes_on() {
    let asked = Asked::new();
    assert!(asked.hands.pick(1).is_some());
    assert!(!asked.take_at(Nanos::from_millis(2)));
}

#[test]
fn urgent_work_is_left_to_a_unit_that_loses_less_but_not_for_long() {
    let idle = || {
        let asked = Asked::new();
        asked.hands.executor.board.withdraw_park(1);
        asked
    };
    let asked = idle();
    let first = Nanos::from_millis(2);
    assert!(!asked.take_at(first) && !asked.take_at(first + COURTESY - Nanos(1)));
    assert!(asked.take_at(first + COURTESY), "nobody took it");
    // A demand that comes much later is another one.
    let asked = idle();
    assert!(!asked.take_at(first) && !asked.take_at(first + Nanos(COURTESY.0 * 3)));
    // Two urgent blocks, and one unit beside.
    let asked = idle();
    asked.hands.submit(asked.hands.load(&[2]), real_time(0), 0);
    let urgent = asked.hands.executor.board.most_urgent(NONE).unwrap();
    asked.hands.executor.board.claim(1, urgent).unwrap();
    assert!(asked.take_at(first), "one unit does not do for two blocks");
}

#[test]
fn a_unit_loses_less_with_a_younger_block_that_can_be_killed() {
    let start = Nanos::from_millis(1);
    for (rank, since, better) in [
        (15, Some(start + Nanos(1)), true),
        (15, Some(start), false),
        (15, None, false),
        (3, Some(start + Nanos(1)), true),
        (0, Some(start + Nanos(1)), false),
    ] {
        let asked = Asked::new();
        let running = Running { slot: 5, rank, end: now() + HOUR };
        asked.hands.executor.cus[1].start(running, since);
        assert_eq!(!asked.take_at(Nanos::from_millis(2)), better, "rank {rank} since {since:?}");
    }
}

#[test]
fn a_block_counts_for_its_owner_however_it_ends() {
    use reef_base::{Share, TaskKey};
    let share = Share { owner: 5, weight: 1 };
    for case in ["done", "killed", "failed", "urgent"] {
        let mut hands = Hands::reset(1);
        let executor = hands.executor.clone();
        let script: Script = Arc::new(move |_, _| match case {
            "killed" => {
                executor.close(executor.slot_of_one_task(), 1, Reason::Cancelled);
                BlockEnd::Killed
            }
            "failed" => BlockEnd::Failed(BlockFault::Host(HostFault::of_kernel("k", "planted"))),
            _ => BlockEnd::Done,
        });
        let plan = hands.load_scripted(&[1], Restart::Safe, script);
        let key = if case == "urgent" { real_time(0) } else { TaskKey::best_effort(0) };
        hands.submit(plan, key.on(share), 0);
        let before = hands.executor.shares.pass(5);
        hands.work(0);
        assert_eq!(hands.executor.shares.pass(5) != before, case != "urgent", "{case}");
        hands.completion();
    }
}
