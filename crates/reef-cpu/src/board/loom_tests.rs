//! The board under loom: every interleaving of two or three threads on tasks of one to three blocks.
//!
//! Run: `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p reef-cpu --lib loom`

use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::AtomicU64 as Plain;

use reef_base::{Level, Nanos, TaskKey};

use super::*;
use crate::gate::{Gate, Gates};
use crate::lineage::Lineage;

/// A board, and what happened to its tasks. `ended` stands for the completion: it orders a slot's next task
/// behind the last one. The other counters are no part of the model.
struct Rig {
    board: Board,
    /// Blocks settled as done or as dropped, by stage.
    settled: [Plain; 2],
    /// Stages opened.
    opened: Plain,
    /// Of the first slot's task, when it goes on with other plans.
    lineage: Lineage,
    /// Ends of tasks.
    ended: AtomicU64,
}

impl Rig {
    fn new(slots: usize, cus: usize) -> Arc<Rig> {
        let zeros = || [Plain::new(0), Plain::new(0)];
        let (opened, ended, lineage) = (Plain::new(0), AtomicU64::new(0), Lineage::new());
        Arc::new(Rig { board: Board::new(slots, 0, cus), settled: zeros(), opened, lineage, ended })
    }

    fn publish(&self, generation: u64, key: u64, blocks: u32) -> usize {
        let slot = self.board.take_slot(true).expect("a slot is free");
        self.board.publish(slot, generation, key, opening(blocks));
        slot
    }

    /// Settles, and does what the owner of a settled stage must do. Stages have `total` blocks, tasks
    /// `stages`.
    fn settle(&self, slot: usize, word: Word, count: u32, shape: Shape, dropped: bool) {
        self.settled[word.stage() as usize].fetch_add(u64::from(count), Ordering::Relaxed);
        if !self.board.settle(slot, count, shape.total, dropped) {
            return;
        }
        let over = word.stage() + 1 == shape.stages;
        if !self.board.any_dropped(slot) && over && word.generation() < shape.plans {
            return self.hand_over(slot, word, shape);
        }
        if !self.board.any_dropped(slot) && !over {
            if let Ok(kept) = self.board.open(slot, word, opening(shape.total), shape.keep) {
                self.opened.fetch_add(1, Ordering::Relaxed);
                assert_eq!(kept.is_some(), shape.keep);
                if let Some(kept) = kept {
                    let dropped = self.board.reason(slot).is_some();
                    self.settle(slot, kept.word, 1, shape, dropped);
                }
                return;
            }
        } else if self.board.any_dropped(slot) {
            assert!(self.board.reason(slot).is_some(), "only closed tasks have dropped blocks");
        }
        self.board.retire(slot);
        self.ended.fetch_add(1, Ordering::AcqRel);
    }

    /// As the executor does.
    fn hand_over(&self, slot: usize, word: Word, shape: Shape) {
        let generation = self.lineage.advance();
        match self.board.go_on(slot, word, generation, opening(shape.total), false) {
            Ok(_) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                if self.lineage.is_cancelled() {
                    self.close(slot, generation, shape);
                }
            }
            Err(_) => {
                self.board.retire(slot);
                self.ended.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Ends the task that began with generation 1.
    fn cancel(&self, slot: usize, shape: Shape) {
        if let Some(generation) = self.lineage.cancel(1) {
            self.close(slot, generation, shape);
        }
    }

    fn claim(&self, cu: usize) -> Option<Claim> {
        self.board.most_urgent(NONE).and_then(|view| self.board.claim(cu, view))
    }

    /// Claims and finishes at most `count` blocks.
    fn work(&self, cu: usize, count: usize, shape: Shape) {
        for _ in 0..count {
            if let Some(claim) = self.claim(cu) {
                self.settle(claim.slot, claim.word, 1, shape, false);
            }
        }
    }

    /// Claims a block and kills it.
    fn kill_one(&self, cu: usize, shape: Shape) {
        if let Some(claim) = self.claim(cu)
            && let Some(held) = self.board.give_back(cu, claim)
        {
            self.settle(held.slot, held.word, 1, shape, true);
        }
    }

    fn close(&self, slot: usize, generation: u64, shape: Shape) {
        let held = self.board.close(slot, generation, Reason::Cancelled);
        if held.blocks > 0 {
            self.settle(slot, Word::new(generation, held.stage, 0), held.blocks, shape, true);
        }
    }

    fn work_off(&self, shape: Shape) {
        while let Some(claim) = self.claim(0) {
            let dropped = self.board.reason(claim.slot).is_some();
            self.settle(claim.slot, claim.word, 1, shape, dropped);
        }
    }

    fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    fn poll_covers_the_work(&self) {
        let (poll, demand) = (self.board.poll.load(Ordering::SeqCst), self.board.demand());
        assert!(poll <= demand, "demand {demand:x} is lost: the poll word is {poll:x}");
    }
}

#[derive(Clone, Copy)]
struct Shape {
    total: u32,
    stages: u32,
    /// Plans that a task runs, one generation after the other.
    plans: u64,
    /// Openers keep a block.
    keep: bool,
}

fn shape(total: u32, stages: u32) -> Shape {
    Shape { total, stages, plans: 0, keep: false }
}

fn opening(blocks: u32) -> Opening {
    Opening { blocks, estimate: 0, outlook: Outlook::default() }
}

fn best_effort() -> u64 {
    TaskKey::best_effort(1).get()
}

fn real_time(level: u8) -> u64 {
    TaskKey::real_time(Level::new(level).unwrap(), None, Nanos(1)).get()
}

fn count(counter: &Plain) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn loom_every_block_is_settled_once_and_every_stage_opened_once() {
    loom::model(|| {
        let shape = shape(2, 2);
        let rig = Rig::new(1, 2);
        rig.publish(1, best_effort(), shape.total);
        let other = rig.clone();
        let thread = thread::spawn(move || other.work(1, 3, shape));
        rig.work(0, 3, shape);
        thread.join().unwrap();
        rig.work_off(shape);
        assert_eq!((count(&rig.settled[0]), count(&rig.settled[1])), (2, 2));
        assert_eq!((count(&rig.opened), rig.ended()), (1, 1));
        assert_eq!(rig.board.active(), 0);
    });
}

#[test]
fn loom_kept_blocks_are_settled_once_too() {
    loom::model(|| {
        let shape = Shape { keep: true, ..shape(2, 2) };
        let rig = Rig::new(1, 2);
        let slot = rig.publish(1, real_time(0), shape.total);
        let other = rig.clone();
        let thread = thread::spawn(move || {
            other.work(1, 2, shape);
            other.close(slot, 1, shape);
        });
        rig.work(0, 3, shape);
        thread.join().unwrap();
        rig.work_off(shape);
        assert_eq!((count(&rig.settled[0]), rig.ended()), (2, 1));
        assert_eq!(count(&rig.settled[1]), 2 * count(&rig.opened), "a stage that was opened is settled");
    });
}

#[test]
fn loom_killed_blocks_are_not_lost() {
    loom::model(|| {
        let shape = shape(2, 2);
        let rig = Rig::new(1, 2);
        rig.publish(1, best_effort(), shape.total);
        let other = rig.clone();
        let thread = thread::spawn(move || {
            other.kill_one(1, shape);
            other.work(1, 2, shape);
        });
        rig.kill_one(0, shape);
        rig.work(0, 2, shape);
        thread.join().unwrap();
        rig.work_off(shape);
        assert_eq!((count(&rig.settled[0]), count(&rig.settled[1])), (2, 2));
        assert_eq!(rig.ended(), 1);
    });
}

#[test]
fn loom_cancel_against_finish_ends_once() {
    loom::model(|| {
        let shape = shape(2, 2);
        let rig = Rig::new(1, 2);
        let slot = rig.publish(1, best_effort(), shape.total);
        let other = rig.clone();
        let thread = thread::spawn(move || other.close(slot, 1, shape));
        rig.work(0, 4, shape);
        thread.join().unwrap();
        rig.work_off(shape);
        assert_eq!(rig.ended(), 1);
        assert!([0, 2].contains(&count(&rig.settled[1])) && count(&rig.settled[0]) == 2);
        let closed = rig.board.slots[slot].cancel.load(Ordering::SeqCst) == 1;
        assert_eq!(closed, rig.board.reason(slot).is_some(), "no stage opens after the task was closed");
    });
}

#[test]
fn loom_cancel_against_kill_ends_once() {
    loom::model(|| {
        let shape = shape(2, 1);
        let rig = Rig::new(1, 3);
        let slot = rig.publish(1, best_effort(), shape.total);
        let (closer, killer) = (rig.clone(), rig.clone());
        let threads = [
            thread::spawn(move || closer.close(slot, 1, shape)),
            thread::spawn(move || killer.kill_one(1, shape)),
        ];
        rig.kill_one(0, shape);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        rig.work_off(shape);
        assert_eq!((count(&rig.settled[0]), rig.ended()), (2, 1));
    });
}

#[test]
fn loom_two_closers_end_a_task_once() {
    loom::model(|| {
        let shape = shape(2, 1);
        let rig = Rig::new(1, 2);
        let slot = rig.publish(1, best_effort(), shape.total);
        let held = rig.claim(0).unwrap();
        let other = rig.clone();
        let thread = thread::spawn(move || {
            let closed = other.board.close(slot, 1, Reason::DeviceFault);
            if closed.blocks > 0 {
                other.settle(slot, Word::new(1, closed.stage, 0), closed.blocks, shape, true);
            }
        });
        rig.close(slot, 1, shape);
        if let Some(held) = rig.board.give_back(0, held) {
            rig.settle(slot, held.word, 1, shape, true);
        }
        thread.join().unwrap();
        assert_eq!((count(&rig.settled[0]), rig.ended()), (2, 1));
        assert_eq!(rig.board.reason(slot), Some(Reason::DeviceFault));
    });
}

/// Two units, and two plans one after the other: every block is settled once, and the task ends once.
#[test]
fn loom_a_task_goes_on_with_its_next_plan_once() {
    loom::model(|| {
        let rig = Rig::new(1, 2);
        let shape = Shape { plans: 2, ..shape(1, 1) };
        rig.lineage.publish(1);
        rig.publish(1, real_time(0), 1);
        let other = rig.clone();
        let unit = thread::spawn(move || other.work(1, 2, shape));
        rig.work(0, 2, shape);
        unit.join().unwrap();
        rig.work_off(shape);
        assert_eq!((count(&rig.settled[0]), count(&rig.opened), rig.ended()), (2, 1, 1));
        rig.poll_covers_the_work();
    });
}

/// Whoever cancels a task while it moves on to its next plan: it does not run the whole way, or it is over.
#[test]
fn loom_a_cancel_between_two_plans_is_not_lost() {
    loom::model(|| {
        let rig = Rig::new(1, 1);
        let shape = Shape { plans: 3, ..shape(1, 1) };
        rig.lineage.publish(1);
        let slot = rig.publish(1, best_effort(), 1);
        let other = rig.clone();
        let canceller = thread::spawn(move || other.cancel(slot, shape));
        rig.work(0, 1, shape);
        canceller.join().unwrap();
        // The canceller is through: nothing is left to claim but what it could not get hold of.
        let before = rig.ended();
        rig.work_off(shape);
        assert_eq!((before, rig.ended()), (1, 1), "the task was closed on its way");
    });
}

/// The task that uses the slot next is none of the cancelled one.
#[test]
fn loom_a_cancel_of_a_program_spares_the_next_task() {
    loom::model(|| {
        let rig = Rig::new(1, 1);
        let shape = Shape { plans: 2, ..shape(1, 1) };
        rig.lineage.publish(1);
        let slot = rig.publish(1, best_effort(), 1);
        let other = rig.clone();
        let canceller = thread::spawn(move || other.cancel(slot, shape));
        rig.work_off(shape);
        canceller.join().unwrap();
        rig.work_off(shape);
        assert_eq!(rig.ended(), 1);
        rig.board.free_slot(slot);
        let generation = rig.lineage.begin();
        rig.lineage.publish(generation);
        rig.publish(generation, best_effort(), 1);
        let claim = rig.claim(0).expect("the next task has a block");
        assert_eq!(rig.board.reason(slot), None);
        assert!(!rig.lineage.is_cancelled());
        rig.settle(slot, claim.word, 1, shape, false);
        assert_eq!(rig.ended(), 2);
    });
}

#[test]
fn loom_a_late_cancel_does_not_hit_the_next_task() {
    loom::model(|| {
        let shape = shape(1, 1);
        let rig = Rig::new(1, 2);
        let slot = rig.publish(1, best_effort(), 1);
        let other = rig.clone();
        let thread = thread::spawn(move || other.close(slot, 1, shape));
        rig.work(0, 1, shape);
        if rig.ended() == 1 {
            rig.board.publish(slot, 2, best_effort(), opening(1));
            let claim = rig.claim(0).expect("nobody closed the second task");
            assert_eq!(rig.board.reason(slot), None);
            rig.settle(slot, claim.word, 1, shape, false);
            assert_eq!(rig.ended(), 2);
        }
        thread.join().unwrap();
        assert!(rig.ended() >= 1);
    });
}

#[test]
fn loom_a_cancelled_task_shows_in_its_own_cancel_word() {
    loom::model(|| {
        let rig = Rig::new(1, 1);
        let slot = rig.publish(2, best_effort(), 1);
        // Left by a closer that came late for an earlier task.
        rig.board.slots[slot].cancel.store(1, Ordering::Relaxed);
        let claim = rig.claim(0).unwrap();
        let other = rig.clone();
        let thread = thread::spawn(move || other.board.close(slot, 2, Reason::Cancelled));
        rig.board.clear_stale_cancel(claim);
        thread.join().unwrap();
        let polled = rig.board.slots[slot].cancel.load(Ordering::Relaxed);
        assert_eq!(polled, 1, "a cancellation was wiped out");
    });
}

#[test]
fn loom_demand_is_not_lost_when_work_comes_and_goes() {
    loom::model(|| {
        let shape = shape(1, 1);
        let rig = Rig::new(3, 2);
        rig.publish(1, real_time(1), 1);
        let other = rig.clone();
        let thread = thread::spawn(move || other.publish(1, real_time(1), 1));
        // Takes the last block of one task: lowers the poll word while the other raises it.
        let claim = rig.board.claim_urgent(0, 15);
        thread.join().unwrap();
        rig.poll_covers_the_work();
        assert!(claim.is_some());
        while let Some(claim) = rig.board.claim_urgent(0, 15) {
            rig.settle(claim.slot, claim.word, 1, shape, false);
        }
        assert_eq!(rig.board.poll.load(Ordering::SeqCst), NONE);
    });
}

#[test]
fn loom_demand_is_not_lost_between_levels_and_kills() {
    loom::model(|| {
        let rig = Rig::new(2, 2);
        rig.publish(1, real_time(2), 1);
        rig.publish(1, real_time(0), 1);
        let held = rig.board.claim_urgent(0, 15).unwrap();
        let other = rig.clone();
        let thread = thread::spawn(move || other.board.claim_urgent(1, 15).is_some());
        assert_eq!(rig.board.give_back(0, held), None);
        thread.join().unwrap();
        rig.poll_covers_the_work();
    });
}

#[test]
fn loom_demand_is_not_lost_when_a_stage_opens() {
    loom::model(|| {
        let shape = shape(1, 2);
        let rig = Rig::new(2, 2);
        rig.publish(1, real_time(1), 1);
        rig.publish(1, real_time(2), 1);
        let held = rig.board.claim_urgent(0, 15).unwrap();
        let other = rig.clone();
        let thread = thread::spawn(move || other.board.claim_urgent(1, 15).is_some());
        rig.settle(held.slot, held.word, 1, shape, false);
        thread.join().unwrap();
        rig.poll_covers_the_work();
    });
}

#[test]
fn loom_a_unit_does_not_sleep_beside_new_work() {
    loom::model(|| {
        let rig = Rig::new(1, 1);
        let other = rig.clone();
        let thread = thread::spawn(move || {
            other.publish(1, best_effort(), 1);
            other.board.before_wake();
            other.board.take_parked().is_some()
        });
        rig.board.announce_park(0);
        let sees_work = rig.board.most_urgent(NONE).is_some();
        let woken = thread.join().unwrap();
        assert!(sees_work || woken, "the unit sleeps and nobody wakes it");
    });
}

/// Unit 0 was woken for a first block when a second one comes: unit 1 must not stay parked beside it.
#[test]
fn loom_a_unit_on_its_way_elsewhere_does_not_hide_a_parked_one() {
    loom::model(|| {
        let (rig, busy) = (Rig::new(2, 2), Arc::new(AtomicU64::new(0)));
        rig.board.announce_park(1);
        rig.publish(1, best_effort(), 1);
        let (other, seen) = (rig.clone(), busy.clone());
        let thread = thread::spawn(move || {
            other.publish(1, best_effort(), 1);
            let missing = other.board.missing(1, |cu| cu == 0 && seen.load(Ordering::Acquire) == 1);
            (0..missing).map_while(|_| other.board.take_parked()).count()
        });
        let claim = rig.claim(0);
        busy.store(1, Ordering::Release);
        let has_work = || rig.board.most_urgent(NONE).is_some();
        let passed = rig.board.pass_on(has_work, |cu| cu == 0).is_some();
        let woken = thread.join().unwrap();
        assert!(claim.is_some());
        assert!(passed || woken == 1, "unit 1 sleeps beside a block");
    });
}

#[test]
fn loom_a_slot_is_taken_by_one() {
    loom::model(|| {
        let rig = Rig::new(2, 1);
        let other = rig.clone();
        let thread = thread::spawn(move || {
            let slot = other.board.take_slot(true);
            slot.inspect(|&slot| other.board.free_slot(slot))
        });
        let (first, second) = (rig.board.take_slot(false), rig.board.take_slot(true));
        assert!(first.is_some());
        assert_ne!(first, second);
        thread.join().unwrap();
    });
}

/// A task that is closed while the device is quiesced is over at once: nobody holds a block of it.
#[test]
fn loom_nobody_holds_a_block_behind_a_shut_gate() {
    loom::model(|| {
        let shape = shape(1, 1);
        let (rig, gates) = (Rig::new(1, 2), Arc::new(Gates::new(2)));
        let slot = rig.publish(1, best_effort(), 1);
        let (other, inner) = (rig.clone(), gates.clone());
        let thread = thread::spawn(move || {
            if inner.enter(1) == Gate::Open {
                other.kill_one(1, shape);
                other.work(1, 1, shape);
            }
            inner.leave(1);
        });
        assert!(gates.change(Gate::Open, Gate::Quiesced));
        if gates.is_empty() {
            rig.close(slot, 1, shape);
            assert_eq!(rig.ended(), 1);
        }
        thread.join().unwrap();
    });
}

/// Poisoning ends every task, also one that is published at the same moment.
#[test]
fn loom_no_task_outlives_poison() {
    loom::model(|| {
        let shape = shape(1, 1);
        let (rig, gates) = (Rig::new(1, 1), Arc::new(Gates::new(1)));
        let (other, inner) = (rig.clone(), gates.clone());
        let thread = thread::spawn(move || {
            let slot = other.publish(1, best_effort(), 1);
            fence(Ordering::SeqCst);
            if inner.now() >= Gate::Poisoned {
                other.close(slot, 1, shape);
            }
        });
        gates.shut(Gate::Poisoned);
        for slot in bits(rig.board.active()) {
            rig.close(slot, 1, shape);
        }
        thread.join().unwrap();
        assert_eq!(rig.ended(), 1);
    });
}
